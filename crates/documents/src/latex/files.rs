//! Which files make up a LaTeX paper, and which of them is the main one.

use crate::read::{ReadOptions, decode, has_extension, io_reason, read_file, too_large};
use crate::{Finding, ReadError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Text files by their name relative to the paper's folder, with `/`.
#[derive(Debug, Default)]
pub(crate) struct Files {
    texts: BTreeMap<String, String>,
}

const KINDS: [&str; 9] = ["tex", "ltx", "latex", "bib", "bbl", "sty", "cls", "def", "txt"];
/// Files of one paper.
const MAX_FILES: usize = 3000;
/// Folders inside folders.
const MAX_NESTING: usize = 8;

/// The text files of a folder, sorted by name. Links are not followed.
pub(crate) fn gather_folder(
    folder: &Path,
    options: &ReadOptions,
) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let mut out = Vec::new();
    let mut total = 0u64;
    walk(folder, folder, 0, options, &mut total, &mut out)?;
    out.sort();
    Ok(out)
}

fn walk(
    root: &Path,
    folder: &Path,
    depth: usize,
    options: &ReadOptions,
    total: &mut u64,
    out: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), ReadError> {
    let missing = |e: std::io::Error| ReadError::Missing { path: folder.into(), reason: io_reason(&e) };
    for entry in std::fs::read_dir(folder).map_err(missing)? {
        let Ok(entry) = entry else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if out.len() >= MAX_FILES {
            return Ok(());
        }
        if kind.is_dir() {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if depth < MAX_NESTING && !hidden {
                // An unreadable sub-folder is as good as an absent one.
                let _ = walk(root, &path, depth + 1, options, total, out);
            }
        } else if kind.is_file() && has_extension(&path, &KINDS) {
            let Ok(bytes) = read_file(&path, options.max_bytes) else { continue };
            *total += bytes.len() as u64;
            if *total > options.max_bytes {
                return Err(too_large(root, *total, options));
            }
            if let Ok(relative) = path.strip_prefix(root) {
                out.push((relative.to_string_lossy().replace('\\', "/"), bytes));
            }
        }
    }
    Ok(())
}

/// The text files of a `.tar.gz`, `.tar` or `.gz` (of one `.tex`).
pub(crate) fn unpack(
    bytes: &[u8],
    path: &Path,
    options: &ReadOptions,
) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let damaged = |e: std::io::Error| ReadError::Damaged {
        path: path.into(),
        reason: format!("the archive is cut off or broken ({e})"),
    };
    let inflated;
    let data: &[u8] = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut out = Vec::new();
        let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(options.max_bytes + 1);
        reader.read_to_end(&mut out).map_err(damaged)?;
        if out.len() as u64 > options.max_bytes {
            return Err(too_large(path, out.len() as u64, options));
        }
        inflated = out;
        &inflated
    } else {
        bytes
    };
    if data.starts_with(b"%PDF-") {
        return Err(ReadError::NotWhatItSays {
            path: path.into(),
            reason: "a compressed PDF; unpack it first".into(),
        });
    }
    if data.get(257..262) != Some(b"ustar") && !looks_like_tar(data) {
        return Ok(vec![("main.tex".to_owned(), data.to_vec())]);
    }
    let mut out = Vec::new();
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() || out.len() >= MAX_FILES {
            continue;
        }
        let Ok(name) = entry.path().map(|p| p.to_string_lossy().replace('\\', "/")) else { continue };
        if !has_extension(Path::new(&name), &KINDS) {
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(damaged)?;
        out.push((normalise("", &name), content));
    }
    out.sort();
    Ok(out)
}

/// Tar files older than "ustar" have a checksum field of octal digits.
fn looks_like_tar(data: &[u8]) -> bool {
    data.len() >= 512
        && data[0] != 0
        && data[148..155].iter().all(|b| b.is_ascii_digit() || *b == b' ' || *b == 0)
        && data[148..155].iter().any(u8::is_ascii_digit)
        && data[257..265].iter().all(|b| *b == 0)
}

/// `name` relative to `base`, without `.`, `..` and double slashes; what leads out of the folder stays inside.
pub(crate) fn normalise(base: &str, name: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    for part in name.trim().trim_matches('"').split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Files {
    /// Decodes all files.
    pub(crate) fn new(files: Vec<(String, Vec<u8>)>) -> Self {
        Files { texts: files.into_iter().map(|(name, bytes)| (name, decode(&bytes))).collect() }
    }

    /// Names and texts, sorted.
    pub(crate) fn into_texts(self) -> Vec<(String, String)> {
        self.texts.into_iter().collect()
    }

    /// Adds a file that a document carries inside (`filecontents`), unless it exists.
    pub(crate) fn add(&mut self, name: &str, text: &str) {
        self.texts.entry(normalise("", name)).or_insert_with(|| text.to_owned());
    }

    /// A file by the name a document calls it: with or without extension, relative to the main file's folder or the root.
    pub(crate) fn find(&self, base: &str, name: &str, extension: &str) -> Option<(&str, &str)> {
        for folder in [base, ""] {
            let path = normalise(folder, name);
            for candidate in [path.clone(), format!("{path}.{extension}")] {
                if let Some((name, text)) = self.texts.get_key_value(&candidate) {
                    return Some((name, text));
                }
            }
        }
        // A path that no longer exists: the same file name anywhere.
        let last = name.rsplit('/').next().unwrap_or(name);
        let with = format!("{last}.{extension}");
        if extension == "tex" {
            return None;
        }
        self.texts
            .iter()
            .find(|(n, _)| n.rsplit('/').next().is_some_and(|f| f == last || f == with))
            .map(|(n, t)| (n.as_str(), t.as_str()))
    }

    /// All files that end in `.extension`.
    pub(crate) fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts
            .iter()
            .filter(move |(n, _)| has_extension(Path::new(n), &[extension]))
            .map(|(n, t)| (n.as_str(), t.as_str()))
    }

    /// The main file, chosen by content: a document class, a title, an abstract, sections; no poster, letter or slides.
    pub(crate) fn main(&self) -> Option<String> {
        let mut best: Option<(i64, &str)> = None;
        let sources = || {
            self.texts.iter().filter(|(n, _)| has_extension(Path::new(n), &["tex", "ltx", "latex", "txt"]))
        };
        let included: Vec<String> = sources().flat_map(|(_, t)| inclusions(t)).collect();
        for (name, text) in sources() {
            let has = |needle: &str| text.contains(needle);
            let class = has("\\documentclass") || has("\\documentstyle");
            if !class && !has("\\begin{document}") && !has("\\section") && !has("\\bye") {
                continue;
            }
            let mut score = 0i64;
            score += if class { 1000 } else { 0 };
            score += if has("\\begin{document}") { 500 } else { 0 };
            score += if has("\\begin{abstract}") || has("\\abstract") { 150 } else { 0 };
            score += if has("\\title") || has("\\icmltitle") { 100 } else { 0 };
            score += if has("\\bibliography") || has("thebibliography") || has("\\printbibliography") {
                100
            } else {
                0
            };
            score += (text.matches("\\section").count() as i64).min(20) * 5;
            score += (inclusions(text).count() as i64).min(20) * 8;
            score += (text.len() as i64 / 2000).min(60);
            let stem = name.rsplit('/').next().unwrap_or(name).to_lowercase();
            let stem = stem.split('.').next().unwrap_or("");
            if self
                .texts
                .contains_key(&format!("{}.bbl", name.rsplit_once('.').map_or(name.as_str(), |n| n.0)))
            {
                score += 200;
            }
            for odd in [
                "poster",
                "rebuttal",
                "cover",
                "letter",
                "talk",
                "slides",
                "response",
                "supp",
                "standalone",
                "diff",
            ] {
                if stem.contains(odd) {
                    score -= 700;
                }
            }
            for class in [
                "{beamer}",
                "{letter}",
                "{standalone}",
                "{tikzposter}",
                "{a0poster}",
                "{beamerposter}",
                "{subfiles}",
            ] {
                if has(class) {
                    score -= 700;
                }
            }
            let own = name.rsplit_once('.').map_or(name.as_str(), |n| n.0);
            if included.iter().any(|i| i == own || i == name) {
                score -= 600;
            }
            score -= 20 * name.matches('/').count() as i64;
            if best.is_none_or(|(s, _)| score > s) {
                best = Some((score, name));
            }
        }
        best.map(|(_, name)| name.to_owned())
            .or_else(|| self.texts.keys().find(|n| n.ends_with(".tex")).cloned())
    }
}

fn inclusions(text: &str) -> impl Iterator<Item = String> {
    ["\\input{", "\\include{", "\\subfile{"].into_iter().flat_map(|command| {
        text.match_indices(command)
            .filter_map(|(i, c)| text[i + c.len()..].split_once('}').map(|(name, _)| normalise("", name)))
            .collect::<Vec<_>>()
    })
}

/// A note that a file is absent.
pub(crate) fn missing(name: &str) -> Finding {
    crate::read::note("missing-file", format!("{name} is named in the source, but is not there"))
}
