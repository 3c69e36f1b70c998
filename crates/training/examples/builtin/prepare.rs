//! Reviews as the product asks for them: the prompt templates and forms of `prompts/`, the script's layout.

use std::error::Error;
use std::path::Path;
use std::sync::LazyLock;

use minijinja::{Environment, context};
use regex::Regex;
use serde_json::Value;

use crate::{papers, rows};

const SYSTEM: &str = include_str!("../../../../prompts/review/system.md");
const REVIEWER: &str = include_str!("../../../../prompts/review/reviewer.md");
const FORM_2025: &str = include_str!("../../../../prompts/forms/iclr2025.toml");
const FORM_2026: &str = include_str!("../../../../prompts/forms/iclr2026.toml");

/// The panel's words for how a reviewer leans, strict first.
const STANCES: [&str; 4] = ["strict", "balanced", "constructive", "lenient"];

/// Papers at the end of the file that no training row comes from.
pub const HELD_OUT: usize = 200;

/// Longest review in characters: a small model learns short ones, and a row stays near a thousand tokens.
const LONGEST: usize = 2600;

/// Held-out rows of a task that are looked at while training.
const FEW: usize = 12;

/// Writes `train.jsonl` (both tasks) and one file for each, their held-out rows, and a few of those.
pub fn run(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let papers = rows::read(&from.join("reviews_structured.jsonl.zst"))?;
    let held_out = papers.len().saturating_sub(HELD_OUT);
    let forms: Vec<toml::Table> =
        [FORM_2025, FORM_2026].iter().map(|f| f.parse()).collect::<Result<_, _>>()?;
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (i, paper) in papers.iter().enumerate() {
        let mut short = reviews(paper, &forms[i % forms.len()])?;
        if i < held_out {
            short.truncate(2);
            train.extend(short);
        } else {
            eval.extend(short.into_iter().next());
        }
    }
    let (research, research_eval) = papers::rows(from, &papers[..held_out], &papers[held_out..])?;
    println!("{} reviews, {} rows of papers", train.len(), research.len());
    let (reviews, research) = (rows::shuffle(train), rows::shuffle(research));
    rows::write(&to.join("review.train.jsonl"), &reviews)?;
    rows::write(&to.join("research.train.jsonl"), &research)?;
    // Two reviews for one row of a paper.
    let third = (reviews.len() / 2).min(research.len());
    let both = reviews.into_iter().chain(research.into_iter().take(third)).collect();
    rows::write(&to.join("train.jsonl"), &rows::shuffle(both))?;
    rows::write(&to.join("review.eval.jsonl"), &eval)?;
    rows::write(&to.join("research.eval.jsonl"), &research_eval)?;
    // A few of each, to look at while training.
    let few = |list: &[Value]| list.iter().take(FEW).cloned().collect::<Vec<_>>();
    rows::write(&to.join("review.few.jsonl"), &few(&eval))?;
    rows::write(&to.join("research.few.jsonl"), &few(&research_eval))?;
    rows::write(&to.join("mixed.eval.jsonl"), &[few(&eval), few(&research_eval)].concat())?;
    println!("held out: {} reviews, {} rows of papers", eval.len(), research_eval.len());
    Ok(())
}

/// A dialogue for every review that is short and plain, the stance from its place among the paper's ratings.
fn reviews(paper: &Value, form: &toml::Table) -> Result<Vec<Value>, Box<dyn Error>> {
    let (title, summary) = (text(paper, "title"), text(paper, "abstract"));
    let read = format!("# {title}\n\n## Abstract\n\n{summary}");
    let mut list: Vec<&Value> = paper["reviews"].as_array().map(|l| l.iter().collect()).unwrap_or_default();
    list.sort_by_key(|r| r["rating"].as_i64());
    let n = list.len();
    let mut found = Vec::new();
    for (i, review) in list.into_iter().enumerate() {
        let Some(answer) = filled_in(review, form) else { continue };
        let stance = if n > 1 { STANCES[(i * 3 + (n - 1) / 2) / (n - 1)] } else { STANCES[1] };
        let mut environment = Environment::new();
        environment.set_syntax(minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).build()?);
        let user = environment.render_str(
            REVIEWER,
            context! { paper => &read, form => minijinja::Value::from(minijinja::value::Serde(form)), stance },
        )?;
        found.push((answer.len(), rows::dialogue(SYSTEM.trim_end(), user.trim_end(), &answer)));
    }
    found.sort_by_key(|(length, _)| *length);
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

/// The review on the form, in the layout of the script; `None` for a long one or one whose text would break the form.
fn filled_in(review: &Value, form: &toml::Table) -> Option<String> {
    let mut out = String::from("## Reviewer\n");
    let find = |list: &str, key: &str| {
        form[list].as_array()?.iter().find(|f| f["key"].as_str() == Some(key)).cloned()
    };
    let older = form["name"].as_str() == Some("iclr2025");
    for key in form["layout"]["order"].as_array()?.iter().filter_map(|k| k.as_str()) {
        if let Some(section) = find("sections", key) {
            let mut text = tidy(review[key].as_str()?);
            if text.contains("\n#") || text.starts_with('#') || text.contains("*****") {
                return None;
            }
            if section.get("list").and_then(|l| l.as_bool()) == Some(true) {
                text = points(&text);
            }
            out += &format!("\n### {}\n\n{text}\n", section["heading"].as_str()?);
        } else {
            let score = find("scores", key)?;
            let mut value = review[key].as_i64()?;
            if older && key == "rating" {
                // The older form's numbers for the same words.
                value = match value {
                    0 => 1,
                    2 => 3,
                    4 => 5,
                    other => other,
                };
            }
            let values = score["values"].as_array()?;
            let label = values.iter().find(|v| v["value"].as_integer() == Some(value))?;
            let written = match label.get("label").and_then(|l| l.as_str()).unwrap_or_default() {
                "" => value.to_string(),
                label if label.len() < 10 => format!("{value} {label}"),
                label => format!("{value}: {label}"),
            };
            out += &format!("\n### {}\n\n{written}\n", score["heading"].as_str()?);
        }
    }
    (out.len() <= LONGEST).then_some(out)
}

/// Lines without trailing blanks, never two empty ones in a row.
fn tidy(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim().lines().map(str::trim_end).filter(|l| !l.is_empty()) {
        out += line;
        out.push('\n');
    }
    out.trim_end().to_string()
}

/// One point a line, each behind a dash, however the reviewer marked them.
fn points(text: &str) -> String {
    static MARK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^\s*(?:[-*•+]|\(?[A-Z]?\d{1,2}[.):]|\d{1,2}\.)\s+").ok());
    let lines = text.lines().map(|line| match &*MARK {
        Some(mark) => format!("- {}", mark.replace(line, "")),
        None => format!("- {line}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A string field; missing ones are empty and make a row that the caller leaves out.
pub fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().map(str::trim).unwrap_or_default()
}
