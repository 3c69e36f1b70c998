//! Measures reading on real papers: `cargo run -p documents --example measure [FOLDER]`.
//!
//! FOLDER holds `ID.tar.gz` (LaTeX), `ID.pdf` and `gold.jsonl`; default `../shared/data/papers` beside the repository.
//! Per pair: share of the LaTeX text's words (3+ letters, as a bag) that the PDF's text has, share of its word 5-grams
//! that stand contiguously in it, title, abstract, headings; then pages per second.

use documents::{Document, ReadOptions, read};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() {
    documents::worker_main_if_requested();
    let folder = std::env::args().nth(1).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/papers")),
        PathBuf::from,
    );
    let Ok(gold) = std::fs::read_to_string(folder.join("gold.jsonl")) else {
        eprintln!("{}: no gold.jsonl", folder.display());
        std::process::exit(3);
    };
    let gold: BTreeMap<String, serde_json::Value> = gold
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter_map(|v| Some((v["id"].as_str()?.to_owned(), v)))
        .collect();
    println!("LaTeX            title abstract headings   references");
    for (id, facts) in &gold {
        match read(&folder.join(format!("{id}.tar.gz")), &ReadOptions::default()) {
            Ok(document) => println!("{id:<16} {}", against_gold(&document, facts)),
            Err(e) => println!("{id:<16} {e}"),
        }
    }
    println!("\nPDF              recall order  title abstract headings   references  same version");
    let (mut pages, mut seconds) = (0, 0.0);
    let mut names: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|d| {
            d.filter_map(|e| e.ok())
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "pdf"))
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    for path in names {
        let id = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let start = Instant::now();
        let document = match read(&path, &ReadOptions::default()) {
            Ok(document) => document,
            Err(e) => {
                println!("{id:<16} {e}");
                continue;
            }
        };
        seconds += start.elapsed().as_secs_f64();
        pages += document.pages.unwrap_or(0);
        let findings: Vec<String> =
            document.findings.iter().map(|f| format!("{:?}:{}", f.severity, f.reason)).collect();
        match gold.get(&id) {
            Some(facts) => {
                let (recall, order) = match latex(&folder, &id) {
                    Some(reference) => compare(&reference, &text(&document)),
                    None => (f64::NAN, f64::NAN),
                };
                let same = facts["pdf_same_version"].as_bool().unwrap_or(false);
                println!(
                    "{id:<16} {recall:.3}  {order:.3}  {}  {same} {findings:?}",
                    against_gold(&document, facts)
                );
            }
            None => println!(
                "{id:<16} {:?}, abstract {} characters, {} sections, {} references {findings:?}",
                document.title.as_deref().unwrap_or("no title"),
                document.abstract_text.as_deref().map_or(0, str::len),
                document.sections.len(),
                document.references.len()
            ),
        }
    }
    println!("\n{pages} pages, {:.0} pages/s", pages as f64 / seconds.max(1e-9));
}

fn latex(folder: &Path, id: &str) -> Option<String> {
    let document = read(&folder.join(format!("{id}.tar.gz")), &ReadOptions::default()).ok()?;
    // Citations print otherwise than they are written.
    let mut out = String::new();
    let mut depth = 0;
    for c in body(&document).chars() {
        match c {
            '[' => depth += 1,
            ']' if depth > 0 => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    Some(out)
}

fn body(document: &Document) -> String {
    let mut parts = vec![document.abstract_text.clone().unwrap_or_default()];
    for section in &document.sections {
        parts.push(section.heading.clone());
        parts.extend(section.text.split("\n\n").filter(|p| !p.starts_with("Table ")).map(str::to_owned));
    }
    parts.join("\n")
}

fn text(document: &Document) -> String {
    let mut parts =
        vec![document.title.clone().unwrap_or_default(), document.front_matter.clone().unwrap_or_default()];
    parts.push(document.abstract_text.clone().unwrap_or_default());
    parts.extend(document.sections.iter().flat_map(|s| [s.heading.clone(), s.text.clone()]));
    parts.extend(document.references.iter().map(|r| r.text.clone()));
    parts.join("\n")
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| w.len() >= 3).map(str::to_lowercase).collect()
}

fn bag<T: std::hash::Hash + Eq>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    items.fold(HashMap::new(), |mut bag, item| {
        *bag.entry(item).or_default() += 1;
        bag
    })
}

fn share<T: std::hash::Hash + Eq>(wanted: &HashMap<T, usize>, found: &HashMap<T, usize>) -> f64 {
    let all: usize = wanted.values().sum();
    let hits: usize = wanted.iter().map(|(w, n)| (*n).min(found.get(w).copied().unwrap_or(0))).sum();
    hits as f64 / all.max(1) as f64
}

/// Word recall and 5-gram order.
fn compare(reference: &str, found: &str) -> (f64, f64) {
    let (a, b) = (words(reference), words(found));
    (share(&bag(a.iter()), &bag(b.iter())), share(&bag(a.windows(5)), &bag(b.windows(5))))
}

fn fold(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).flat_map(char::to_lowercase).collect()
}

fn against_gold(document: &Document, facts: &serde_json::Value) -> String {
    let title = match (facts["title"].as_str(), document.title.as_deref()) {
        (Some(a), Some(b)) if fold(a) == fold(b) => "ok   ",
        (None, None) => "none ",
        _ => "WRONG",
    };
    let summary = match (facts["abstract"].as_str(), document.abstract_text.as_deref()) {
        (Some(a), Some(b)) => format!("{:.2}", share(&bag(words(a).iter()), &bag(words(b).iter()))),
        (None, None) => "none".into(),
        (Some(_), None) => "LOST".into(),
        (None, Some(_)) => "extra".into(),
    };
    let wanted: Vec<String> = facts["headings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|h| h["text"].as_str())
        .map(fold)
        .collect();
    let found: Vec<String> = document.sections.iter().map(|s| fold(&s.heading)).collect();
    let hits = wanted.iter().filter(|h| found.contains(h)).count();
    format!(
        "{title} {summary:<8} {hits}/{} of {:<5} {}/{}",
        wanted.len(),
        found.len(),
        document.references.len(),
        facts["bibliography_items"]
    )
}
