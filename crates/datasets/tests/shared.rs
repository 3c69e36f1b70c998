//! Real records, where the shared data is beside the repository: nothing of them is copied here.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use datasets::{BuildOptions, Built, Silent, Spec, build, shipped, stats, verify};
use serde_json::Value;

fn shared(part: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("CYCLE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let folder = shared.join("data").join(part);
    if folder.is_dir() {
        return Some(folder);
    }
    // Past the harness, which keeps the output of a test that passes to itself.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: no shared {part}\n"));
    None
}

fn built(spec: &Spec, from: &Path, out: &Path) -> Built {
    let reader = |path: &Path| documents::read(path, &documents::ReadOptions::default());
    let options = BuildOptions {
        out,
        from,
        limit: None,
        reader: &reader,
        model: None,
        keep_out: &[],
        force: false,
        progress: &Silent,
    };
    build(spec, &options).unwrap()
}

#[test]
fn recorded_reviews_have_the_counts_and_scores_of_their_own_tables() {
    let Some(from) = shared("reviews") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("set");
    let spec = shipped("iclr-reviews").unwrap();
    let set = built(&spec, &from, &out).manifest;
    let found = stats(&out).unwrap();
    // facts/datasets.md, section 1: papers of scores.csv and of the structured reviews.
    let papers = [
        (2017, 490),
        (2018, 972),
        (2019, 1565),
        (2020, 2561),
        (2021, 2959),
        (2022, 2762),
        (2023, 4867),
        (2024, 7214),
        (2026, 4624),
    ];
    for (year, n) in papers {
        assert_eq!(found.years[&year].papers, n, "{year}");
    }
    // Rows with reviews: papers and human reviews of both files of texts.
    for (year, rows, reviews) in
        [(2017, 488, 1491), (2019, 1565, 4764), (2020, 2561, 7693), (2026, 4624, 17_693)]
    {
        let y = &found.years[&year];
        assert_eq!((y.rows, y.reviews), (rows, reviews), "{year}");
    }
    assert_eq!(found.years[&2026].histogram.values().sum::<usize>(), 17_693);
    // loo_metrics.json: mean and spread of the papers' means, and the histogram of ratings, by year.
    let metrics: Value =
        serde_json::from_slice(&std::fs::read(from.join("loo_metrics.json")).unwrap()).unwrap();
    for (year, m) in metrics["years"].as_object().unwrap() {
        let y = &found.years[&year.parse::<i32>().unwrap()];
        let near = |a: Option<f64>, b: &Value| (a.unwrap() - b.as_f64().unwrap()).abs() < 6e-5;
        assert!(near(y.mean, &m["variance"]["mean"]), "{year}: {:?} {}", y.mean, m["variance"]["mean"]);
        assert!(
            near(y.sd, &m["variance"]["sd_of_means"]),
            "{year}: {:?} {}",
            y.sd,
            m["variance"]["sd_of_means"]
        );
    }
    assert_eq!(verify(&out).unwrap(), []);
    // No test paper is in it: by id or title, in any file.
    let mut ids = HashSet::new();
    for line in std::fs::read_to_string(from.join("test/test_dev_scores.csv")).unwrap().lines().skip(1) {
        ids.insert(line.split(',').next().unwrap().to_string());
    }
    assert_eq!(ids.len(), 244);
    assert_eq!(set.kept_out.len(), 1);
    for line in std::fs::read_to_string(out.join("scores.csv")).unwrap().lines() {
        assert!(!ids.contains(line.split(',').nth(2).unwrap()), "{line}");
    }
    // The same inputs again: nothing to do, and by force the same hash.
    assert!(built(&spec, &from, &out).unchanged);
    let again = built(&spec, &from, &folder.path().join("again")).manifest;
    assert_eq!(again.hash, set.hash);
}

#[test]
fn recorded_answers_of_both_apis_give_each_years_ratings() {
    let Some(samples) = shared("api_samples") else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("records");
    std::fs::create_dir(&from).unwrap();
    for name in [
        "openreview1_forum_iclr2023.json",
        "openreview2_forum_iclr2024.json",
        "openreview2_replies_iclr2026.json",
    ] {
        std::fs::copy(samples.join(name), from.join(name)).unwrap();
    }
    let out = folder.path().join("set");
    built(&shipped("iclr-reviews").unwrap(), &from, &out);
    let mut found = std::collections::HashMap::new();
    let mut table = csv::Reader::from_path(out.join("scores.csv")).unwrap();
    for row in table.records() {
        let row = row.unwrap();
        let mut ratings: Vec<f64> = row[5].split(';').map(|r| r.parse().unwrap()).collect();
        ratings.sort_by(f64::total_cmp);
        found.insert(row[0].to_string(), (row[3].to_string(), ratings));
    }
    // "6: marginally above the acceptance threshold" and the like on API 1, "8: accept, good paper" on API 2, numbers in 2026.
    let notes = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(samples.join(name)).unwrap()).unwrap()
    };
    let leading = |v: &Value| {
        v.as_f64().unwrap_or_else(|| v.as_str().unwrap().split(':').next().unwrap().parse().unwrap())
    };
    let mut wanted: Vec<Vec<f64>> = vec![
        notes("openreview1_forum_iclr2023.json")["notes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| &n["content"]["recommendation"])
            .filter(|r| r.is_string())
            .map(leading)
            .collect(),
        notes("openreview2_forum_iclr2024.json")["notes"][0]["details"]["replies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| &n["content"]["rating"]["value"])
            .filter(|r| !r.is_null())
            .map(leading)
            .collect(),
        notes("openreview2_replies_iclr2026.json")
            .as_array()
            .unwrap()
            .iter()
            .map(|n| leading(&n["content"]["rating"]["value"]))
            .collect(),
    ];
    wanted.iter_mut().for_each(|w| w.sort_by(f64::total_cmp));
    assert!(wanted.iter().all(|w| w.len() >= 3), "{wanted:?}");
    for (year, state, ratings) in
        [("2023", "accepted", &wanted[0]), ("2024", "accepted", &wanted[1]), ("2026", "unknown", &wanted[2])]
    {
        assert_eq!(found[year], (state.to_string(), ratings.clone()), "{year}");
    }
}

fn fold(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A heading without the kinds and numbers of what references point to.
fn pointed(heading: &str) -> String {
    let plain: String = heading.chars().filter(|c| !c.is_ascii_digit()).collect();
    ["theorem", "lemma", "proposition", "corollary"].iter().fold(plain, |h, kind| h.replace(kind, ""))
}

#[test]
fn archives_of_latex_give_titles_sections_and_citations() {
    let Some(from) = shared("papers") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("set");
    let mut spec = shipped("latex-papers").unwrap();
    spec.filters.outline = false;
    spec.filters.citations = 0.0;
    let set = built(&spec, &from, &out).manifest;
    let mut rows = std::collections::HashMap::new();
    for part in set.splits.keys() {
        let path = out.join(format!("jsonl/{part}.jsonl"));
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            rows.insert(row["id"].as_str().unwrap().to_string(), row);
        }
    }
    let (mut papers, mut titles, mut headings, mut right, mut cited, mut resolved) = (0, 0, 0, 0, 0, 0);
    let (mut wholes, mut wholes_pointing, mut pointing) = (0, 0, 0);
    for line in std::fs::read_to_string(from.join("gold.jsonl")).unwrap().lines() {
        let gold: Value = serde_json::from_str(line).unwrap();
        papers += 1;
        let id = gold["id"].as_str().unwrap();
        let Some(row) = rows.get(id) else {
            println!("{id} is not in the set");
            continue;
        };
        titles += usize::from(fold(row["title"].as_str().unwrap()) == fold(gold["title"].as_str().unwrap()));
        let found: Vec<String> =
            row["headings"].as_array().unwrap().iter().map(|h| fold(h.as_str().unwrap())).collect();
        let wanted: Vec<String> =
            gold["headings"].as_array().unwrap().iter().map(|h| fold(h["text"].as_str().unwrap())).collect();
        let hits = wanted.iter().filter(|h| found.contains(h)).count();
        // The gold reader leaves out what a reference in a heading points to ("Proof of Theorem 3").
        let lacking: Vec<&Value> = gold["headings"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&wanted)
            .filter(|(_, h)| !found.contains(h) && !found.iter().any(|f| pointed(f) == pointed(h)))
            .map(|(h, _)| &h["text"])
            .collect();
        pointing += wanted.len() - hits - lacking.len();
        headings += wanted.len();
        right += hits;
        wholes += usize::from(hits == wanted.len());
        wholes_pointing += usize::from(lacking.is_empty());
        if !lacking.is_empty() {
            println!("{id}: other headings than gold's {lacking:?}");
        }
        let missing: HashSet<&str> = gold["cited_keys_missing_in_bib"]
            .as_array()
            .unwrap()
            .iter()
            .map(|k| k.as_str().unwrap())
            .collect();
        let keys: HashSet<&str> =
            gold["cited_keys"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
        let have: HashSet<String> = row["references"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["key"].as_str().unwrap().to_string())
            .collect();
        let of_gold = keys.iter().filter(|k| !missing.contains(*k)).count();
        let found_keys = keys.iter().filter(|k| have.contains(**k)).count();
        if hits < wanted.len() || found_keys < of_gold {
            println!("{id}: headings {hits} of {}, citations {found_keys} of {of_gold}", wanted.len());
        }
        cited += keys.len();
        resolved += found_keys;
    }
    println!(
        "{papers} papers: titles {titles}, headings {right} of {headings} ({wholes} papers whole), {pointing} more but for what a \
         reference in them points to ({wholes_pointing} papers whole), citations {resolved} of {cited}"
    );
    assert!(titles * 100 >= papers * 95, "titles: {titles} of {papers}");
    assert!(right * 100 >= headings * 95, "headings: {right} of {headings}");
    assert!(resolved * 100 >= cited * 95, "citations: {resolved} of {cited}");
}
