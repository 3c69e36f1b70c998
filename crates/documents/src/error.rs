//! What can go wrong while reading, in the classes that the command line's exit codes know.

use std::path::PathBuf;

/// Why a document could not be read. Each message is one line: what, where, what to do.
#[derive(Debug, Clone, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadError {
    /// There is no such file or folder, or it may not be opened.
    #[error("{path}: {reason}", path = path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The content is not what the name or the caller says.
    #[error("{path}: not a paper that can be read: {reason}", path = path.display())]
    NotWhatItSays {
        /// The file.
        path: PathBuf,
        /// What was found in its place.
        reason: String,
    },
    /// Nothing in it: no bytes, no page, or no text layer.
    #[error("{path}: {reason}", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is empty.
        reason: String,
    },
    /// A user password is set.
    #[error("{path}: encrypted with a password; remove it first (for example: qpdf --decrypt --password=… IN OUT)", path = path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// It claims to be readable, but its structure is broken beyond repair.
    #[error("{path}: damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is broken.
        reason: String,
    },
    /// Reading it would take more than was allowed; the numbers are in the reason.
    #[error("{path}: {reason}", path = path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// Which limit, how much was asked for, how much was allowed.
        reason: String,
    },
}

impl ReadError {
    /// The exit code of the command line's contract: 3 for an input that cannot be read, 5 for a limit.
    pub fn exit_code(&self) -> i32 {
        match self {
            ReadError::Limit { .. } => 5,
            _ => 3,
        }
    }
}
