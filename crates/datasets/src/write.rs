//! The folder of a built set: parquet and JSON lines, what was left out, scores, card, manifest. Files are written beside
//! their place and renamed when all are whole; the manifest comes last.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::DatasetError;
use crate::gather::file_sha256;
use crate::parquet::{Column, Writer};
use crate::spec::SpecKind;
use crate::split::Part;

/// A dialogue.
pub(crate) fn turns() -> Column {
    Column::list(Column::Struct(vec![("role", Column::Text), ("content", Column::Text)]))
}

/// The columns of a row, as [`ReviewRow`](crate::record::ReviewRow) and [`ResearchRow`](crate::record::ResearchRow)
/// have them.
pub fn columns(kind: SpecKind) -> Vec<(&'static str, Column)> {
    use Column::{Integer, Number, Text};
    let rows = || Column::list(Column::list(Text));
    match kind {
        SpecKind::Review => {
            let review = vec![
                ("rating", Number),
                ("rating_label", Text),
                ("confidence", Number),
                ("soundness", Number),
                ("presentation", Number),
                ("contribution", Number),
                ("summary", Text),
                ("strengths", Text),
                ("weaknesses", Text),
                ("questions", Text),
                ("text", Text),
                ("license", Text),
            ];
            let arxiv = vec![("id", Text), ("version", Integer), ("confidence", Number)];
            vec![
                ("id", Text),
                ("venue", Text),
                ("year", Integer),
                ("date", Text),
                ("title", Text),
                ("abstract", Text),
                ("state", Text),
                ("decision", Text),
                ("ratings", Column::list(Number)),
                ("mean", Number),
                ("ratings_initial", Column::list(Number)),
                ("confidences", Column::list(Number)),
                ("scale", Text),
                ("reviews", Column::list(Column::Struct(review))),
                ("meta_review", Text),
                ("paper_text", Text),
                ("text_source", Text),
                ("text_version", Text),
                ("text_date", Text),
                ("reviewed", Text),
                ("arxiv", Column::Struct(arxiv)),
                ("license", Text),
                ("review_licenses", Column::list(Text)),
                ("messages", turns()),
            ]
        }
        SpecKind::Research => {
            let cited = vec![
                ("key", Text),
                ("title", Text),
                ("abstract", Text),
                ("year", Integer),
                ("paperId", Text),
                ("bibtex", Text),
            ];
            let item = || Column::Struct(vec![("name", Text), ("table", rows()), ("description", Text)]);
            vec![
                ("id", Text),
                ("paperId", Text),
                ("venue", Text),
                ("year", Integer),
                ("date", Text),
                ("title", Text),
                ("abstract", Text),
                ("authors", Column::list(Text)),
                ("arxiv", Text),
                ("license", Text),
                ("sections", Column::list(Column::Struct(vec![("heading", Text), ("latex", Text)]))),
                ("headings", Column::list(Text)),
                ("figures", Column::list(Text)),
                ("tables", Column::list(Column::Struct(vec![("caption", Text), ("rows", rows())]))),
                ("references", Column::list(Column::Struct(cited))),
                ("cited", Integer),
                ("resolved", Integer),
                ("motivation", Text),
                ("main_idea", Text),
                ("experimental_setup", Column::list(item())),
                ("experimental_results", Column::list(item())),
                ("outline_model", Text),
                ("messages", turns()),
            ]
        }
    }
}

/// A file of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Written {
    /// Relative to the set's folder.
    pub path: String,
    /// SHA-256 (hex).
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Rows, of a file of rows.
    pub rows: Option<usize>,
}

/// Both files of one part.
pub struct PartWriter {
    lines: BufWriter<File>,
    path: PathBuf,
    parquet: Writer,
    /// Rows so far.
    pub rows: usize,
}

impl PartWriter {
    /// Empty files in a folder that holds `data` and `jsonl`.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new(folder: &Path, part: Part, kind: SpecKind) -> Result<Self, DatasetError> {
        let path = folder.join("jsonl").join(format!("{}.jsonl", part.name()));
        let parquet = folder.join("data").join(format!("{}.parquet", part.name()));
        for file in [&path, &parquet] {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).map_err(DatasetError::write(folder))?;
            }
        }
        let lines = BufWriter::new(File::create(&path).map_err(DatasetError::write(&path))?);
        Ok(Self { lines, path, parquet: Writer::new(&parquet, columns(kind))?, rows: 0 })
    }

    /// Adds a row to both.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add(&mut self, row: &Value) -> Result<(), DatasetError> {
        let text = row.to_string();
        self.lines.write_all(text.as_bytes()).map_err(DatasetError::write(&self.path))?;
        self.lines.write_all(b"\n").map_err(DatasetError::write(&self.path))?;
        self.parquet.add(row, text.len())?;
        self.rows += 1;
        Ok(())
    }

    /// Ends both.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn done(mut self) -> Result<usize, DatasetError> {
        self.lines.flush().map_err(DatasetError::write(&self.path))?;
        self.parquet.done()?;
        Ok(self.rows)
    }
}

/// Writes text into a folder.
///
/// # Errors
/// If the disk is full.
pub fn text(folder: &Path, name: &str, text: &str) -> Result<(), DatasetError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(DatasetError::write(&path))
}

/// All files below a folder, relative, sorted.
fn below(root: &Path, folder: &Path, out: &mut Vec<String>) -> Result<(), DatasetError> {
    for entry in fs::read_dir(folder).map_err(DatasetError::reading(folder))? {
        let path = entry.map_err(DatasetError::reading(folder))?.path();
        if path.is_dir() {
            below(root, &path, out)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            out.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
    out.sort();
    Ok(())
}

/// What stands in a folder, with hashes; rows are counted in the files that end in `.jsonl`.
///
/// # Errors
/// If a file cannot be read.
pub fn inventory(folder: &Path, rows: &dyn Fn(&str) -> Option<usize>) -> Result<Vec<Written>, DatasetError> {
    let mut names = Vec::new();
    below(folder, folder, &mut names)?;
    let one = |path: String| {
        let file = folder.join(&path);
        let bytes = fs::metadata(&file).map_err(DatasetError::reading(&file))?.len();
        Ok(Written { sha256: file_sha256(&file)?, bytes, rows: rows(&path), path })
    };
    names.into_iter().map(one).collect()
}

/// The hash of a set: of the names and hashes of its files.
pub fn hash(files: &[Written]) -> String {
    let lines: String = files.iter().map(|f| format!("{} {}\n", f.sha256, f.path)).collect();
    sources::sha256(lines.as_bytes())
}

/// Moves finished files to their place; those of an earlier build that have no successor go.
///
/// # Errors
/// If a file cannot be moved.
pub fn publish(from: &Path, to: &Path, files: &[Written], earlier: &[Written]) -> Result<(), DatasetError> {
    for old in earlier.iter().filter(|o| !files.iter().any(|f| f.path == o.path)) {
        let _ = fs::remove_file(to.join(&old.path));
    }
    for file in files {
        let (source, target) = (from.join(&file.path), to.join(&file.path));
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(DatasetError::write(folder))?;
        }
        fs::rename(&source, &target).map_err(DatasetError::write(&target))?;
    }
    Ok(())
}
