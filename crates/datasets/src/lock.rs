//! One process at a time makes a set: two of them would write into each other's files.

use std::fs::{self, File};
use std::path::Path;

use crate::error::DatasetError;

/// Held as long as it lives; the system lets go of it whatever ends the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Locks a set's folder, which is made.
///
/// # Errors
/// [`DatasetError::Locked`] if another process builds there, or if the folder cannot be written.
pub fn lock(out: &Path) -> Result<Lock, DatasetError> {
    let work = out.join(".work");
    fs::create_dir_all(&work).map_err(DatasetError::write(&work))?;
    let path = work.join("lock");
    let file = File::create(&path).map_err(DatasetError::write(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(fs::TryLockError::WouldBlock) => Err(DatasetError::Locked { path: out.into() }),
        Err(fs::TryLockError::Error(e)) => Err(DatasetError::write(&path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_its_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        let first = lock(&out).unwrap();
        assert!(matches!(lock(&out), Err(DatasetError::Locked { .. })));
        drop(first);
        lock(&out).unwrap();
    }
}
