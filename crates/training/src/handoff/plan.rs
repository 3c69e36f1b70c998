//! What an engine is given: files, and the words to start it with.

use std::fs;
use std::path::PathBuf;

use super::HandoffError;

/// Everything but the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `TRL` or `OpenRLHF`.
    pub engine: &'static str,
    /// Where the files go.
    pub folder: PathBuf,
    /// Name and text.
    pub files: Vec<(String, String)>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables it is started with.
    pub environment: Vec<(String, String)>,
    /// What differs from the engine of `cycle`, one sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// Writes the files, and the command line as `launch.txt`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self) -> Result<(), HandoffError> {
        fs::create_dir_all(&self.folder).map_err(HandoffError::io(&self.folder))?;
        let launch = ("launch.txt".to_owned(), self.command_line() + "\n");
        for (name, text) in self.files.iter().chain([&launch]) {
            let (path, partial) = (self.folder.join(name), self.folder.join(format!(".{name}.partial")));
            fs::write(&partial, text)
                .and_then(|()| fs::rename(&partial, &path))
                .map_err(HandoffError::io(&path))?;
        }
        Ok(())
    }

    /// The line to type, variables in front.
    pub fn command_line(&self) -> String {
        let variables = self.environment.iter().map(|(k, v)| format!("{k}={}", quoted(v)));
        variables.chain(self.command.iter().map(|w| quoted(w))).collect::<Vec<_>>().join(" ")
    }
}

/// As a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
