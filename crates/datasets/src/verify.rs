//! Whether a built set is what its manifest says, and keeps its own rules.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::Manifest;
use crate::error::DatasetError;
use crate::gather::{self, file_sha256};
use crate::numbers::{missing, numbers};
use crate::spec::SpecKind;
use crate::stats::manifest;
use crate::title;
use crate::write;

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The file, or the paper.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

/// Checks files against hashes, rows against parquet, parts against each other, ratings against scales, texts against
/// what gives a decision away, and numbers of results against the LaTeX and the abstract of
/// the row (its tables are the reader's, so they prove nothing).
///
/// # Errors
/// If there is no manifest.
pub fn verify(folder: &Path) -> Result<Vec<Fault>, DatasetError> {
    let manifest = manifest(folder)?;
    let mut faults = Vec::new();
    let mut fault = |place: &str, what: String| faults.push(Fault { place: place.into(), what });
    for file in &manifest.files {
        match file_sha256(&folder.join(&file.path)) {
            Ok(hash) if hash == file.sha256 => {}
            Ok(_) => fault(&file.path, "is not the file that was built (another hash)".into()),
            Err(e) => fault(&file.path, e.to_string()),
        }
    }
    if write::hash(&manifest.files) != manifest.hash {
        fault("manifest.json", "its hash is not that of its files".into());
    }
    let mut ids: HashMap<String, String> = HashMap::new();
    let mut titles: HashMap<String, String> = HashMap::new();
    for (part, rows) in manifest.splits.iter().filter(|(_, n)| **n > 0) {
        let name = format!("jsonl/{part}.jsonl");
        let file = folder.join(&name);
        let mut count = 0;
        let read = gather::lines(&file, |number, line| {
            count += 1;
            let Some(row) = line.and_then(|l| serde_json::from_slice::<Value>(l).ok()) else {
                fault(&format!("{name}:{number}"), "is no row".into());
                return Ok(());
            };
            let id = row["id"].as_str().unwrap_or_default().to_string();
            if let Some(other) = ids.insert(id.clone(), part.clone()) {
                fault(&id, format!("is in {other} and in {part}"));
            }
            let key = title::key(row["title"].as_str().unwrap_or_default());
            if key.len() >= 12
                && let Some(other) = titles.insert(key, part.clone())
                && other != *part
            {
                fault(&id, format!("its title is in {other} and in {part}"));
            }
            for what in of_row(&row, &manifest) {
                fault(&id, what);
            }
            Ok(())
        });
        if let Err(e) = read {
            fault(&name, e.to_string());
        }
        if count != *rows {
            fault(&name, format!("{count} rows, the manifest says {rows}"));
        }
        let parquet = folder.join(format!("data/{part}.parquet"));
        match parquet_rows(&parquet) {
            Ok(n) if n == *rows => {}
            Ok(n) => fault(&format!("data/{part}.parquet"), format!("{n} rows, the manifest says {rows}")),
            Err(why) => fault(&format!("data/{part}.parquet"), why),
        }
    }
    Ok(faults)
}

fn parquet_rows(path: &Path) -> Result<usize, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    usize::try_from(reader.metadata().file_metadata().num_rows()).map_err(|e| e.to_string())
}

/// What gives a decision away, if it were still in a text.
const MARKS: [&str; 4] = [
    "under review as a conference paper",
    "published as a conference paper",
    "anonymous authors",
    "paper under double-blind review",
];

fn of_row(row: &Value, manifest: &Manifest) -> Vec<String> {
    let mut out = Vec::new();
    let turns = row["messages"].as_array();
    let wants_dialogue = manifest.spec.kind == SpecKind::Review || row["motivation"].is_string();
    if wants_dialogue
        && turns.is_none_or(|t| t.iter().any(|t| t["content"].as_str().is_none_or(|c| c.trim().is_empty())))
    {
        out.push("its dialogue has an empty turn".into());
    }
    match manifest.spec.kind {
        SpecKind::Review => {
            let scale = row["scale"].as_str().and_then(|s| manifest.spec.scales.get(s));
            for rating in row["ratings"].as_array().into_iter().flatten().filter_map(Value::as_f64) {
                if let Some(scale) = scale
                    && !scale.has(rating)
                {
                    out.push(format!("the rating {rating} is not on its year's scale"));
                }
            }
            let text = row["paper_text"].as_str().unwrap_or_default().to_lowercase();
            for mark in MARKS {
                // A line of its own is a mark; a sentence about reviewing is not.
                if text.lines().any(|l| l.trim().starts_with(mark)) {
                    out.push(format!("\"{mark}\" gives the decision away"));
                }
            }
        }
        SpecKind::Research => {
            let mut known: HashSet<String> = HashSet::new();
            let mut collect = |v: &Value| known.extend(numbers(v.as_str().unwrap_or_default()));
            row["sections"].as_array().into_iter().flatten().for_each(|s| collect(&s["latex"]));
            collect(&row["abstract"]);
            let wrong = missing(&row["experimental_results"].to_string(), &known);
            if !wrong.is_empty() {
                out.push(format!("its results hold {}, which do not stand in the paper", wrong.join(", ")));
            }
            let has_tables = row["tables"].as_array().is_some_and(|t| !t.is_empty());
            let no_results = row["experimental_results"].as_array().is_none_or(Vec::is_empty);
            if row["motivation"].is_string() && has_tables && no_results {
                out.push("it has a table, but no results".into());
            }
        }
    }
    out
}
