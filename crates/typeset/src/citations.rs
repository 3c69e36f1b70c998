//! Author-year citations and the bibliography as text.

use crate::paper::{Citation, Inline};

fn last_name(author: &str) -> &str {
    author.split_whitespace().last().unwrap_or(author)
}

/// "Smith", "Smith and Doe", "Smith et al.".
fn short(c: &Citation) -> String {
    match c.authors.as_slice() {
        [] => c.title.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        [a] => last_name(a).to_string(),
        [a, b] => format!("{} and {}", last_name(a), last_name(b)),
        [a, ..] => format!("{} et al.", last_name(a)),
    }
}

/// The citation as it stands in the text.
pub(crate) fn cite(keys: &[String], textual: bool, references: &[Citation]) -> String {
    let parts: Vec<(String, String)> = keys
        .iter()
        .filter_map(|k| references.iter().find(|r| r.key == *k))
        .map(|c| (short(c), c.year.clone().unwrap_or_else(|| "n.d.".into())))
        .collect();
    if textual {
        parts.iter().map(|(a, y)| format!("{a} ({y})")).collect::<Vec<_>>().join("; ")
    } else {
        format!("({})", parts.iter().map(|(a, y)| format!("{a}, {y}")).collect::<Vec<_>>().join("; "))
    }
}

/// An entry of the bibliography.
pub(crate) fn entry(c: &Citation) -> String {
    let mut out = String::new();
    if !c.authors.is_empty() {
        out += &format!("{}. ", c.authors.join(", "));
    }
    out += &format!("{}.", c.title.trim_end_matches('.'));
    if let Some(venue) = &c.venue {
        out += &format!(" {}", venue.trim_end_matches(['.', ',']));
        out.push_str(if c.year.is_some() { "," } else { "." });
    }
    if let Some(year) = &c.year {
        out += &format!(" {year}.");
    }
    if let Some(locator) = &c.locator {
        out += &format!(" {locator}");
    }
    out
}

/// A piece of text without its formatting.
pub(crate) fn plain(inline: &Inline, references: &[Citation]) -> String {
    match inline {
        Inline::Text(t) | Inline::Emph(t) | Inline::Strong(t) | Inline::Code(t) | Inline::Math(t) => {
            t.clone()
        }
        Inline::Cite { keys, textual } => cite(keys, *textual, references),
        Inline::Number { text, .. } => text.clone(),
    }
}
