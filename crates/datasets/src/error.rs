//! What stops a build as a whole. What is wrong with one paper is a row of the report, not an error.

use std::path::{Path, PathBuf};

/// Each message says what, where and what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The specification is wrong.
    #[error("{place}: {what}")]
    Spec {
        /// The file, or the name of a shipped one.
        place: String,
        /// What is wrong, and the nearest right thing.
        what: String,
    },
    /// Records cannot be read.
    #[error("{}: {what}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The output cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process builds into the same folder.
    #[error("{}: another process builds a set there", path.display())]
    Locked {
        /// The set's folder.
        path: PathBuf,
    },
    /// A service failed.
    #[error(transparent)]
    Source(#[from] sources::SourceError),
    /// The extractor failed as a whole.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// The user stopped it; what was finished is kept.
    #[error("interrupted; the same command goes on from here")]
    Interrupted,
}

impl DatasetError {
    pub(crate) fn input(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Input { path: path.into(), what: what.to_string() }
    }

    pub(crate) fn write(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.into(), source }
    }

    pub(crate) fn reading(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |e| Self::input(path, e)
    }
}
