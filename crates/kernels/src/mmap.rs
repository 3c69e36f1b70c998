//! Files mapped into memory.

use std::{fs::File, io, ops::Deref, path::Path};

/// The bytes of a file, read when touched.
#[derive(Debug)]
pub struct Mmap(memmap2::Mmap);

/// Maps a file for reading.
///
/// The file must not be changed while it is mapped; `cycle` writes model files under a temporary name and renames them.
///
/// # Errors
/// If the file cannot be opened or mapped.
pub fn mmap(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only; a concurrent change of the file is excluded by the rule above.
    unsafe { memmap2::Mmap::map(&file).map(Mmap) }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
