//! The rows of a loop: what was sampled, scored, paired, trained and decided, each with the hashes of what made it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::ImproveError;

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What was asked for a prompt: messages.
    Prompt,
    /// [`crate::rows::Sample`] of a training prompt.
    Sample,
    /// [`crate::rows::Sample`] of a held-out prompt.
    HeldOut,
    /// [`crate::rows::Scored`] by the first judge.
    Score,
    /// [`crate::rows::Scored`] by the second judge.
    SecondScore,
    /// [`crate::rows::Checked`].
    Check,
    /// The first judge's own noise.
    Noise,
    /// [`crate::rows::Pair`].
    Pair,
    /// [`crate::rows::Trained`].
    Policy,
    /// [`crate::rows::Decision`].
    Decision,
    /// Tokens and seconds; no part of the loop's hash, because a stop changes them.
    Cost,
}

impl Kind {
    /// As it stands in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Sample => "sample",
            Self::HeldOut => "held-out",
            Self::Score => "score",
            Self::SecondScore => "second-score",
            Self::Check => "check",
            Self::Noise => "noise",
            Self::Pair => "pair",
            Self::Policy => "policy",
            Self::Decision => "decision",
            Self::Cost => "cost",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Prompt,
        Self::Sample,
        Self::HeldOut,
        Self::Score,
        Self::SecondScore,
        Self::Check,
        Self::Noise,
        Self::Pair,
        Self::Policy,
        Self::Decision,
        Self::Cost,
    ];
}

/// Keeps rows. What was put is there whatever happens next.
pub trait Ledger {
    /// The rows of a kind and an iteration, by id.
    ///
    /// # Errors
    /// If they cannot be read.
    fn rows(&self, kind: Kind, iteration: usize) -> Result<BTreeMap<String, Value>, String>;

    /// Puts rows, all or none. A row that is there stays as it is.
    ///
    /// # Errors
    /// If they cannot be written.
    fn put(&mut self, kind: Kind, iteration: usize, rows: &[(String, Value)]) -> Result<(), String>;
}

/// A ledger in memory.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<(Kind, usize), BTreeMap<String, Value>>);

impl Ledger for Memory {
    fn rows(&self, kind: Kind, iteration: usize) -> Result<BTreeMap<String, Value>, String> {
        Ok(self.0.get(&(kind, iteration)).cloned().unwrap_or_default())
    }

    fn put(&mut self, kind: Kind, iteration: usize, rows: &[(String, Value)]) -> Result<(), String> {
        let there = self.0.entry((kind, iteration)).or_default();
        for (id, value) in rows {
            there.entry(id.clone()).or_insert_with(|| value.clone());
        }
        Ok(())
    }
}

/// Rows of a type, by id.
///
/// # Errors
/// If they cannot be read, or are not of that type.
pub fn read<T: DeserializeOwned>(
    ledger: &dyn Ledger,
    kind: Kind,
    iteration: usize,
) -> Result<BTreeMap<String, T>, ImproveError> {
    let rows = ledger.rows(kind, iteration).map_err(ImproveError::Ledger)?;
    rows.into_iter()
        .map(|(id, value)| match serde_json::from_value(value) {
            Ok(row) => Ok((id, row)),
            Err(e) => {
                Err(ImproveError::Ledger(format!("{} {id} of iteration {iteration}: {e}", kind.name())))
            }
        })
        .collect()
}

/// Puts rows of a type.
///
/// # Errors
/// If they cannot be written.
pub fn put<T: Serialize>(
    ledger: &mut dyn Ledger,
    kind: Kind,
    iteration: usize,
    rows: &[(String, T)],
) -> Result<(), ImproveError> {
    let rows = rows
        .iter()
        .map(|(id, row)| serde_json::to_value(row).map(|v| (id.clone(), v)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ImproveError::Ledger(e.to_string()))?;
    ledger.put(kind, iteration, &rows).map_err(ImproveError::Ledger)
}

/// SHA-256 (hex) of every row but the costs, in the order of iteration, kind and id.
///
/// # Errors
/// If they cannot be read.
pub fn hash(ledger: &dyn Ledger, iterations: usize) -> Result<String, ImproveError> {
    let mut hasher = Sha256::new();
    for iteration in 0..=iterations {
        for kind in Kind::ALL.into_iter().filter(|k| *k != Kind::Cost) {
            for (id, value) in ledger.rows(kind, iteration).map_err(ImproveError::Ledger)? {
                hasher.update(format!("{iteration}\n{}\n{id}\n{value}\n", kind.name()));
            }
        }
    }
    Ok(hex(&hasher.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A letter and twelve hex digits of a hash.
pub(crate) fn id(letter: char, key: &str) -> String {
    let digest = hex(&Sha256::digest(key.as_bytes()));
    format!("{letter}{}", &digest[..12])
}
