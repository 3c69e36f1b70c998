//! The words said to a reviewer: templates in `prompts/review`, filled in here.

use lm::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};

use crate::error::ReviewError;
use crate::form::Form;

const SYSTEM: &str = include_str!("../../../prompts/review/system.md");
const REVIEWER: &str = include_str!("../../../prompts/review/reviewer.md");
const META: &str = include_str!("../../../prompts/review/meta.md");
const CHECK: &str = include_str!("../../../prompts/review/check.md");
const PANEL: &str = include_str!("../../../prompts/review/panel.md");

/// How a reviewer of the panel leans.
pub const STANCES: [&str; 4] = ["strict", "balanced", "constructive", "lenient"];

/// The stance of reviewer `index` (from 0) of `n`: from strict to lenient.
pub fn stance(index: usize, n: usize) -> &'static str {
    if n <= 1 {
        return "balanced";
    }
    STANCES[(index * (STANCES.len() - 1) + (n - 1) / 2) / (n - 1)]
}

fn render(template: &str, values: minijinja::Value) -> Result<String, ReviewError> {
    let mut environment = Environment::new();
    let syntax =
        SyntaxConfig::builder().trim_blocks(true).build().map_err(|e| ReviewError::Prompt(e.to_string()))?;
    environment.set_syntax(syntax);
    environment
        .render_str(template, values)
        .map(|t| t.trim_end().to_string())
        .map_err(|e| ReviewError::Prompt(e.to_string()))
}

/// The dialogue for one reviewer. Everything up to the stance, at the very end, is the same for the whole panel. With
/// `quote` every weakness must quote the paper.
///
/// # Errors
/// If the template fails.
pub fn reviewer(paper: &str, form: &Form, stance: &str, quote: bool) -> Result<Vec<Message>, ReviewError> {
    let form = minijinja::Value::from(minijinja::value::Serde(form));
    let user = render(REVIEWER, context! { paper, form, stance, quote })?;
    Ok(vec![Message::system(SYSTEM.trim_end()), Message::user(user)])
}

/// The dialogue for the meta-review.
///
/// # Errors
/// If the template fails.
pub fn meta(paper: &str, form: &Form, reviews: &str) -> Result<Vec<Message>, ReviewError> {
    let form = minijinja::Value::from(minijinja::value::Serde(form));
    let user = render(META, context! { paper, form, reviews })?;
    Ok(vec![Message::system(SYSTEM.trim_end()), Message::user(user)])
}

/// The dialogue that asks whether the paper bears a reviewer's remark out.
///
/// # Errors
/// If the template fails.
pub fn check(paper: &str, remark: &str) -> Result<Vec<Message>, ReviewError> {
    let user = render(CHECK, context! { paper, remark })?;
    Ok(vec![Message::system(SYSTEM.trim_end()), Message::user(user)])
}

/// The dialogue for a whole panel in one answer, for servers and the published checkpoints.
///
/// # Errors
/// If the template fails.
pub fn panel(paper: &str, form: &Form, reviewers: usize, quote: bool) -> Result<Vec<Message>, ReviewError> {
    let headings: Vec<String> = form
        .fields()
        .map(|f| match f {
            crate::form::Field::Section(s) => s.heading.clone(),
            crate::form::Field::Score(s) => s.heading.clone(),
        })
        .collect();
    let form = minijinja::Value::from(minijinja::value::Serde(form));
    let system = render(PANEL, context! { form, headings, reviewers, quote })?;
    Ok(vec![Message::system(system), Message::user(paper)])
}
