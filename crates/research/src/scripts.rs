//! The scripts that small models fill in: layout and citations stand, the text is the model's own.

use lm::{Grammar, Part, Script};
use serde_json::Value;

use crate::researcher::{Brief, Researcher};

pub(crate) fn free(name: &str, stop: &[&str], min: usize, max: usize) -> Part {
    Part::Free {
        name: name.into(),
        stop: stop.iter().map(|s| (*s).to_string()).collect(),
        max_tokens: max.max(8),
        min_tokens: min,
        grammar: None,
    }
}

pub(crate) fn shaped(name: &str, regex: &str, max: usize) -> Part {
    let grammar = Some(Grammar::Regex(regex.into()));
    Part::Free { name: name.into(), stop: Vec::new(), max_tokens: max, min_tokens: 0, grammar }
}

/// Between `least` and `most` further words: a text that reaches its end does so behind a word.
pub(crate) fn words(characters: &str, least: usize, most: usize) -> String {
    format!("( [{characters}]{{1,16}}){{{least},{most}}}")
}

/// Characters of a word in a name, in a sentence, and in a sentence with numbers.
pub(crate) const NAME: &str = "A-Za-z-";
pub(crate) const PROSE: &str = "A-Za-z,'-";
pub(crate) const TECHNICAL: &str = "A-Za-z0-9(),%/=+-";

/// Up to the last full stop; the whole text where there is none.
pub(crate) fn finished_sentences(text: &str) -> &str {
    let ends = |(i, c): &(usize, char)| {
        matches!(c, '.' | '?' | '!') && text[i + 1..].chars().next().is_none_or(char::is_whitespace)
    };
    text.char_indices().rev().find(ends).map_or(text, |(i, _)| &text[..=i])
}

/// True where no table names a row twice.
pub(crate) fn rows_differ(results: &Value) -> bool {
    results.as_array().into_iter().flatten().all(|item| {
        let rows = item["result"]["table"].as_array().map_or(&[][..], Vec::as_slice);
        let names: std::collections::BTreeSet<String> = rows.iter().map(|r| r[0].to_string()).collect();
        names.len() == rows.len()
    })
}

pub(crate) fn literal(text: impl Into<String>) -> Part {
    Part::Literal(text.into())
}

/// A part of the tokens that may be written, 24 at least.
fn share(writing: usize, part: f64, most: usize) -> usize {
    ((writing as f64 * part) as usize).clamp(24, most)
}

/// Tokens of a title: with a small vocabulary a long one of a real paper takes forty.
const TITLE: usize = 48;

/// Motivation, main idea, title and the abstract's text.
fn head_parts(writing: usize, room: Room) -> Vec<Part> {
    let room = room.head;
    let most = |part: f64, tokens: usize| share(room * writing, part, room * tokens);
    vec![
        literal("## Motivation\n\n"),
        free("motivation", &["\n#", "\n\n"], 12, most(0.08, 160)),
        literal("\n\n## Main Idea\n\n"),
        free("idea", &["\n#", "\n\n"], 12, most(0.08, 160)),
        literal("\n\n```latex\n\\title{"),
        free("title", &["}", "\n", "{", "\\"], 3, room * TITLE),
        literal("}\n\n\\begin{abstract}\n"),
        free("abstract", &["\\end", "\n\n", "\\section"], 30, most(0.16, 260)),
    ]
}

/// Limits of the parts, as multiples of those of a draft that has to fit a small context.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Up to the end of the abstract.
    head: usize,
    /// Introduction, related work and method.
    body: usize,
}

impl Room {
    /// A whole draft.
    pub(crate) const DRAFT: Self = Self { head: 1, body: 1 };
    /// A stage by itself, where what runs into a limit counts as a paper that found no end. Introductions take more:
    /// at twice the limits a third of SmolLM2's were cut, and few of these repeated themselves (docs/experiments.md).
    pub(crate) const STAGE: Self = Self { head: 2, body: 4 };
}

/// The first stage of a paper by itself: motivation, main idea, title, abstract and set-up.
pub(crate) fn opening_script(writing: usize) -> Script {
    let mut parts = head_parts(writing, Room::STAGE);
    parts.push(literal("\n\\end{abstract}\n```\n\n"));
    parts.extend(setup_parts());
    Script { parts }
}

/// The set-up as a JSON list of two experiments.
pub(crate) fn setup_parts() -> Vec<Part> {
    let mut parts = vec![literal("## Experimental Setup\n\n```json\n[")];
    for i in 0..2 {
        parts.push(literal(if i == 0 { "{\"name\": \"" } else { ", {\"name\": \"" }));
        // The closing quotation mark is the model's to draw: that is how it says that a name is whole. The limits
        // are a token a character, so that the mark is always reached.
        let name = format!("[A-Z][A-Za-z-]{{1,14}}{}\"", words(NAME, 0, 5));
        parts.push(shaped(&format!("name{i}"), &name, 104));
        parts.push(literal(", \"description\": \""));
        let sentence = format!("[A-Z][a-z]*{}[.]", words(TECHNICAL, 8, 40));
        parts.push(shaped(&format!("description{i}"), &sentence, 160));
        parts.push(literal("\"}"));
    }
    parts.push(literal("]\n\n```"));
    parts
}

/// Results, discussion and conclusion.
pub(crate) fn second_script(room: usize) -> Script {
    let end = ["\n\\section", "\\section", "```", "\n\n\n", "\\end{", "\\begin{table", "\n#"];
    let parts = vec![
        literal("```latex\n\\section{Results}\n\n"),
        free("results", &end, 40, share(room, 0.3, 360)),
        literal("\n\n\\section{Discussion}\n\n"),
        free("discussion", &end, 30, share(room, 0.2, 240)),
        literal("\n\n\\section{Conclusion}\n\n"),
        free("conclusion", &end, 30, share(room, 0.2, 200)),
        literal("\n```"),
    ];
    Script { parts }
}

impl Researcher<'_> {
    /// Keys for the choices of a citation, nearest to the topic first.
    fn keys(&self, brief: &Brief, most: usize) -> Vec<String> {
        let order = brief.literature.nearest(brief.topic.as_deref().unwrap_or_default());
        order.into_iter().take(most).map(|i| brief.literature.entries[i].key.clone()).collect()
    }

    /// The layout of the published dialogue, its text left free.
    pub(crate) fn first_script(&self, brief: &Brief, writing: usize, room: Room) -> Script {
        let share = |part: f64, most: usize| share(room.body * writing, part, room.body * most);
        let end = ["\n\\section", "\\section", "```", "\n\n\n", "\\end{", "\n#"];
        let keys = self.keys(brief, 12);
        // Each citation chooses among keys of its own, so that a weak model does not cite one paper four times.
        let cite = |parts: &mut Vec<Part>, number: usize, command: &str| {
            let own: Vec<String> = keys.iter().skip(number % keys.len().max(1)).step_by(4).cloned().collect();
            if !own.is_empty() {
                parts.push(literal(format!(" \\{command}{{")));
                parts.push(Part::Choice {
                    name: format!("cite{number}"),
                    options: own,
                    terminator: "}".into(),
                });
            }
        };
        let mut parts = head_parts(writing, room);
        parts.push(literal("\n\\end{abstract}\n\n\\section{Introduction}\n\n"));
        parts.push(free("introduction", &end, 30, share(0.12, 260)));
        cite(&mut parts, 0, "citep");
        parts.push(literal("\n\n"));
        parts.push(free("introduction2", &end, 20, share(0.10, 220)));
        parts.push(literal("\n\n\\section{Related Work}\n\n"));
        for (i, name) in ["related1", "related2", "related3"].into_iter().enumerate() {
            cite(&mut parts, i + 1, "citet");
            // A sentence that goes on from the citation; the blank belongs to its first word, as in running text.
            let first = if keys.is_empty() { "[A-Z][a-z]{1,12}" } else { " [a-z]{2,12}" };
            let sentence = format!("{first}{}[.]", words(PROSE, 6, 32));
            parts.push(shaped(name, &sentence, share(0.05, 110)));
            parts.push(literal("\n\n"));
        }
        parts.push(literal("\\section{Method}\n\n"));
        parts.push(free("method", &end, 40, share(0.18, 420)));
        parts.push(literal("\n```\n"));
        Script { parts }
    }
}
