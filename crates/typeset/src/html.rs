//! One self-contained page: no script, nothing loaded; formulas as MathML.

use askama::Template;
use pulldown_latex::{Parser, RenderConfig, Storage, push_mathml};

use crate::citations::{entry, plain};
use crate::error::TypesetError;
use crate::paper::{Block, Inline, Origin, Paper};
use crate::pdf::SIMULATED_MARK;

#[derive(Template)]
#[template(path = "paper.html")]
struct Page<'a> {
    paper: &'a Paper,
    simulated: bool,
    mark: &'a str,
    abstract_text: Vec<String>,
    sections: Vec<String>,
    references: Vec<String>,
}

/// Writes the page.
///
/// # Errors
/// If the template fails.
pub fn html(paper: &Paper) -> Result<String, TypesetError> {
    let mut numbers = [0usize; 3];
    let mut tables = 0;
    let sections = paper
        .sections
        .iter()
        .map(|s| {
            let level = usize::from(s.level.clamp(1, 3));
            numbers[level - 1] += 1;
            numbers[level..].fill(0);
            let number: Vec<String> = numbers[..level].iter().map(usize::to_string).collect();
            let mut out = format!("<h{0}>{1} {2}</h{0}>", level + 1, number.join("."), escape(&s.heading));
            for b in &s.blocks {
                out += &block(b, paper, &mut tables);
            }
            out
        })
        .collect();
    let page = Page {
        paper,
        simulated: paper.has_simulated(),
        mark: SIMULATED_MARK,
        abstract_text: paper.abstract_text.iter().map(|p| run(p, paper)).collect(),
        sections,
        references: paper.references.iter().map(entry).collect(),
    };
    Ok(page.render()?)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// MathML, or the source where the formula does not parse.
fn math(latex: &str, display: bool) -> String {
    let source = || format!("<code>{}</code>", escape(latex));
    let storage = Storage::new();
    if Parser::new(latex, &storage).any(|event| event.is_err()) {
        return source();
    }
    let storage = Storage::new();
    let mut out = String::new();
    let mode = if display {
        pulldown_latex::config::DisplayMode::Block
    } else {
        pulldown_latex::config::DisplayMode::Inline
    };
    let config = RenderConfig { display_mode: mode, ..RenderConfig::default() };
    match push_mathml(&mut out, Parser::new(latex, &storage), config) {
        Ok(()) => out,
        Err(_) => source(),
    }
}

fn run(xs: &[Inline], paper: &Paper) -> String {
    xs.iter()
        .map(|x| match x {
            Inline::Emph(t) => format!("<em>{}</em>", escape(t)),
            Inline::Strong(t) => format!("<strong>{}</strong>", escape(t)),
            Inline::Code(t) => format!("<code>{}</code>", escape(t)),
            Inline::Math(t) => math(t, false),
            Inline::Number { text, origin: Origin::Simulated } => {
                format!("<span class=\"simulated\">{}</span>", escape(text))
            }
            other => escape(&plain(other, &paper.references)),
        })
        .collect()
}

fn block(b: &Block, paper: &Paper, tables: &mut usize) -> String {
    match b {
        Block::Paragraph(xs) => format!("<p>{}</p>", run(xs, paper)),
        Block::Equation(t) => format!("<p>{}</p>", math(t, true)),
        Block::Code(t) => format!("<pre>{}</pre>", escape(t)),
        Block::List { ordered, items } => {
            let name = if *ordered { "ol" } else { "ul" };
            let items: String = items.iter().map(|i| format!("<li>{}</li>", run(i, paper))).collect();
            format!("<{name}>{items}</{name}>")
        }
        Block::Table(t) => {
            *tables += 1;
            let mark = if t.origin == Origin::Simulated {
                " <span class=\"simulated\">(simulated)</span>"
            } else {
                ""
            };
            let mut rows = String::new();
            for (i, row) in t.rows.iter().enumerate() {
                let cell = if i == 0 { "th" } else { "td" };
                let cells: String = row.iter().map(|c| format!("<{cell}>{}</{cell}>", escape(c))).collect();
                rows += &format!("<tr>{cells}</tr>");
            }
            format!(
                "<figure><figcaption>Table {tables}: {}{mark}</figcaption><table>{rows}</table></figure>",
                escape(&t.caption)
            )
        }
    }
}
