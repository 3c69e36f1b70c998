//! What can be wrong with a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Each message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a newer `cycle`.
    #[error("{}: written by a newer cycle; update cycle or name another --store", .0.display())]
    NewerVersion(PathBuf),
    /// Another process writes and did not finish in time.
    #[error("{}: another process has been writing to the store for {} s; try again when it is done", path.display(), waited.as_secs_f32())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Not a database, or another program's.
    #[error("{}: is no cycle store ({what}); name another with --store", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
    /// A store that was cut or overwritten.
    #[error("{}: the store is damaged ({what}); move it away and restore a copy, or name another with --store", path.display())]
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
    pub(crate) fn from_sqlx(path: &Path, waited: Duration, error: &sqlx::Error) -> Self {
        let (what, code) = match error {
            sqlx::Error::Database(e) => {
                (e.message().to_string(), e.code().and_then(|c| c.parse::<u32>().ok()).map(|c| c & 0xff))
            }
            other => (other.to_string(), None),
        };
        let path = path.to_path_buf();
        match code {
            Some(5 | 6) => Self::Busy { path, waited },
            Some(11) => Self::Damaged { path, what },
            Some(26) => Self::Foreign { path, what },
            Some(8) => Self::Disk { path, what: "the store is read-only; name another with --store".into() },
            Some(13) => {
                let what = format!("the disk is full{}; what was finished is stored", free(&path));
                Self::Disk { path, what }
            }
            Some(10 | 14) => {
                let what = format!("{what}{}; is its folder writable?", free(&path));
                Self::Disk { path, what }
            }
            _ if matches!(error, sqlx::Error::PoolTimedOut) => Self::Busy { path, waited },
            _ => Self::Query { path, what },
        }
    }
}

/// " (N bytes are free)" on the disk of a file, where the system says.
fn free(path: &Path) -> String {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs4::available_space(folder).map_or(String::new(), |bytes| format!(" ({bytes} bytes are free)"))
}
