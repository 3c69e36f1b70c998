//! What is in a built set: counts and scores by year, lengths, states; with plots.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::Manifest;
use crate::error::DatasetError;
use crate::gather;
use crate::plot::{Bars, bars};
use crate::spec::SpecKind;

/// One year.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct YearStats {
    /// Papers of the score table.
    pub papers: usize,
    /// Of these with at least one rating.
    pub rated: usize,
    /// Ratings.
    pub ratings: usize,
    /// Papers with two ratings or more, and their ratings: what agreement is measured on.
    pub papers_of_two: usize,
    /// …
    pub ratings_of_two: usize,
    /// Mean of the papers' mean ratings (papers with two or more); absent without any.
    pub mean: Option<f64>,
    /// Standard deviation of the papers' means (over their number, not one less).
    pub sd: Option<f64>,
    /// How often each rating was given.
    pub histogram: BTreeMap<String, usize>,
    /// Papers by state.
    pub states: BTreeMap<String, usize>,
    /// Rows of the set.
    pub rows: usize,
    /// Reviews in these rows.
    pub reviews: usize,
    /// Characters of these reviews.
    pub review_chars: usize,
}

/// A whole set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Its name.
    pub name: String,
    /// Its hash.
    pub hash: String,
    /// Parts and their rows.
    pub splits: BTreeMap<String, usize>,
    /// What each step left out.
    pub steps: Vec<(String, usize)>,
    /// By year; 0 where none is known.
    pub years: BTreeMap<i32, YearStats>,
    /// Rows by where their text is from.
    pub text_sources: BTreeMap<String, usize>,
    /// Rows by version of the text.
    pub text_versions: BTreeMap<String, usize>,
    /// Rows by their license.
    pub licences: BTreeMap<String, usize>,
    /// Research sets: cited keys, of these in the bibliography, with an abstract.
    pub citations: [usize; 3],
    /// Research sets: rows with sections, with tables, with an outline, results.
    pub outlines: [usize; 4],
    /// Characters of a row's dialogue: mean, largest.
    pub dialogue_chars: [usize; 2],
}

/// Reads a set once.
///
/// # Errors
/// If it is none or cannot be read.
pub fn stats(folder: &Path) -> Result<Stats, DatasetError> {
    let manifest = manifest(folder)?;
    let mut out = Stats {
        name: manifest.name.clone(),
        hash: manifest.hash.clone(),
        splits: manifest.splits.clone(),
        steps: manifest.steps.iter().map(|s| (s.step.clone(), s.left_out)).collect(),
        licences: manifest.licences.clone(),
        ..Stats::default()
    };
    scores(folder, &mut out)?;
    let (mut rows, mut chars) = (0, 0);
    for part in manifest.splits.iter().filter(|(_, n)| **n > 0).map(|(p, _)| p) {
        let file = folder.join("jsonl").join(format!("{part}.jsonl"));
        gather::lines(&file, |number, line| {
            let bad = || DatasetError::input(&file, format!("line {number} is no row"));
            let row: Value = serde_json::from_slice(line.ok_or_else(bad)?).map_err(|_| bad())?;
            rows += 1;
            let n = dialogue(&row);
            chars += n;
            out.dialogue_chars[1] = out.dialogue_chars[1].max(n);
            count(&row, manifest.spec.kind, &mut out);
            Ok(())
        })?;
    }
    out.dialogue_chars[0] = chars.checked_div(rows).unwrap_or(0);
    Ok(out)
}

pub(crate) fn manifest(folder: &Path) -> Result<Manifest, DatasetError> {
    let path = folder.join("manifest.json");
    let bytes = std::fs::read(&path).map_err(|e| {
        DatasetError::input(&path, format!("{e}; is this a set that `cycle dataset build` made?"))
    })?;
    serde_json::from_slice(&bytes).map_err(|e| DatasetError::input(&path, e))
}

fn dialogue(row: &Value) -> usize {
    let turns = row["messages"].as_array().into_iter().flatten();
    turns.filter_map(|t| t["content"].as_str()).map(|c| c.chars().count()).sum()
}

fn count(row: &Value, kind: SpecKind, out: &mut Stats) {
    let list = |v: &Value| v.as_array().map_or(0, Vec::len);
    let year = row["year"].as_i64().and_then(|y| i32::try_from(y).ok()).unwrap_or(0);
    let of_year = out.years.entry(year).or_default();
    of_year.rows += 1;
    match kind {
        SpecKind::Review => {
            of_year.reviews += list(&row["reviews"]);
            for review in row["reviews"].as_array().into_iter().flatten() {
                let fields = ["summary", "strengths", "weaknesses", "questions", "text"];
                of_year.review_chars += fields
                    .iter()
                    .filter_map(|f| review[*f].as_str())
                    .map(|t| t.chars().count())
                    .sum::<usize>();
            }
            let name = |n: &str| row[n].as_str().unwrap_or("unknown").to_string();
            *out.text_sources.entry(name("text_source")).or_default() += 1;
            *out.text_versions.entry(name("text_version")).or_default() += 1;
        }
        SpecKind::Research => {
            let number = |n: &str| row[n].as_u64().unwrap_or(0) as usize;
            out.citations[0] += number("cited");
            out.citations[1] += number("resolved");
            let with =
                row["references"].as_array().into_iter().flatten().filter(|r| r["abstract"].is_string());
            out.citations[2] += with.count();
            out.outlines[0] += usize::from(list(&row["sections"]) > 0);
            out.outlines[1] += usize::from(list(&row["tables"]) > 0);
            out.outlines[2] += usize::from(row["motivation"].is_string());
            out.outlines[3] += list(&row["experimental_results"]);
        }
    }
}

fn scores(folder: &Path, out: &mut Stats) -> Result<(), DatasetError> {
    let path = folder.join("scores.csv");
    if !path.is_file() {
        return Ok(());
    }
    let mut reader = csv::Reader::from_path(&path).map_err(|e| DatasetError::input(&path, e))?;
    let header = reader.headers().map_err(|e| DatasetError::input(&path, e))?.clone();
    let at = |name: &str| header.iter().position(|h| h == name);
    let (year_at, state_at, ratings_at) = (at("year"), at("state"), at("ratings"));
    let mut sums: BTreeMap<i32, [f64; 2]> = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| DatasetError::input(&path, e))?;
        let cell = |c: Option<usize>| c.and_then(|c| row.get(c)).unwrap_or_default();
        let year: i32 = cell(year_at).parse().unwrap_or(0);
        let ratings: Vec<f64> = cell(ratings_at).split(';').filter_map(|r| r.parse().ok()).collect();
        let y = out.years.entry(year).or_default();
        y.papers += 1;
        y.rated += usize::from(!ratings.is_empty());
        y.ratings += ratings.len();
        *y.states.entry(cell(state_at).into()).or_default() += 1;
        for r in &ratings {
            *y.histogram.entry(r.to_string()).or_default() += 1;
        }
        if ratings.len() >= 2 {
            y.papers_of_two += 1;
            y.ratings_of_two += ratings.len();
            let mean = ratings.iter().sum::<f64>() / ratings.len() as f64;
            let s = sums.entry(year).or_default();
            s[0] += mean;
            s[1] += mean * mean;
        }
    }
    for (year, [sum, squares]) in sums {
        if let Some(y) = out.years.get_mut(&year) {
            let n = y.papers_of_two as f64;
            let mean = sum / n;
            y.mean = Some(mean);
            y.sd = Some((squares / n - mean * mean).max(0.0).sqrt());
        }
    }
    Ok(())
}

impl Stats {
    /// Charts by file name.
    pub fn plots(&self) -> Vec<(String, String)> {
        let by_year = |f: &dyn Fn(&YearStats) -> f64| -> Vec<(String, f64)> {
            self.years.iter().map(|(y, s)| (y.to_string(), f(s))).collect()
        };
        let mut out = vec![
            chart(
                "papers.svg",
                "Papers by year",
                "papers of the score table",
                &by_year(&|s| s.papers as f64),
            ),
            chart("rows.svg", "Rows by year", "rows of the set", &by_year(&|s| s.rows as f64)),
        ];
        for (year, s) in self.years.iter().filter(|(_, s)| !s.histogram.is_empty()) {
            let mut bars: Vec<(String, f64)> =
                s.histogram.iter().map(|(r, n)| (r.clone(), *n as f64)).collect();
            bars.sort_by(|a, b| {
                a.0.parse::<f64>().unwrap_or(0.0).total_cmp(&b.0.parse::<f64>().unwrap_or(0.0))
            });
            out.push(chart(
                &format!("ratings-{year}.svg"),
                &format!("Ratings of {year}"),
                "how often each was given",
                &bars,
            ));
        }
        out
    }

    /// Tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\nhash {}\n\n", self.name, self.hash);
        for (part, rows) in &self.splits {
            out += &format!("- {part}: {rows} rows\n");
        }
        if self.years.values().any(|y| y.papers > 0) {
            out += "\n| year | papers | ratings | papers with 2+ | their ratings | mean | sd | rows | reviews |\n|---|---|---|---|---|---|---|---|---|\n";
            let shown = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
            for (year, y) in &self.years {
                out += &format!(
                    "| {year} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                    y.papers,
                    y.ratings,
                    y.papers_of_two,
                    y.ratings_of_two,
                    shown(y.mean),
                    shown(y.sd),
                    y.rows,
                    y.reviews
                );
            }
        }
        let table = |title: &str, counts: &BTreeMap<String, usize>| {
            let rows: String = counts.iter().map(|(k, n)| format!("| {k} | {n} |\n")).collect();
            if counts.is_empty() { String::new() } else { format!("\n| {title} | rows |\n|---|---|\n{rows}") }
        };
        out += &table("text from", &self.text_sources);
        out += &table("version", &self.text_versions);
        out += &table("licence", &self.licences);
        if self.citations[0] > 0 {
            let [cited, found, told] = self.citations;
            out += &format!(
                "\nCitations: {cited} keys, {found} in the bibliography ({:.1} %), {told} with an abstract.\n",
                100.0 * found as f64 / cited as f64
            );
            let [sections, tables, outlined, results] = self.outlines;
            out += &format!(
                "Rows with sections {sections}, with tables {tables}, with an outline {outlined}; results {results}.\n"
            );
        }
        out += "\n| step | papers left out |\n|---|---|\n";
        for (step, n) in self.steps.iter().filter(|(_, n)| *n > 0) {
            out += &format!("| {step} | {n} |\n");
        }
        out += &format!(
            "\nDialogues: {} characters on average, {} at most.\n",
            self.dialogue_chars[0], self.dialogue_chars[1]
        );
        out
    }
}

fn chart(name: &str, title: &str, unit: &str, values: &[(String, f64)]) -> (String, String) {
    (name.into(), bars(&Bars { title, unit, bars: values }))
}
