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

impl Mmap {
    /// Says that a part of the map will not be read again soon, so that it no longer counts as this process's memory.
    pub fn release(&self, part: &[u8]) {
        let start = (part.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
        if start >= self.0.len() || part.len() > self.0.len() - start {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the map is of a file and read-only: a page that is touched again is read from the file again.
        unsafe {
            // Only advice: where it is refused nothing is lost.
            let _ = self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, part.len());
        }
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
