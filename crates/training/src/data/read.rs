//! Objects out of a training file: JSON lines, plain or `.zst`, or parquet; one file or a folder of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::TrainError;

/// Calls `f` with every row and its number, from 1, over all files.
pub(super) fn rows(
    path: &Path,
    mut f: impl FnMut(usize, Value) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut number = 0;
    for file in files(path)? {
        if file.extension().is_some_and(|e| e == "parquet") {
            super::parquet::rows(&file, &mut number, &mut f)?;
            continue;
        }
        let reader = File::open(&file).map_err(TrainError::io(&file))?;
        let reader: Box<dyn Read> = if file.extension().is_some_and(|e| e == "zst") {
            Box::new(zstd::Decoder::new(reader).map_err(TrainError::io(&file))?)
        } else {
            Box::new(reader)
        };
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.map_err(TrainError::io(&file))?;
            number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value = serde_json::from_slice(&line).map_err(|e| TrainError::Data {
                path: file.clone(),
                row: number,
                what: e.to_string(),
            })?;
            f(number, value)?;
        }
    }
    Ok(())
}

/// The files of a path, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(TrainError::io(path))? {
        let file = entry.map_err(TrainError::io(path))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if [".jsonl", ".jsonl.zst", ".parquet"].iter().any(|end| name.ends_with(end)) {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        let what = "the folder holds no .jsonl, .jsonl.zst or .parquet file".into();
        return Err(TrainError::Data { path: path.into(), row: 1, what });
    }
    Ok(found)
}

/// SHA-256 (hex) of a path's files, in order.
///
/// # Errors
/// If one cannot be read.
pub fn sha256(path: &Path) -> Result<String, TrainError> {
    Ok(models::sha256_of_files(&files(path)?)?)
}
