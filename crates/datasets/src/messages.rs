//! The dialogues: a panel of reviewers, and the five turns of a paper that is written (facts: formats, sections 1 and 3).

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use serde_json::{Value, json};
use sources::State;

use crate::record::{CitedWork, LatexSection, ResultItem, Review, Turn};

const PANEL: &str = include_str!("../../../prompts/review/panel.md");
const SYSTEM: &str = include_str!("../../../prompts/research/system.md");
const FIRST: &str = include_str!("../../../prompts/research/first.md");
const SECOND: &str = include_str!("../../../prompts/research/second.md");
const FORMS: [(&str, &str); 6] = [
    ("iclr2022", include_str!("../../../prompts/forms/iclr2022.toml")),
    ("iclr2023", include_str!("../../../prompts/forms/iclr2023.toml")),
    ("iclr2024", include_str!("../../../prompts/forms/iclr2024.toml")),
    ("iclr2025", include_str!("../../../prompts/forms/iclr2025.toml")),
    ("iclr2026", include_str!("../../../prompts/forms/iclr2026.toml")),
    ("neurips", include_str!("../../../prompts/forms/neurips.toml")),
];

/// Over all words that a dialogue may hold: when they change, sets are built again.
pub fn words_sha256() -> String {
    let mut all = [PANEL, SYSTEM, FIRST, SECOND].concat();
    all.extend(FORMS.iter().map(|(_, text)| *text));
    sources::sha256(all.as_bytes())
}

pub(crate) fn render(template: &str, values: minijinja::Value) -> Result<String, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).build().map_err(|e| e.to_string())?;
    environment.set_syntax(syntax);
    environment.render_str(template, values).map(|t| t.trim_end().to_string()).map_err(|e| e.to_string())
}

/// A review form as data.
#[derive(Debug, Clone)]
pub struct Form {
    value: Value,
    headings: Vec<(String, String)>,
}

impl Form {
    /// A form by name; the one of a venue's year where none is named, else that of 2024.
    ///
    /// # Errors
    /// If there is no such form.
    pub fn named(name: Option<&str>, venue: Option<&str>, year: Option<i32>) -> Result<Self, String> {
        let venue = venue.unwrap_or("iclr").to_lowercase();
        let own = format!("{venue}{}", year.unwrap_or(2024));
        let of_year = [own.as_str(), venue.as_str(), "iclr2024"];
        let find = |n: &str| FORMS.iter().find(|(known, _)| *known == n).map(|f| f.1);
        let text = match name {
            Some(name) => find(name).ok_or_else(|| {
                let names: Vec<&str> = FORMS.iter().map(|f| f.0).collect();
                format!("no form is called `{name}`; there are {}", names.join(", "))
            })?,
            None => of_year.iter().find_map(|n| find(n)).ok_or("no form")?,
        };
        let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
        let value = serde_json::to_value(table).map_err(|e| e.to_string())?;
        let named = |kind: &str| -> Vec<(String, String)> {
            let list = value[kind].as_array().cloned().unwrap_or_default();
            let text = |v: &Value, n: &str| v[n].as_str().unwrap_or_default().to_string();
            list.iter().map(|v| (text(v, "key"), text(v, "heading"))).collect()
        };
        let known: Vec<(String, String)> = [named("sections"), named("scores")].concat();
        let order = value["layout"]["order"].as_array().cloned().unwrap_or_default();
        let ordered = order
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|k| known.iter().find(|(n, _)| n == k).cloned());
        let headings: Vec<_> = ordered.collect();
        let headings = if headings.is_empty() { known } else { headings };
        Ok(Self { value, headings })
    }

    fn label(&self, score: &str, value: f64) -> Option<String> {
        let scores = self.value["scores"].as_array()?;
        let values = scores.iter().find(|s| s["key"] == score)?["values"].as_array()?;
        let found = values.iter().find(|v| v["value"].as_f64() == Some(value))?;
        found["label"].as_str().map(String::from)
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

/// The dialogue of a panel: reviewers in ascending order of rating, as the published layout has them. What a review lacks
/// is left out, never empty.
///
/// # Errors
/// If the template fails.
pub fn panel(
    paper: &str,
    form: &Form,
    reviews: &[Review],
    meta: Option<&str>,
    state: State,
) -> Result<Vec<Turn>, String> {
    let headings: Vec<String> = form.headings.iter().map(|(_, h)| h.clone()).collect();
    let system = render(
        PANEL,
        context! { form => minijinja::Value::from(minijinja::value::Serde(&form.value)), headings, reviewers => reviews.len(), quote => false },
    )?;
    let mut ordered: Vec<&Review> = reviews.iter().collect();
    ordered.sort_by(|a, b| a.rating.unwrap_or(f64::MAX).total_cmp(&b.rating.unwrap_or(f64::MAX)));
    let mut out = String::new();
    for review in ordered {
        out.push_str("## Reviewer\n\n");
        let mut free = review.text.as_deref();
        for (key, heading) in &form.headings {
            let written = match key.as_str() {
                "summary" => review.summary.as_deref().or_else(|| free.take()).map(String::from),
                "strengths" => review.strengths.clone(),
                "weaknesses" => match (review.weaknesses.as_deref(), free) {
                    // What stands in fields of its own follows the weaknesses.
                    (Some(w), Some(_)) => free.take().map(|f| format!("{w}\n\n{f}")),
                    (w, _) => w.map(String::from),
                },
                "questions" => review.questions.clone(),
                score => {
                    let value = match score {
                        "rating" | "recommendation" => review.rating,
                        "soundness" => review.soundness,
                        "presentation" => review.presentation,
                        "contribution" => review.contribution,
                        "confidence" => review.confidence,
                        _ => None,
                    };
                    value.map(|v| match form.label(score, v) {
                        Some(label) if score == "rating" || score == "recommendation" => {
                            format!("{}: {label}", number(v))
                        }
                        Some(label) => format!("{} {label}", number(v)),
                        None => number(v),
                    })
                }
            };
            if let Some(text) = written.filter(|t| !t.trim().is_empty()) {
                out.push_str(&format!("### {heading}\n\n{}\n\n", text.trim()));
            }
        }
        out.push_str("**********\n\n");
    }
    if let Some(meta) = meta.filter(|m| !m.trim().is_empty()) {
        out.push_str(&format!("## Meta Review\n\n{}\n\n**********\n\n", meta.trim()));
    }
    match state {
        State::Accepted => out.push_str("## Paper Decision\n\nAccept\n"),
        State::Rejected => out.push_str("## Paper Decision\n\nReject\n"),
        // What is not known is not learned.
        _ => {}
    }
    Ok(vec![Turn::new("system", system), Turn::new("user", paper), Turn::new("assistant", out.trim_end())])
}

/// What the dialogue of a paper is made from.
pub struct Paper<'a> {
    pub title: &'a str,
    pub abstract_text: &'a str,
    pub references: &'a [CitedWork],
    pub sections: &'a [LatexSection],
    /// First section of the second half.
    pub second: usize,
    pub motivation: &'a str,
    pub main_idea: &'a str,
    pub setup: &'a [ResultItem],
    pub results: &'a [ResultItem],
}

/// Results in the published layout: `[{"name": …, "result": {"table": …, "description": …}}]`.
pub fn results_json(results: &[ResultItem]) -> Value {
    let one = |r: &ResultItem| {
        let mut result = serde_json::Map::new();
        if !r.table.is_empty() {
            result.insert("table".into(), json!(r.table));
        }
        if let Some(text) = &r.description {
            result.insert("description".into(), json!(text));
        }
        json!({ "name": r.name, "result": result })
    };
    Value::Array(results.iter().map(one).collect())
}

/// The five turns of a paper.
///
/// # Errors
/// If a template fails.
pub fn paper(p: &Paper<'_>) -> Result<Vec<Turn>, String> {
    let entry = |w: &CitedWork| match &w.abstract_text {
        // The abstract stands on one line directly before its entry.
        Some(text) => format!(
            "Abstract: {}\n{}",
            text.split_whitespace().collect::<Vec<_>>().join(" "),
            w.bibtex.trim()
        ),
        None => w.bibtex.trim().to_string(),
    };
    let references = p.references.iter().map(entry).collect::<Vec<_>>().join("\n\n");
    let latex = |sections: &[LatexSection]| {
        let one = |s: &LatexSection| format!("\\section{{{}}}\n{}", s.heading, s.latex);
        sections.iter().map(one).collect::<Vec<_>>().join("\n\n")
    };
    let setup: Vec<Value> = p
        .setup
        .iter()
        .map(|s| json!({ "name": s.name, "description": s.description.as_deref().unwrap_or_default() }))
        .collect();
    let first = format!(
        "## Motivation\n\n{}\n\n## Main Idea\n\n{}\n\n```latex\n\\title{{{}}}\n\n\\begin{{abstract}}\n{}\n\\end{{abstract}}\n\n{}\n```\n\n## Experimental Setup\n\n```json\n{}\n\n```",
        p.motivation,
        p.main_idea,
        p.title,
        p.abstract_text,
        latex(&p.sections[..p.second]),
        Value::Array(setup),
    );
    let second = format!("```latex\n{}\n```\n\n", latex(&p.sections[p.second..]));
    Ok(vec![
        Turn::new("system", SYSTEM.trim_end()),
        Turn::new("user", render(FIRST, context! { topic => None::<String>, references })?),
        Turn::new("assistant", first),
        Turn::new("user", render(SECOND, context! { results => results_json(p.results).to_string() })?),
        Turn::new("assistant", second),
    ])
}
