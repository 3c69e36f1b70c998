//! First halves of papers from titles, abstracts and section texts.
//!
//! No motivations or ideas were ever written down apart from the papers, so these two are sentences of the abstract:
//! those before the authors speak of what they do, and those from there on.

use std::error::Error;
use std::path::Path;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use regex::Regex;
use serde_json::{Value, json};

use crate::prepare::text;
use crate::rows::{self, dialogue};

const SYSTEM: &str = include_str!("../../../../prompts/research/system.md");
const FIRST: &str = include_str!("../../../../prompts/research/first.md");

/// Longest text of a row's section, in characters.
const LONGEST: usize = 3000;

/// Rows for training and held-out ones; the latter come from papers that no row of the former saw.
pub fn rows(
    from: &Path,
    train: &[Value],
    held_out: &[Value],
) -> Result<(Vec<Value>, Vec<Value>), Box<dyn Error>> {
    let mut abstracts = rows::read(&from.join("papers_abs.jsonl.zst"))?;
    abstracts.retain(|p| p["year"].as_i64().is_some_and(|y| y >= 2021));
    abstracts.extend(train.iter().cloned());
    let abstracts = rows::shuffle(abstracts);
    let mut out = Vec::new();
    for (i, paper) in abstracts.iter().take(2600).enumerate() {
        let others = &abstracts[(i + 1) * 4 % abstracts.len()..];
        // Every second one without literature: a topic alone is a prompt too.
        let near = if i % 2 == 0 { others.len().min(200) } else { 0 };
        out.extend(first_half(paper, &others[..near]));
    }
    for paper in rows::read(&from.join("fulltext_train_iclr2022.jsonl.zst"))? {
        let sections = sections(text(&paper, "text"));
        out.extend(section_rows(&paper, &sections));
        out.extend(setup_row(&paper, &sections));
    }
    let eval = held_out.iter().filter_map(|p| first_half(p, &held_out[..100])).collect();
    Ok((out, eval))
}

/// The first turns of the dialogue, as the product writes them.
fn asked(paper: &Value, references: &str, answer: &str) -> Option<Value> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).build().ok()?);
    let user = environment.render_str(FIRST, context! { topic => text(paper, "title"), references }).ok()?;
    Some(dialogue(SYSTEM.trim_end(), user.trim_end(), answer))
}

fn head(paper: &Value) -> String {
    let (title, summary) = (latex(text(paper, "title")), latex(&flat(text(paper, "abstract"))));
    format!("```latex\n\\title{{{title}}}\n\n\\begin{{abstract}}\n{summary}\n\\end{{abstract}}\n")
}

/// On one line.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// With LaTeX's comment, alignment and parameter marks escaped where the text did not.
fn latex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '%' | '&' | '#') && !out.ends_with('\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Motivation, idea, title and abstract, given a topic and the two most similar papers of `others` as literature.
fn first_half(paper: &Value, others: &[Value]) -> Option<Value> {
    let (motivation, idea) = halves(paper)?;
    let own = words(text(paper, "title"));
    let mut near: Vec<(usize, &Value)> = others
        .iter()
        .filter(|o| text(o, "title") != text(paper, "title") && text(o, "abstract").len() > 200)
        .map(|o| (words(text(o, "title")).iter().filter(|w| own.contains(w)).count(), o))
        .collect();
    near.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
    let references: Vec<String> = near.iter().take(2).enumerate().map(|(i, (_, o))| entry(i, o)).collect();
    let answer = format!("## Motivation\n\n{motivation}\n\n## Main Idea\n\n{idea}\n\n{}", head(paper));
    asked(paper, &references.join("\n\n"), &answer)
}

/// The abstract's sentences before the authors speak of what they do, and those from there on.
fn halves(paper: &Value) -> Option<(String, String)> {
    let summary = flat(text(paper, "abstract"));
    let all = sentences(&summary);
    let turn = all.iter().position(|s| {
        let s = s.to_lowercase();
        ["we ", "this paper", "this work", "our "].iter().any(|w| s.contains(w))
    })?;
    let fine = turn > 0 && (400..=1800).contains(&summary.len());
    fine.then(|| (all[..turn].join(" "), all[turn..].join(" ")))
}

/// An entry as the published training data have it: the abstract, cut short here, on the line before.
fn entry(i: usize, paper: &Value) -> String {
    let summary = flat(text(paper, "abstract"));
    let short: String = sentences(&summary).into_iter().take(2).collect::<Vec<_>>().join(" ");
    let key = words(text(paper, "title")).first().cloned().unwrap_or_else(|| format!("ref{i}"));
    let year = paper["year"].as_i64().map(|y| format!(",\n  year = {{{y}}}")).unwrap_or_default();
    format!("Abstract: {short}\n@article{{{key},\n  title = {{{}}}{year}\n}}", text(paper, "title"))
}

fn words(title: &str) -> Vec<String> {
    let lower = title.to_lowercase();
    let all = lower.split(|c: char| !c.is_alphanumeric());
    all.filter(|w| w.len() > 4).map(str::to_string).collect()
}

fn sentences(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    for (i, _) in text.match_indices(". ") {
        if text[i + 2..].starts_with(|c: char| c.is_uppercase()) && i - start > 40 {
            out.push(text[start..=i].trim());
            start = i + 2;
        }
    }
    out.push(text[start..].trim());
    out
}

/// A heading with the prose under it.
struct Section {
    number: String,
    heading: String,
    text: String,
}

/// Numbered headings and clean paragraphs: lines of formulas, tables and figures are left out, and so are the
/// authors-and-years of citations, which nothing in a row could resolve.
fn sections(text: &str) -> Vec<Section> {
    static HEADING: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(\d(?:\.\d)?)\.? ([A-Z][A-Za-z ,:&-]{3,60})$").ok());
    static CITATION: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\s*[(\[][^()\[\]]*\b(?:19|20)\d\d[a-z]?[^()\[\]]*[)\]]").ok());
    let (Some(heading), Some(citation)) = (&*HEADING, &*CITATION) else { return Vec::new() };
    let mut out: Vec<Section> = Vec::new();
    for block in text.split("\n\n") {
        let block = block.trim();
        if let Some(found) = heading.captures(block) {
            let title = found[2].to_string();
            let title = if title.chars().all(|c| !c.is_lowercase()) { sentence_case(&title) } else { title };
            out.push(Section { number: found[1].to_string(), heading: title, text: String::new() });
            continue;
        }
        if ["Figure", "Table", "Algorithm"].iter().any(|w| block.starts_with(w)) {
            continue;
        }
        let joined = block.replace("-\n", "").replace('\n', " ").replace("**", "");
        let plain = citation.replace_all(&joined, "");
        let letters = plain.chars().filter(|c| c.is_alphabetic() || *c == ' ').count();
        let prose = plain.len() > 250 && letters * 100 > plain.len() * 93 && !plain.contains(['|', '_', '[']);
        if let (true, Some(section)) = (prose, out.last_mut()) {
            if !section.text.is_empty() {
                section.text += "\n\n";
            }
            section.text += plain.trim();
        }
    }
    out.retain(|s| s.text.len() > 400);
    out
}

fn sentence_case(heading: &str) -> String {
    heading.chars().enumerate().map(|(i, c)| if i == 0 { c } else { c.to_ascii_lowercase() }).collect()
}

/// Title, abstract and one section each.
fn section_rows(paper: &Value, sections: &[Section]) -> Vec<Value> {
    let row = |s: &Section| {
        let mut body = latex(&s.text);
        if body.len() > LONGEST {
            let cut = (0..=LONGEST).rev().find(|&i| body.is_char_boundary(i)).unwrap_or(0);
            let end = body[..cut].rfind(". ").map_or(cut, |i| i + 1);
            body.truncate(end);
        }
        let level = if s.number.contains('.') { "subsection" } else { "section" };
        let answer = format!("{}\n\\{level}{{{}}}\n\n{body}\n", head(paper), s.heading);
        asked(paper, "", &answer)
    };
    sections.iter().take(6).filter_map(row).collect()
}

/// The experiments that a paper's subsections name, as the dialogue's set-up JSON: the end of an opening whose beginning
/// is there where the abstract has both halves.
fn setup_row(paper: &Value, sections: &[Section]) -> Option<Value> {
    let chapter =
        sections.iter().find(|s| s.heading.to_lowercase().contains("experiment"))?.number.get(..1)?;
    let setups: Vec<Value> = sections
        .iter()
        .filter(|s| s.number.starts_with(&format!("{chapter}.")))
        .map(|s| json!({"name": s.heading, "description": sentences(&s.text).into_iter().take(2).collect::<Vec<_>>().join(" ")}))
        .collect();
    if setups.len() < 2 {
        return None;
    }
    let list = serde_json::to_string(&setups).ok()?;
    let before = halves(paper)
        .map(|(motivation, idea)| format!("## Motivation\n\n{motivation}\n\n## Main Idea\n\n{idea}\n\n"))
        .unwrap_or_default();
    let answer = format!("{before}{}```\n\n## Experimental Setup\n\n```json\n{list}\n```\n", head(paper));
    asked(paper, "", &answer)
}
