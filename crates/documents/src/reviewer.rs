//! What a reviewer reads: the scrubbed paper as Markdown, within a budget of tokens.

use crate::scrub::scrub;
use crate::{Document, Section};
use serde::{Deserialize, Serialize};

/// How much of a paper a reviewer may read.
pub struct TextBudget<'a> {
    /// Most tokens of the text; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// Counts the tokens of a text, as the model will.
    pub count: &'a dyn Fn(&str) -> usize,
    /// Whether the bibliography is wanted (where there is room).
    pub references: bool,
    /// Whether appendices are wanted (where there is room).
    pub appendix: bool,
}

/// A reviewer's text, and what is not in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviewerText {
    /// Markdown: `# title`, `## Abstract`, sections, references.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Tokens of the whole wanted text, before anything was cut for lack of room.
    pub tokens_wanted: usize,
    /// What was left out or shortened for lack of room, in words; empty if nothing was.
    pub cut: Vec<String>,
    /// Each section of the body with the share of its text that was kept, from 0 to 1.
    pub sections: Vec<KeptSection>,
}

/// How much of a section a reviewer reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptSection {
    /// Number and heading.
    pub heading: String,
    /// From 0 (left out) to 1 (whole).
    pub kept: f32,
}

const SHORTENED: &str = "[The rest of this section was left out for lack of room.]";

/// The scrubbed paper as Markdown. Over budget, the appendix goes first, then the references, then every section loses
/// its end in the same proportion; each of these is named in `cut`.
pub fn reviewer_text(document: &Document, budget: &TextBudget<'_>) -> ReviewerText {
    let document = scrub(document);
    let (body, appendix): (Vec<&Section>, Vec<&Section>) =
        document.sections.iter().partition(|s| !s.appendix);
    let head = head(&document);
    let references = if budget.references { references(&document) } else { String::new() };
    let appendix_text: String =
        if budget.appendix { appendix.iter().map(|s| whole(s)).collect() } else { String::new() };
    let body_text: String = body.iter().map(|s| whole(s)).collect();
    let full = format!("{head}{body_text}{references}{appendix_text}");
    let tokens_wanted = (budget.count)(&full);
    let limit = budget.max_tokens.unwrap_or(usize::MAX);
    let all = |kept: f32| body.iter().map(|s| KeptSection { heading: title(s), kept }).collect::<Vec<_>>();
    let mut cut = Vec::new();
    if tokens_wanted <= limit {
        return finish(full, tokens_wanted, tokens_wanted, cut, all(1.0));
    }
    let mut text = full;
    if !appendix_text.is_empty() {
        cut.push(format!("the appendix ({} sections)", appendix.len()));
        text = format!("{head}{body_text}{references}");
        let tokens = (budget.count)(&text);
        if tokens <= limit {
            return finish(text, tokens, tokens_wanted, cut, all(1.0));
        }
    }
    if !references.is_empty() {
        cut.push(format!("the references ({})", document.references.len()));
        text = format!("{head}{body_text}");
    }
    let mut tokens = (budget.count)(&text);
    if tokens <= limit {
        return finish(text, tokens, tokens_wanted, cut, all(1.0));
    }
    let fixed = (budget.count)(&head);
    let mut share = (limit.saturating_sub(fixed)) as f32 / tokens.saturating_sub(fixed).max(1) as f32;
    let mut kept = Vec::new();
    for _ in 0..40 {
        kept.clear();
        text = head.clone();
        for section in &body {
            let (part, rate) = shortened(section, share);
            text.push_str(&part);
            kept.push(KeptSection { heading: title(section), kept: rate });
        }
        tokens = (budget.count)(&text);
        if tokens <= limit || share < 0.002 {
            break;
        }
        share *= (limit as f32 / tokens as f32).min(0.97);
    }
    if tokens > limit {
        // Not even headings fit: the beginning of title and abstract.
        kept.iter_mut().for_each(|k| k.kept = 0.0);
        text = head;
        tokens = (budget.count)(&text);
        let mut share = 1.0f32;
        while tokens > limit && share > 0.01 {
            share *= (limit as f32 / tokens as f32).min(0.95);
            text = text.chars().take((text.chars().count() as f32 * share) as usize).collect();
            tokens = (budget.count)(&text);
            share = share.max(0.02);
            if text.is_empty() {
                break;
            }
        }
        cut.push("all sections, and the end of the abstract where it did not fit".to_owned());
    } else {
        let shorter = kept.iter().filter(|k| k.kept < 1.0).count();
        cut.push(format!(
            "the ends of {shorter} of {} sections (about {:.0} % of the body is kept)",
            kept.len(),
            100.0 * share
        ));
    }
    finish(text, tokens, tokens_wanted, cut, kept)
}

fn finish(
    text: String,
    tokens: usize,
    tokens_wanted: usize,
    cut: Vec<String>,
    sections: Vec<KeptSection>,
) -> ReviewerText {
    ReviewerText { text: text.trim_end().to_owned(), tokens, tokens_wanted, cut, sections }
}

fn head(document: &Document) -> String {
    let mut out = String::new();
    if let Some(title) = &document.title {
        out.push_str(&format!("# {title}\n\n"));
    }
    if let Some(text) = &document.abstract_text {
        out.push_str(&format!("## Abstract\n\n{text}\n\n"));
    }
    out
}

fn title(section: &Section) -> String {
    match &section.number {
        Some(number) => format!("{number} {}", section.heading),
        None => section.heading.clone(),
    }
}

fn heading_line(section: &Section) -> String {
    if section.level == 0 || section.heading.is_empty() && section.number.is_none() {
        return String::new();
    }
    let marks = "#".repeat(usize::from(section.level.clamp(1, 3)) + 1);
    format!("{marks} {}\n\n", title(section))
}

fn whole(section: &Section) -> String {
    let mut out = heading_line(section);
    if !section.text.is_empty() {
        out.push_str(&section.text);
        out.push_str("\n\n");
    }
    out
}

/// The beginning of a section up to `share` of its characters, ended at a sentence; and the share that was kept.
fn shortened(section: &Section, share: f32) -> (String, f32) {
    let length = section.text.chars().count();
    let wanted = (length as f32 * share) as usize;
    if wanted >= length || length == 0 {
        return (whole(section), 1.0);
    }
    let end = section.text.char_indices().nth(wanted).map_or(section.text.len(), |(i, _)| i);
    let part = &section.text[..end];
    let stop = part.rfind(". ").map(|i| i + 1).or_else(|| part.rfind("\n\n")).unwrap_or(0);
    let part = part[..stop].trim_end();
    let kept = part.chars().count() as f32 / length as f32;
    let mut out = heading_line(section);
    if !part.is_empty() {
        out.push_str(part);
        out.push_str("\n\n");
    }
    out.push_str(SHORTENED);
    out.push_str("\n\n");
    (out, kept)
}

fn references(document: &Document) -> String {
    if document.references.is_empty() {
        return String::new();
    }
    let mut out = "## References\n\n".to_owned();
    for reference in &document.references {
        match &reference.key {
            Some(key) => out.push_str(&format!("- [{key}] {}\n", reference.text)),
            None => out.push_str(&format!("- {}\n", reference.text)),
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reference, Source};

    fn paper(front: Option<&str>, note: Option<&str>) -> Document {
        let section = |heading: &str, text: String, appendix| Section {
            level: 1,
            number: Some("1".into()),
            heading: heading.into(),
            text,
            page: Some(1),
            appendix,
        };
        let long = "This sentence is one of many. ".repeat(40);
        let mut first = long.clone();
        if let Some(note) = note {
            first = format!("{note}\n\n{first}");
        }
        Document {
            source: Source::Pdf,
            sha256: String::new(),
            title: Some("A Title".into()),
            abstract_text: Some("An abstract.".into()),
            front_matter: front.map(str::to_owned),
            sections: vec![
                section("Introduction", first.trim().to_owned(), false),
                section("Acknowledgements", "We thank Bob.".into(), false),
                section("Proofs", long.trim().to_owned(), true),
            ],
            references: vec![Reference {
                key: Some("1".into()),
                text: "A. Author. Title.".into(),
                title: None,
            }],
            tables: Vec::new(),
            pages: Some(1),
            findings: Vec::new(),
        }
    }

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn budget(max_tokens: Option<usize>) -> TextBudget<'static> {
        TextBudget { max_tokens, count: &words, references: true, appendix: true }
    }

    #[test]
    fn the_text_is_the_same_with_and_without_anonymous_front_matter() {
        let plain = reviewer_text(&paper(None, None), &budget(None));
        for (front, note) in [
            (Some("Anonymous authors\nPaper under double-blind review"), None),
            (Some("Jane Doe, Example University, jane@example.edu"), None),
            (Some("Jane Doe"), Some("Published as a conference paper at ICLR 2023")),
            (None, Some("Under review as a conference paper at ICLR 2025")),
            (None, Some("Footnote: ∗Equal contribution.")),
        ] {
            assert_eq!(reviewer_text(&paper(front, note), &budget(None)), plain, "{front:?} {note:?}");
        }
        assert!(!plain.text.contains("Bob") && plain.cut.is_empty());
    }

    #[test]
    fn over_budget_appendix_references_and_ends_of_sections_go_in_this_order_and_are_named() {
        let full = reviewer_text(&paper(None, None), &budget(None));
        let less = reviewer_text(&paper(None, None), &budget(Some(full.tokens - 1)));
        assert!(less.cut.len() == 1 && less.cut[0].contains("appendix") && less.text.contains("References"));
        let tight = reviewer_text(&paper(None, None), &budget(Some(120)));
        assert_eq!(tight.cut.len(), 3);
        assert!(tight.tokens <= 120 && tight.text.contains(SHORTENED));
        assert!(tight.sections.iter().all(|s| s.kept < 1.0 && s.kept > 0.0));
        let hopeless = reviewer_text(&paper(None, None), &budget(Some(3)));
        assert!(hopeless.tokens <= 3 && hopeless.cut.len() == 3);
    }
}
