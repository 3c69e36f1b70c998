//! Where in the paper a point belongs: by quotation, else by the rare words it shares with a section.

use std::collections::{BTreeMap, BTreeSet};

use documents::{Document, find_quote};

use crate::review::{Anchor, AnchorKind};

/// Shortest quotation that counts, in characters.
const LEAST_QUOTE: usize = 12;
/// Rare words that a point and a section must share.
const LEAST_SHARED: usize = 2;

/// The place of a point.
pub fn anchor(document: &Document, point: &str) -> Anchor {
    for quote in quotes(point) {
        if let Some(place) = find_quote(document, &quote) {
            let section = (!place.section.is_empty()).then_some(place.section);
            return Anchor { kind: AnchorKind::Quoted, section, page: place.page, quote: Some(quote) };
        }
    }
    // A word is rare if few sections have it.
    let words: Vec<BTreeSet<String>> = document.sections.iter().map(|s| rare_candidates(&s.text)).collect();
    let mut sections_with: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words.iter().flatten() {
        *sections_with.entry(word).or_default() += 1;
    }
    let mine = rare_candidates(point);
    let limit = (document.sections.len() / 4).max(2);
    let best = words
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let shared: Vec<&String> =
                mine.iter().filter(|m| w.contains(*m) && sections_with[m.as_str()] <= limit).collect();
            let weight: f64 = shared.iter().map(|m| 1.0 / sections_with[m.as_str()] as f64).sum();
            (shared.len(), weight, i)
        })
        .filter(|(n, ..)| *n >= LEAST_SHARED)
        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.2.cmp(&a.2)));
    match best {
        Some((_, _, i)) => {
            let s = &document.sections[i];
            let name = s.number.clone().unwrap_or_else(|| s.heading.clone());
            Anchor {
                kind: AnchorKind::Matched,
                section: (!name.is_empty()).then_some(name),
                page: s.page,
                quote: None,
            }
        }
        None => Anchor { kind: AnchorKind::None, section: None, page: None, quote: None },
    }
}

/// What stands between quotation marks.
fn quotes(point: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (open, close) in [('"', '"'), ('“', '”'), ('«', '»')] {
        let mut rest = point;
        while let Some(start) = rest.find(open) {
            rest = &rest[start + open.len_utf8()..];
            let Some(end) = rest.find(close) else { break };
            if rest[..end].chars().count() >= LEAST_QUOTE {
                found.push(rest[..end].to_string());
            }
            rest = &rest[end + close.len_utf8()..];
        }
    }
    found
}

fn rare_candidates(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.chars().count() >= 5)
        .map(str::to_lowercase)
        .collect()
}
