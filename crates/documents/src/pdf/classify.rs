//! What each paragraph is: a heading, a caption, a footnote, rows of a table, labels in a figure, or text.

use super::paragraphs::{Measures, Paragraph, ends_sentence};
use crate::headings::{Number, Role, bare_letter, role, split_number};
use crate::text::{has_word, word_count};
use std::collections::HashSet;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Heading(Heading),
    /// "Figure 3: …"; true for tables.
    Caption(bool),
    Footnote,
    /// Labels inside a figure.
    FigureText,
    /// Rows of a table whose caption, at this index, stands below them.
    RowsOf(usize),
    Text,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heading {
    pub(super) label: Option<String>,
    pub(super) number: Option<Number>,
    pub(super) text: String,
    pub(super) role: Option<Role>,
    pub(super) level: u8,
}

pub(super) fn classify(paragraphs: &[Paragraph], measures: &Measures) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::with_capacity(paragraphs.len());
    let mut sequence = Sequence::default();
    let mut styles: HashSet<(u16, i32)> = HashSet::new();
    let style = |p: &Paragraph| (p.lines[0].face, (p.size * 2.0).round() as i32);
    for (i, paragraph) in paragraphs.iter().enumerate() {
        let kind = if let Some(table) = caption(paragraph, measures) {
            Kind::Caption(table)
        } else if let Some(heading) = heading(
            paragraph,
            paragraphs.get(i.wrapping_sub(1)),
            paragraphs.get(i + 1),
            measures,
            &mut sequence,
        ) {
            if heading.number.is_some() || heading.role.is_some() {
                styles.insert(style(paragraph));
            }
            Kind::Heading(heading)
        } else {
            Kind::Text
        };
        kinds.push(kind);
    }
    let numbered = kinds.iter().filter(|k| matches!(k, Kind::Heading(h) if h.number.is_some())).count() >= 3;
    let largest = kinds
        .iter()
        .zip(paragraphs)
        .filter(|(k, _)| matches!(k, Kind::Heading(h) if h.role.is_some()))
        .map(|(_, p)| p.size)
        .fold(0.0f32, f32::max);
    let first = kinds.iter().position(|k| matches!(k, Kind::Heading(_))).unwrap_or(0);
    // Unnumbered headings in the style of the others; where none has a number, bold lines that stand alone.
    for (i, paragraph) in paragraphs.iter().enumerate() {
        if kinds[i] == Kind::Text
            && (styles.contains(&style(paragraph))
                || !numbered
                    && i > first
                    && paragraph.lines.len() <= 2
                    && paragraph.size > 0.97 * measures.body
                    && (paragraph.bold || paragraph.size > 1.12 * measures.body))
            && emphasised(paragraph, measures)
            && looks_like_heading(&paragraph.text, paragraph)
            && !is_row(paragraph)
            && !has_leaders(&paragraph.text)
            && !statement(&paragraph.text)
            && paragraphs.get(i + 1).is_some_and(|next| {
                (kinds[i + 1] != Kind::Text
                    || !emphasised(next, measures)
                    || next.size < 0.93 * paragraph.size)
                    && stands_apart(paragraph, next, measures)
            })
        {
            let level = match paragraph.size {
                size if size > 0.97 * largest && largest > 0.0 => 1,
                size if size > 1.12 * measures.body => 2,
                _ if numbered => 2,
                _ => 3,
            };
            let text = paragraph.text.trim_end_matches([':', '.']).to_owned();
            kinds[i] = Kind::Heading(Heading { label: None, number: None, role: role(&text), text, level });
        }
    }
    mark_small_text(paragraphs, &mut kinds, measures);
    mark_rows(paragraphs, &mut kinds);
    kinds
}

/// Gives rows that stand above their caption to it.
fn mark_rows(paragraphs: &[Paragraph], kinds: &mut [Kind]) {
    for i in 0..paragraphs.len() {
        if kinds[i] != Kind::Caption(true) {
            continue;
        }
        let caption = &paragraphs[i];
        let below = paragraphs.get(i + 1).is_some_and(|q| {
            q.page == caption.page
                && is_tabular(q)
                && (q.top - caption.bottom).abs() < 60.0
                && matches!(kinds[i + 1], Kind::Text | Kind::FigureText)
        });
        if below {
            continue;
        }
        let mut j = i;
        let mut edge = caption.top;
        while j > 0 {
            let q = &paragraphs[j - 1];
            let part = q.lines.len() == 1 && q.text.starts_with('(') && word_count(&q.text) <= 14;
            if !matches!(kinds[j - 1], Kind::Text | Kind::FigureText)
                || q.page != caption.page
                || q.bottom > edge + 1.0
                || edge - q.bottom > 40.0
                || !(is_tabular(q) || part)
            {
                break;
            }
            kinds[j - 1] = Kind::RowsOf(i);
            edge = q.top;
            j -= 1;
        }
    }
}

/// Footnotes and labels inside figures.
fn mark_small_text(paragraphs: &[Paragraph], kinds: &mut [Kind], measures: &Measures) {
    let in_references =
        kinds.iter().position(|k| matches!(k, Kind::Heading(h) if h.role == Some(Role::References)));
    for i in 0..paragraphs.len() {
        if kinds[i] != Kind::Text {
            continue;
        }
        let p = &paragraphs[i];
        let small = p.size < 0.93 * measures.body;
        let after_references = in_references.is_some_and(|r| i > r);
        if small && !after_references {
            let same_column = |q: &&Paragraph| {
                q.page == p.page
                    && (q.column == p.column || q.column == 0 || p.column == 0)
                    && (q.size - measures.body).abs() < 0.05 * measures.body
                    && q.chars() > 30
            };
            let above = paragraphs.iter().filter(same_column).any(|q| q.bottom < p.top);
            let below = paragraphs.iter().filter(same_column).any(|q| q.top > p.bottom);
            let marked = p.lines[0].raised_start()
                || p.text.starts_with(['∗', '*', '†', '‡', '§', '¶'])
                || p.text
                    .split(' ')
                    .next()
                    .is_some_and(|w| w.len() <= 2 && w.bytes().all(|b| b.is_ascii_digit()));
            if above && !below && (marked || word_count(&p.text) >= 6) {
                kinds[i] = Kind::Footnote;
                continue;
            }
        }
        let words = word_count(&p.text);
        let per_line = words as f32 / p.lines.len().max(1) as f32;
        let (left, right) = measures.edges(&p.lines[0]);
        let narrow = p.x1 - p.x0 < 0.5 * (right - left);
        if p.page > 0 && small && per_line < 4.0 && narrow && !ends_sentence(&p.text) && !after_references {
            kinds[i] = Kind::FigureText;
        }
    }
}

pub(super) fn emphasised(p: &Paragraph, measures: &Measures) -> bool {
    p.bold || p.size > 1.07 * measures.body || small_capitals(&p.text)
}

/// A bold line that fills its column and runs on into the next is the start of a paragraph, not a heading.
fn stands_apart(p: &Paragraph, next: &Paragraph, measures: &Measures) -> bool {
    let (left, right) = measures.edges(&p.lines[0]);
    let last = &p.lines[p.lines.len() - 1];
    next.page != p.page
        || next.column != p.column
        || next.top - p.bottom > 1.12 * measures.leading
        || last.x1 < right - 0.2 * (right - left)
}

/// "Lemma 16", "Input:": the lead of a statement, not of a section.
fn statement(text: &str) -> bool {
    const NAMES: [&str; 22] = [
        "theorem",
        "lemma",
        "proposition",
        "corollary",
        "definition",
        "remark",
        "remarks",
        "proof",
        "example",
        "assumption",
        "claim",
        "algorithm",
        "input",
        "output",
        "require",
        "ensure",
        "fact",
        "conjecture",
        "hypothesis",
        "observation",
        "exercise",
        "condition",
    ];
    let first: String = text.chars().take_while(|c| c.is_alphabetic()).collect::<String>().to_lowercase();
    NAMES.contains(&first.as_str())
}

fn small_capitals(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    letters >= 5 && text.chars().all(|c| !c.is_lowercase())
}

fn looks_like_heading(text: &str, p: &Paragraph) -> bool {
    let words = text.split_whitespace().count();
    p.lines.len() <= 3
        && (1..=18).contains(&words)
        && has_word(text, 3)
        && text.chars().next().is_some_and(|c| c.is_uppercase() || c.is_ascii_digit())
        && !text.ends_with([',', ';', '.', '-', '\u{ad}'])
        && p.math() < 0.5
        && text.chars().filter(|c| c.is_alphabetic()).count() * 10
            > text.chars().filter(|c| !c.is_whitespace()).count() * 7
}

#[derive(Default)]
struct Sequence {
    arabic: Vec<u32>,
    roman: u32,
    letter: Option<char>,
    /// The bibliography has begun, so that letters number appendices.
    after_references: bool,
}

impl Sequence {
    /// True if `number` may follow what was seen.
    fn admits(&self, number: &Number) -> bool {
        match number {
            Number::Arabic(parts) => {
                let next = |had: Option<&u32>, now: u32| match had {
                    None => now <= 2,
                    Some(had) => now > *had && now <= had + 2,
                };
                let top = self.arabic.first();
                match parts.as_slice() {
                    [one] => next(top, *one),
                    [one, two] => {
                        let same_top = top == Some(one);
                        if same_top { next(self.arabic.get(1), *two) } else { next(top, *one) && *two <= 2 }
                    }
                    [one, two, three, ..] => {
                        let same = self.arabic.len() >= 2 && self.arabic[0] == *one && self.arabic[1] == *two;
                        if same {
                            self.arabic.len() < 3 || next(self.arabic.get(2), *three) || parts.len() > 3
                        } else {
                            top.is_some_and(|t| *one >= *t && *one <= t + 1)
                        }
                    }
                    [] => false,
                }
            }
            // A paper that counts its sections in digits does not go over to Roman numbers.
            Number::Roman(n) => {
                *n > self.roman && *n <= self.roman + 2 && (self.roman > 0 || self.arabic.is_empty())
            }
            Number::Letter(c, _) => match self.letter {
                None => *c <= 'B',
                Some(had) => *c >= 'A' && (*c as u32) <= had as u32 + 2,
            },
        }
    }

    /// True if `number` is the letter of the next appendix.
    fn awaits(&self, number: &Number) -> bool {
        let next = self.letter.map_or('A', |c| char::from_u32(c as u32 + 1).unwrap_or('A'));
        self.after_references && matches!(number, Number::Letter(c, _) if *c == next)
    }

    fn note(&mut self, number: &Number) {
        match number {
            Number::Arabic(parts) => self.arabic = parts.clone(),
            Number::Roman(n) => {
                self.roman = *n;
                self.letter = None;
            }
            Number::Letter(c, _) => self.letter = Some(*c),
        }
    }
}

fn heading(
    p: &Paragraph,
    before: Option<&Paragraph>,
    after: Option<&Paragraph>,
    measures: &Measures,
    sequence: &mut Sequence,
) -> Option<Heading> {
    let text = p.text.trim();
    if p.lines.len() > 3 || text.chars().count() > 200 || is_row(p) || has_leaders(text) {
        return None;
    }
    if opens_references(text) {
        sequence.after_references = true;
    }
    let plain = text.trim_end_matches([':', '.']);
    let strong = emphasised(p, measures);
    if let Some(role) = role(plain) {
        let apart =
            after.is_none_or(|a| a.page != p.page || a.column != p.column || a.top - p.bottom > 0.9 * p.size);
        if (strong || p.italic || apart)
            && (p.size > if strong { 0.74 } else { 0.85 } * measures.body)
            && p.lines.len() == 1
        {
            return Some(Heading {
                label: None,
                number: None,
                text: plain.to_owned(),
                role: Some(role),
                level: 1,
            });
        }
    }
    let (label, number, rest) = split_number(text)?;
    // "A Framework": the article stands a word space before its noun, a number further off.
    // Behind the references, the next letter in a heading's dress is a number too.
    if bare_letter(text) && !number_apart(p) && !(strong && sequence.awaits(&number)) {
        return None;
    }
    let rest = rest.trim();
    let role = role(rest.trim_end_matches([':', '.']));
    let lone = |q: Option<&Paragraph>, gap: f32| {
        q.is_none_or(|q| q.page != p.page || q.column != p.column || gap.abs() > 1.15 * measures.leading)
    };
    let apart = lone(before, before.map_or(0.0, |b| p.top - b.bottom))
        && lone(after, after.map_or(0.0, |a| a.top - p.bottom) * 1.12);
    let convincing = strong || p.italic && apart || role.is_some() || apart && p.lines.len() == 1;
    if !convincing
        || !has_word(rest, 2)
        || !has_word(rest, 3) && rest.contains(['^', '_', '[', '='])
        || !rest
            .chars()
            .next()
            .is_some_and(|c| c.is_uppercase() || c.is_ascii_digit() || !c.is_alphabetic() || strong)
        || rest.split_whitespace().count() > 22
        || rest.ends_with([',', ';'])
        || !strong && (rest.ends_with('.') || rest.contains('=') || p.math() > 0.3)
        || !sequence.admits(&number)
    {
        return None;
    }
    sequence.note(&number);
    let mut level = number.level();
    if matches!(number, Number::Letter(..)) && sequence.roman > 0 && !text.starts_with("App") {
        level = 2;
    }
    Some(Heading { label: Some(label), level, number: Some(number), text: rest.to_owned(), role })
}

fn opens_references(text: &str) -> bool {
    let rest = split_number(text).map_or(text, |(_, _, rest)| rest);
    role(rest.trim_end_matches([':', '.'])) == Some(Role::References)
}

/// Cells rather than words: three of them, or mostly numbers.
fn is_row(p: &Paragraph) -> bool {
    let cells = p.lines.iter().map(|l| l.cells(0.8 * l.size).len()).max().unwrap_or(0);
    let words: Vec<&str> = p.text.split_whitespace().collect();
    let numbers =
        words.iter().filter(|w| w.bytes().all(|b| b.is_ascii_digit() || b".,%-".contains(&b))).count();
    cells >= 3 || numbers >= 3 && numbers * 2 >= words.len()
}

/// A line of a table of contents: dots that lead to a page number.
fn has_leaders(text: &str) -> bool {
    text.contains("....") || text.contains(". . . .")
}

/// The first word stands further from the second than words do.
fn number_apart(p: &Paragraph) -> bool {
    let mut words = p.lines[0].pieces.iter().flat_map(|p| &p.words);
    matches!((words.next(), words.next()), (Some(a), Some(b)) if b.x0 - a.x1 > 0.55 * p.size)
}

/// `Some(true)` for a table's caption, `Some(false)` for a figure's, an algorithm's, a listing's.
fn caption(p: &Paragraph, measures: &Measures) -> Option<bool> {
    let text = p.text.trim_start();
    let (word, rest) = text.split_once(' ')?;
    let table = match word.to_ascii_lowercase().as_str() {
        "table" | "tab." | "tables" => true,
        "figure" | "fig." | "fig" | "algorithm" | "listing" | "scheme" | "chart" | "exhibit" => false,
        _ => return None,
    };
    let label: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '.' || *c == '-').collect();
    let bare = label.trim_end_matches('.');
    if bare.is_empty()
        || bare.len() > 6
        || !(bare.contains(|c: char| c.is_ascii_digit()) || bare.chars().all(|c| "IVXABCS".contains(c)))
    {
        return None;
    }
    let next = rest[label.len()..].trim_start().chars().next();
    let marked = label.ends_with('.') || matches!(next, None | Some(':' | '|' | '—' | '–' | '.' | '('));
    let differs = p.size < 0.97 * measures.body || p.lines[0].pieces[0].bold_lead >= word.len();
    (marked || differs && next.is_some_and(char::is_uppercase)).then_some(table)
}

/// Rows of cells rather than sentences.
pub(super) fn is_tabular(p: &Paragraph) -> bool {
    let rows = p.lines.iter().filter(|l| l.cells(0.8 * l.size).len() >= 2).count();
    let words = word_count(&p.text);
    rows * 2 >= p.lines.len().max(1) && words <= 12 * p.lines.len()
        || p.lines.len() == 1 && words <= 4 && !ends_sentence(&p.text)
}
