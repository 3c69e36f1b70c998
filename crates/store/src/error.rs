//! What can be wrong with a store.

use std::path::{Path, PathBuf};

/// Each message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a newer `cycle`.
    #[error("{}: written by a newer cycle; update cycle or name another --store", .0.display())]
    NewerVersion(PathBuf),
    /// Another process writes and did not finish in time.
    #[error("{}: another process is writing to the store; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// Not a database, or a damaged one.
    #[error("{}: is no cycle store ({what})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
    /// The disk is full, the file read-only, or the folder cannot be made.
    #[error("{}: {what}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
    /// No row begins with these letters.
    #[error("nothing in the store has the id {0}")]
    NotFound(String),
    /// Several do.
    #[error("the id {prefix} is not unique: {}", .matches.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What begins with it.
        matches: Vec<String>,
    },
    /// A query failed for another reason.
    #[error("{}: {what}", path.display())]
    Query {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
}

impl StoreError {
    /// SQLite's result codes (sqlite.org/rescode.html) as kinds of error.
    pub(crate) fn from_sqlx(path: &Path, error: &sqlx::Error) -> Self {
        let what = match error {
            sqlx::Error::Database(e) => e.message().to_string(),
            other => other.to_string(),
        };
        let code = match error {
            sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<u32>().ok()).map(|c| c & 0xff),
            _ => None,
        };
        let path = path.to_path_buf();
        match code {
            Some(5 | 6) => Self::Busy(path),
            Some(11 | 26) => Self::Damaged { path, what },
            Some(8) => Self::Disk { path, what: "the store is read-only; name another with --store".into() },
            Some(13) => Self::Disk { path, what: "the disk is full; what was finished is stored".into() },
            Some(10 | 14) => Self::Disk { path, what },
            _ if matches!(error, sqlx::Error::PoolTimedOut) => Self::Busy(path),
            _ => Self::Query { path, what },
        }
    }
}
