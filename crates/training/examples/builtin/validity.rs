//! How often a model keeps the form by itself: free text, no script, held-out questions.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use inference::{Engine, EngineOptions, Finish, Plan, Row, Sampling};
use models::{LoadOptions, Model, ModelSource};
use regex::Regex;

use crate::rows;

/// What a review holds, in this order: headings, and scores whose value is one of the form's.
const REVIEW: [&str; 9] = [
    r"### Summary\s+\S",
    r"### Soundness\s+[1-4]\b",
    r"### Presentation\s+[1-4]\b",
    r"### Contribution\s+[1-4]\b",
    r"### Strengths\s+\S",
    r"### Weaknesses\s+\S",
    r"### Questions\s+\S",
    r"### Rating\s+(?:10|[0-68])\b",
    r"### Confidence\s+[1-5]\b",
];

/// What an opening of a paper holds, in this order.
const OPENING: [&str; 5] = [
    r"## Motivation\s+\S",
    r"## Main Idea\s+\S",
    r"\\title\{[^}\n]+\}",
    r"\\begin\{abstract\}\s+\S",
    r"\\end\{abstract\}",
];

static REVIEW_FORM: LazyLock<Vec<Option<Regex>>> = LazyLock::new(|| compiled(&REVIEW));
static OPENING_FORM: LazyLock<Vec<Option<Regex>>> = LazyLock::new(|| compiled(&OPENING));

fn compiled(patterns: &[&str]) -> Vec<Option<Regex>> {
    patterns.iter().map(|p| Regex::new(p).ok()).collect()
}

/// Parts of the form that stand in the text in their order.
fn kept(text: &str, form: &[Option<Regex>]) -> usize {
    let mut at = 0;
    form.iter()
        .flatten()
        .filter(|part| match part.find_at(text, at) {
            Some(found) => {
                at = found.end() - 1;
                true
            }
            None => false,
        })
        .count()
}

/// Prints how many of the answers to the first `limit` questions keep the whole form, and how many parts of it on average.
pub fn run(model: &Path, file: &Path, limit: usize) -> Result<(), Box<dyn Error>> {
    let source = ModelSource::parse(&model.to_string_lossy());
    let loaded = Arc::new(Model::load(&source, &LoadOptions::default())?);
    let engine = Engine::new(loaded.clone(), EngineOptions::default());
    let (mut batch, mut forms) = (Vec::new(), Vec::new());
    for (i, row) in rows::read(file)?.into_iter().take(limit).enumerate() {
        let messages = row["messages"].as_array().ok_or("a row has messages")?.clone();
        let asked = messages.get(..2).ok_or("a row has three messages")?;
        let review = messages[2]["content"].as_str().is_some_and(|c| c.starts_with("## Reviewer"));
        forms.push(if review { &*REVIEW_FORM } else { &*OPENING_FORM });
        batch.push(Row {
            prompt: loaded.encode_chat(&loaded.chat.render(&asked, true)?)?,
            plan: Plan::Text { max_tokens: 900, stop: Vec::new(), grammar: None, ignore_eos: false },
            sampling: Sampling {
                temperature: 0.4,
                top_p: 0.95,
                repetition_penalty: 1.1,
                ..Sampling::default()
            },
            seed: i as u64,
            logprobs: false,
        });
    }
    let n = batch.len();
    let (mut whole, mut parts, mut wanted, mut ended) = (0, 0, 0, 0);
    for (form, output) in forms.into_iter().zip(engine.run(batch, &mut ())?) {
        let output = output?;
        let held = kept(&output.text, form);
        whole += usize::from(held == form.len());
        (parts, wanted) = (parts + held, wanted + form.len());
        ended += usize::from(output.finish == Finish::Eos);
    }
    println!(
        "{}: {whole} of {n} answers keep the whole form, {:.1} % of its parts are there, {ended} ended by themselves",
        model.display(),
        100.0 * parts as f64 / wanted as f64
    );
    Ok(())
}
