//! Values on disk by place: what does not fit in memory is written once and read by offset.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DatasetError;

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    offset: u64,
    bytes: u32,
}

/// A file that values are added to.
pub struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    at: u64,
}

/// A file that values are read from.
pub struct Spooled {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
}

impl Spool {
    /// An empty file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(path: &Path) -> Result<Self, DatasetError> {
        let file = File::create(path).map_err(DatasetError::write(path))?;
        Ok(Self { path: path.into(), file: BufWriter::with_capacity(1 << 18, file), at: 0 })
    }

    /// Adds a value.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add(&mut self, value: &impl Serialize) -> Result<Place, DatasetError> {
        let text = serde_json::to_vec(value).map_err(|e| DatasetError::input(&self.path, e))?;
        self.file.write_all(&text).map_err(DatasetError::write(&self.path))?;
        let bytes = u32::try_from(text.len())
            .map_err(|_| DatasetError::input(&self.path, "one record of more than 4 GiB"))?;
        let place = Place { offset: self.at, bytes };
        self.at += text.len() as u64;
        Ok(place)
    }

    /// Ends writing.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn done(mut self) -> Result<Spooled, DatasetError> {
        self.file.flush().map_err(DatasetError::write(&self.path))?;
        let file = File::open(&self.path).map_err(DatasetError::reading(&self.path))?;
        Ok(Spooled { path: self.path, file: BufReader::with_capacity(1 << 16, file), at: 0 })
    }
}

impl Spooled {
    /// The value at a place.
    ///
    /// # Errors
    /// If the file was changed meanwhile.
    pub fn get<T: DeserializeOwned>(&mut self, place: Place) -> Result<T, DatasetError> {
        let read = (|| {
            // Going on where the last value ended keeps what is buffered.
            self.file
                .seek_relative(place.offset as i64 - self.at as i64)
                .or_else(|_| self.file.seek(SeekFrom::Start(place.offset)).map(|_| ()))?;
            let mut text = vec![0; place.bytes as usize];
            self.file.read_exact(&mut text)?;
            Ok(text)
        })();
        self.at = place.offset + u64::from(place.bytes);
        let text = read.map_err(DatasetError::reading(&self.path))?;
        serde_json::from_slice(&text).map_err(|e| DatasetError::input(&self.path, e))
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
