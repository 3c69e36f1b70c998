//! Title, front matter, abstract, headed sections, captions, footnotes, tables and references, from paragraphs.

use super::classify::{Heading, Kind, classify, emphasised, is_tabular};
use super::entries::split_references;
use super::paragraphs::{KEYWORDS, Measures, Paragraph, append_line, ends_sentence, starts_item};
use super::title::{BodyStart, body_start, find_title};
use crate::headings::{Number, Role, opens_appendix};
use crate::text::{Vocabulary, ends_in_hyphen, word_count};
use crate::{Reference, Section, Table};

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
    let mut builder = Builder {
        vocabulary,
        measures,
        parts,
        front,
        flow: None,
        appendix: false,
        reference_lines: Vec::new(),
    };
    builder.body(&paragraphs, &mut kinds, body_start);
    builder.finish()
}

/// Run-in headings of the parts that matter: "Abstract. We show…", "References [1] …" become two paragraphs.
fn split_run_in(paragraphs: Vec<Paragraph>) -> Vec<Paragraph> {
    let mut out: Vec<Paragraph> = Vec::with_capacity(paragraphs.len());
    for paragraph in paragraphs {
        let lower: String = paragraph.text.chars().take(48).collect::<String>().to_lowercase();
        let leads = ["abstract", "summary"].into_iter().chain(KEYWORDS);
        let lead = leads.into_iter().find(|w| {
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
    size: f32,
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
            let headed_later =
                kinds[i..].iter().any(|k| matches!(k, Kind::Heading(h) if h.role == Some(Role::Abstract)));
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
                // The foot of the title page, which the drawing order puts between two columns.
                Kind::Text
                    if p.page == 0 && state != State::References && crate::scrub::is_imprint(&p.text) =>
                {
                    self.front.push(p.text.clone());
                }
                Kind::Heading(h) => {
                    if state == State::References && !self.leaves_references(h, p) {
                        self.reference_lines.extend(p.lines.iter().cloned());
                        i += 1;
                        continue;
                    }
                    self.close(&mut current, &mut open, &mut notes);
                    self.flow = None;
                    match h.role {
                        Some(Role::Abstract)
                            if abstract_paragraphs.is_empty() && self.parts.sections.len() <= 1 =>
                        {
                            state = State::Abstract;
                            abstract_size = paragraphs.get(i + 1).map_or(p.size, |n| n.size);
                        }
                        Some(Role::Keywords) => state = State::Skip,
                        Some(Role::References)
                            if self.parts.references.is_empty() && self.reference_lines.is_empty() =>
                        {
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
        // Labels of a figure between two halves of a sentence: the sentence waits for its other half.
        let interrupts = self.flow.as_ref().is_some_and(|flow| {
            p.chars() > 6
                && p.size < 0.9 * flow.size
                && open.get(flow.index).is_some_and(|last| !ends_sentence(last))
        });
        if interrupts {
            return open.push(p.text.clone());
        }
        let continues = self.flow.as_ref().is_some_and(|flow| {
            open.get(flow.index).is_some_and(|last| {
                let unfinished = !ends_sentence(last);
                let lower = p.text.chars().next().is_some_and(|c| c.is_lowercase());
                let moved = flow.page != p.page || flow.column != p.column;
                let fragment = p.chars() <= 6 && !moved;
                unfinished
                    && (ends_in_hyphen(last)
                        || lower
                        || fragment
                        || moved && flow.full_last_line && !p.indented)
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
        self.flow = Some(Flow { index, page: p.page, column: p.column, size: p.size, full_last_line });
    }

    /// A caption with, for a table, the rows beside it; and the index of the paragraph to go on with.
    fn caption(
        &mut self,
        paragraphs: &[Paragraph],
        kinds: &mut [Kind],
        i: usize,
        table: bool,
    ) -> (String, usize) {
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

fn footnote(p: &Paragraph) -> String {
    let text = p.text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=2).contains(&digits) && p.lines[0].raised_start() {
        return format!("Footnote {}: {}", &text[..digits], text[digits..].trim_start_matches(['^', ' ']));
    }
    format!("Footnote: {}", text.trim_start_matches(['^', ' ']))
}
