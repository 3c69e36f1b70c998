//! From a draft to the output folder: paper, source, page, JSON and a manifest of hashes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use typeset::{Block, Inline, Origin, Paper, PaperSection, Style, TableBlock};

use crate::error::ResearchError;
use crate::latex::{self, Citations, Keys};
use crate::literature::Literature;
use crate::researcher::Draft;

/// What is said about who wrote it.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// As the user named the model.
    pub model: String,
    /// Of its weights.
    pub sha256: Option<String>,
    /// Of the draft.
    pub seed: u64,
}

/// Files of the output folder by name.
#[derive(Debug, Clone)]
pub struct PaperFolder {
    /// Name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// What became of citations.
    pub citations: Citations,
    /// Numbers of the text that no result backs.
    pub unbacked_numbers: usize,
    /// The title.
    pub title: String,
}

/// Sets a draft.
///
/// # Errors
/// If the typesetter fails.
pub fn folder(
    draft: &Draft,
    literature: &Literature,
    style: Style,
    by: &Provenance,
) -> Result<PaperFolder, ResearchError> {
    let known = literature.entries.iter().map(|e| e.key.as_str()).collect();
    let mut keys = Keys { known, counts: Citations::default(), cited: Vec::new() };
    let title = latex::title(&draft.first).unwrap_or_else(|| "(no title)".into());
    let summary = latex::environment(&draft.first, "abstract").unwrap_or_default();
    let abstract_text: Vec<Vec<Inline>> = summary
        .split("\n\n")
        .map(|p| latex::inlines(p.trim(), &mut keys))
        .filter(|p| !p.is_empty())
        .map(|p| mark_numbers(p, &BTreeSet::new(), Origin::Text, &mut 0))
        .collect();
    let mut sections = latex::sections(&draft.first, &mut keys);
    let origin = if draft.simulated { Origin::Simulated } else { Origin::Results };
    sections.push(setup_section(&draft.setup, &mut keys));
    // Written before there were results: whatever stands there is the text's own word.
    for section in &mut sections {
        mark_section(section, &BTreeSet::new(), Origin::Text, &mut 0);
    }
    let mut unbacked = 0;
    if let (Some(second), Some(results)) = (&draft.second, &draft.results) {
        let mut later = latex::sections(second, &mut keys);
        let numbers = numbers_of(results);
        for section in &mut later {
            mark_section(section, &numbers, origin, &mut unbacked);
        }
        let tables = tables(results, origin);
        match later.iter_mut().find(|s| s.heading.to_lowercase().contains("result")) {
            Some(section) => {
                let at = section.blocks.len().min(1);
                section.blocks.splice(at..at, tables);
            }
            None => later.insert(0, PaperSection { level: 1, heading: "Results".into(), blocks: tables }),
        }
        sections.extend(later);
    }
    let references: Vec<_> = keys.cited.iter().filter_map(|k| literature.citation(k)).collect();
    let simulated = if draft.simulated {
        " Its results were invented by the model and are marked as simulated."
    } else {
        ""
    };
    let hash = by.sha256.as_deref().map_or(String::new(), |h| format!(" (sha256 {})", &h[..h.len().min(16)]));
    let paper = Paper {
        title: title.clone(),
        byline: "Machine-written draft".into(),
        abstract_text,
        sections,
        references,
        declaration: format!(
            "AI assistance declaration: the text of this draft was written by {}{hash} with seed {} through cycle; \
             no person has checked it.{simulated}",
            model_name(&by.model),
            by.seed
        ),
        style,
    };
    let bundle = typeset::latex(&paper);
    let pretty = |v: &Value| serde_json::to_vec_pretty(v).unwrap_or_default();
    let record = json!({
        "schema": "cycle.paper/1", "title": title, "model": {"ref": by.model, "sha256": by.sha256}, "seed": by.seed,
        "simulated": draft.simulated, "citations": keys.counts, "cited": keys.cited,
        "numbers": {"origin": origin_name(draft), "unbacked": unbacked}, "cut": draft.cut,
        "bibliography_problems": literature.problems, "stages": draft.stages, "paper": paper,
    });
    let mut files = vec![
        ("paper.pdf".to_string(), typeset::pdf(&paper)?),
        ("paper.tex".into(), bundle.tex.into_bytes()),
        ("references.bib".into(), bundle.bib.into_bytes()),
        ("paper.html".into(), typeset::html(&paper)?.into_bytes()),
        ("paper.json".into(), pretty(&record)),
        ("experiment.json".into(), pretty(&draft.setup)),
    ];
    if let Some(results) = &draft.results {
        let marked = json!({"origin": origin_name(draft), "results": results});
        files.push(("results.json".into(), pretty(&marked)));
    }
    let hashes: serde_json::Map<String, Value> = files
        .iter()
        .map(|(name, bytes)| {
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            (name.clone(), json!(hash))
        })
        .collect();
    files.push(("manifest.json".into(), pretty(&json!({"schema": "cycle.manifest/1", "sha256": hashes}))));
    Ok(PaperFolder { files, citations: keys.counts, unbacked_numbers: unbacked, title })
}

/// A model as a paper names it: without the folders of somebody's machine; the hash says which it was.
fn model_name(reference: &str) -> &str {
    match reference.split_once("://") {
        Some((_, server)) => server.rsplit('#').next().unwrap_or(server),
        None => reference.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(reference),
    }
}

fn origin_name(draft: &Draft) -> Option<&'static str> {
    draft.results.as_ref().map(|_| if draft.simulated { "simulated" } else { "results" })
}

fn setup_section(setup: &Value, keys: &mut Keys<'_>) -> PaperSection {
    let items: Vec<Vec<Inline>> = setup
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| {
            let mut item = vec![Inline::Strong(format!("{}.", s["name"].as_str()?.trim_end_matches('.')))];
            if let Some(text) = s["description"].as_str() {
                item.push(Inline::Text(" ".into()));
                item.extend(latex::inlines(text, keys));
            }
            Some(item)
        })
        .collect();
    PaperSection {
        level: 1,
        heading: "Experimental Setup".into(),
        blocks: vec![Block::List { ordered: true, items }],
    }
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Tables from the results alone, never from what a model wrote about them.
fn tables(results: &Value, origin: Origin) -> Vec<Block> {
    let mut out = Vec::new();
    for item in results.as_array().into_iter().flatten() {
        let Some(rows) = item["result"]["table"].as_array() else { continue };
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.as_array().map(|r| r.iter().map(cell).collect()).unwrap_or_default())
            .collect();
        let mut caption = cell(&item["name"]);
        if let Some(text) = item["result"]["description"].as_str() {
            caption = format!("{caption}. {text}");
        }
        out.push(Block::Table(TableBlock { caption, rows, origin }));
    }
    out
}

fn numbers_in(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i].is_ascii_digit() && (i == 0 || !bytes[i - 1].is_ascii_alphanumeric()) {
            let start = i;
            while i < bytes.len()
                && (bytes[i].is_ascii_digit()
                    || bytes[i] == b'.' && bytes.get(i + 1).is_some_and(u8::is_ascii_digit))
            {
                i += 1;
            }
            found.push((start, i));
        } else {
            i += 1;
        }
    }
    found
}

fn numbers_of(results: &Value) -> BTreeSet<String> {
    let text = results.to_string();
    numbers_in(&text).into_iter().map(|(a, b)| text[a..b].to_string()).collect()
}

/// Gives every number of a section its origin.
fn mark_section(
    section: &mut PaperSection,
    numbers: &BTreeSet<String>,
    origin: Origin,
    unbacked: &mut usize,
) {
    for block in &mut section.blocks {
        match block {
            Block::Paragraph(inlines) => {
                *inlines = mark_numbers(std::mem::take(inlines), numbers, origin, unbacked);
            }
            Block::List { items, .. } => {
                for item in items {
                    *item = mark_numbers(std::mem::take(item), numbers, origin, unbacked);
                }
            }
            Block::Equation(_) | Block::Table(_) | Block::Code(_) => {}
        }
    }
}

/// Numbers that stand in the results get their origin; the others are the text's own and are counted.
fn mark_numbers(
    inlines: Vec<Inline>,
    numbers: &BTreeSet<String>,
    origin: Origin,
    unbacked: &mut usize,
) -> Vec<Inline> {
    let mut out = Vec::new();
    for inline in inlines {
        let Inline::Text(text) = inline else {
            out.push(inline);
            continue;
        };
        let mut from = 0;
        for (start, end) in numbers_in(&text) {
            let number = &text[start..end];
            if start > from {
                out.push(Inline::Text(text[from..start].into()));
            }
            let backed = numbers.contains(number);
            *unbacked += usize::from(!backed);
            let origin = if backed { origin } else { Origin::Text };
            out.push(Inline::Number { text: number.into(), origin });
            from = end;
        }
        if from < text.len() {
            out.push(Inline::Text(text[from..].into()));
        }
    }
    out
}
