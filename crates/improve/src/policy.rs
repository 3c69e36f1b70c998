//! The policy: where its weights lie, and opening it.

use std::path::{Path, PathBuf};

use lm::{LanguageModel, LmError, Local, Message, ModelRef, OpenOptions, Progress};
use models::ModelSource;

use crate::error::ImproveError;

/// Weights on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `start`, or `iteration-N` after the one that trained it: its name on a server.
    pub name: String,
    /// Base and adapter.
    pub source: ModelSource,
    /// SHA-256 of both.
    pub sha256: String,
}

impl Policy {
    /// A checkpoint.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn of(name: impl Into<String>, source: ModelSource) -> Result<Self, ImproveError> {
        let sha256 = source.sha256()?;
        Ok(Self { name: name.into(), source, sha256 })
    }

    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open(&self, options: &OpenOptions) -> Result<Local, ImproveError> {
        let ModelSource { path, adapter } = self.source.clone();
        Ok(lm::open_local(&ModelRef::Checkpoint { path, adapter }, options)?)
    }
}

/// The files of a model reference; what ships in the binary is written below `folder`, once.
///
/// # Errors
/// If there is no such model, it is a server, or the disk is full.
pub fn placed(reference: &str, folder: &Path, options: &OpenOptions) -> Result<ModelSource, ImproveError> {
    let reference: ModelRef = reference.parse()?;
    if let ModelRef::Server { .. } = &reference {
        return Err(ImproveError::Config(format!(
            "{reference} is a server; a policy that learns is a model of this machine (sample.server draws from one)"
        )));
    }
    Ok(lm::on_disk(&reference, folder, options.models_dir.as_deref())?)
}

/// Writes a file by rename, and the folders above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ImproveError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(ImproveError::io(folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial: PathBuf = folder.join(format!(".{name}.partial"));
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(ImproveError::io(path))
}

/// Mean log-probability per token of an answer, in nats, as the model itself would say it.
///
/// # Errors
/// If the model fails.
pub fn log_probability(
    model: &Local,
    messages: &[Message],
    answer: &str,
) -> Result<Option<f64>, ImproveError> {
    let inner = model.engine().model();
    let encode = |text: &str| inner.encode_chat(text).map_err(ImproveError::from);
    let prompt = encode(&model.render(messages, "")?)?;
    let mut ids = prompt.clone();
    ids.extend(inner.tokenizer.encode(answer).map_err(ImproveError::from)?);
    ids.truncate(inner.context());
    let scored =
        model.engine().logprobs(&ids, prompt.len(), &[]).map_err(|e| LmError::Model(e.to_string()))?;
    let own: Vec<f64> = scored.logprobs.iter().skip(prompt.len()).flatten().copied().collect();
    Ok(crate::stats::mean(&own))
}

/// Asks a model; a server that does not answer is asked again for what is missing, with growing pauses, for `patience`
/// seconds. What it refuses to answer is a row that says so, where it has `answered` before or answers others: else it may
/// be that it refuses everything (a name that it does not know, say), and that is nobody's paper.
///
/// # Errors
/// If it still fails, or refuses all.
pub fn ask(
    model: &dyn LanguageModel,
    requests: &[lm::Request],
    progress: &dyn Progress,
    patience: u64,
    answered: bool,
    note: &mut dyn FnMut(&str),
) -> Result<Vec<Result<lm::Completion, LmError>>, LmError> {
    let mut pauses = Pauses::new(patience);
    let mut answers: Vec<Option<Result<lm::Completion, LmError>>> = Vec::new();
    answers.resize_with(requests.len(), || None);
    loop {
        let open: Vec<usize> = (0..requests.len()).filter(|i| answers[*i].is_none()).collect();
        let left: Vec<lm::Request> = open.iter().map(|i| requests[*i].clone()).collect();
        let mut lost = None;
        match model.complete(&left, progress) {
            Err(LmError::Remote(what)) => lost = Some(what),
            Err(other) => return Err(other),
            Ok(rows) => {
                for (i, row) in open.into_iter().zip(rows) {
                    match row {
                        Err(LmError::Remote(what)) => lost = Some(what),
                        row => answers[i] = Some(row),
                    }
                }
            }
        }
        match lost {
            None => {
                let all: Vec<Result<lm::Completion, LmError>> = answers.into_iter().flatten().collect();
                let refusal = |row: &Result<lm::Completion, LmError>| match row {
                    Err(LmError::Refused(what)) => Some(what.clone()),
                    _ => None,
                };
                let refusals: Vec<String> = all.iter().filter_map(refusal).collect();
                return match refusals.into_iter().next() {
                    Some(first) if !answered && all.iter().all(|row| refusal(row).is_some()) => {
                        Err(LmError::Refused(first))
                    }
                    _ => Ok(all),
                };
            }
            Some(what) => pauses.wait(&what, progress, note)?,
        }
    }
}

/// Waits between tries, longer each time, until patience ends.
pub(crate) struct Pauses {
    patience: u64,
    waited: u64,
    next: u64,
}

impl Pauses {
    pub(crate) fn new(patience: u64) -> Self {
        Self { patience, waited: 0, next: 2 }
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// What went wrong, if patience has ended; if the user stops it.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        progress: &dyn Progress,
        note: &mut dyn FnMut(&str),
    ) -> Result<(), LmError> {
        if self.waited >= self.patience {
            return Err(LmError::Remote(what.into()));
        }
        let wait = self.next.min(self.patience - self.waited);
        note(&format!("{what}; asking again in {wait} s"));
        for _ in 0..wait * 10 {
            if progress.cancelled() {
                return Err(LmError::Interrupted);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        (self.waited, self.next) = (self.waited + wait, (wait * 2).min(60));
        Ok(())
    }
}
