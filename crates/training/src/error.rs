//! What stops a training.

use std::path::PathBuf;

/// Each message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe is wrong.
    #[error("{0}")]
    Recipe(String),
    /// A row of the data is wrong.
    #[error("{}, row {row}: {what}", path.display())]
    Data {
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
    /// The checkpoint cannot be used.
    #[error("{0}")]
    Model(#[from] models::ModelError),
    /// A tensor operation failed.
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Tensor(#[from] candle_core::Error),
    /// The loss became NaN or infinite.
    #[error(
        "step {step}: the loss is {loss}; rows {rows:?} of the training file; the last checkpoint is intact"
    )]
    NotFinite {
        /// Which step.
        step: usize,
        /// The loss.
        loss: f64,
        /// Rows of the batch, from 1.
        rows: Vec<usize>,
    },
    /// Another process trains into the same folder.
    #[error("{}: another process trains here", .0.display())]
    Locked(PathBuf),
    /// The output folder holds an earlier training.
    #[error("{} holds checkpoints of an earlier training; give --resume to go on, or another --out", .0.display())]
    Occupied(PathBuf),
    /// The user stopped it; the last checkpoint stays.
    #[error("interrupted at step {0}; the same command with --resume goes on from there")]
    Interrupted(usize),
    /// It cannot be handed over.
    #[error("{0}")]
    Handoff(#[from] crate::handoff::HandoffError),
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
