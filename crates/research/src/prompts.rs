//! The words said to a researcher: templates in `prompts/research`, filled in here.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value};

const SYSTEM: &str = include_str!("../../../prompts/research/system.md");
const FIRST: &str = include_str!("../../../prompts/research/first.md");
const SECOND: &str = include_str!("../../../prompts/research/second.md");
const SETUP: &str = include_str!("../../../prompts/research/setup.md");
const SIMULATE: &str = include_str!("../../../prompts/research/simulate.md");

fn render(template: &str, values: Value) -> Result<String, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).build().map_err(|e| e.to_string())?;
    environment.set_syntax(syntax);
    environment.render_str(template, values).map(|t| t.trim_end().to_string()).map_err(|e| e.to_string())
}

/// The system turn.
pub fn system() -> &'static str {
    SYSTEM.trim_end()
}

/// The first user turn: topic, references with their abstracts, what is wanted.
///
/// # Errors
/// If the template fails.
pub fn first(topic: Option<&str>, references: &str) -> Result<String, String> {
    render(FIRST, minijinja::context! { topic, references })
}

/// The second user turn: results as JSON.
///
/// # Errors
/// If the template fails.
pub fn second(results: &str) -> Result<String, String> {
    render(SECOND, minijinja::context! { results })
}

/// Asks for the set-up where the first half holds none: of the paper `shown`, or of the one just written.
///
/// # Errors
/// If the template fails.
pub fn setup(shown: Option<&str>) -> Result<String, String> {
    render(SETUP, minijinja::context! { shown })
}

/// Asks for invented results.
pub fn simulate() -> &'static str {
    SIMULATE.trim_end()
}

/// One reference as the model reads it: its abstract on one line directly before its entry.
pub fn reference(key: &str, title: &str, year: Option<&str>, abstract_text: Option<&str>) -> String {
    let mut out = String::new();
    if let Some(text) = abstract_text {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        out.push_str(&format!("Abstract: {line}\n"));
    }
    out.push_str(&format!("@article{{{key},\n  title = {{{title}}}"));
    if let Some(year) = year {
        out.push_str(&format!(",\n  year = {{{year}}}"));
    }
    out.push_str("\n}");
    out
}
