//! Titles as keys, and how sure a match of two titles is.

use std::collections::BTreeSet;

use unicode_normalization::UnicodeNormalization;

/// NFKD, lower case, letters and digits only: the key under which titles are the same.
pub fn key(title: &str) -> String {
    title.nfkd().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The words of a title, folded.
pub fn words(title: &str) -> BTreeSet<String> {
    let folded: String = title.nfkd().map(|c| c.to_ascii_lowercase()).collect();
    folded.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).map(String::from).collect()
}

/// Shared words over all words, 0 to 1 (Jaccard).
pub fn overlap(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let both = a.intersection(b).count();
    let all = a.len() + b.len() - both;
    if all == 0 { 0.0 } else { both as f64 / all as f64 }
}

/// The family name, folded: the last word, or what stands before a comma.
fn family(name: &str) -> String {
    let last = match name.split_once(',') {
        Some((family, _)) => family,
        None => name.split_whitespace().last().unwrap_or_default(),
    };
    key(last)
}

/// How sure it is that two records are of one paper, 0 to 1. The title alone may be another paper's ("A survey of …"),
/// so half of what the titles leave open is filled by the authors: with one title and no author in common the
/// confidence is 0.5, with unknown authors 0.8, with all in common 1.
pub fn confidence(title: &str, authors: &[String], other: &str, others: &[String]) -> f64 {
    let (a, b) = (key(title), key(other));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let titles = if a == b {
        1.0
    } else {
        // A subtitle that was added or dropped is likelier than another paper.
        let (short, long) = if a.len() < b.len() { (&a, &b) } else { (&b, &a) };
        let begins = short.len() >= 20 && long.starts_with(short.as_str());
        let alike = overlap(&words(title), &words(other));
        if begins { alike.max(0.85) } else { alike * 0.9 }
    };
    let (mine, theirs): (BTreeSet<String>, BTreeSet<String>) =
        (authors.iter().map(|n| family(n)).collect(), others.iter().map(|n| family(n)).collect());
    let people = if mine.is_empty() || theirs.is_empty() {
        0.6
    } else {
        mine.intersection(&theirs).count() as f64 / mine.len().min(theirs.len()) as f64
    };
    titles * (0.5 + 0.5 * people)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_alone_is_half_a_match_and_authors_are_the_other_half() {
        let names = |n: &[&str]| n.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let (jane, john) = (names(&["Jane Doe", "Li Núñez"]), names(&["Doe, J.", "L. Nunez"]));
        let sure = |t: &str, a: &[String], u: &str, b: &[String]| confidence(t, a, u, b);
        assert_eq!(sure("On Agreement", &jane, "On  agreement.", &john), 1.0);
        assert_eq!(sure("On Agreement", &jane, "On Agreement", &names(&["A. Nother"])), 0.5);
        assert!((sure("On Agreement", &[], "On Agreement", &john) - 0.8).abs() < 1e-9);
        assert!(sure("Deep nets for cats", &jane, "Deep nets for dogs", &john) < 0.7);
        let (short, long) =
            ("Attention is all you need", "Attention is all you need: a study of transformers");
        assert!(sure(short, &jane, long, &john) >= 0.85);
        assert_eq!(sure("", &jane, "", &john), 0.0);
    }
}
