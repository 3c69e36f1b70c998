//! Plain text and Markdown.

use crate::headings::{Role, bare_letter, opens_appendix, role, split_number};
use crate::references;
use crate::text::{Vocabulary, collapse, ends_in_hyphen, word_count};
use crate::{Document, Reference, Section, Source};

/// A paper written as plain text or Markdown (`#` headings).
pub(crate) fn read_text(text: &str, markdown: bool, sha256: String) -> Document {
    let blocks = blocks(text, markdown);
    let mut document = Document {
        source: if markdown { Source::Markdown } else { Source::Text },
        sha256,
        title: None,
        abstract_text: None,
        front_matter: None,
        sections: Vec::new(),
        references: Vec::new(),
        tables: Vec::new(),
        pages: None,
        findings: Vec::new(),
    };
    let mut blocks = blocks.into_iter().peekable();
    // A title: the first heading, or a first short block that more text follows.
    let several = blocks.len() > 1;
    let first = blocks.next_if(|b| match b {
        Block::Heading { level, text, role, .. } => {
            *level == 1 && role.is_none() && (bare_letter(text) || split_number(text).is_none())
        }
        Block::Text(t) => {
            several && t.lines().count() <= 3 && word_count(t) <= 30 && !t.trim_end().ends_with('.')
        }
    });
    if let Some(Block::Heading { text, .. } | Block::Text(text)) = first {
        document.title = Some(collapse(&text));
    }
    let title_level = if document.title.is_some() && markdown { 1 } else { 0 };
    let mut target = Target::Front;
    let mut front: Vec<String> = Vec::new();
    let mut summary: Vec<String> = Vec::new();
    let mut references: Vec<String> = Vec::new();
    let mut appendix = false;
    for block in blocks {
        match block {
            Block::Heading { level, number, text, role } => {
                target = match role {
                    Some(Role::Abstract) => Target::Abstract,
                    Some(Role::References) => Target::References,
                    _ => {
                        appendix = appendix || opens_appendix(&text);
                        document.sections.push(Section {
                            level: level.saturating_sub(title_level).clamp(1, 3),
                            number,
                            heading: text,
                            text: String::new(),
                            page: None,
                            appendix,
                        });
                        Target::Section
                    }
                };
            }
            Block::Text(text) => match target {
                Target::Front if word_count(&text) < 40 && document.title.is_some() => front.push(text),
                Target::Front | Target::Section => {
                    target = Target::Section;
                    if document.sections.is_empty() {
                        document.sections.push(Section {
                            level: 0,
                            number: None,
                            heading: String::new(),
                            text: String::new(),
                            page: None,
                            appendix: false,
                        });
                    }
                    if let Some(section) = document.sections.last_mut() {
                        if !section.text.is_empty() {
                            section.text.push_str("\n\n");
                        }
                        section.text.push_str(&text);
                    }
                }
                Target::Abstract => summary.push(text),
                Target::References => references.push(text),
            },
        }
    }
    document.front_matter = (!front.is_empty()).then(|| front.join("\n"));
    document.abstract_text = (!summary.is_empty()).then(|| summary.join("\n\n"));
    document.references = entries(&references);
    document
}

enum Target {
    Front,
    Abstract,
    Section,
    References,
}

enum Block {
    Heading { level: u8, number: Option<String>, text: String, role: Option<Role> },
    Text(String),
}

fn blocks(text: &str, markdown: bool) -> Vec<Block> {
    let mut vocabulary = Vocabulary::default();
    let mut after = false;
    for line in text.lines() {
        vocabulary.learn(line, after);
        after = ends_in_hyphen(line.trim_end());
    }
    let mut out = Vec::new();
    let mut current: Vec<&str> = Vec::new();
    let mut fence = false;
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        if markdown && (trimmed.starts_with("```") || trimmed.starts_with("~~~")) {
            fence = !fence;
        }
        if fence {
            current.push(line);
            continue;
        }
        if trimmed.is_empty() {
            flush(&mut current, &mut out, markdown, &vocabulary);
            continue;
        }
        let hashes = trimmed.bytes().take_while(|b| *b == b'#').count();
        if (1..=6).contains(&hashes) && trimmed[hashes..].starts_with(' ') {
            flush(&mut current, &mut out, markdown, &vocabulary);
            out.push(heading(trimmed[hashes..].trim().trim_end_matches('#').trim(), hashes as u8));
            continue;
        }
        let blank = |j: Option<usize>| j.is_none_or(|j| lines.get(j).is_none_or(|l| l.trim().is_empty()));
        if !markdown && current.is_empty() && blank(i.checked_sub(1)) {
            let bare = trimmed.trim_end_matches(':');
            let lone = blank(Some(i + 1));
            if role(bare).is_some() {
                out.push(heading(bare, 1));
                continue;
            }
            if lone
                && trimmed.len() < 100
                && !trimmed.ends_with('.')
                && !bare_letter(trimmed)
                && let Some((_, number, rest)) = split_number(trimmed)
                && rest.chars().next().is_some_and(char::is_uppercase)
            {
                let level = number.level();
                out.push(heading(trimmed, level));
                continue;
            }
        }
        current.push(line);
    }
    flush(&mut current, &mut out, markdown, &vocabulary);
    out
}

fn heading(text: &str, level: u8) -> Block {
    let text = text.trim_matches(|c: char| c == '*' || c == '_').trim();
    match split_number(text) {
        Some((label, _, rest)) if !rest.is_empty() && !bare_letter(text) => {
            Block::Heading { level, number: Some(label), text: rest.to_owned(), role: role(rest) }
        }
        _ => Block::Heading {
            level,
            number: None,
            text: text.to_owned(),
            role: role(text.trim_end_matches(':')),
        },
    }
}

fn flush(current: &mut Vec<&str>, out: &mut Vec<Block>, markdown: bool, vocabulary: &Vocabulary) {
    let lines = std::mem::take(current);
    if lines.is_empty() {
        return;
    }
    // Lists, tables and code keep their lines.
    let keeps_lines = markdown
        && lines.iter().any(|l| {
            let t = l.trim_start();
            t.starts_with(['|', '>', '-', '*', '+', '`', '~']) || l.starts_with("    ")
        });
    if keeps_lines {
        out.push(Block::Text(lines.join("\n").trim_end().to_owned()));
        return;
    }
    let mut text = String::new();
    for line in lines {
        let line = collapse(line);
        if text.is_empty() {
            text = line;
        } else if ends_in_hyphen(&text) {
            vocabulary.join(&mut text, &line);
        } else {
            text.push(' ');
            text.push_str(&line);
        }
    }
    out.push(Block::Text(text));
}

fn entries(blocks: &[String]) -> Vec<Reference> {
    let mut out = Vec::new();
    for block in blocks {
        let items: Vec<&str> = block.lines().collect();
        if items.len() > 1 {
            out.extend(items.iter().map(|l| references::entry(l.trim_start_matches(['-', '*', ' ']))));
        } else {
            // Several labelled entries in one paragraph.
            let mut rest = block.as_str();
            while let Some(at) = rest[1.min(rest.len())..].find(" [").map(|i| i + 1)
                && references::split_label(&rest[at..])
                    .is_some_and(|(l, _)| l.bytes().all(|b| b.is_ascii_digit()))
                && rest.starts_with('[')
            {
                out.push(references::entry(&rest[..at]));
                rest = &rest[at + 1..];
            }
            out.push(references::entry(rest.trim_start_matches(['-', '*', ' '])));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_gives_title_abstract_sections_and_references() {
        let text = "# A Study of Things\n\nJane Doe\n\n## Abstract\n\nWe study things.\n\n## 1 Introduction\n\nThings are every-\nwhere.\n\n### 1.1 Detail\n\n- one\n- two\n\n## References\n\n[1] A. Author. A title of note. 2001.\n[2] B. Author. Another title here. 2002.\n";
        let d = read_text(text, true, String::new());
        assert_eq!(d.title.as_deref(), Some("A Study of Things"));
        assert_eq!(d.front_matter.as_deref(), Some("Jane Doe"));
        assert_eq!(d.abstract_text.as_deref(), Some("We study things."));
        let heads: Vec<_> =
            d.sections.iter().map(|s| (s.level, s.number.as_deref(), s.heading.as_str())).collect();
        assert_eq!(heads, [(1, Some("1"), "Introduction"), (2, Some("1.1"), "Detail")]);
        assert_eq!(d.sections[0].text, "Things are everywhere.");
        assert_eq!(d.references.len(), 2);
    }

    #[test]
    fn plain_text_knows_the_usual_headings() {
        let text = "A Study of Things\n\nAbstract\n\nWe study.\n\n1 Introduction\n\nThings are many.\n\n2. Results\n\nGood ones.\n";
        let d = read_text(text, false, String::new());
        assert_eq!(d.title.as_deref(), Some("A Study of Things"));
        assert_eq!(d.abstract_text.as_deref(), Some("We study."));
        assert_eq!(
            d.sections.iter().map(|s| s.heading.as_str()).collect::<Vec<_>>(),
            ["Introduction", "Results"]
        );
    }
}
