//! What stops a loop.

use std::path::PathBuf;

/// Each message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImproveError {
    /// The loop's configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A file of prompts cannot be used.
    #[error("{}, row {row}: {what}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// From 1.
        row: usize,
        /// What is wrong.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The policy or a panel's model failed.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// A training failed.
    #[error(transparent)]
    Train(#[from] training::TrainError),
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] models::ModelError),
    /// A panel cannot review.
    #[error(transparent)]
    Review(#[from] review::ReviewError),
    /// A prompt cannot be made.
    #[error(transparent)]
    Research(#[from] research::ResearchError),
    /// Rows cannot be stored.
    #[error("{0}")]
    Ledger(String),
    /// There is nothing to learn from.
    #[error("iteration {iteration}: {what}")]
    Nothing {
        /// Which.
        iteration: usize,
        /// Why.
        what: String,
    },
    /// Another process runs this loop.
    #[error("{}: another process runs this loop", .0.display())]
    Locked(PathBuf),
    /// The user stopped it.
    #[error("interrupted; `cycle loop resume` with the same configuration goes on from there")]
    Interrupted,
}

impl ImproveError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
