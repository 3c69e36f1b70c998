//! What is written about: topics, references or both, checked before a token is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use research::{Given, Literature, Stage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Prompts;
use crate::error::ImproveError;
use crate::ledger::{hex, id};

/// First 16 hex digits of the hashes of the public test papers' titles (letters and digits alone, lower case). Nothing is
/// sampled about them, because samples are trained on.
const TEST_TITLES: &str = include_str!("../../../datasets/test_titles.sha256");

/// Prompts that ship, by name.
const SHIPPED: [(&str, &str); 2] = [
    ("topics", include_str!("../recipes/topics.jsonl")),
    ("topics-held-out", include_str!("../recipes/topics-held-out.jsonl")),
];

/// A prompt.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// A letter and twelve hex digits of what it says.
    pub id: String,
    /// What about.
    pub topic: Option<String>,
    /// What may be cited.
    pub literature: Literature,
    /// The first half and the results that a second half follows.
    pub given: Option<Given>,
}

impl Prompt {
    /// A sample as a judge reads it: a second half stands behind its first.
    pub fn whole(&self, text: &str) -> String {
        self.given.as_ref().map_or_else(|| text.to_string(), |g| format!("{}\n\n{text}", g.first))
    }
}

/// Both sets.
#[derive(Debug, Clone)]
pub struct PromptSets {
    /// Samples of these are trained on.
    pub train: Vec<Prompt>,
    /// Of these never.
    pub held_out: Vec<Prompt>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    references: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    results: Option<serde_json::Value>,
}

impl PromptSets {
    /// Reads both files, for a stage.
    ///
    /// # Errors
    /// If a row is no prompt of this stage, stands twice (also in the other file), or is about a paper to be avoided.
    pub fn read(config: &Prompts, stage: Stage) -> Result<Self, ImproveError> {
        let mut avoid: BTreeMap<String, String> =
            TEST_TITLES.lines().map(|l| (l.to_string(), "the public test set".to_string())).collect();
        for path in &config.avoid {
            let source = path.display().to_string();
            avoid.extend(titles(path)?.into_iter().map(|t| (short_hash(&normal(&t)), source.clone())));
        }
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let train = read(&config.train, stage, &avoid, &mut seen)?;
        let mut held_out = read(&config.held_out, stage, &avoid, &mut seen)?;
        held_out.truncate(config.held_out_limit.unwrap_or(usize::MAX).max(1));
        Ok(Self { train, held_out })
    }
}

fn read(
    name: &str,
    stage: Stage,
    avoid: &BTreeMap<String, String>,
    seen: &mut BTreeMap<String, String>,
) -> Result<Vec<Prompt>, ImproveError> {
    let path = Path::new(name);
    let text = match name.strip_prefix("builtin:") {
        Some(short) => match SHIPPED.iter().find(|(n, _)| *n == short) {
            Some((_, text)) => (*text).to_string(),
            None => {
                let names: Vec<String> = SHIPPED.iter().map(|(n, _)| format!("builtin:{n}")).collect();
                return Err(ImproveError::Config(format!(
                    "no prompts {name}; there are {}",
                    names.join(", ")
                )));
            }
        },
        None => std::fs::read_to_string(path).map_err(ImproveError::io(path))?,
    };
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let bad = |what: String| ImproveError::Prompts { path: path.into(), row: i + 1, what };
        let row: Line = serde_json::from_str(line).map_err(|e| bad(e.to_string()))?;
        let topic = row.topic.map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
        let references = row.references.filter(|r| !r.trim().is_empty());
        if topic.is_none() && references.is_none() {
            return Err(bad("a prompt has a topic, references (BibTeX), or both".into()));
        }
        let literature = match &references {
            Some(text) => Literature::from(documents::parse_bibliography(text, "references")),
            None => Literature::default(),
        };
        if references.is_some() && literature.entries.is_empty() {
            return Err(bad("its references hold no BibTeX entry with a title".into()));
        }
        let given = match (stage, row.first, row.results) {
            (Stage::SecondHalf, Some(first), Some(results)) => {
                Some(Given::new(first, results).map_err(|e| bad(e.to_string()))?)
            }
            (Stage::SecondHalf, ..) => {
                let what =
                    "a second half follows a first half and results: the row needs `first` and `results`";
                return Err(bad(what.into()));
            }
            (_, None, None) => None,
            _ => return Err(bad("`first` and `results` are for sample.stage = \"second-half\"".into())),
        };
        let key = topic.as_deref().map_or_else(|| references.clone().unwrap_or_default(), normal);
        if let Some(place) = seen.get(&key) {
            return Err(bad(format!("the same prompt stands in {place}; each is given once")));
        }
        if let Some(source) = topic.as_deref().and_then(|t| avoid.get(&short_hash(&normal(t)))) {
            return Err(bad(format!(
                "its topic is the title of a paper of {source}; nothing may be trained on it"
            )));
        }
        seen.insert(key, format!("{name}, row {}", i + 1));
        let mut told = format!(
            "{}\n{}",
            topic.as_deref().unwrap_or_default(),
            references.as_deref().unwrap_or_default()
        );
        if let Some(Given { first, results }) = &given {
            told += &format!("\n{first}\n{results}");
        }
        prompts.push(Prompt { id: id('q', &told), topic, literature, given });
    }
    if prompts.is_empty() {
        return Err(ImproveError::Prompts {
            path: path.into(),
            row: 1,
            what: "the file holds no prompt".into(),
        });
    }
    Ok(prompts)
}

/// Letters and digits alone, lower case.
fn normal(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..8])
}

/// Titles of a file: lines, or the column `title`.
fn titles(path: &Path) -> Result<BTreeSet<String>, ImproveError> {
    let text = std::fs::read_to_string(path).map_err(ImproveError::io(path))?;
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let bad = |row: usize, what: &str| ImproveError::Prompts { path: path.into(), row, what: what.into() };
    match ending {
        "jsonl" => text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty())
            .map(|(i, line)| {
                let row: serde_json::Value =
                    serde_json::from_str(line).map_err(|e| bad(i + 1, &e.to_string()))?;
                let title = row["title"].as_str().ok_or_else(|| bad(i + 1, "it has no title"))?;
                Ok(title.to_string())
            })
            .collect(),
        "csv" => {
            let mut rows = csv::Reader::from_reader(text.as_bytes());
            let head = rows.headers().map_err(|e| bad(1, &e.to_string()))?;
            let column =
                head.iter().position(|c| c == "title").ok_or_else(|| bad(1, "it has no column title"))?;
            rows.records()
                .enumerate()
                .map(|(i, row)| {
                    let row = row.map_err(|e| bad(i + 2, &e.to_string()))?;
                    Ok(row.get(column).unwrap_or_default().to_string())
                })
                .collect()
        }
        _ => Ok(text.lines().map(str::to_string).filter(|l| !l.trim().is_empty()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(folder: &Path, train: &str, held_out: &str, avoid: &str) -> Result<PromptSets, ImproveError> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = Prompts {
            train: write("a.jsonl", train).display().to_string(),
            held_out: write("b.jsonl", held_out).display().to_string(),
            per_iteration: None,
            held_out_limit: None,
            avoid: vec![write("avoid.csv", avoid)],
        };
        PromptSets::read(&files, Stage::Opening)
    }

    #[test]
    fn duplicates_and_papers_to_avoid_are_refused_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let one = r#"{"topic": "Sparse attention"}"#;
        let other = r#"{"topic": "Long contexts"}"#;
        let avoid = "id,title\n1,\"Graphs, and \"\"trees\"\"\"\n";
        assert!(sets(folder.path(), one, other, avoid).is_ok());
        let said = |r: Result<PromptSets, ImproveError>| r.unwrap_err().to_string();
        let twice =
            said(sets(folder.path(), &format!("{one}\n{{\"topic\": \"sparse  ATTENTION\"}}"), other, avoid));
        assert!(twice.contains("row 2") && twice.contains("row 1"), "{twice}");
        let both = said(sets(folder.path(), one, one, avoid));
        assert!(both.contains("b.jsonl, row 1") && both.contains("a.jsonl"), "{both}");
        let avoided = said(sets(folder.path(), r#"{"topic": "graphs and Trees"}"#, other, avoid));
        assert!(avoided.contains("avoid.csv"), "{avoided}");
        assert!(said(sets(folder.path(), "{}", other, avoid)).contains("a topic"));
        assert!(said(sets(folder.path(), r#"{"topics": "x"}"#, other, avoid)).contains("topics"));
    }

    #[test]
    fn the_test_titles_and_the_shipped_prompts_stand_there_whole() {
        assert_eq!(TEST_TITLES.lines().count(), 244);
        let config = Prompts {
            train: "builtin:topics".into(),
            held_out: "builtin:topics-held-out".into(),
            per_iteration: None,
            held_out_limit: None,
            avoid: Vec::new(),
        };
        let sets = PromptSets::read(&config, Stage::Opening).unwrap();
        assert!(sets.train.len() >= 200 && sets.held_out.len() >= 40);
    }
}
