//! The one place where errors become exit codes and at most three lines.

use std::fmt;
use std::path::Path;

/// Exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// Nobody reads the results any more: a quiet end.
    Unread = 0,
    /// Done, but something needs a human's eye.
    Look = 1,
    /// Wrong usage.
    Usage = 2,
    /// An input cannot be read.
    Input = 3,
    /// A model or configuration cannot be used.
    Model = 4,
    /// Out of memory, disk or time.
    Resources = 5,
    /// A remote service failed.
    Remote = 6,
    /// Interrupted.
    Interrupted = 130,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What and where, in one line.
    pub what: String,
    /// What to do, in one line.
    pub advice: Option<String>,
}

impl Failure {
    /// A failure in one line.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self { code, what: what.to_string().replace('\n', " "), advice: None }
    }

    /// Adds what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// A file that cannot be read (or, where the disk is full, written), by the system's own code.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            StorageFull | ReadOnlyFilesystem | QuotaExceeded | FileTooLarge => Self::writing(path, error),
            _ => Self::new(Code::Input, format!("{}: {error}", path.display())),
        }
    }

    /// A file that cannot be written, with what is free on its disk.
    pub fn writing(path: &Path, error: &std::io::Error) -> Self {
        let free = path.ancestors().skip(1).find_map(|f| {
            let folder = if f.as_os_str().is_empty() { Path::new(".") } else { f };
            fs4::available_space(folder).ok()
        });
        let free = match free {
            Some(bytes) if error.kind() == std::io::ErrorKind::StorageFull => {
                format!(", {bytes} bytes are free")
            }
            _ => String::new(),
        };
        Self::new(Code::Resources, format!("{}: cannot be written: {error}{free}", path.display()))
            .advise("what was finished stays; make room or name another place, and run the command again")
    }
}

/// The command line's own words in at most three lines.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        let text = error.to_string();
        let paragraph = |start: &str| -> Vec<&str> {
            let lines = text.lines().map(str::trim).skip_while(|l| !l.starts_with(start));
            lines.take_while(|l| !l.is_empty()).collect()
        };
        let what = paragraph("error:").join(" ");
        let what = what.strip_prefix("error: ").unwrap_or(&what);
        let tip = text.lines().map(str::trim).find(|l| l.starts_with("tip:"));
        let usage = paragraph("Usage:").join(" ");
        let advice: Vec<&str> =
            [tip.unwrap_or_default(), &usage].into_iter().filter(|l| !l.is_empty()).collect();
        let advice =
            if advice.is_empty() { "--help tells what can be said".into() } else { advice.join("\n  ") };
        Self { code: Code::Usage, what: what.into(), advice: Some(advice) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cycle: {}", self.what)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n  {advice}")?;
        }
        Ok(())
    }
}

impl From<lm::LmError> for Failure {
    fn from(error: lm::LmError) -> Self {
        let code = match &error {
            lm::LmError::Model(_) | lm::LmError::TooLong { .. } => Code::Model,
            lm::LmError::Remote(_) | lm::LmError::Refused(_) | lm::LmError::Denied(_) => Code::Remote,
            lm::LmError::Offline(_) => Code::Usage,
            lm::LmError::Memory(_) => Code::Resources,
            lm::LmError::Interrupted => Code::Interrupted,
        };
        Self::new(code, error)
    }
}

impl From<models::ModelError> for Failure {
    fn from(error: models::ModelError) -> Self {
        Self::new(Code::Model, error)
    }
}

impl From<documents::ReadError> for Failure {
    fn from(error: documents::ReadError) -> Self {
        let code = if error.exit_code() == 5 { Code::Resources } else { Code::Input };
        Self::new(code, error)
    }
}

impl From<store::StoreError> for Failure {
    fn from(error: store::StoreError) -> Self {
        use store::StoreError as E;
        let code = match &error {
            E::NotFound(_) | E::Ambiguous { .. } => Code::Usage,
            E::Disk { .. } | E::Busy { .. } => Code::Resources,
            E::NewerVersion(_) | E::Foreign { .. } | E::Damaged { .. } | E::Query { .. } => Code::Model,
        };
        Self::new(code, error)
    }
}

impl From<review::ReviewError> for Failure {
    fn from(error: review::ReviewError) -> Self {
        match error {
            review::ReviewError::Model(e) => e.into(),
            review::ReviewError::Form(_) => Self::new(Code::Usage, error),
            review::ReviewError::Prompt(_) | review::ReviewError::Unparsed { .. } => {
                Self::new(Code::Model, error)
            }
            review::ReviewError::Empty => Self::new(Code::Input, error),
        }
    }
}

impl From<training::TrainError> for Failure {
    fn from(error: training::TrainError) -> Self {
        use training::TrainError as E;
        let error = match error {
            E::Handoff(inner) => return inner.into(),
            other => other,
        };
        let code = match &error {
            E::Data { .. } => Code::Input,
            E::Io { path, source } => return Self::io(path, source),
            E::Interrupted(_) => Code::Interrupted,
            _ => Code::Model,
        };
        Self::new(code, error)
    }
}
