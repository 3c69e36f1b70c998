//! From lines in reading order to paragraphs.

use super::lines::Line;
use crate::headings::{Number, Role, role, split_number};
use crate::text::{Vocabulary, drop_soft_hyphens, ends_in_hyphen};
use std::collections::HashMap;

/// Lines that form one paragraph, heading, caption or cell block.
#[derive(Debug, Clone)]
pub(crate) struct Paragraph {
    pub(crate) lines: Vec<Line>,
    /// Hyphenation joined, single spaces.
    pub(crate) text: String,
    pub(crate) size: f32,
    pub(crate) bold: bool,
    pub(crate) italic: bool,
    pub(crate) page: usize,
    pub(crate) column: u8,
    pub(crate) x0: f32,
    pub(crate) x1: f32,
    /// Baselines of the first and the last line.
    pub(crate) top: f32,
    pub(crate) bottom: f32,
    /// Its first line is indented against the column.
    pub(crate) indented: bool,
}

impl Paragraph {
    pub(crate) fn chars(&self) -> usize {
        self.lines.iter().map(|l| l.chars).sum()
    }

    pub(crate) fn math(&self) -> f32 {
        let all = self.chars().max(1) as f32;
        self.lines.iter().map(|l| l.math * l.chars as f32).sum::<f32>() / all
    }
}

/// Typical measures of a document and its columns.
#[derive(Debug)]
pub(crate) struct Measures {
    /// Size of most of the text, points.
    pub(crate) body: f32,
    /// Distance of its lines.
    pub(crate) leading: f32,
    /// Left and right edge of each (page, column).
    edges: HashMap<(usize, u8), (f32, f32)>,
}

impl Measures {
    /// Measures all pages.
    pub(crate) fn of(pages: &[Vec<Line>]) -> Self {
        let mut sizes: HashMap<i32, usize> = HashMap::new();
        for line in pages.iter().flatten() {
            *sizes.entry((line.size * 5.0).round() as i32).or_default() += line.chars;
        }
        // Neighbouring buckets count for each other: 9.96 and 10.0 are one size.
        let weight = |k: i32| {
            sizes.get(&k).copied().unwrap_or(0)
                + sizes.get(&(k - 1)).copied().unwrap_or(0) / 2
                + sizes.get(&(k + 1)).copied().unwrap_or(0) / 2
        };
        let body = sizes.keys().copied().max_by_key(|k| (weight(*k), *k)).map_or(10.0, |k| k as f32 / 5.0);
        let mut steps: HashMap<i32, usize> = HashMap::new();
        for page in pages {
            for pair in page.windows(2) {
                let step = pair[1].y - pair[0].y;
                if pair[0].column == pair[1].column
                    && (pair[0].size - body).abs() < 0.3
                    && (pair[1].size - body).abs() < 0.3
                    && step > 0.8 * body
                    && step < 3.5 * body
                    && pair[0].chars > 20
                {
                    *steps.entry((step * 4.0).round() as i32).or_default() += 1;
                }
            }
        }
        let leading =
            steps.iter().max_by_key(|(k, n)| (**n, -**k)).map_or(1.2 * body, |(k, _)| *k as f32 / 4.0);
        let mut edges = HashMap::new();
        for (number, page) in pages.iter().enumerate() {
            for column in 0..=2u8 {
                let lines: Vec<&Line> = page.iter().filter(|l| l.column == column && l.chars >= 12).collect();
                if lines.is_empty() {
                    continue;
                }
                edges.insert(
                    (number, column),
                    (mode(lines.iter().map(|l| l.x0)), mode_high(lines.iter().map(|l| l.x1))),
                );
            }
        }
        Measures { body, leading, edges }
    }

    /// Left and right edge of the column a line stands in.
    pub(crate) fn edges(&self, line: &Line) -> (f32, f32) {
        self.edges.get(&(line.page, line.column)).copied().unwrap_or((line.x0, line.x1))
    }
}

fn mode(values: impl Iterator<Item = f32>) -> f32 {
    let mut counts: HashMap<i32, (usize, f32)> = HashMap::new();
    for v in values {
        let entry = counts.entry((v / 2.0).round() as i32).or_insert((0, v));
        entry.0 += 1;
        entry.1 = entry.1.min(v);
    }
    counts.iter().max_by_key(|(k, (n, _))| (*n, -**k)).map_or(0.0, |(_, (_, v))| *v)
}

fn mode_high(values: impl Iterator<Item = f32>) -> f32 {
    let mut counts: HashMap<i32, (usize, f32)> = HashMap::new();
    for v in values {
        let entry = counts.entry((v / 2.0).round() as i32).or_insert((0, v));
        entry.0 += 1;
        entry.1 = entry.1.max(v);
    }
    counts.iter().max_by_key(|(k, (n, _))| (*n, **k)).map_or(0.0, |(_, (_, v))| *v)
}

/// Cuts lines in reading order into paragraphs.
pub(crate) fn paragraphs(
    pages: Vec<Vec<Line>>,
    measures: &Measures,
    vocabulary: &Vocabulary,
) -> Vec<Paragraph> {
    let mut out: Vec<Paragraph> = Vec::new();
    let mut current: Vec<Line> = Vec::new();
    for line in pages.into_iter().flatten() {
        if let Some(last) = current.last()
            && breaks(&current, last, &line, measures)
        {
            out.push(build(std::mem::take(&mut current), measures, vocabulary));
        }
        current.push(line);
    }
    if !current.is_empty() {
        out.push(build(current, measures, vocabulary));
    }
    out
}

fn breaks(current: &[Line], last: &Line, line: &Line, measures: &Measures) -> bool {
    if last.page != line.page || last.column != line.column {
        return true;
    }
    let size = last.size.max(line.size);
    // A mark or index is smaller than its line; the last syllable of a title is no mark of the names below it.
    let mark = |a: &Line, b: &Line| a.chars <= 3 && a.size <= b.size + 0.1;
    if (last.size - line.size).abs() > 0.07 * size && !mark(last, line) && !mark(line, last) {
        return true;
    }
    if last.bold != line.bold && last.chars >= 3 && line.chars >= 3 {
        return true;
    }
    let step = line.y - last.y;
    if step < -0.3 * size {
        return true;
    }
    // The step between the lines of this paragraph so far, else the document's leading in proportion to the size.
    let usual = match current {
        [.., a, b] if b.y - a.y > 0.5 * size => {
            (b.y - a.y).min(measures.leading * size / measures.body * 1.15)
        }
        _ => measures.leading * (size / measures.body).max(0.8),
    };
    if step > 1.32 * usual + 0.5 {
        return true;
    }
    // Side by side: cells or pieces of a formula.
    if line.x0 > last.x1 + 2.0 * size && step < 0.5 * size {
        return false;
    }
    let text = line.text();
    if starts_item(&text) || starts_keywords(&text) {
        return true;
    }
    if line.bold && split_number(&text).is_some() {
        return true;
    }
    if heads_alone(&text) || current.len() == 1 && heads_alone(&last.text()) {
        return true;
    }
    let (left, right) = measures.edges(line);
    let indent = line.x0 - left;
    let last_indent = last.x0 - left;
    let justified_last = (last.x1 - right).abs() < 1.2 * size;
    let ends_sentence = ends_sentence(&last.text());
    // A first-line indent.
    if indent > 0.7 * size
        && indent < 4.5 * size
        && last_indent.abs() < 0.5 * size
        && (ends_sentence || !justified_last)
    {
        // Hanging indents (references, lists) indent every line but the first.
        let hanging = current.len() == 1 && !ends_sentence;
        return !hanging;
    }
    if indent.abs() < 0.5 * size && last_indent > 0.7 * size && current.len() > 1 {
        // Back to the edge after indented lines: a list or quotation ends.
        return true;
    }
    // A short last line that ends a sentence.
    let short = last.x1 < right - 3.0 * size;
    short && ends_sentence && step > 1.12 * usual
}

/// True where a paragraph may end: a full stop, perhaps behind closing quotes or brackets.
pub(crate) fn ends_sentence(text: &str) -> bool {
    let t = text.trim_end_matches(|c: char| "\"'”’)]»".contains(c) || c.is_whitespace());
    t.ends_with(['.', '!', '?', ':', ';'])
}

/// A line that is a heading by its words alone: "ABSTRACT", "References", "III. METHOD".
fn heads_alone(text: &str) -> bool {
    let text = text.trim();
    if text.chars().count() > 60 {
        return false;
    }
    let capitals = text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase);
    let heading = split_number(text).map_or(text, |(_, _, rest)| rest);
    match role(heading.trim_end_matches([':', '.'])) {
        Some(Role::Abstract | Role::References) => !text.ends_with('.'),
        Some(_) => capitals,
        None => {
            capitals
                && split_number(text).is_some_and(|(_, n, rest)| {
                    matches!(n, Number::Roman(_)) && rest.chars().filter(|c| c.is_alphabetic()).count() >= 4
                })
        }
    }
}

/// What opens a list of keywords or codes.
pub(super) const KEYWORDS: [&str; 6] = [
    "keywords",
    "key words",
    "index terms",
    "ccs concepts",
    "general terms",
    "categories and subject descriptors",
];

/// "Keywords: …", which often stands right below the abstract.
fn starts_keywords(text: &str) -> bool {
    let lower: String = text.chars().take(48).collect::<String>().to_lowercase();
    KEYWORDS.iter().any(|k| {
        lower.strip_prefix(k).is_some_and(|rest| rest.trim_start().starts_with([':', '.', '—', '–', '-']))
    })
}

/// A bullet or a list label.
pub(crate) fn starts_item(text: &str) -> bool {
    let mut chars = text.chars();
    match chars.next() {
        Some('•' | '◦' | '▪' | '‣' | '∙' | '·' | '■' | '►' | '➢' | '✓' | '–') => {
            chars.next() == Some(' ')
        }
        Some('(') => {
            let label: String = chars.by_ref().take_while(|c| *c != ')').collect();
            !label.is_empty()
                && (label.len() <= 2 && label.chars().all(|c| c.is_ascii_digit())
                    || label.len() <= 4 && label.chars().all(|c| "ivxabcdefgh".contains(c)))
                && chars.next() == Some(' ')
        }
        _ => false,
    }
}

fn build(lines: Vec<Line>, measures: &Measures, vocabulary: &Vocabulary) -> Paragraph {
    let mut text = String::new();
    for line in &lines {
        append_line(&mut text, &line.text(), vocabulary);
    }
    let mut sizes: HashMap<i32, usize> = HashMap::new();
    for line in &lines {
        *sizes.entry((line.size * 10.0).round() as i32).or_default() += line.chars;
    }
    let size = sizes.iter().max_by_key(|(k, n)| (**n, **k)).map_or(10.0, |(k, _)| *k as f32 / 10.0);
    let first = &lines[0];
    let (left, _) = measures.edges(first);
    let indent = first.x0 - left;
    Paragraph {
        text: drop_soft_hyphens(&text),
        size,
        bold: lines.iter().filter(|l| l.chars > 2).all(|l| l.bold) && lines.iter().any(|l| l.bold),
        italic: lines.iter().filter(|l| l.chars > 2).all(|l| l.italic) && lines.iter().any(|l| l.italic),
        page: first.page,
        column: first.column,
        x0: lines.iter().map(|l| l.x0).fold(f32::INFINITY, f32::min),
        x1: lines.iter().map(|l| l.x1).fold(f32::NEG_INFINITY, f32::max),
        top: first.y,
        bottom: lines[lines.len() - 1].y,
        indented: indent > 0.7 * size && indent < 4.5 * size,
        lines,
    }
}

/// Adds a line to a text: joined where the text ends in a hyphenated word, else after a space.
pub(crate) fn append_line(text: &mut String, line: &str, vocabulary: &Vocabulary) {
    if text.is_empty() {
        text.push_str(line);
    } else if ends_in_hyphen(text) {
        vocabulary.join(text, line);
    } else {
        text.push(' ');
        text.push_str(line);
    }
}
