//! From a path to a [`Document`]: gathers the bytes, looks what they are, and calls the reader for it.

use crate::{Document, Finding, ReadError, Severity, latex, pdf, plain};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much is read before reading is given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// Pages of a PDF.
    pub max_pages: usize,
    /// Bytes of the input, and of what an archive unpacks to.
    pub max_bytes: u64,
    /// Wall-clock time for a PDF; checked between pages.
    pub max_time: Option<Duration>,
}

impl Default for ReadOptions {
    /// 1,000 pages, 256 MiB, 120 s: far above any paper.
    fn default() -> Self {
        ReadOptions { max_pages: 1000, max_bytes: 256 << 20, max_time: Some(Duration::from_secs(120)) }
    }
}

/// The bytes behind a path, read before a worker is confined.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    File(Vec<u8>),
    /// Relative names with `/`, sorted.
    Folder(Vec<(String, Vec<u8>)>),
}

/// Reads a paper in this process: a PDF, a `.tex` file, a folder or an (arXiv) archive of LaTeX, Markdown, plain text.
///
/// What could be read is in the document, what could not is among its findings. For files from strangers prefer
/// [`read_isolated`](crate::read_isolated).
pub fn read(path: &Path, options: &ReadOptions) -> Result<Document, ReadError> {
    read_input(gather(path, options)?, options)
}

pub(crate) fn gather(path: &Path, options: &ReadOptions) -> Result<Input, ReadError> {
    let missing = |e: std::io::Error| ReadError::Missing { path: path.into(), reason: io_reason(&e) };
    let metadata = std::fs::metadata(path).map_err(missing)?;
    let content = if metadata.is_dir() {
        Content::Folder(latex::gather_folder(path, options)?)
    } else {
        // A pipe may never end, a device never does.
        if !metadata.is_file() {
            return Err(ReadError::NotWhatItSays {
                path: path.into(),
                reason: "it is a pipe, a socket or a device; save it as a file first".into(),
            });
        }
        if metadata.len() > options.max_bytes {
            return Err(too_large(path, metadata.len(), options));
        }
        let bytes = read_file(path, options.max_bytes).map_err(missing)?;
        if bytes.len() as u64 > options.max_bytes {
            return Err(too_large(path, bytes.len() as u64, options));
        }
        // A single .tex file may \input its neighbours.
        if has_extension(path, &["tex", "ltx", "latex"]) && mentions_files(&bytes) {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let mut files = latex::gather_folder(folder, options).unwrap_or_default();
            files.retain(|(n, _)| *n != name);
            files.insert(0, (name, bytes));
            Content::Folder(files)
        } else {
            Content::File(bytes)
        }
    };
    Ok(Input { path: path.into(), content })
}

/// A file's bytes, at most one more than `limit`, whatever the system says about its length.
pub(crate) fn read_file(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    std::fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut out)?;
    Ok(out)
}

fn mentions_files(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    ["\\input", "\\include", "\\bibliography", "\\addbibresource", "\\subfile", "\\import"]
        .iter()
        .any(|c| text.contains(c))
}

pub(crate) fn read_input(input: Input, options: &ReadOptions) -> Result<Document, ReadError> {
    let path = input.path.as_path();
    let mut document = match input.content {
        Content::Folder(files) => {
            let main = has_extension(path, &["tex", "ltx", "latex"])
                .then(|| files.first().map(|f| f.0.clone()))
                .flatten();
            let mut hasher = Sha256::new();
            for (name, bytes) in &files {
                hasher.update(name.as_bytes());
                hasher.update([0]);
                hasher.update(bytes);
            }
            latex::read_files(files, main, hex(&hasher.finalize()), path, options)?
        }
        Content::File(bytes) => read_bytes(bytes, path, options)?,
    };
    if !has_text(&document) && !document.has_hidden_text() {
        return Err(ReadError::Empty { path: path.into(), reason: "it holds no text".into() });
    }
    let found = crate::instructions::find(&document);
    document.findings.extend(found);
    document.findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.page.cmp(&b.page)));
    Ok(document)
}

/// Reads one file that is in memory already; `path` names it in messages and says by its ending what it may be.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: Vec<u8>, path: &Path, options: &ReadOptions) -> Result<Document, ReadError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ReadError::Empty { path: path.into(), reason: "the file is empty".into() });
    }
    let sha256 = hex(&Sha256::digest(&bytes));
    let head = &bytes[..bytes.len().min(1024)];
    if find(head, b"%PDF-").is_some() {
        return pdf::read_pdf(bytes, sha256, path, options);
    }
    if has_extension(path, &["pdf"]) {
        return Err(ReadError::NotWhatItSays { path: path.into(), reason: describe(head, "a PDF") });
    }
    if bytes.starts_with(&[0x1f, 0x8b]) || bytes.get(257..262) == Some(b"ustar") {
        return latex::read_archive(&bytes, sha256, path, options);
    }
    let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    if !wide && bytes.iter().take(8192).any(|b| *b == 0) || bytes.starts_with(b"PK\x03\x04") {
        return Err(ReadError::NotWhatItSays { path: path.into(), reason: describe(head, "text") });
    }
    let text = decode(&bytes);
    let latex_like =
        ["\\documentclass", "\\documentstyle", "\\begin{document}"].iter().any(|m| text.contains(m))
            || text.contains("\\section{") && !has_extension(path, &["md", "markdown"]);
    if has_extension(path, &["tex", "ltx", "latex"]) || latex_like {
        let name = path.file_name().map_or_else(|| "main.tex".into(), |n| n.to_string_lossy().into_owned());
        return latex::read_files(vec![(name.clone(), bytes)], Some(name), sha256, path, options);
    }
    let start = text.trim_start().get(..200).unwrap_or(&text).to_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return Err(ReadError::NotWhatItSays {
            path: path.into(),
            reason: "it is a web page, not a paper".into(),
        });
    }
    Ok(plain::read_text(&text, has_extension(path, &["md", "markdown"]), sha256))
}

fn describe(head: &[u8], wanted: &str) -> String {
    let start = String::from_utf8_lossy(head).trim_start().to_lowercase();
    let what = if start.starts_with("<!doctype html") || start.starts_with("<html") {
        "a web page"
    } else if head.starts_with(b"PK") {
        "a zip archive (unpack it first) or an Office document (export it as PDF)"
    } else if head.starts_with(b"%!PS") {
        "PostScript (convert it with ps2pdf)"
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "a gzip archive"
    } else if head.starts_with(b"\x89PNG") || head.starts_with(&[0xff, 0xd8]) {
        "an image"
    } else if head.contains(&0) {
        "binary data"
    } else {
        "something else"
    };
    format!("it should be {wanted}, but it is {what}")
}

/// Text of unknown encoding: UTF-8 (with or without a mark), UTF-16 with a mark, else Latin-1; line ends as `\n`.
pub(crate) fn decode(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        [0xfe, 0xff, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
            Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
        },
    };
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|x| e.eq_ignore_ascii_case(x)))
}

pub(crate) fn io_reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".into(),
        std::io::ErrorKind::PermissionDenied => "may not be read (permission denied)".into(),
        _ => e.to_string(),
    }
}

pub(crate) fn too_large(path: &Path, bytes: u64, options: &ReadOptions) -> ReadError {
    ReadError::Limit {
        path: path.into(),
        reason: format!("{} MiB, and at most {} MiB are read", bytes >> 20, options.max_bytes >> 20),
    }
}

pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

pub(crate) fn note(reason: &str, text: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Note,
        reason: reason.to_owned(),
        page: None,
        bounds: None,
        text: text.into(),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn has_text(document: &Document) -> bool {
    document.abstract_text.is_some()
        || document.title.is_some()
        || document.front_matter.is_some()
        || document.sections.iter().any(|s| !s.text.is_empty() || !s.heading.is_empty())
        || !document.references.is_empty()
}
