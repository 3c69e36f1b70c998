//! Where a quotation stands: what a reviewer claims to quote must be in the paper.

use crate::{Anchor, Document};
use unicode_normalization::UnicodeNormalization;

/// Finds `quote` in the document. White space, case, ligatures, hyphens, quotation marks and other signs do not matter;
/// an ellipsis stands for anything within the same section. `None` if it is not there, or too short to be told apart.
pub fn find_quote(document: &Document, quote: &str) -> Option<Anchor> {
    let pieces: Vec<String> = quote
        .replace("[...]", "…")
        .replace("...", "…")
        .split('…')
        .map(fold)
        .filter(|p| !p.is_empty())
        .collect();
    if pieces.iter().map(|p| p.chars().count()).max()? < 6 {
        return None;
    }
    let anchor = |section: &str, page: Option<usize>| Some(Anchor { section: section.to_owned(), page });
    let first = document.pages.map(|_| 1);
    if document.title.as_deref().is_some_and(|t| holds(t, &pieces)) {
        return anchor("Title", first);
    }
    if document.abstract_text.as_deref().is_some_and(|t| holds(t, &pieces)) {
        return anchor("Abstract", first);
    }
    for section in &document.sections {
        if holds(&section.text, &pieces) || holds(&section.heading, &pieces) {
            let name = match (&section.number, section.heading.as_str()) {
                (Some(number), heading) => format!("{number} {heading}"),
                (None, "") => "Beginning".to_owned(),
                (None, heading) => heading.to_owned(),
            };
            return anchor(name.trim(), section.page);
        }
    }
    for table in &document.tables {
        if holds(&table.caption, &pieces) || holds(&table.rows.concat().join(" "), &pieces) {
            return anchor(&table.caption, table.page);
        }
    }
    document
        .references
        .iter()
        .any(|r| holds(&r.text, &pieces))
        .then(|| Anchor { section: "References".into(), page: None })
}

fn holds(text: &str, pieces: &[String]) -> bool {
    let folded = fold(text);
    let mut rest = folded.as_str();
    pieces.iter().all(|piece| match rest.find(piece.as_str()) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

/// Letters and digits alone, in lower case, without accents.
fn fold(text: &str) -> String {
    text.nfkd().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Section, Source};

    #[test]
    fn a_quotation_is_found_through_hyphens_ligatures_and_ellipses_and_an_invented_one_is_not() {
        let document = Document {
            source: Source::Pdf,
            sha256: String::new(),
            title: Some("T".into()),
            abstract_text: None,
            front_matter: None,
            sections: vec![Section {
                level: 1,
                number: Some("3".into()),
                heading: "Results".into(),
                text: "The efficient model-based agent improves the state of the art by 3.2 points.".into(),
                page: Some(4),
                appendix: false,
            }],
            references: Vec::new(),
            tables: Vec::new(),
            pages: Some(9),
            findings: Vec::new(),
        };
        let expected = Some(Anchor { section: "3 Results".into(), page: Some(4) });
        assert_eq!(find_quote(&document, "“eﬃcient model-\nbased  agent”"), expected);
        assert_eq!(find_quote(&document, "The efficient model ... by 3.2 points"), expected);
        assert_eq!(find_quote(&document, "improves by 9 points"), None);
        assert_eq!(find_quote(&document, "art"), None);
    }
}
