//! Reference log-probabilities: computed once per row, kept in a file that is named after model and data.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::data::Row;
use crate::error::TrainError;
use crate::network::Network;
use crate::recipe::Recipe;

/// Per-token log-probabilities of a row's answers, by the row's number.
#[derive(Debug, Default)]
pub(crate) struct ReferenceCache {
    known: BTreeMap<usize, Vec<Vec<f32>>>,
    fresh: Vec<usize>,
    file: Option<PathBuf>,
    /// The file ends in a record that a kill cut off: what is appended behind it would never be read.
    torn: bool,
}

impl ReferenceCache {
    /// The cache of a training: none where the reference moves or is not needed. Its name says which weights looked at which
    /// ids, so an edited chat template is another training file. Beside the checkpoints if no folder is given.
    pub(crate) fn of(recipe: &Recipe, network: &Network, train: &[Row], folder: Option<&Path>) -> Self {
        if network.reference().is_none() || recipe.reference.is_some() {
            return Self::default();
        }
        let beside = recipe.out.join("cache");
        let ids = ids_sha256(train);
        let dtype = format!("{:?}", recipe.dtype);
        Self::open(folder.unwrap_or(&beside), &[&network.refers, &dtype, &ids])
    }

    /// The cache for what `parts` name (hashes of model and data, settings that change a number); rows of an earlier run
    /// are read back.
    pub(crate) fn open(folder: &Path, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let name: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let file = folder.join(format!("reference-{name}.bin"));
        let bytes = fs::read(&file).unwrap_or_default();
        let (known, end) = decode(&bytes);
        Self { known, fresh: Vec::new(), file: Some(file), torn: end < bytes.len() }
    }

    pub(crate) fn get(&self, row: usize) -> Option<&Vec<Vec<f32>>> {
        self.known.get(&row)
    }

    pub(crate) fn put(&mut self, row: usize, answers: Vec<Vec<f32>>) {
        if self.file.is_some() && self.known.insert(row, answers).is_none() {
            self.fresh.push(row);
        }
    }

    /// Appends what is new to the file. A record that a kill cut off is not read back.
    pub(crate) fn flush(&mut self) -> Result<(), TrainError> {
        let Some(file) = self.file.as_ref().filter(|_| !self.fresh.is_empty()) else { return Ok(()) };
        let mut bytes = Vec::new();
        for row in self.fresh.drain(..) {
            if let Some(answers) = self.known.get(&row) {
                encode(row, answers, &mut bytes);
            }
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
        if self.torn {
            let mut all = Vec::new();
            self.known.iter().for_each(|(row, answers)| encode(*row, answers, &mut all));
            let partial = file.with_extension("partial");
            fs::write(&partial, all)
                .and_then(|()| fs::rename(&partial, file))
                .map_err(TrainError::io(file))?;
            self.torn = false;
            return Ok(());
        }
        let mut out =
            fs::OpenOptions::new().create(true).append(true).open(file).map_err(TrainError::io(file))?;
        out.write_all(&bytes).map_err(TrainError::io(file))
    }
}

/// SHA-256 (hex) of the ids of rows: of what tokenizer and chat template made of them.
pub(crate) fn ids_sha256(rows: &[Row]) -> String {
    let mut ids = Sha256::new();
    for row in rows {
        ids.update((row.number() as u64).to_le_bytes());
        for part in row.parts() {
            ids.update((part.len() as u64).to_le_bytes());
            part.iter().for_each(|id| ids.update(id.to_le_bytes()));
        }
    }
    ids.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Record: row, answers, for each its length and numbers; then a checksum of the record.
fn encode(row: usize, answers: &[Vec<f32>], out: &mut Vec<u8>) {
    let from = out.len();
    out.extend((row as u32).to_le_bytes());
    out.extend((answers.len() as u32).to_le_bytes());
    for answer in answers {
        out.extend((answer.len() as u32).to_le_bytes());
        answer.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    let sum = checksum(&out[from..]);
    out.extend(sum.to_le_bytes());
}

/// The whole records, and where they end.
fn decode(bytes: &[u8]) -> (BTreeMap<usize, Vec<Vec<f32>>>, usize) {
    let mut known = BTreeMap::new();
    let mut at = 0;
    while let Some((row, answers, end)) = record(bytes, at) {
        known.insert(row, answers);
        at = end;
    }
    (known, at)
}

fn record(bytes: &[u8], from: usize) -> Option<(usize, Vec<Vec<f32>>, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (row, count) = (word(from)? as usize, word(from + 4)? as usize);
    let mut at = from + 8;
    let mut answers = Vec::new();
    for _ in 0..count {
        let length = word(at)? as usize;
        at += 4;
        let numbers = bytes.get(at..at.checked_add(length.checked_mul(4)?)?)?;
        answers.push(numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
        at += 4 * length;
    }
    (word(at)? == checksum(bytes.get(from..at)?)).then_some((row, answers, at + 4))
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, &b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_a_torn_record_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = ReferenceCache::open(folder.path(), &["model", "data"]);
        cache.put(3, vec![vec![-1.5, -0.25], vec![]]);
        cache.put(7, vec![vec![-2.0]]);
        cache.flush().unwrap();
        let again = ReferenceCache::open(folder.path(), &["model", "data"]);
        assert_eq!(again.get(3), cache.get(3));
        assert_eq!(again.get(7), cache.get(7));
        let file = again.file.clone().unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 2]).unwrap();
        let mut torn = ReferenceCache::open(folder.path(), &["model", "data"]);
        assert!(torn.get(3).is_some() && torn.get(7).is_none());
        torn.put(9, vec![vec![-3.0]]);
        torn.flush().unwrap();
        let mended = ReferenceCache::open(folder.path(), &["model", "data"]);
        assert!(mended.get(3).is_some() && mended.get(9).is_some());
        assert!(ReferenceCache::open(folder.path(), &["model", "other"]).get(3).is_none());
    }
}
