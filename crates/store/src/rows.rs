//! Rows as values.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperRow {
    /// p and twelve hex digits.
    pub id: String,
    /// Where one was found.
    pub title: Option<String>,
    /// Files read.
    pub versions: i64,
    /// Reviews stored.
    pub reviews: i64,
    /// When it came in, UTC.
    pub created_at: String,
}

/// A file of a paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Of the file.
    pub sha256: String,
    /// As given.
    pub path: String,
    /// `pdf`, `latex`, `markdown`, `text`.
    pub source: String,
    /// Where it has pages.
    pub pages: Option<i64>,
    /// When it came in, UTC.
    pub created_at: String,
}

/// What makes a review the same review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewKey {
    /// Of the file.
    pub version: String,
    /// The form's name.
    pub form: String,
    /// fast, standard or best.
    pub mode: String,
    /// Reviewers of the panel.
    pub reviewers: i64,
    /// The weights' SHA-256, or a server's reference.
    pub model: String,
    /// The panel's seed.
    pub seed: i64,
    /// The sampler as JSON.
    pub sampling: String,
}

impl ReviewKey {
    /// r and twelve hex digits of the key's hash.
    pub fn id(&self) -> String {
        id('r', &serde_json::to_string(self).unwrap_or_default())
    }
}

/// A letter and twelve hex digits of a hash.
pub(crate) fn id(kind: char, content: &str) -> String {
    let hash = Sha256::digest(content.as_bytes());
    let hex: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("{kind}{hex}")
}

/// One score of one reviewer.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRow {
    /// From 1.
    pub reviewer: i64,
    /// Its key.
    pub name: String,
    /// As drawn or written.
    pub value: f64,
    /// Mean of the distribution.
    pub expected: Option<f64>,
    /// As JSON.
    pub distribution: Option<String>,
}

/// A finished review to be stored.
#[derive(Debug, Clone)]
pub struct NewReview<'a> {
    /// What makes it this one.
    pub key: &'a ReviewKey,
    /// The model as the user names it.
    pub model_reference: &'a str,
    /// `cycle.review/1`, or why there is none.
    pub outcome: Result<&'a str, &'a str>,
    /// Its scores.
    pub scores: &'a [ScoreRow],
}

/// What a model wrote and all that it followed from.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGeneration {
    /// The weights' SHA-256, or a server's reference.
    pub model: String,
    /// The model as the user names it.
    pub reference: String,
    /// Of the rendered prompt.
    pub prompt_sha256: String,
    /// The dialogue before the model's template, as JSON, where it is known.
    pub dialogue: Option<String>,
    /// The row's own seed.
    pub seed: i64,
    /// The sampler as JSON.
    pub sampling: String,
    /// The text.
    pub output: String,
    /// Its tokens.
    pub tokens: i64,
}

impl NewGeneration {
    /// g and twelve hex digits: the same words after the same prompt are the same row.
    pub fn id(&self) -> String {
        let Self { model, prompt_sha256, seed, sampling, output, .. } = self;
        id('g', &format!("{model}\n{prompt_sha256}\n{seed}\n{sampling}\n{output}"))
    }
}

/// One parent of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The parent's SHA-256.
    pub parent: String,
    /// The parent as the user names it.
    pub parent_reference: String,
    /// `trained from`, `held to`, `merged from`, `quantized from`.
    pub relation: String,
    /// The run that made the child.
    pub run: Option<String>,
}

/// A stored review.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReview {
    /// r and twelve hex digits.
    pub id: String,
    /// Of its paper.
    pub paper: String,
    /// `cycle.review/1`, or why there is none.
    pub outcome: Result<String, String>,
}

/// A review in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviewRow {
    /// r and twelve hex digits.
    pub id: String,
    /// Of its paper.
    pub paper: String,
    /// Of its paper.
    pub title: Option<String>,
    /// The form's name.
    pub form: String,
    /// The model as the user named it.
    pub model: String,
    /// The panel's seed.
    pub seed: i64,
    /// done or failed.
    pub status: String,
    /// Of a failure.
    pub reason: Option<String>,
    /// Mean of the main score, where one was given.
    pub rating: Option<f64>,
    /// When, UTC.
    pub created_at: String,
}

/// A long job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// x and twelve hex digits.
    pub id: String,
    /// research, train, loop.
    pub kind: String,
    /// running, done, failed, interrupted.
    pub status: String,
    /// Of a failure.
    pub reason: Option<String>,
    /// Stages stored.
    pub stages: i64,
    /// When, UTC.
    pub created_at: String,
    /// When it ended, UTC.
    pub finished_at: Option<String>,
}

/// A pair of a loop, with its texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// d and twelve hex digits.
    pub id: String,
    /// The loop.
    pub run: String,
    /// Its iteration.
    pub iteration: i64,
    /// What was asked: messages, as JSON.
    pub prompt: String,
    /// The better text, as far as it is learned from.
    pub chosen: String,
    /// The worse text; up to the limit that it ran into where it did.
    pub rejected: String,
    /// The better text has no end: trainers that put one there should leave the pair out.
    pub chosen_open: bool,
    /// The worse text has none.
    pub rejected_open: bool,
    /// Difference of their rewards.
    pub difference: f64,
    /// Hash of the policy that wrote both.
    pub policy: String,
}

/// Whatever an id names.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A paper with its files, the newest document last.
    Paper {
        /// The paper.
        paper: PaperRow,
        /// Its files.
        versions: Vec<VersionRow>,
        /// The newest document as JSON.
        document: Option<Value>,
    },
    /// A review.
    Review(StoredReview),
    /// A run with its configuration and stages.
    Run {
        /// The run.
        run: RunRow,
        /// As JSON.
        config: Value,
        /// Name and value, in order.
        stages: Vec<(String, Value)>,
    },
}

/// What `cycle doctor` says of a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Papers.
    pub papers: i64,
    /// Reviews.
    pub reviews: i64,
    /// Runs.
    pub runs: i64,
    /// `ok`, or what SQLite's check found.
    pub integrity: String,
}
