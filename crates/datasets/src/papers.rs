//! From a file of sources or a PDF to what a row needs. Reading is slow and its result depends on the file alone, so it
//! is kept by the file's hash: building again reads only what is new.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use documents::{Document, ReadError, Source, TextBudget, reviewer_text};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::archive;
use crate::error::DatasetError;
use crate::gather::file_sha256;
use crate::record::{TextSource, Version};

/// Reads a document; the command line hands in a reader in a confined process.
pub type Reader<'a> = dyn Fn(&Path) -> Result<Document, ReadError> + Sync + 'a;

/// A change of what is kept begins a new name.
pub const FORMAT: &str = "3";

/// What a reviewer reads of a paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperText {
    /// As the file has it.
    pub title: Option<String>,
    /// As the file has it.
    pub abstract_text: Option<String>,
    /// Scrubbed Markdown.
    pub text: String,
    /// What the file was.
    pub source: TextSource,
    /// Which version.
    pub version: Version,
    /// What was odd about the file.
    pub problems: Vec<String>,
}

/// Results that are kept by the hash of what they were made from.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// In a folder, which is made.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(folder: &Path) -> Result<Self, DatasetError> {
        std::fs::create_dir_all(folder).map_err(DatasetError::write(folder))?;
        Ok(Self { folder: folder.into() })
    }

    fn path(&self, kind: &str, key: &str) -> PathBuf {
        self.folder.join(format!("{kind}-{FORMAT}-{key}.json"))
    }

    /// What was kept; what cannot be read is as good as absent.
    pub fn get<T: DeserializeOwned>(&self, kind: &str, key: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path(kind, key)).ok()?).ok()
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn put<T: Serialize>(&self, kind: &str, key: &str, value: &T) -> Result<(), DatasetError> {
        let path = self.path(kind, key);
        // Two papers may have the same file, and be read at the same time.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("partial-{}-{n}", std::process::id()));
        let text = serde_json::to_vec(value).unwrap_or_default();
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &path));
        written.map_err(DatasetError::write(&path))
    }

    /// What was kept of a file, else what `make` gives, failures included.
    ///
    /// # Errors
    /// If the file or the folder cannot be used; a file that is no paper is an `Err` inside.
    pub fn of_file<T: Serialize + DeserializeOwned>(
        &self,
        kind: &str,
        path: &Path,
        make: impl FnOnce() -> Result<T, String>,
    ) -> Result<Result<T, String>, DatasetError> {
        let key = file_sha256(path)?;
        if let Some(kept) = self.get(kind, &key) {
            return Ok(kept);
        }
        let made = make();
        self.put(kind, &key, &made)?;
        Ok(made)
    }
}

/// Reads a paper as a reviewer would.
///
/// # Errors
/// With the reason why it is no paper.
pub fn paper_text(path: &Path, reader: &Reader<'_>) -> Result<PaperText, String> {
    let mut problems = Vec::new();
    if path.extension().is_none_or(|e| e != "pdf") {
        let found = archive::hazards(&archive::bytes(path)?);
        if let Some(bomb) = found.bomb {
            return Err(bomb);
        }
        problems.extend(found.problems());
    }
    let document = reader(path).map_err(|e| short(&e, path))?;
    let layout = (document.source != Source::Pdf).then(|| layout(path)).flatten();
    problems.extend(
        document
            .findings
            .iter()
            .map(|f| format!("{}: {}", f.reason, f.text.chars().take(120).collect::<String>())),
    );
    let version = match version(&document) {
        Version::Unknown => layout.unwrap_or(Version::Unknown),
        known => known,
    };
    let text = markdown(&document);
    let source = if document.source == Source::Pdf { TextSource::Pdf } else { TextSource::Latex };
    Ok(PaperText {
        title: document.title,
        abstract_text: document.abstract_text,
        text,
        source,
        version,
        problems,
    })
}

/// The one form of text that reviewers read: scrubbed, with references and appendix left out as a panel's budget would.
pub fn markdown(document: &Document) -> String {
    let count = |_: &str| 0;
    reviewer_text(
        document,
        &TextBudget { max_tokens: None, count: &count, references: false, appendix: false },
    )
    .text
}

/// A reader's message without the path, which is different on every machine.
pub fn short(error: &ReadError, path: &Path) -> String {
    error.to_string().replace(&format!("{}: ", path.display()), "")
}

/// By what stands on it: "Anonymous authors" and "Under review" are of submissions, "Published as" and thanks of the
/// final version (facts/datasets.md, section 4).
pub fn version(document: &Document) -> Version {
    let front = document.front_matter.as_deref().unwrap_or_default().to_lowercase();
    let first = document.sections.iter().take(2).map(|s| s.text.to_lowercase()).collect::<String>();
    let has = |needle: &str| front.contains(needle) || first.contains(needle);
    if has("anonymous author") || has("under review as a") || has("double-blind review") {
        return Version::Submitted;
    }
    let thanks = document.sections.iter().any(|s| s.heading.to_lowercase().starts_with("acknowledg"));
    if thanks || has("published as a conference paper") || has("proceedings of the") {
        return Version::CameraReady;
    }
    Version::Unknown
}

/// What the options of a venue's style say: a submission is anonymous, the final version switches that off. Copies on arXiv
/// switch it off too, so that this counts only where nothing else tells.
fn layout(path: &Path) -> Option<Version> {
    let bytes = archive::bytes(path).ok()?;
    let source = documents::latex_source(&bytes, path, &documents::ReadOptions::default()).ok()?;
    let main = &source.files.iter().find(|(name, _)| *name == source.main)?.1;
    layout_of(main)
}

fn layout_of(main: &str) -> Option<Version> {
    let head = main.split("\\begin{document}").next()?;
    let live = || main.lines().map(|l| l.split('%').next().unwrap_or_default());
    let style = |line: &&str| ["iclr20", "neurips_20", "nips_20", "icml20"].iter().any(|s| line.contains(s));
    let package = head
        .lines()
        .map(|l| l.split('%').next().unwrap_or_default())
        .find(|l| l.contains("\\usepackage") && style(l))?;
    let options = package.split_once('[').and_then(|(_, r)| r.split_once(']')).map_or("", |(o, _)| o);
    let is_final = options.split(',').any(|o| ["final", "accepted"].contains(&o.trim()));
    if is_final || live().any(|l| l.contains("\\iclrfinalcopy")) {
        return Some(Version::CameraReady);
    }
    // Without a word the style prints "Under review".
    (!options.contains("preprint")).then_some(Version::Submitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_style_tell_a_submission_from_the_final_version() {
        let of = |head: &str| layout_of(&format!("\\documentclass{{article}}\n{head}\n\\begin{{document}}"));
        assert_eq!(of("\\usepackage{iclr2024_conference,times}"), Some(Version::Submitted));
        assert_eq!(of("\\usepackage{iclr2024_conference}\n%\\iclrfinalcopy"), Some(Version::Submitted));
        assert_eq!(
            of("\\usepackage{iclr2024_conference}\n\\iclrfinalcopy % yes"),
            Some(Version::CameraReady)
        );
        assert_eq!(of("\\usepackage[final]{neurips_2023}"), Some(Version::CameraReady));
        assert_eq!(of("\\usepackage[accepted]{icml2024}"), Some(Version::CameraReady));
        assert_eq!(of("\\usepackage[preprint]{neurips_2023}"), None);
        assert_eq!(of("\\usepackage{amsmath}"), None);
    }
}
