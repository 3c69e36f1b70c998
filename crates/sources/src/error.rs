//! What can go wrong between us and a service.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::moment;
use crate::service::Service;

/// Each message says what, where and what to do, in one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// A socket was needed under `--offline`.
    #[error("{url} is not in the cache, and --offline was given")]
    Offline {
        /// What was wanted.
        url: String,
    },
    /// The service answered that this will not work: no such thing, not allowed, wrong question.
    #[error("{url}: HTTP {status} {message}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// The service's own words.
        message: String,
    },
    /// The service asks for more patience than this run has.
    #[error("{service} asks to wait until {} UTC; the same command goes on from here", moment::shown(*until))]
    Later {
        /// Who.
        service: Service,
        /// When it will answer again.
        until: SystemTime,
    },
    /// No whole answer after all tries.
    #[error("{url}: {what} (tried {tries} times)")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The last failure.
        what: String,
        /// Tries.
        tries: u32,
    },
    /// An answer of another form than the protocol's: a changed schema, a page in place of a file.
    #[error("{url}: {what}")]
    Unexpected {
        /// What was asked for.
        url: String,
        /// What came.
        what: String,
    },
    /// Its robots.txt asks programs not to fetch this.
    #[error("{url}: the robots.txt of this service asks programs not to fetch it")]
    Robots {
        /// What was wanted.
        url: String,
    },
    /// More bytes than any paper has.
    #[error("{url}: more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The requests that this run may make are spent.
    #[error("the budget of {0} requests is spent; the same command goes on from here")]
    Budget(u64),
    /// Cache or queue cannot be written or read.
    #[error("{}: {what}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
    /// The options contradict themselves or the protocol.
    #[error("{0}")]
    Usage(String),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl SourceError {
    /// True if only this item failed; the next one may do better.
    pub fn concerns_one_item(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Unexpected { .. } | Self::Robots { .. } | Self::TooLarge { .. }
        )
    }

    /// What happened, without the address: the same wherever a service is.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused { status, message, .. } => format!("HTTP {status} {message}"),
            Self::Unexpected { what, .. } => what.clone(),
            Self::Robots { .. } => "its robots.txt asks programs not to fetch it".into(),
            Self::TooLarge { limit, .. } => format!("more than {limit} bytes"),
            Self::Unreachable { what, tries, .. } => format!("{what} (tried {tries} times)"),
            other => other.to_string(),
        }
    }

    /// The exit code of the command line's contract.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Offline { .. } | Self::Usage(_) => 2,
            Self::Disk { .. } => 5,
            Self::Interrupted => 130,
            _ => 6,
        }
    }

    pub(crate) fn disk(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |e| Self::Disk { path: path.into(), what: e.to_string() }
    }
}
