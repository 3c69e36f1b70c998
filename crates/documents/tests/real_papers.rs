//! Real papers, where the shared data is beside the repository: nothing of them is copied here.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

use documents::{Document, ReadError, ReadOptions, TextBudget, read, reviewer_text};
use std::collections::HashMap;
use std::path::PathBuf;

fn papers() -> Option<PathBuf> {
    let shared = std::env::var_os("CYCLE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let papers = shared.join("data/papers");
    if papers.join("gold.jsonl").is_file() {
        return Some(papers);
    }
    // Past the harness, which keeps the output of a test that passes to itself.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: no shared papers\n"));
    None
}

fn gold(papers: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(papers.join("gold.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn fold(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn words(text: &str) -> HashMap<String, usize> {
    let mut out = HashMap::new();
    for word in text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| w.len() >= 3) {
        *out.entry(word.to_lowercase()).or_default() += 1;
    }
    out
}

fn share(wanted: &str, found: &str) -> f64 {
    let (a, b) = (words(wanted), words(found));
    let hits: usize = a.iter().map(|(w, n)| (*n).min(b.get(w).copied().unwrap_or(0))).sum();
    hits as f64 / a.values().sum::<usize>().max(1) as f64
}

fn check_abstract(id: &str, facts: &serde_json::Value, document: &Document, least: f64) {
    if let Some(wanted) = facts["abstract"].as_str() {
        let found = document.abstract_text.as_deref().unwrap_or("");
        let recall = share(wanted, found);
        let precision = share(found, wanted);
        assert!(
            recall >= least && precision >= least - 0.1,
            "{id}: abstract {recall:.2} {precision:.2}\n{found}"
        );
    }
}

#[test]
fn latex_sources_give_their_title_abstract_headings_and_references() {
    let Some(papers) = papers() else { return };
    for facts in gold(&papers) {
        let id = facts["id"].as_str().unwrap();
        let document = read(&papers.join(format!("{id}.tar.gz")), &ReadOptions::default()).unwrap();
        assert_eq!(document.title.as_deref().map(fold), facts["title"].as_str().map(fold), "{id}");
        check_abstract(id, &facts, &document, 0.95);
        let wanted: Vec<String> =
            facts["headings"].as_array().unwrap().iter().map(|h| fold(h["text"].as_str().unwrap())).collect();
        let found: Vec<String> = document.sections.iter().map(|s| fold(&s.heading)).collect();
        // The gold drops numbers of references ("Proof of Theorem 2").
        let hits = wanted.iter().filter(|h| found.iter().any(|f| f.starts_with(h.as_str()))).count();
        assert!(hits * 5 >= wanted.len() * 4, "{id}: {hits} of {} headings", wanted.len());
        let items = facts["bibliography_items"].as_u64().unwrap() as usize;
        assert!(
            document.references.len() * 10 >= items * 9,
            "{id}: {} of {items} references",
            document.references.len()
        );
    }
}

#[test]
fn pdfs_of_the_same_version_give_title_abstract_headings_and_references() {
    let Some(papers) = papers() else { return };
    for facts in gold(&papers) {
        let Some(pdf) = facts["pdf"].as_str() else { continue };
        if facts["pdf_same_version"].as_bool() != Some(true) {
            continue;
        }
        let id = facts["id"].as_str().unwrap();
        let document = read(&papers.join(pdf), &ReadOptions::default()).unwrap();
        assert_eq!(document.title.as_deref().map(fold), facts["title"].as_str().map(fold), "{id}");
        check_abstract(id, &facts, &document, 0.97);
        assert!(!document.has_hidden_text(), "{id}: {:?}", document.findings);
        let items = facts["bibliography_items"].as_u64().unwrap() as usize;
        assert!(
            document.references.len() >= items,
            "{id}: {} of {items} references",
            document.references.len()
        );
        let wanted: Vec<String> =
            facts["headings"].as_array().unwrap().iter().map(|h| fold(h["text"].as_str().unwrap())).collect();
        let found: Vec<String> = document.sections.iter().map(|s| fold(&s.heading)).collect();
        let hits = wanted.iter().filter(|h| found.contains(h)).count();
        assert!(hits * 4 >= wanted.len() * 3, "{id}: {hits} of {} headings", wanted.len());
    }
}

#[test]
fn every_pdf_is_read_or_refused_with_its_reason_and_no_author_is_shown_to_a_reviewer() {
    let Some(papers) = papers() else { return };
    let count = |text: &str| text.split_whitespace().count();
    let budget = TextBudget { max_tokens: Some(4000), count: &count, references: true, appendix: true };
    for entry in std::fs::read_dir(&papers).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pdf") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match read(&path, &ReadOptions::default()) {
            Ok(document) => {
                assert!(!document.has_hidden_text(), "{name}: {:?}", document.findings);
                let text = reviewer_text(&document, &budget);
                assert!(text.tokens <= 4000 && text.text.len() > 500, "{name}");
                let address = text.text.split_whitespace().find(|w| {
                    w.split_once('@').is_some_and(|(who, host)| {
                        who.chars().last().is_some_and(char::is_alphanumeric)
                            && host.split_once('.').is_some_and(|(_, end)| {
                                end.len() >= 2 && end.starts_with(char::is_alphabetic)
                            })
                    })
                });
                assert_eq!(address, None, "{name}: an address is shown");
            }
            Err(ReadError::Encrypted { .. }) => assert_eq!(name, "lo-pass"),
            Err(ReadError::Empty { reason, .. }) => {
                assert!(name == "mu-ocr" && reason.contains("no text layer"), "{name}: {reason}");
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
}
