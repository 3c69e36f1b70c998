//! Hashes of weights, by which runs name the model they used.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::ModelError;

/// What a file looked like when it was hashed.
type Stamp = (PathBuf, u64, Option<SystemTime>);

/// Hashes of this process: a model of 15 GB is not read twice for its name.
static KNOWN: LazyLock<Mutex<HashMap<Vec<Stamp>, String>>> = LazyLock::new(Mutex::default);

/// SHA-256 (hex) over the bytes of the files, one after the other; remembered by path, size and time of change.
///
/// # Errors
/// If a file cannot be read.
pub fn sha256_of_files(files: &[PathBuf]) -> Result<String, ModelError> {
    let stamps = files.iter().map(|path| stamp(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(known) = KNOWN.lock().ok().and_then(|k| k.get(&stamps).cloned()) {
        return Ok(known);
    }
    let mut hasher = Sha256::new();
    for path in files {
        // Read piece by piece: a map of it all would count as this process's memory.
        let io = |source| ModelError::Io { path: path.clone(), source };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(io)? {
                0 => break,
                n => hasher.update(&piece[..n]),
            }
        }
    }
    let hash = hex(&hasher.finalize());
    if let Ok(mut known) = KNOWN.lock() {
        known.insert(stamps, hash.clone());
    }
    Ok(hash)
}

/// SHA-256 (hex) of bytes.
pub(crate) fn sha256_of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn stamp(path: &Path) -> Result<Stamp, ModelError> {
    let meta = std::fs::metadata(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
    Ok((path.into(), meta.len(), meta.modified().ok()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
