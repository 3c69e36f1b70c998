//! Key phrases by RAKE, and versions of a text with more and more of them taken out (SPO, 2409.17791).
//!
//! SPO's code is not public and its paper's text was not at hand: the form of the versions is this project's choice.
//! LaTeX commands with their arguments, mathematics, citations and addresses stay whole; only prose is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::data::order;

/// Words that end a phrase.
const ENGLISH: &str = "a about above after again against all also am an and any are as at be because been before being \
    below between both but by can cannot could did do does doing down during each either et etc few for from further had \
    has have having he her here hers him his how however i if in into is it its itself just may me might more most much \
    must my neither no nor not of off on once one only onto or other our ours out over own per s same shall she should \
    since so some such t than that the their theirs them then there therefore these they this those though through thus \
    to too two under until up upon us use used using very via was we well were what when where whether which while who \
    whom whose why will with within without would yet you your yours al don";

/// Environments that are no prose.
const WHOLE: [&str; 16] = [
    "equation",
    "align",
    "gather",
    "multline",
    "eqnarray",
    "math",
    "displaymath",
    "tabular",
    "verbatim",
    "lstlisting",
    "algorithm",
    "algorithmic",
    "figure",
    "table",
    "thebibliography",
    "tikzpicture",
];

/// Rapid automatic keyword extraction (Rose et al. 2010).
#[derive(Debug, Clone, PartialEq)]
pub struct Rake {
    stop_words: BTreeSet<String>,
}

/// A key phrase and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Phrase {
    /// Its words in lower case, one space between.
    pub text: String,
    /// Σ over its words of degree/frequency.
    pub score: f64,
    /// Bytes of every occurrence.
    pub spans: Vec<Range<usize>>,
}

/// Which phrases go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The highest scores: preference degrees.
    Key,
    /// As many, in an order drawn by the seed: the control for importance.
    Random(u64),
    /// The lowest scores, until about as many bytes are gone as [`Removal::Key`] takes: the control for length.
    Low,
}

impl Default for Rake {
    fn default() -> Self {
        Self::new(ENGLISH.split_whitespace())
    }
}

impl Rake {
    /// With these stop words, in lower case.
    pub fn new<'a>(stop_words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { stop_words: stop_words.into_iter().map(String::from).collect() }
    }

    /// Phrases as they come: runs of words that no stop word and no other character than a space parts.
    fn candidates(&self, text: &str) -> Vec<Vec<(String, Range<usize>)>> {
        let mut phrases: Vec<Vec<(String, Range<usize>)>> = Vec::new();
        let mut open: Vec<(String, Range<usize>)> = Vec::new();
        let mut end = 0;
        for span in words(text, &protected(text)) {
            let word = text[span.clone()].to_lowercase();
            if !open.is_empty() && !joins(&text[end..span.start]) {
                phrases.push(std::mem::take(&mut open));
            }
            end = span.end;
            if self.stop_words.contains(&word) {
                phrases.push(std::mem::take(&mut open));
            } else {
                open.push((word, span));
            }
        }
        phrases.push(open);
        phrases.retain(|p| !p.is_empty());
        phrases
    }

    /// Frequency and degree of every word: each occurrence adds the length of its phrase to the degree.
    pub fn words(&self, text: &str) -> BTreeMap<String, (usize, usize)> {
        let mut words: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for phrase in self.candidates(text) {
            let length = phrase.len();
            for (word, _) in phrase {
                let entry = words.entry(word).or_default();
                entry.0 += 1;
                entry.1 += length;
            }
        }
        words
    }

    /// Key phrases, highest score first, ties in lexical order; one that occurs several times stands once.
    pub fn phrases(&self, text: &str) -> Vec<Phrase> {
        let words = self.words(text);
        let score = |word: &String| {
            let (frequency, degree) = words.get(word).copied().unwrap_or((1, 0));
            degree as f64 / frequency as f64
        };
        let mut phrases: BTreeMap<String, Phrase> = BTreeMap::new();
        for candidate in self.candidates(text) {
            let (Some(first), Some(last)) = (candidate.first(), candidate.last()) else { continue };
            let span = first.1.start..last.1.end;
            let text = candidate.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
            let score = candidate.iter().map(|(word, _)| score(word)).sum();
            let phrase = phrases.entry(text.clone()).or_insert(Phrase { text, score, spans: Vec::new() });
            phrase.spans.push(span);
        }
        let mut phrases: Vec<Phrase> = phrases.into_values().collect();
        phrases.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.text.cmp(&b.text)));
        phrases
    }

    /// The text at degrees 0 … `degrees`: degree d lacks the first ⌈d/`degrees` · phrases⌉ phrases in the order of
    /// `removal`, degree 0 is intact. None if it has fewer phrases than degrees.
    pub fn versions(&self, text: &str, degrees: usize, removal: Removal) -> Option<Vec<String>> {
        let phrases = self.phrases(text);
        if degrees == 0 || phrases.len() < degrees {
            return None;
        }
        let size = |i: &usize| phrases[*i].spans.iter().map(Range::len).sum::<usize>();
        let key: Vec<usize> = (0..phrases.len()).collect();
        let versions = (0..=degrees).map(|degree| {
            let count = (degree * phrases.len()).div_ceil(degrees);
            let gone: Vec<usize> = match removal {
                Removal::Key => key[..count].to_vec(),
                Removal::Random(seed) => order(phrases.len(), true, seed, 0)[..count].to_vec(),
                Removal::Low => {
                    let wanted: usize = key[..count].iter().map(size).sum();
                    let mut taken = 0;
                    let enough = |i: &usize| {
                        let (before, after) = (taken, taken + size(i));
                        taken = after;
                        after.abs_diff(wanted) < before.abs_diff(wanted)
                    };
                    key.iter().rev().copied().take_while(enough).collect()
                }
            };
            without(text, gone.iter().flat_map(|&i| phrases[i].spans.iter().cloned()).collect())
        });
        Some(versions.collect())
    }
}

/// Whether what stands between two words keeps them in one phrase: spaces, or a single line break.
fn joins(gap: &str) -> bool {
    gap.chars().all(char::is_whitespace) && gap.matches('\n').count() < 2
}

/// Words outside the protected spans: letters and digits, with a point or comma inside a number.
fn words(text: &str, protected: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut skip = protected.iter().peekable();
    let mut chars = text.char_indices().peekable();
    let mut open: Option<Range<usize>> = None;
    while let Some((at, c)) = chars.next() {
        while skip.peek().is_some_and(|p| p.end <= at) {
            skip.next();
        }
        let free = skip.peek().is_none_or(|p| at < p.start);
        let digit_before = text[..at].chars().next_back().is_some_and(|c| c.is_ascii_digit());
        let digit_after = chars.peek().is_some_and(|(_, c)| c.is_ascii_digit());
        let inside_number = matches!(c, '.' | ',') && digit_before && digit_after;
        if free && (c.is_alphanumeric() || (inside_number && open.is_some())) {
            open.get_or_insert(at..at).end = at + c.len_utf8();
        } else {
            words.extend(open.take());
        }
    }
    words.extend(open);
    words
}

/// Spans that stay whole, in order, not overlapping.
fn protected(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        match whole(text, at) {
            Some(length) if length > 0 => {
                spans.push(at..at + length);
                at += length;
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    spans
}

/// Bytes of the command, formula, citation or address that starts here.
fn whole(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let until = |open: &str, close: &str| {
        let end = rest.get(open.len()..)?.find(close)? + open.len() + close.len();
        Some(end)
    };
    match rest.as_bytes()[0] {
        b'$' if rest.starts_with("$$") => until("$$", "$$"),
        // A dollar sign without a partner in its paragraph is money.
        b'$' => until("$", "$").filter(|&end| !rest[..end].contains("\n\n") && end > 2),
        b'\\' if rest.starts_with("\\(") => until("\\(", "\\)"),
        b'\\' if rest.starts_with("\\[") => until("\\[", "\\]"),
        b'\\' => Some(command(rest)),
        b'[' => {
            let end = rest.find(']')? + 1;
            let inner = &rest[1..end - 1];
            let numbers = inner.chars().all(|c| c.is_ascii_digit() || " ,;-–".contains(c));
            (inner.starts_with('@') || (numbers && !inner.is_empty())).then_some(end)
        }
        b'(' => {
            let end = rest.find(')')? + 1;
            let inner = &rest[1..end - 1];
            let year = |w: &str| w.len() == 4 && (w.starts_with("19") || w.starts_with("20"));
            let dated = inner.split(|c: char| !c.is_ascii_digit()).any(year);
            (dated && !inner.contains('(')).then_some(end)
        }
        b'h' if rest.starts_with("http://") || rest.starts_with("https://") => {
            Some(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        }
        // A comment line.
        b'%' if at == 0 || text.as_bytes()[at - 1] == b'\n' => Some(rest.find('\n').unwrap_or(rest.len())),
        _ => None,
    }
}

/// Bytes of a command with its arguments, or of a whole environment that is no prose.
fn command(rest: &str) -> usize {
    let name = rest[1..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - 1);
    if name == 0 {
        // An escaped character: \%, \&, \$.
        return 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
    }
    if &rest[1..=name] == "begin" {
        for environment in WHOLE {
            for star in ["", "*"] {
                let end = format!("\\end{{{environment}{star}}}");
                if rest[name + 1..].starts_with(&format!("{{{environment}{star}}}")) {
                    return rest.find(&end).map_or(rest.len(), |at| at + end.len());
                }
            }
        }
    }
    let mut length = name + 1;
    if rest[length..].starts_with('*') {
        length += 1;
    }
    while let Some(argument) = group(&rest[length..]) {
        length += argument;
    }
    length
}

/// Bytes of a balanced `{…}` or `[…]` at the start.
fn group(rest: &str) -> Option<usize> {
    let (open, close) = match rest.as_bytes().first()? {
        b'{' => (b'{', b'}'),
        b'[' => (b'[', b']'),
        _ => return None,
    };
    let mut depth = 0;
    let mut escaped = false;
    for (i, byte) in rest.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return Some(i + 1);
            }
        }
    }
    None
}

/// The text without the spans; where one stood, no two spaces meet.
fn without(text: &str, mut spans: Vec<Range<usize>>) -> String {
    spans.sort_by_key(|s| s.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for span in spans {
        out.push_str(&text[at..span.start]);
        at = span.end;
        if out.is_empty() || out.ends_with([' ', '\n']) {
            at += text[at..].len() - text[at..].trim_start_matches(' ').len();
        }
    }
    out.push_str(&text[at..]);
    if at == text.len() {
        out.truncate(out.trim_end().len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_citations_and_mathematics_survive_every_degree() {
        let kept = [
            "\\section{Fast decoding}",
            "\\cite{smith2020fast}",
            "$x^2 + \\alpha$",
            "\\begin{equation}a = b\\end{equation}",
            "(Jones et al., 2021)",
            "[3, 4]",
            "\\textbf{never cut}",
            "https://example.org/code",
            "\\%",
        ];
        let text = format!(
            "{}\nSpeculative decoding doubles throughput {} for {} tokens.\n\n{}\nDraft models guess words {}, {} {}. \
             Code at {} costs \\$5 or 0.5\\% more accuracy; it costs $7.",
            kept[0], kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], kept[7]
        );
        let rake = Rake::default();
        for removal in [Removal::Key, Removal::Random(3), Removal::Low] {
            let versions = rake.versions(&text, 3, removal).unwrap();
            assert_eq!(versions[0], text);
            for (degree, version) in versions.iter().enumerate() {
                for part in kept {
                    assert!(version.contains(part), "{removal:?} {degree}: {part} is gone from {version}");
                }
                assert!(degree == 0 || version.len() <= versions[degree - 1].len());
                assert!(!version.contains("  "), "{version}");
            }
            assert!(!versions[3].contains("Speculative") && !versions[3].contains("accuracy"));
        }
        let lengths = |r| rake.versions(&text, 3, r).unwrap().iter().map(String::len).collect::<Vec<_>>();
        let (key, low) = (lengths(Removal::Key), lengths(Removal::Low));
        assert!(key.iter().zip(&low).all(|(k, l)| k.abs_diff(*l) <= 40), "{key:?} {low:?}");
        assert_eq!(rake.versions(&text, 3, Removal::Random(1)), rake.versions(&text, 3, Removal::Random(1)));
        assert_ne!(rake.versions(&text, 3, Removal::Random(1)), rake.versions(&text, 3, Removal::Random(2)));
        assert_eq!(rake.versions("A word.", 3, Removal::Key), None);
    }
}
