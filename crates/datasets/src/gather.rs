//! From files of records to fragments: JSON lines, JSON, CSV (each plain or `.zst`), OpenReview's answers of both APIs,
//! archives of sources and PDFs. A folder's files are read in the order of their names, its `sources/` too.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sources::{Kind, Note};

use crate::error::DatasetError;
use crate::fragment::{Fragment, recorded, score_row, submission};
use crate::spec::{Spec, SpecKind};

/// A file that was read.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Input {
    /// Relative to the records.
    pub file: String,
    /// SHA-256 (hex).
    pub sha256: String,
    /// Records in it.
    pub records: usize,
}

/// Called with fragments and with what is broken.
pub trait Sink {
    /// A fragment.
    fn fragment(&mut self, fragment: Fragment) -> Result<(), DatasetError>;
    /// A record that is none.
    fn broken(&mut self, place: String, why: String);
}

/// Files that are about records, not records.
const NOT_RECORDS: [&str; 4] = ["manifest.json", "loo_metrics.json", "expected.json", "gold.jsonl"];

/// The files of a folder of records, in the order of their names.
///
/// # Errors
/// If the folder cannot be read or holds none.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, DatasetError> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(DatasetError::reading(folder))? {
            let path = entry.map_err(DatasetError::reading(folder))?.path();
            if path.is_file() {
                out.push(path);
            }
        }
        out.sort();
        Ok(out)
    };
    if !folder.is_dir() {
        return Err(DatasetError::input(folder, "no such folder of records"));
    }
    let mut out = list(folder)?;
    let sources = folder.join("sources");
    if sources.is_dir() {
        out.extend(list(&sources)?);
    }
    out.retain(|p| {
        let name = name(p);
        !NOT_RECORDS.contains(&name.as_str()) && !matches!(kind(&name), FileKind::Other | FileKind::Parquet)
    });
    if out.is_empty() {
        let what = "holds no records (.jsonl, .json, .csv, each also .zst; .tar.gz, .gz, .tex, .pdf)";
        return Err(DatasetError::input(folder, what));
    }
    Ok(out)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Lines,
    Json,
    Csv,
    Package,
    Pdf,
    Parquet,
    Other,
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(crate) fn kind(name: &str) -> FileKind {
    let name = name.to_lowercase();
    let plain = name.trim_end_matches(".zst");
    let ends = |e: &[&str]| e.iter().any(|e| plain.ends_with(e));
    if ends(&[".jsonl"]) {
        FileKind::Lines
    } else if ends(&[".json"]) {
        FileKind::Json
    } else if ends(&[".csv"]) {
        FileKind::Csv
    } else if name.ends_with(".parquet") {
        FileKind::Parquet
    } else if name.ends_with(".pdf") {
        FileKind::Pdf
    } else if [".tar.gz", ".tgz", ".gz", ".tar", ".tex"].iter().any(|e| name.ends_with(e)) {
        FileKind::Package
    } else {
        FileKind::Other
    }
}

/// The id in a file's name: `2411.00816.tar.gz`, `cs%2F9901002.gz` (a slash is no file name, and ids of OpenReview may hold `__`).
pub(crate) fn id_of(name: &str) -> String {
    let ends = [".tar.gz", ".tgz", ".gz", ".tar", ".tex", ".pdf"];
    let id = ends.iter().find_map(|e| name.strip_suffix(e)).unwrap_or(name);
    id.replace("%2F", "/")
}

/// Opens a file, unpacking `.zst`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, DatasetError> {
    let reading = DatasetError::reading(path);
    let file = File::open(path).map_err(&reading)?;
    if path.extension().is_some_and(|e| e == "zst") {
        return Ok(Box::new(zstd::Decoder::new(file).map_err(&reading)?));
    }
    Ok(Box::new(file))
}

/// SHA-256 (hex) of a file, in pieces.
pub(crate) fn file_sha256(path: &Path) -> Result<String, DatasetError> {
    let mut file = File::open(path).map_err(DatasetError::reading(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(DatasetError::reading(path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Longest line of a file of records: a submission with all replies and its text.
const LONGEST: u64 = 64 << 20;

/// Largest file that is one JSON document: it is in memory as a whole.
const LARGEST: u64 = 128 << 20;

/// Lines by `\n` alone: texts hold other line separators. Each comes with its number, from 1; one that is too long comes
/// as `None`.
pub(crate) fn lines(
    path: &Path,
    mut f: impl FnMut(usize, Option<&[u8]>) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    let mut reader = BufReader::with_capacity(1 << 16, open(path)?);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let n = reader
            .by_ref()
            .take(LONGEST)
            .read_until(b'\n', &mut line)
            .map_err(DatasetError::reading(path))?;
        if n == 0 {
            return Ok(());
        }
        number += 1;
        if line.last() != Some(&b'\n') && n as u64 == LONGEST {
            // The rest is skipped in pieces, so that a file without line ends needs no memory.
            loop {
                line.clear();
                let n = reader
                    .by_ref()
                    .take(1 << 20)
                    .read_until(b'\n', &mut line)
                    .map_err(DatasetError::reading(path))?;
                if n == 0 || line.last() == Some(&b'\n') {
                    break;
                }
            }
            f(number, None)?;
        } else if !line.iter().all(u8::is_ascii_whitespace) {
            f(number, Some(&line))?;
        }
    }
}

/// Reads one file.
///
/// # Errors
/// If it cannot be read, or the sink fails. What is wrong with a record goes to the sink.
pub fn read(path: &Path, root: &Path, spec: &Spec, sink: &mut dyn Sink) -> Result<usize, DatasetError> {
    let file = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
    let mut count = 0;
    match kind(&name(path)) {
        FileKind::Lines => lines(path, |number, line| {
            count += 1;
            let place = format!("{file}:{number}");
            let Some(line) = line else {
                sink.broken(place, format!("a line of more than {} MiB", LONGEST >> 20));
                return Ok(());
            };
            match serde_json::from_slice::<Value>(line) {
                Ok(value) => one(&value, &place, spec, sink),
                // Mixed encodings: what is no UTF-8 is read as Latin-1 if that is JSON.
                Err(e) => match latin1(line) {
                    Some(value) => one(&value, &place, spec, sink),
                    None => {
                        sink.broken(place, format!("no JSON ({e})"));
                        Ok(())
                    }
                },
            }
        })?,
        FileKind::Json => {
            let mut bytes = Vec::new();
            open(path)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(DatasetError::reading(path))?;
            if bytes.len() as u64 > LARGEST {
                sink.broken(
                    file,
                    format!("more than {} MiB; write one record a line (.jsonl)", LARGEST >> 20),
                );
                return Ok(count);
            }
            match sources::notes(&bytes) {
                Ok((notes, _)) => {
                    count += notes.len();
                    forums(notes, &file, spec, sink)?;
                }
                Err(_) => match serde_json::from_slice::<Value>(&bytes) {
                    Ok(value @ Value::Object(_)) => {
                        count += 1;
                        one(&value, &file, spec, sink)?;
                    }
                    Ok(_) => sink.broken(file, "neither notes nor a record".into()),
                    Err(e) => sink.broken(file, format!("no JSON ({e})")),
                },
            }
        }
        FileKind::Csv => {
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open(path)?);
            let header = reader.byte_headers().map_err(|e| DatasetError::input(path, e))?.clone();
            let column = |name: &str| header.iter().position(|h| h == name.as_bytes());
            if column("id").is_none() {
                sink.broken(file, "a table without a column `id`".into());
                return Ok(0);
            }
            for (number, row) in reader.byte_records().enumerate() {
                count += 1;
                let place = format!("{file}:{}", number + 2);
                let row = match row {
                    Ok(row) => row,
                    Err(e) => {
                        sink.broken(place, e.to_string());
                        continue;
                    }
                };
                let get = |name: &str| {
                    row.get(column(name)?).map(|c| String::from_utf8_lossy(c).trim().to_string())
                };
                match score_row(&get) {
                    Ok(fragment) => sink.fragment(fragment)?,
                    Err(why) => sink.broken(place, why),
                }
            }
        }
        FileKind::Package | FileKind::Pdf => {
            count += 1;
            // A PDF beside sources of the same name is the same paper.
            let id = id_of(&name(path));
            if spec.kind == SpecKind::Review || kind(&name(path)) == FileKind::Package {
                sink.fragment(Fragment { id, files: vec![file], ..Fragment::default() })?;
            }
        }
        FileKind::Parquet | FileKind::Other => {}
    }
    Ok(count)
}

fn latin1(line: &[u8]) -> Option<Value> {
    if std::str::from_utf8(line).is_ok() {
        return None;
    }
    let text: String = line.iter().map(|b| char::from(*b)).collect();
    serde_json::from_str(&text).ok()
}

/// One object: a note with its replies, a note that a crawl wrote, or a recorded row.
fn one(value: &Value, place: &str, spec: &Spec, sink: &mut dyn Sink) -> Result<(), DatasetError> {
    if value["content"].is_object() && (value["invitation"].is_string() || value["invitations"].is_array()) {
        let note = match serde_json::from_value::<Note>(value.clone()) {
            Ok(note) => Ok(note),
            Err(_) => {
                let body = serde_json::json!({ "notes": [value] }).to_string();
                sources::notes(body.as_bytes())
                    .and_then(|(mut n, _)| n.pop().ok_or("no note".into()))
                    .and_then(|n| n)
            }
        };
        return match note {
            Ok(note) => forums(vec![Ok(note)], place, spec, sink),
            Err(why) => {
                sink.broken(place.into(), why);
                Ok(())
            }
        };
    }
    match recorded(value) {
        Ok(fragment) => sink.fragment(fragment),
        Err(why) => {
            sink.broken(place.into(), why);
            Ok(())
        }
    }
}

/// Notes of an answer: submissions with their replies inside, or all notes of a forum side by side (API 1), or replies
/// without their submission.
fn forums(
    notes: Vec<Result<Note, String>>,
    place: &str,
    spec: &Spec,
    sink: &mut dyn Sink,
) -> Result<(), DatasetError> {
    let mut submissions: Vec<Note> = Vec::new();
    let mut replies: Vec<Note> = Vec::new();
    for note in notes {
        match note {
            Ok(note) if note.kind == Kind::Submission => submissions.push(note),
            Ok(note) => replies.push(note),
            Err(why) => sink.broken(place.into(), why),
        }
    }
    for reply in replies {
        match submissions.iter_mut().find(|s| s.forum == reply.forum) {
            Some(submission) => submission.replies.push(reply),
            None => {
                let mut bare = Note { kind: Kind::Submission, content: Default::default(), ..reply.clone() };
                bare.id = reply.forum.clone();
                bare.modified = None;
                bare.replies = vec![reply];
                submissions.push(bare);
            }
        }
    }
    for submission_note in submissions {
        if submission_note.deleted {
            sink.broken(format!("{place} {}", submission_note.id), "the submission was deleted".into());
            continue;
        }
        sink.fragment(submission(&submission_note, spec))?;
    }
    Ok(())
}
