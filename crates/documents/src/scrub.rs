//! What tells who wrote a paper and where it appeared, taken out.
//!
//! Camera-ready copies carry names, thanks and venue lines, submissions carry "Anonymous authors": either mark gives the
//! decision away (measured: the anonymity line alone predicts it). So a reviewer's text has neither.

use crate::headings::{Role, role};
use crate::text::word_count;
use crate::{Document, Section, Table};
use regex::Regex;
use std::sync::LazyLock;

fn pattern(text: &str) -> Regex {
    // A constant of this file; the tests compile each of them.
    Regex::new(text).expect("a constant pattern compiles")
}

static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)(?:\{[^{}@]{1,200}\}|\b[a-z0-9][\w.+-]*)\s?@\s?(?:[a-z0-9-]+\.)+[a-z]{2,}\b")
});

static URL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        // A code host's path names people, and typesetting may put spaces around its slashes.
        r"(?i)(?:(?:https?|ftp)\s?:\s?//\s?)?(?:[a-z0-9-]+\.)*",
        r"(?:github|gitlab|bitbucket|huggingface|zenodo|osf|openreview|4open|sourceforge|readthedocs)",
        r"\.(?:com|org|io|co|net|science)(?:\s?/\s?[^\s<>”“]+)*/?",
        // A footnote's mark may touch the address, and a line end may stand behind its slashes.
        r"|(?:https?|ftp)\s?:\s?//(?:\s?[a-z0-9-]+\.)?[^\s<>”“]*|\bwww\.[^\s<>”“]+"
    ))
});

/// Sentences that name a venue, a status or a relation between authors.
static NOTE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)published as an? (?:conference|workshop|journal) paper",
        r"|under (?:double[- ]blind )?review (?:as|at|by|for)\b|\bpreprint\b.{0,30}(?:under review|work in progress|$)|^\W*preprint\b",
        r"|accepted (?:at|to|by|for publication|as a)|to appear in\b|submitted to (?:the )?[A-Z0-9]",
        r"|anonymous (?:authors?|submission|acl submission|institution|affiliation)|paper under double[- ]blind review|double[- ]blind",
        r"|equal(?:ly)? contribut|contributed equally|equal (?:advising|contribution)|joint first author|co-first author",
        r"|correspond(?:ing|ence) (?:author|to\b)|correspondence:|work (?:was )?(?:done|performed|conducted|completed) (?:while|during|when|as)",
        r"|(?:during|while) (?:an )?internship|while (?:at|interning|visiting)\b",
        r"|proceedings of the\b|conference on (?:neural|machine|learning|computer|empirical|artificial|knowledge|computational)",
        r"|copyright (?:©|\(c\)|c\b|\d{4}|held|by)|©\s?\d{4}|permission to make digital|personal use is permitted|all rights reserved",
        r"|licensed under (?:a |the )?(?:creative commons|cc)|distributed under (?:the )?(?:cc|creative)|\bISBN\b|\bISSN\b|doi\.org/10\."
    ))
});

/// A line of copyright or permission, as publishers put it below the first column.
static IMPRINT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^\W*(?:c\W{0,3})?(?:[\d-]{10,20}(?:/\d+)*(?:/\$[\d.]+)?\s*)?(?:©|copyright\b)|^\W*(?:permission to make digital|[\d-]{13,20}/\d\d/\$)|^\W*\w+\W?\d\d,.{4,60}copyright\W{0,3}c?$",
    )
});

static AFFILIATION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:university|universität|université|universidad|institute?|department|dept\.|school of|college|laborator(?:y|ies)|faculty of|research (?:center|centre|lab)|inc\.|ltd\.|gmbh)\b",
    )
});

static THANKS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^\W*(?:acknow\w*ments?|funding|author contributions?|(?:conflicts?|declaration) of (?:competing )?interests?|competing interests?|disclosure)\b",
        r"|\b(?:supported|funded|sponsored|financed)\b.{0,60}\bby\b.{0,160}\b(?:grants?|fellowships?|foundation|awards?|contracts?|scholarships?|program|council|funds?)\b",
        r"|^(?:this|our|the) (?:present |original )?(?:research|work|project|study|paper|material|authors?|investigation) (?:is|was|are|were|has been|have been) (?:\w+ ){0,3}(?:supported|funded|sponsored|financed)\b",
        r"|^(?:footnote:? ?\d*:? ?)?(?:we|the authors?|i)\b.{0,40}\b(?:thank|gratefully acknowledge|are (?:very )?grateful)\b"
    ))
});

/// True for a note that belongs to the title page: addresses, venue lines, contribution marks.
pub(crate) fn is_front_note(text: &str) -> bool {
    (word_count(text) <= 220) && (EMAIL.is_match(text) || NOTE.find(text).is_some_and(|m| m.start() <= 60))
        || word_count(text) <= 40
            && AFFILIATION.find_iter(text).count() >= 1
            && !text.trim_end().ends_with('.')
        || word_count(text) <= 60 && THANKS.is_match(text)
}

/// True for a line of the imprint that stands at the foot of a title page.
pub(crate) fn is_imprint(text: &str) -> bool {
    IMPRINT.is_match(text) && word_count(text) <= 120
}

/// True for a block of names and affiliations.
pub(crate) fn names_people(text: &str) -> bool {
    EMAIL.is_match(text)
        || AFFILIATION.find_iter(text).count() >= 2
        || NOTE.is_match(text) && word_count(text) < 80
}

/// The document without what tells who wrote it, where it appeared and where its code lies.
///
/// Removed: front matter; sections of thanks, funding, contributions, interests; paragraphs with e-mail addresses, venue
/// lines, notes on equal contribution or anonymity. Addresses of web pages become `[URL]`. Running it twice changes
/// nothing more. Findings stay as they are.
pub fn scrub(document: &Document) -> Document {
    let mut out = document.clone();
    out.front_matter = None;
    out.title = document.title.as_deref().map(clean_inline);
    out.abstract_text = document.abstract_text.as_deref().and_then(clean_text);
    out.sections = scrub_sections(&document.sections);
    for reference in &mut out.references {
        reference.text = clean_inline(&reference.text);
    }
    out.tables = document
        .tables
        .iter()
        .map(|t| Table {
            caption: clean_inline(&t.caption),
            rows: t.rows.iter().map(|r| r.iter().map(|c| clean_inline(c)).collect()).collect(),
            page: t.page,
        })
        .collect();
    out
}

fn scrub_sections(sections: &[Section]) -> Vec<Section> {
    let mut out: Vec<Section> = Vec::with_capacity(sections.len());
    let mut dropped: Option<u8> = None;
    for section in sections {
        if let Some(level) = dropped
            && section.level > level
        {
            continue;
        }
        dropped = None;
        if role(&section.heading) == Some(Role::Thanks) {
            dropped = Some(section.level);
            continue;
        }
        let text = clean_text(&section.text).unwrap_or_default();
        if text.is_empty() && section.level == 0 {
            continue;
        }
        out.push(Section { heading: clean_inline(&section.heading), text, ..section.clone() });
    }
    out
}

/// Paragraphs without notes and thanks; `None` if nothing is left.
fn clean_text(text: &str) -> Option<String> {
    let kept: Vec<String> = text
        .split("\n\n")
        .filter(|p| !p.trim().is_empty() && !is_note(p))
        .map(clean_inline)
        .filter(|p| !p.trim().is_empty())
        .collect();
    (!kept.is_empty()).then(|| kept.join("\n\n"))
}

/// A whole paragraph that goes: short notes, and thanks of any length.
fn is_note(paragraph: &str) -> bool {
    let words = word_count(paragraph);
    let bare = paragraph.trim_start_matches(|c: char| !c.is_alphabetic());
    if THANKS.find(paragraph).is_some_and(|m| m.start() == 0) && words <= 400 {
        return true;
    }
    if words <= 120 && THANKS.is_match(paragraph) && paragraph.starts_with("Footnote") {
        return true;
    }
    if words <= 30 && AFFILIATION.find_iter(paragraph).count() >= 2 || words <= 20 && NOTE.is_match(paragraph)
    {
        return true;
    }
    if words <= 250
        && paragraph.starts_with("Footnote")
        && NOTE.find(paragraph).is_some_and(|m| m.start() <= 30)
    {
        return true;
    }
    // A long paragraph that mentions a proceedings volume is an argument, a short one is a venue line.
    words <= 45 && NOTE.find(bare).is_some_and(|m| m.start() <= 24)
        || words <= 60 && EMAIL.is_match(paragraph)
}

/// Addresses replaced, control characters gone.
fn clean_inline(text: &str) -> String {
    let text = URL.replace_all(text, |found: &regex::Captures<'_>| {
        let whole = &found[0];
        let end = whole.trim_end_matches(['.', ',', ';', ':', ')', ']', '}', '\'', '"', '’']).len();
        format!("[URL]{}", &whole[end..])
    });
    let text = EMAIL.replace_all(&text, "[EMAIL]");
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn venue_lines_addresses_and_contribution_notes_are_front_notes() {
        for yes in [
            "Published as a conference paper at ICLR 2023",
            "Under review as a conference paper at ICLR 2025",
            "∗Equal contribution. Work done while at Example Corp.",
            "{ab,cd}@example.edu",
            "31st Conference on Neural Information Processing Systems (NIPS 2017), Long Beach, CA, USA.",
            "Anonymous authors Paper under double-blind review",
        ] {
            assert!(is_front_note(yes), "{yes}");
        }
        for no in ["We study attention.", "The learning rate is 0.1.", "See Table 3 for all results."] {
            assert!(!is_front_note(no), "{no}");
        }
    }

    #[test]
    fn an_imprint_is_told_from_a_sentence_about_copyright() {
        for yes in [
            "978-1-4673-5208-6/13/$31.00 ©2013 IEEE",
            "c ©2017.",
            "© 2009 ACM 978-1-60558-392-1/09/06. . . $5.00",
            "Copyright held by the authors.",
            "PLDI’09, June 15–20, 2009, Dublin, Ireland. Copyright c",
        ] {
            assert!(is_imprint(yes), "{yes}");
        }
        for no in ["Claims of copyright violations are rare.", "In 2013, we measured 978 pages."] {
            assert!(!is_imprint(no), "{no}");
        }
    }

    #[test]
    fn addresses_become_marks_and_the_sentence_stays() {
        assert_eq!(
            clean_inline("Code: https://github.com/a/b. More at www.x.org, too."),
            "Code: [URL]. More at [URL], too."
        );
        assert_eq!(clean_inline("see github.com/a/b) and the rest"), "see [URL]) and the rest");
        assert_eq!(
            clean_inline("mark 3https://a.org/x and http:// b.org/y too"),
            "mark 3[URL] and [URL] too"
        );
        assert_eq!(clean_inline("at https://github.com/ Jane / tool now"), "at [URL] now");
        let once = clean_inline("mail a.b@c.org now");
        assert_eq!(clean_inline(&once), once);
        assert_eq!(clean_inline("a Xeon E5 v4 @ 2.10GHz"), "a Xeon E5 v4 @ 2.10GHz");
    }

    #[test]
    fn thanks_go_and_arguments_stay() {
        assert!(is_note("Acknowledgments. We thank A. B. for help."));
        assert!(is_note("This research was supported in part by NSF grant 12, and carried out at Example."));
        assert!(is_note("Footnote: This work was supported by the Example Foundation under grant 1."));
        assert!(!is_note("Our method is supported by a large body of evidence that spans many tasks."));
        assert!(!is_note(
            "The proceedings of the workshop were used as a corpus; we split it into sentences and tag each of them by hand. We then train on half of it, and keep the other half for testing, which gives us forty thousand examples in all, more than any earlier corpus had."
        ));
    }
}
