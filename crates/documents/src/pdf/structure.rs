//! Title, front matter, abstract, headed sections, captions, footnotes, tables and references, from paragraphs.

use super::paragraphs::{Measures, Paragraph, append_line, ends_sentence, starts_item};
use crate::headings::{Number, Role, bare_letter, opens_appendix, role, split_number};
use crate::references;
use crate::text::{Vocabulary, collapse, drop_soft_hyphens, ends_in_hyphen, has_word, word_count};
use crate::{Reference, Section, Table};
use std::collections::HashSet;

/// The parts of a paper.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) title: Option<String>,
    pub(crate) abstract_text: Option<String>,
    pub(crate) front_matter: Option<String>,
    pub(crate) sections: Vec<Section>,
    pub(crate) references: Vec<Reference>,
    pub(crate) tables: Vec<Table>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
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
struct Heading {
    label: Option<String>,
    number: Option<Number>,
    text: String,
    role: Option<Role>,
    level: u8,
}

/// Puts a paper together.
pub(crate) fn assemble(
    paragraphs: Vec<Paragraph>,
    measures: &Measures,
    vocabulary: &Vocabulary,
    metadata_title: Option<&str>,
) -> Parts {
    let paragraphs = split_run_in(paragraphs);
    let mut kinds = classify(&paragraphs, measures);
    let mut parts = Parts::default();
    let body_start = body_start(&paragraphs, &kinds, measures);
    let title = find_title(&paragraphs[..body_start.front], metadata_title);
    if let Some(found) = &title {
        parts.title = Some(found.text.clone());
    }
    let mut front: Vec<String> = Vec::new();
    let used = title.as_ref().map(|t| t.range.clone()).unwrap_or(0..0);
    for (i, paragraph) in paragraphs[..body_start.front].iter().enumerate() {
        if !used.contains(&i) {
            front.push(paragraph.text.clone());
        }
    }
    let mut builder = Builder { vocabulary, measures, parts, front, flow: None, appendix: false, reference_lines: Vec::new() };
    builder.body(&paragraphs, &mut kinds, body_start);
    builder.finish()
}

/// Run-in headings of the parts that matter: "Abstract. We show…", "References [1] …" become two paragraphs.
fn split_run_in(paragraphs: Vec<Paragraph>) -> Vec<Paragraph> {
    let mut out: Vec<Paragraph> = Vec::with_capacity(paragraphs.len());
    for paragraph in paragraphs {
        let lower: String = paragraph.text.chars().take(24).collect::<String>().to_lowercase();
        let lead = ["abstract", "summary", "keywords", "index terms", "key words"].into_iter().find(|w| {
            lower.strip_prefix(w).is_some_and(|rest| {
                let mut rest = rest.chars();
                match rest.next() {
                    Some('.' | ':' | '—' | '–' | '-') => true,
                    Some(' ') => {
                        let second = rest.next();
                        matches!(second, Some('—' | '–' | '-' | ':' | '.'))
                            || paragraph.lines[0].pieces[0].bold_lead >= w.len() && !paragraph.bold
                    }
                    _ => false,
                }
            })
        });
        match lead {
            Some(word) if paragraph.text.len() > word.len() + 12 => {
                let cut = paragraph.text.char_indices().nth(word.chars().count()).map_or(0, |(i, _)| i);
                let rest = paragraph.text[cut..]
                    .trim_start_matches(|c: char| c.is_whitespace() || ".:—–-".contains(c))
                    .to_owned();
                let mut heading = paragraph.clone();
                heading.text = paragraph.text[..cut].to_owned();
                heading.bold = true;
                heading.lines.truncate(1);
                let mut text = paragraph;
                text.text = rest;
                text.bold = false;
                out.push(heading);
                out.push(text);
            }
            _ => out.push(paragraph),
        }
    }
    out
}

fn classify(paragraphs: &[Paragraph], measures: &Measures) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::with_capacity(paragraphs.len());
    let mut sequence = Sequence::default();
    let mut styles: HashSet<(u16, i32)> = HashSet::new();
    let style = |p: &Paragraph| (p.lines[0].face, (p.size * 2.0).round() as i32);
    for (i, paragraph) in paragraphs.iter().enumerate() {
        let kind = if let Some(table) = caption(paragraph, measures) {
            Kind::Caption(table)
        } else if let Some(heading) = heading(paragraph, paragraphs.get(i.wrapping_sub(1)), paragraphs.get(i + 1), measures, &mut sequence) {
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
                || !numbered && i > first && paragraph.lines.len() <= 2 && paragraph.size > 0.97 * measures.body
                    && (paragraph.bold || paragraph.size > 1.12 * measures.body))
            && emphasised(paragraph, measures)
            && looks_like_heading(&paragraph.text, paragraph)
            && !statement(&paragraph.text)
            && paragraphs.get(i + 1).is_some_and(|next| {
                (kinds[i + 1] != Kind::Text || !emphasised(next, measures) || next.size < 0.93 * paragraph.size)
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
            q.page == caption.page && is_tabular(q) && (q.top - caption.bottom).abs() < 60.0 && matches!(kinds[i + 1], Kind::Text | Kind::FigureText)
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
    let in_references = kinds.iter().position(|k| matches!(k, Kind::Heading(h) if h.role == Some(Role::References)));
    for i in 0..paragraphs.len() {
        if kinds[i] != Kind::Text {
            continue;
        }
        let p = &paragraphs[i];
        let small = p.size < 0.93 * measures.body;
        let after_references = in_references.is_some_and(|r| i > r);
        if small && !after_references {
            let same_column = |q: &&Paragraph| {
                q.page == p.page && (q.column == p.column || q.column == 0 || p.column == 0) && (q.size - measures.body).abs() < 0.05 * measures.body && q.chars() > 30
            };
            let above = paragraphs.iter().filter(same_column).any(|q| q.bottom < p.top);
            let below = paragraphs.iter().filter(same_column).any(|q| q.top > p.bottom);
            let marked = p.lines[0].raised_start()
                || p.text.starts_with(['∗', '*', '†', '‡', '§', '¶'])
                || p.text.split(' ').next().is_some_and(|w| w.len() <= 2 && w.bytes().all(|b| b.is_ascii_digit()));
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

fn emphasised(p: &Paragraph, measures: &Measures) -> bool {
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
        "theorem", "lemma", "proposition", "corollary", "definition", "remark", "remarks", "proof", "example", "assumption", "claim",
        "algorithm", "input", "output", "require", "ensure", "fact", "conjecture", "hypothesis", "observation", "exercise", "condition",
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
        && text.chars().filter(|c| c.is_alphabetic()).count() * 2 > text.chars().filter(|c| !c.is_whitespace()).count()
}

#[derive(Default)]
struct Sequence {
    arabic: Vec<u32>,
    roman: u32,
    letter: Option<char>,
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
            Number::Roman(n) => *n > self.roman && *n <= self.roman + 2,
            Number::Letter(c, _) => match self.letter {
                None => *c <= 'B',
                Some(had) => *c >= 'A' && (*c as u32) <= had as u32 + 2,
            },
        }
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
    if p.lines.len() > 3 || text.chars().count() > 200 {
        return None;
    }
    let plain = text.trim_end_matches([':', '.']);
    let strong = emphasised(p, measures);
    if let Some(role) = role(plain) {
        let apart = after.is_none_or(|a| a.page != p.page || a.column != p.column || a.top - p.bottom > 0.9 * p.size);
        if (strong || p.italic || apart) && (p.size > if strong { 0.74 } else { 0.85 } * measures.body) && p.lines.len() == 1 {
            return Some(Heading { label: None, number: None, text: plain.to_owned(), role: Some(role), level: 1 });
        }
    }
    let (label, number, rest) = split_number(text)?;
    // "A Framework": the article stands a word space before its noun, a number further off.
    if bare_letter(text) && !number_apart(p) {
        return None;
    }
    let rest = rest.trim();
    let role = role(rest.trim_end_matches([':', '.']));
    let lone = |q: Option<&Paragraph>, gap: f32| {
        q.is_none_or(|q| q.page != p.page || q.column != p.column || gap.abs() > 1.15 * measures.leading)
    };
    let apart = lone(before, before.map_or(0.0, |b| p.top - b.bottom)) && lone(after, after.map_or(0.0, |a| a.top - p.bottom) * 1.12);
    let convincing = strong || p.italic && apart || role.is_some() || apart && p.lines.len() == 1;
    if !convincing
        || !has_word(rest, 2)
        || !rest.chars().next().is_some_and(|c| c.is_uppercase() || c.is_ascii_digit() || !c.is_alphabetic() || strong)
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

struct BodyStart {
    /// Paragraphs before this are front matter.
    front: usize,
}

fn body_start(paragraphs: &[Paragraph], kinds: &[Kind], measures: &Measures) -> BodyStart {
    let first = kinds.iter().zip(paragraphs).position(|(k, p)| {
        p.page <= 3
            && matches!(k, Kind::Heading(h) if h.role == Some(Role::Abstract)
                || h.role == Some(Role::Usual) && h.level == 1
                || h.number.as_ref().is_some_and(|n| matches!(n, Number::Arabic(a) if a.as_slice() == [1]) || matches!(n, Number::Roman(1))))
    });
    let limit = first.unwrap_or_else(|| paragraphs.iter().position(|p| p.page > 0).unwrap_or(paragraphs.len()));
    // An abstract without a heading: the first long paragraph before the first heading.
    let long = paragraphs[..limit].iter().position(|p| {
        word_count(&p.text) >= 45 && p.lines.len() >= 3 && p.size < 1.3 * measures.body && !crate::scrub::names_people(&p.text)
    });
    BodyStart { front: long.unwrap_or(limit) }
}

struct FoundTitle {
    text: String,
    range: std::ops::Range<usize>,
}

fn find_title(front: &[Paragraph], metadata: Option<&str>) -> Option<FoundTitle> {
    let first_page = front.first()?.page;
    let candidates: Vec<usize> = (0..front.len())
        .filter(|i| front[*i].page <= first_page + 1 && has_word(&front[*i].text, 3) && front[*i].chars() >= 6)
        .collect();
    let largest = candidates
        .iter()
        .copied()
        .filter(|i| front[*i].text.split_whitespace().count() >= 2 || candidates.len() == 1)
        .max_by(|a, b| front[*a].size.total_cmp(&front[*b].size).then(b.cmp(a)))
        .or_else(|| candidates.first().copied())?;
    let alike = |i: usize| (front[i].size - front[largest].size).abs() < 0.04 * front[largest].size;
    // Well above the rest, the size alone tells; else weight must agree.
    let others = front.iter().map(|p| p.size).filter(|s| *s < 0.96 * front[largest].size).fold(0.0f32, f32::max);
    let clear = front[largest].size > 1.15 * others;
    let bold_differs = |i: usize| !clear && front[i].bold != front[largest].bold;
    let mut start = largest;
    // With equal sizes the first of them is the title.
    while start > 0 && alike(start - 1) && !bold_differs(start - 1) && near(&front[start - 1], &front[start]) {
        start -= 1;
    }
    let mut end = start + 1;
    while end < front.len() && alike(end) && !bold_differs(end) && near(&front[end - 1], &front[end]) && end - start < 6 {
        end += 1;
    }
    let mut text = String::new();
    for p in &front[start..end] {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&p.text);
    }
    let text = clean_title(&text);
    // The file's own idea of its title, where it stands on the page in these letters.
    if let Some(meta) = metadata.map(collapse)
        && word_count(&meta) >= 2
        && letters(&meta) == letters(&text)
    {
        return Some(FoundTitle { text: meta, range: start..end });
    }
    Some(FoundTitle { text, range: start..end })
}

fn near(above: &Paragraph, below: &Paragraph) -> bool {
    above.page == below.page && below.top - above.bottom < 2.4 * above.size.max(below.size) && below.top > above.bottom - 1.0
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn clean_title(text: &str) -> String {
    let text = collapse(text);
    let cut = text.trim_end_matches(|c: char| "∗*†‡§¶^ ".contains(c));
    let cut = match cut.rfind('^') {
        Some(i) if i + 3 >= cut.len() => &cut[..i],
        _ => cut,
    };
    cut.to_owned()
}

struct Builder<'v> {
    vocabulary: &'v Vocabulary,
    measures: &'v Measures,
    parts: Parts,
    front: Vec<String>,
    /// The last paragraph of the running text, which the next one may continue.
    flow: Option<Flow>,
    appendix: bool,
    reference_lines: Vec<super::lines::Line>,
}

struct Flow {
    /// Index of the paragraph among those of the section that is being written.
    index: usize,
    page: usize,
    column: u8,
    full_last_line: bool,
}

#[derive(PartialEq, Clone, Copy)]
enum State {
    Front,
    Abstract,
    Skip,
    Sections,
    References,
}

impl Builder<'_> {
    fn body(&mut self, paragraphs: &[Paragraph], kinds: &mut [Kind], start: BodyStart) {
        let mut state = State::Front;
        let mut open: Vec<String> = Vec::new();
        let mut current: Option<Section> = None;
        let mut abstract_paragraphs: Vec<String> = Vec::new();
        let mut abstract_size = 0.0f32;
        let mut notes: Vec<String> = Vec::new();
        let mut i = start.front;
        if !matches!(kinds.get(i), Some(Kind::Heading(_))) && i < paragraphs.len() {
            let headed_later = kinds[i..].iter().any(|k| matches!(k, Kind::Heading(h) if h.role == Some(Role::Abstract)));
            if word_count(&paragraphs[i].text) >= 45 && !headed_later {
                state = State::Abstract;
                abstract_size = paragraphs[i].size;
            } else {
                state = State::Sections;
            }
        }
        while i < paragraphs.len() {
            let p = &paragraphs[i];
            match &kinds[i] {
                Kind::Heading(h) => {
                    if state == State::References && !self.leaves_references(h, p) {
                        self.reference_lines.extend(p.lines.iter().cloned());
                        i += 1;
                        continue;
                    }
                    self.close(&mut current, &mut open, &mut notes);
                    self.flow = None;
                    match h.role {
                        Some(Role::Abstract) if abstract_paragraphs.is_empty() && self.parts.sections.len() <= 1 => {
                            state = State::Abstract;
                            abstract_size = paragraphs.get(i + 1).map_or(p.size, |n| n.size);
                        }
                        Some(Role::Keywords) => state = State::Skip,
                        Some(Role::References) if self.parts.references.is_empty() && self.reference_lines.is_empty() => {
                            state = State::References
                        }
                        _ => {
                            state = State::Sections;
                            if opens_appendix(&h.text)
                                || p.text.to_lowercase().starts_with("appendix")
                                || matches!(h.number, Some(Number::Letter(..))) && h.level == 1
                            {
                                self.appendix = true;
                            }
                            current = Some(Section {
                                level: h.level,
                                number: h.label.clone(),
                                heading: h.text.clone(),
                                text: String::new(),
                                page: Some(p.page + 1),
                                appendix: self.appendix,
                            });
                        }
                    }
                }
                Kind::Footnote if state == State::Abstract && abstract_paragraphs.is_empty() => {
                    self.push_flow(&mut abstract_paragraphs, p);
                }
                Kind::Footnote => {
                    if p.page == 0 && crate::scrub::is_front_note(&p.text) {
                        self.front.push(p.text.clone());
                    } else {
                        notes.push(footnote(p));
                    }
                }
                Kind::FigureText | Kind::RowsOf(_) => {}
                Kind::Caption(table) => {
                    let (text, next) = self.caption(paragraphs, kinds, i, *table);
                    if state == State::References || state == State::Front {
                        state = if state == State::References { state } else { State::Sections };
                    }
                    if state == State::Abstract || state == State::References {
                        notes.push(text);
                    } else {
                        self.ensure(&mut current, p);
                        open.push(text);
                    }
                    i = next;
                    continue;
                }
                Kind::Text => match state {
                    State::Abstract => {
                        let words: usize = abstract_paragraphs.iter().map(|t| word_count(t)).sum();
                        let other_size = (p.size - abstract_size).abs() > 0.05 * abstract_size;
                        if words >= 40 && (other_size && p.chars() > 40 || words > 600) {
                            state = State::Sections;
                            continue;
                        }
                        let is_front = p.page == 0 && crate::scrub::is_front_note(&p.text);
                        if is_front && words > 0 {
                            self.front.push(p.text.clone());
                        } else {
                            self.push_flow(&mut abstract_paragraphs, p);
                        }
                    }
                    State::Skip => {
                        if word_count(&p.text) > 40 {
                            state = State::Sections;
                            continue;
                        }
                        self.front.push(p.text.clone());
                    }
                    State::References => self.reference_lines.extend(p.lines.iter().cloned()),
                    State::Front | State::Sections => {
                        state = State::Sections;
                        self.ensure(&mut current, p);
                        self.push_flow(&mut open, p);
                    }
                },
            }
            i += 1;
        }
        self.close(&mut current, &mut open, &mut notes);
        if !abstract_paragraphs.is_empty() {
            self.parts.abstract_text = Some(abstract_paragraphs.join("\n\n"));
        }
    }

    fn ensure(&mut self, current: &mut Option<Section>, p: &Paragraph) {
        if current.is_none() {
            *current = Some(Section {
                level: 0,
                number: None,
                heading: String::new(),
                text: String::new(),
                page: Some(p.page + 1),
                appendix: self.appendix,
            });
            self.flow = None;
        }
    }

    fn close(&mut self, current: &mut Option<Section>, open: &mut Vec<String>, notes: &mut Vec<String>) {
        match current.take() {
            Some(mut section) => {
                open.append(notes);
                section.text = open.join("\n\n");
                open.clear();
                self.parts.sections.push(section);
            }
            // Notes met in the abstract wait for the first section.
            None => open.clear(),
        }
    }

    /// Adds a paragraph of running text: as a new one, or as the rest of the last one.
    fn push_flow(&mut self, open: &mut Vec<String>, p: &Paragraph) {
        let continues = self.flow.as_ref().is_some_and(|flow| {
            open.get(flow.index).is_some_and(|last| {
                let unfinished = !ends_sentence(last);
                let lower = p.text.chars().next().is_some_and(|c| c.is_lowercase());
                let moved = flow.page != p.page || flow.column != p.column;
                let fragment = p.chars() <= 6 && !moved;
                unfinished && (ends_in_hyphen(last) || lower || fragment || moved && flow.full_last_line && !p.indented)
                    && !starts_item(&p.text)
            })
        });
        let (_, right) = self.measures.edges(&p.lines[p.lines.len() - 1]);
        let full_last_line = p.lines.last().is_some_and(|l| l.x1 > right - 2.0 * l.size);
        let index = match (&self.flow, continues) {
            (Some(flow), true) => {
                let index = flow.index;
                append_line(&mut open[index], &p.text, self.vocabulary);
                index
            }
            _ => {
                open.push(p.text.clone());
                open.len() - 1
            }
        };
        self.flow = Some(Flow { index, page: p.page, column: p.column, full_last_line });
    }

    /// A caption with, for a table, the rows beside it; and the index of the paragraph to go on with.
    fn caption(&mut self, paragraphs: &[Paragraph], kinds: &mut [Kind], i: usize, table: bool) -> (String, usize) {
        let p = &paragraphs[i];
        let mut text = p.text.clone();
        let mut next = i + 1;
        // A caption's further paragraphs: same size, right below.
        while let Some(q) = paragraphs.get(next)
            && matches!(kinds[next], Kind::Text | Kind::FigureText | Kind::Footnote)
            && q.page == p.page
            && !ends_sentence(&text)
            && (q.size - p.size).abs() < 0.3
            && q.top > p.bottom
            && q.top - paragraphs[next - 1].bottom < 1.3 * self.measures.leading
            && !is_tabular(q)
        {
            append_line(&mut text, &q.text, self.vocabulary);
            next += 1;
        }
        if !table {
            return (text, next);
        }
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (q, _) in paragraphs.iter().zip(kinds.iter()).filter(|(_, k)| **k == Kind::RowsOf(i)) {
            rows.extend(q.lines.iter().map(|l| l.cells(0.8 * l.size)));
        }
        let mut last = p.bottom;
        while let Some(q) = paragraphs.get(next)
            && !matches!(kinds[next], Kind::Heading(_) | Kind::Caption(_))
            && q.page == p.page
            && is_tabular(q)
            && (q.top - last).abs() < 60.0
        {
            rows.extend(q.lines.iter().map(|l| l.cells(0.8 * l.size)));
            last = q.bottom;
            next += 1;
        }
        for row in &rows {
            text.push('\n');
            text.push_str(&row.join(" | "));
        }
        self.parts.tables.push(Table { caption: p.text.clone(), rows, page: Some(p.page + 1) });
        (text, next)
    }

    fn leaves_references(&self, heading: &Heading, p: &Paragraph) -> bool {
        if opens_appendix(&heading.text) || p.text.to_lowercase().starts_with("appendix") {
            return true;
        }
        match (&heading.number, heading.role) {
            (_, Some(Role::References)) => false,
            (_, Some(_)) => emphasised(p, self.measures),
            (Some(Number::Letter(..)), _) => emphasised(p, self.measures),
            (Some(Number::Arabic(_) | Number::Roman(_)), _) => p.bold || p.size > 1.1 * self.measures.body,
            (None, None) => p.bold && p.size >= self.measures.body || p.size > 1.12 * self.measures.body,
        }
    }

    fn finish(mut self) -> Parts {
        self.parts.references = split_references(&self.reference_lines, self.measures, self.vocabulary);
        let front = self.front.join("\n");
        self.parts.front_matter = (!front.trim().is_empty()).then(|| front.trim().to_owned());
        self.parts
    }
}

/// Rows of cells rather than sentences.
fn is_tabular(p: &Paragraph) -> bool {
    let rows = p.lines.iter().filter(|l| l.cells(0.8 * l.size).len() >= 2).count();
    let words = word_count(&p.text);
    rows * 2 >= p.lines.len().max(1) && !(words > 12 * p.lines.len())
        || p.lines.len() == 1 && words <= 4 && !ends_sentence(&p.text)
}

fn footnote(p: &Paragraph) -> String {
    let text = p.text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=2).contains(&digits) && p.lines[0].raised_start() {
        return format!("Footnote {}: {}", &text[..digits], text[digits..].trim_start_matches(['^', ' ']));
    }
    format!("Footnote: {}", text.trim_start_matches(['^', ' ']))
}

/// Cuts the lines of the bibliography into entries: by labels, by hanging indents, by gaps.
fn split_references(lines: &[super::lines::Line], measures: &Measures, vocabulary: &Vocabulary) -> Vec<Reference> {
    let texts: Vec<String> = lines.iter().map(|l| l.text()).collect();
    let starts = reference_starts(lines, &texts, measures);
    let mut out = Vec::new();
    let mut current = String::new();
    for (text, start) in texts.iter().zip(&starts) {
        if *start && !current.is_empty() {
            out.push(references::entry(&drop_soft_hyphens(&std::mem::take(&mut current))));
        }
        append_line(&mut current, text, vocabulary);
    }
    if !current.trim().is_empty() {
        out.push(references::entry(&drop_soft_hyphens(&current)));
    }
    out.retain(|r| has_word(&r.text, 3));
    out
}

fn reference_starts(lines: &[super::lines::Line], texts: &[String], measures: &Measures) -> Vec<bool> {
    let labelled: Vec<bool> = texts.iter().map(|t| references::split_label(t).is_some()).collect();
    let labels = labelled.iter().filter(|b| **b).count();
    if labels >= 2 && labels * 8 >= lines.len() && labelled.first() == Some(&true) {
        return labelled;
    }
    // The edge of this bibliography in each column of each page.
    let mut edges: std::collections::HashMap<(usize, u8), f32> = std::collections::HashMap::new();
    for line in lines {
        let edge = edges.entry((line.page, line.column)).or_insert(f32::INFINITY);
        *edge = edge.min(line.x0);
    }
    let indent = |l: &super::lines::Line| l.x0 - edges.get(&(l.page, l.column)).copied().unwrap_or(l.x0);
    let hanging = lines.iter().filter(|l| indent(l) > 0.45 * l.size).count();
    if hanging * 5 >= lines.len() && hanging < lines.len() {
        return lines.iter().map(|l| indent(l) <= 0.45 * l.size).collect();
    }
    let mut starts = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        let start = match i.checked_sub(1).map(|j| &lines[j]) {
            None => true,
            Some(last) if last.page != line.page || last.column != line.column => {
                texts[i - 1].trim_end().ends_with('.') && texts[i].starts_with(|c: char| c.is_uppercase())
            }
            Some(last) => line.y - last.y > 1.18 * measures.leading * (line.size / measures.body),
        };
        starts.push(start);
    }
    starts
}
