//! The paper that the reader writes while it walks through the source: where text goes, numbers, labels, references.

use super::files::missing;
use crate::headings::{Role, opens_appendix, role};
use crate::references::title_of;
use crate::text::{collapse, word_count};
use crate::{Finding, Reference, Section, Table};
use std::collections::HashMap;

/// Marks around a label whose number is not known yet.
pub(crate) const LABEL_START: char = '\u{e000}';
pub(crate) const LABEL_END: char = '\u{e001}';
/// Stands where `\newblock` stood.
pub(crate) const BLOCK: char = '\u{e002}';

/// Where running text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before `\begin{document}`.
    Nowhere,
    /// Title page.
    Front,
    Abstract,
    Section,
    /// A bibliography of `\bibitem`s.
    Bibliography,
    /// A section called "References" that holds a plain list.
    ReferenceList,
}

/// What a label or a caption counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// "Section", "Figure", "Equation", …
    pub(crate) name: String,
    pub(crate) number: String,
}

/// The paper so far.
#[derive(Debug)]
pub(crate) struct Paper {
    pub(crate) title: Option<String>,
    pub(crate) front: Vec<String>,
    pub(crate) summary: Vec<String>,
    pub(crate) sections: Vec<Section>,
    pub(crate) references: Vec<Reference>,
    pub(crate) tables: Vec<Table>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) place: Place,
    /// Keys in the order of their citation.
    pub(crate) cited: Vec<String>,
    /// Files of `\bibliography`.
    pub(crate) bibliographies: Vec<String>,
    pub(crate) cites_all: bool,
    pub(crate) appendix: bool,
    /// A class with chapters.
    pub(crate) book: bool,
    pub(crate) last: Option<Counted>,
    labels: HashMap<String, Counted>,
    counters: HashMap<String, u32>,
    sections_numbers: [u32; 4],
    open_reference: Option<(String, Option<String>)>,
}

impl Default for Paper {
    fn default() -> Self {
        Paper {
            title: None,
            front: Vec::new(),
            summary: Vec::new(),
            sections: Vec::new(),
            references: Vec::new(),
            tables: Vec::new(),
            findings: Vec::new(),
            place: Place::Nowhere,
            cited: Vec::new(),
            bibliographies: Vec::new(),
            cites_all: false,
            appendix: false,
            book: false,
            last: None,
            labels: HashMap::new(),
            counters: HashMap::new(),
            sections_numbers: [0; 4],
            open_reference: None,
        }
    }
}

impl Paper {
    /// Adds a finished paragraph.
    pub(crate) fn paragraph(&mut self, text: String) {
        match self.place {
            Place::Nowhere => {}
            Place::Front if word_count(&text) < 50 => self.front.push(text),
            Place::Abstract => self.summary.push(text),
            Place::Front | Place::Section => {
                self.place = Place::Section;
                if self.sections.is_empty() {
                    self.sections.push(Section {
                        level: 0,
                        number: None,
                        heading: String::new(),
                        text: String::new(),
                        page: None,
                        appendix: false,
                    });
                }
                if let Some(section) = self.sections.last_mut() {
                    if !section.text.is_empty() {
                        section.text.push_str("\n\n");
                    }
                    section.text.push_str(&text);
                }
            }
            Place::Bibliography => self.reference_text(&text),
            Place::ReferenceList => {
                self.references.push(crate::references::entry(text.trim_start_matches(['-', ' '])));
            }
        }
    }

    /// Begins a section; `depth` 0 chapter, 1 section, 2 subsection, 3 below.
    pub(crate) fn heading(&mut self, depth: usize, numbered: bool, heading: String) {
        match role(&heading) {
            Some(Role::Abstract) if self.summary.is_empty() && self.sections.len() <= 1 => {
                self.place = Place::Abstract;
                return;
            }
            Some(Role::References) if self.references.is_empty() => {
                self.place = Place::ReferenceList;
                return;
            }
            _ => {}
        }
        let top = usize::from(!self.book);
        let number = numbered.then(|| {
            self.sections_numbers[depth] += 1;
            self.sections_numbers[depth + 1..].fill(0);
            let parts: Vec<String> = (top..=depth)
                .map(|d| {
                    let n = self.sections_numbers[d];
                    if d == top && self.appendix { letter(n) } else { n.to_string() }
                })
                .collect();
            parts.join(".")
        });
        if let Some(number) = &number {
            let name = if self.appendix {
                "Appendix"
            } else if depth == 0 {
                "Chapter"
            } else {
                "Section"
            };
            self.last = Some(Counted { name: name.into(), number: number.clone() });
        }
        let appendix = self.appendix || opens_appendix(&heading);
        let level = (depth + usize::from(self.book)).clamp(1, 3) as u8;
        self.sections.push(Section { level, number, heading, text: String::new(), page: None, appendix });
        self.place = Place::Section;
    }

    /// From here on headings have letters.
    pub(crate) fn begin_appendix(&mut self) {
        self.appendix = true;
        self.sections_numbers = [0; 4];
    }

    /// Counts one more of a kind ("Figure").
    pub(crate) fn count(&mut self, name: &str) -> String {
        let n = self.counters.entry(name.to_owned()).or_default();
        *n += 1;
        let number = n.to_string();
        self.last = Some(Counted { name: name.to_owned(), number: number.clone() });
        number
    }

    /// Gives the last counted thing a label.
    pub(crate) fn label(&mut self, key: &str) {
        if let Some(last) = &self.last {
            self.labels.insert(key.to_owned(), last.clone());
        }
    }

    /// Begins a bibliography entry.
    pub(crate) fn begin_reference(&mut self, key: String) {
        self.end_reference();
        self.open_reference = Some((key, None));
    }

    fn reference_text(&mut self, text: &str) {
        if let Some((_, body)) = &mut self.open_reference {
            let body = body.get_or_insert_with(String::new);
            if !body.is_empty() {
                body.push(' ');
            }
            body.push_str(text);
        }
    }

    /// Ends the open entry.
    pub(crate) fn end_reference(&mut self) {
        if let Some((key, Some(body))) = self.open_reference.take() {
            let blocks: Vec<&str> = body.split(BLOCK).map(str::trim).collect();
            let title = match blocks.as_slice() {
                [_, title, ..] if word_count(title) >= 1 => {
                    Some(title.trim_end_matches(['.', ',', ' ']).trim_matches(['“', '”', '"']).to_owned())
                }
                [one] => title_of(&collapse(one)),
                _ => None,
            };
            let text = collapse(&body.replace(BLOCK, " "));
            if !text.is_empty() {
                self.references.push(Reference { key: Some(key), text, title });
            }
        }
    }

    /// Notes a file that is named but absent, once.
    pub(crate) fn missing_file(&mut self, name: &str) {
        let finding = missing(name);
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Puts numbers in the place of labels, everywhere.
    pub(crate) fn resolve_labels(&mut self) {
        let labels = std::mem::take(&mut self.labels);
        let texts = self
            .sections
            .iter_mut()
            .flat_map(|s| [&mut s.text, &mut s.heading])
            .chain(self.summary.iter_mut())
            .chain(self.front.iter_mut())
            .chain(self.title.iter_mut())
            .chain(
                self.tables
                    .iter_mut()
                    .flat_map(|t| std::iter::once(&mut t.caption).chain(t.rows.iter_mut().flatten())),
            )
            .chain(self.references.iter_mut().map(|r| &mut r.text));
        for text in texts {
            if text.contains(LABEL_START) {
                *text = resolve(text, &labels);
            }
        }
    }
}

fn resolve(text: &str, labels: &HashMap<String, Counted>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(LABEL_START) {
        out.push_str(before);
        let Some((mark, after)) = after.split_once(LABEL_END) else {
            rest = after;
            break;
        };
        // "n:" the number alone, "t:" with its name.
        let (kind, keys) = mark.split_once(':').unwrap_or(("n", mark));
        let mut first = true;
        for key in keys.split(',') {
            if let Some(counted) = labels.get(key.trim()) {
                if !first {
                    out.push_str(", ");
                }
                if kind == "t" && first {
                    out.push_str(&counted.name);
                    out.push(' ');
                }
                out.push_str(&counted.number);
                first = false;
            }
        }
        if first {
            // An unknown label prints as two question marks in LaTeX too.
            out.push_str("??");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn letter(n: u32) -> String {
    match n {
        1..=26 => char::from(b'A' + (n - 1) as u8).to_string(),
        n => n.to_string(),
    }
}
