//! Whether two sets share a paper: by id, by title, by nearly the same title, by nearly the same text.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::SerializedFileReader;
use ::parquet::record::Field;
use ::parquet::record::reader::RowIter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::DatasetError;
use crate::gather::{self, FileKind};
use crate::minhash::{Index, signature};
use crate::title;

/// Titles that share so much of their words (Jaccard) are called the same (facts/datasets.md, section 1).
const TITLES: f64 = 0.7;
/// Words that stand in more titles than this tell nothing.
const COMMON: usize = 400;

/// How two papers are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Same {
    /// One id.
    Id,
    /// One title, but for spelling.
    Title,
    /// Most words of the title.
    SimilarTitle,
    /// Most of the text.
    SimilarText,
}

/// A paper in two sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    /// In this set.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its part: train or test.
    pub split: String,
    /// The other set.
    pub other_set: String,
    /// The paper there.
    pub other_id: String,
    /// How they are the same.
    pub same: Same,
    /// How much, 0 to 1.
    pub similarity: f64,
}

/// What was compared, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeakageReport {
    /// Papers of this set.
    pub papers: usize,
    /// Sets it was held against, with their sizes.
    pub against: Vec<(String, usize)>,
    /// Papers that are in both.
    pub leaks: Vec<Leak>,
}

struct Paper {
    id: String,
    words: BTreeSet<String>,
}

/// A set of papers to be looked up in.
#[derive(Default)]
pub struct NamedSet {
    /// How it is called in a report.
    pub name: String,
    papers: Vec<Paper>,
    ids: HashMap<String, u32>,
    titles: HashMap<String, u32>,
    words: HashMap<String, Vec<u32>>,
    texts: Index,
}

/// A row as far as it can be compared.
pub(crate) struct Row {
    pub id: String,
    pub title: String,
    pub text: Option<String>,
    pub split: String,
}

fn row(value: &Value, number: usize) -> Row {
    let text = |name: &str| value[name].as_str().filter(|t| !t.trim().is_empty()).map(String::from);
    let said = || {
        let turns = value["messages"].as_array().or_else(|| value["prompt"].as_array())?;
        turns.iter().filter(|t| t["role"] == "user").find_map(|t| t["content"].as_str().map(String::from))
    };
    let id = text("id")
        .or_else(|| text("paperId"))
        .or_else(|| text("arxiv"))
        .unwrap_or_else(|| format!("row {number}"));
    Row {
        id,
        title: text("title").unwrap_or_default(),
        text: text("abstract")
            .or_else(|| text("abstract_text"))
            .or_else(said)
            .or_else(|| text("text"))
            .or_else(|| text("prompt")),
        split: String::new(),
    }
}

/// Calls `f` with the rows of a file, a folder of files, or a set that was built.
///
/// # Errors
/// If it cannot be read or holds no rows.
pub(crate) fn rows(
    path: &Path,
    f: &mut dyn FnMut(Row) -> Result<(), DatasetError>,
) -> Result<usize, DatasetError> {
    let mut files: Vec<PathBuf> = Vec::new();
    if path.is_dir() {
        // A built set says its rows as JSON lines in one place.
        let built = path.join("jsonl");
        let folder = if built.is_dir() { built.as_path() } else { path };
        for entry in std::fs::read_dir(folder).map_err(DatasetError::reading(folder))? {
            files.push(entry.map_err(DatasetError::reading(folder))?.path());
        }
        files.sort();
        files.retain(|p| p.is_file());
    } else {
        files.push(path.into());
    }
    let mut count = 0;
    for file in &files {
        let split = gather::name(file).split('.').next().unwrap_or_default().to_string();
        match gather::kind(&gather::name(file)) {
            FileKind::Lines => gather::lines(file, |number, line| {
                if let Some(value) = line.and_then(|l| serde_json::from_slice::<Value>(l).ok())
                    && value.is_object()
                {
                    count += 1;
                    f(Row { split: split.clone(), ..row(&value, number) })?;
                }
                Ok(())
            })?,
            FileKind::Parquet => parquet_texts(file, &mut |number, value| {
                count += 1;
                f(Row { split: split.clone(), ..row(&value, number) })
            })?,
            FileKind::Csv => {
                let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(gather::open(file)?);
                let header = reader.headers().map_err(|e| DatasetError::input(file, e))?.clone();
                let at = |name: &str| header.iter().position(|h| h == name);
                let (id, title) = (at("id"), at("title"));
                if id.is_none() && title.is_none() {
                    continue;
                }
                for record in reader.records().flatten() {
                    let cell =
                        |c: Option<usize>| c.and_then(|c| record.get(c)).unwrap_or_default().to_string();
                    count += 1;
                    f(Row { id: cell(id), title: cell(title), text: None, split: split.clone() })?;
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        return Err(DatasetError::input(
            path,
            "holds no rows that could be compared (.jsonl or .csv, each also .zst, or .parquet)",
        ));
    }
    Ok(count)
}

/// The columns of a parquet file that hold text, row by row: what a comparison needs.
fn parquet_texts(
    path: &Path,
    f: &mut dyn FnMut(usize, Value) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    let file = std::fs::File::open(path).map_err(DatasetError::reading(path))?;
    let bad = |e: ParquetError| DatasetError::input(path, e.to_string().lines().next().unwrap_or_default());
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    for (number, row) in RowIter::from_file_into(Box::new(reader)).enumerate() {
        let row = row.map_err(bad)?;
        let texts = row.get_column_iter().filter_map(|(name, field)| match field {
            Field::Str(text) => Some((name.clone(), Value::String(text.clone()))),
            _ => None,
        });
        f(number + 1, Value::Object(texts.collect()))?;
    }
    Ok(())
}

impl NamedSet {
    /// The papers of a file or folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(name: &str, path: &Path) -> Result<Self, DatasetError> {
        let mut set = Self { name: name.into(), ..Self::default() };
        rows(path, &mut |row| {
            set.add(&row.id, &row.title, row.text.as_deref());
            Ok(())
        })?;
        Ok(set)
    }

    /// Papers in it.
    pub fn len(&self) -> usize {
        self.papers.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.papers.is_empty()
    }

    /// Adds a paper.
    pub fn add(&mut self, id: &str, title: &str, text: Option<&str>) {
        let at = self.papers.len() as u32;
        let words = title::words(title);
        for word in &words {
            self.words.entry(word.clone()).or_default().push(at);
        }
        let key = title::key(title);
        if key.len() >= 8 {
            self.titles.entry(key).or_insert(at);
        }
        if !id.is_empty() && !id.starts_with("row ") {
            self.ids.entry(id.into()).or_insert(at);
        }
        if let Some(signature) = text.and_then(signature) {
            self.texts.add(at, signature);
        }
        self.papers.push(Paper { id: id.into(), words });
    }

    /// The paper that is this one, how, and how much; the surest kind first.
    pub fn find(
        &self,
        id: &str,
        title: &str,
        text: Option<&str>,
        similarity: f64,
    ) -> Option<(&str, Same, f64)> {
        let named = |at: u32| self.papers[at as usize].id.as_str();
        if let Some(at) = self.ids.get(id) {
            return Some((named(*at), Same::Id, 1.0));
        }
        if let Some(at) = self.titles.get(&title::key(title)) {
            return Some((named(*at), Same::Title, 1.0));
        }
        let words = title::words(title);
        let mut shared: HashMap<u32, usize> = HashMap::new();
        for papers in words.iter().filter_map(|w| self.words.get(w)).filter(|p| p.len() <= COMMON) {
            for at in papers {
                *shared.entry(*at).or_default() += 1;
            }
        }
        let mut best: Option<(u32, f64)> = None;
        // Three words in common at least: short titles are alike by chance.
        for (at, _) in shared.into_iter().filter(|(_, n)| *n >= 3) {
            let alike = title::overlap(&words, &self.papers[at as usize].words);
            if alike >= TITLES && best.is_none_or(|(b, s)| alike > s || alike == s && at < b) {
                best = Some((at, alike));
            }
        }
        if let Some((at, alike)) = best {
            return Some((named(at), Same::SimilarTitle, alike));
        }
        let (at, alike) = self.texts.nearest(&text.and_then(signature)?, similarity)?;
        Some((named(at), Same::SimilarText, alike))
    }
}

/// Holds a set against others.
///
/// # Errors
/// If the set cannot be read.
pub fn leakage(set: &Path, others: &[NamedSet], similarity: f64) -> Result<LeakageReport, DatasetError> {
    let mut report = LeakageReport {
        against: others.iter().map(|o| (o.name.clone(), o.len())).collect(),
        ..LeakageReport::default()
    };
    report.papers = rows(set, &mut |row| {
        for other in others {
            if let Some((id, same, similarity)) =
                other.find(&row.id, &row.title, row.text.as_deref(), similarity)
            {
                report.leaks.push(Leak {
                    id: row.id.clone(),
                    title: row.title.clone(),
                    split: row.split.clone(),
                    other_set: other.name.clone(),
                    other_id: id.into(),
                    same,
                    similarity,
                });
            }
        }
        Ok(())
    })?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_paper_is_found_by_title_words_or_by_its_text() {
        let text = "We show that the agreement of reviewers falls with the number of papers that each of them reads in a season of reviewing.";
        let mut set = NamedSet { name: "test".into(), ..NamedSet::default() };
        set.add("a", "Learning to agree in large panels of reviewers", Some(text));
        set.add("b", "Another paper about something", None);
        let same =
            |id: &str, t: &str, x: Option<&str>| set.find(id, t, x, 0.7).map(|f| (f.0.to_string(), f.1));
        assert_eq!(same("a", "x", None), Some(("a".into(), Same::Id)));
        assert_eq!(
            same("z", "Learning to Agree in Large Panels of Reviewers!", None),
            Some(("a".into(), Same::Title))
        );
        assert_eq!(
            same("z", "Learning to agree in small panels of reviewers", None),
            Some(("a".into(), Same::SimilarTitle))
        );
        assert_eq!(same("z", "Quite different", Some(text)), Some(("a".into(), Same::SimilarText)));
        assert_eq!(same("z", "Quite different", None), None);
    }
}
