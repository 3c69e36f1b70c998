//! Small things about text that every reader needs: folding of glyphs to plain characters, joining of hyphenated
//! lines, words.

use std::collections::HashSet;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Appends `c` as a reader would type it: ligatures and mathematical letters as letters (NFKC), control characters and
/// zero-width marks away, every space as U+0020. Spacing accents are kept, because NFKC would turn them into a space
/// with a combining mark.
pub(crate) fn push_folded(out: &mut String, c: char) {
    match c {
        ' '..='~' => out.push(c),
        '\t' | '\n' | '\r' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => {
            out.push(' ')
        }
        '\u{2}' | '\u{ad}' | '\u{fffe}' => out.push('\u{ad}'),
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {}
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => {}
        '\u{e0000}'..='\u{e007f}' => {}
        '\u{b5}' => out.push('μ'),
        '\u{2010}' | '\u{2011}' => out.push('-'),
        '\u{a8}' | '\u{af}' | '\u{b4}' | '\u{b8}' | '\u{2d8}'..='\u{2dd}' => out.push(c),
        '\u{bc}'..='\u{be}' | '\u{2026}' | '\u{2122}' => out.push(c),
        _ if (c as u32) < 0xc0 => out.push(c),
        _ => out.extend(std::iter::once(c).nfkc()),
    }
}

/// The combining mark for a spacing accent, as old TeX fonts draw "é": the accent, then the letter at the same place.
pub(crate) fn combining_of(c: char) -> Option<char> {
    Some(match c {
        '`' | '\u{2cb}' => '\u{300}',
        '\u{b4}' | '\u{2ca}' => '\u{301}',
        '^' | '\u{2c6}' => '\u{302}',
        '~' | '\u{2dc}' => '\u{303}',
        '\u{af}' | '\u{2c9}' => '\u{304}',
        '\u{2d8}' => '\u{306}',
        '\u{2d9}' => '\u{307}',
        '\u{a8}' => '\u{308}',
        '\u{2da}' => '\u{30a}',
        '\u{2dd}' => '\u{30b}',
        '\u{2c7}' => '\u{30c}',
        '\u{b8}' => '\u{327}',
        '\u{2db}' => '\u{328}',
        _ if is_combining_mark(c) => c,
        _ => return None,
    })
}

/// `text` with runs of white space as one space, none at the ends.
pub(crate) fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// At most `limit` characters of `text`; an ellipsis says that more stood there.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => {
            let mut out: String = text.chars().take(limit.saturating_sub(1)).collect();
            out.push('…');
            out
        }
    }
}

/// True if `text` holds a run of at least `length` letters.
pub(crate) fn has_word(text: &str, length: usize) -> bool {
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_alphabetic() { run + 1 } else { 0 };
        if run >= length {
            return true;
        }
    }
    false
}

/// Number of words with at least two letters.
pub(crate) fn word_count(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.chars().filter(|c| c.is_alphabetic()).count() >= 2)
        .count()
}

/// The words of a document, which decide whether a hyphen at a line end belongs to the word.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    words: HashSet<String>,
    compounds: HashSet<String>,
}

impl Vocabulary {
    /// Learns the words of a line. The last word of a line that ends in a hyphen is half a word and is left out, as is
    /// the first word of the line after it (`after_hyphen`).
    pub(crate) fn learn(&mut self, line: &str, after_hyphen: bool) {
        let line = line.trim();
        let mut tokens: Vec<&str> = line.split_whitespace().collect();
        if ends_in_hyphen(line) {
            tokens.pop();
        }
        for token in tokens.iter().skip(usize::from(after_hyphen)) {
            let token = token.trim_matches(|c: char| !c.is_alphanumeric());
            if token.contains('-') {
                self.compounds.insert(token.to_lowercase());
                self.words.extend(token.split('-').filter(|w| !w.is_empty()).map(str::to_lowercase));
            } else if !token.is_empty() {
                self.words.insert(token.to_lowercase());
            }
        }
    }

    /// `left` (which ends in a hyphen) and `right` as one text.
    pub(crate) fn join(&self, left: &mut String, right: &str) {
        let soft = left.ends_with('\u{ad}');
        let stem_end = left.trim_end_matches(['-', '\u{ad}']).len();
        let head_start = left[..stem_end]
            .rfind(|c: char| c.is_whitespace() || "([/“\"—–".contains(c))
            .map_or(0, |i| i + left[i..].chars().next().map_or(1, char::len_utf8));
        let capitals = |t: &str| {
            t.chars().filter(|c| c.is_alphabetic()).count() >= 2 && t.chars().all(|c| !c.is_lowercase())
        };
        let shouted = capitals(&left[head_start..stem_end])
            && capitals(&right.chars().take_while(|c| c.is_alphabetic()).collect::<String>());
        let head = left[head_start..stem_end].to_lowercase();
        let tail: String =
            right.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect::<String>().to_lowercase();
        let tail = tail.trim_end_matches('-');
        let keep = if soft {
            false
        } else if !head.chars().last().is_some_and(char::is_alphabetic)
            || !tail.chars().next().is_some_and(char::is_lowercase)
            || !shouted && !right.chars().next().is_some_and(char::is_lowercase)
        {
            true
        } else {
            self.keeps_hyphen(&head, tail)
        };
        left.truncate(stem_end);
        if keep {
            left.push('-');
        }
        left.push_str(right);
    }

    fn keeps_hyphen(&self, head: &str, tail: &str) -> bool {
        // "state-of-the-" + "art": a word that already holds a hyphen is a compound.
        let last = head.rsplit('-').next().unwrap_or(head);
        let first = tail.split('-').next().unwrap_or(tail);
        if self.words.contains(&format!("{last}{first}")) {
            return false;
        }
        if self.compounds.contains(&format!("{head}-{tail}"))
            || self.compounds.contains(&format!("{last}-{first}"))
        {
            return true;
        }
        if head.contains('-') || tail.contains('-') {
            return self.words.contains(first);
        }
        if HEADS.contains(&last) && (self.words.contains(first) || TAILS.contains(&first))
            || TAILS.contains(&first) && self.words.contains(last) && last.len() >= 3
        {
            return true;
        }
        last.chars().count() >= 3
            && first.chars().count() >= 3
            && self.words.contains(last)
            && self.words.contains(first)
            && !is_fragment(last)
            && !is_fragment(first)
    }
}

/// Words that begin compounds, and words that end them.
const HEADS: [&str; 40] = [
    "well", "self", "cross", "low", "high", "fine", "long", "short", "real", "full", "half", "soft", "hard",
    "two", "three", "four", "five", "first", "second", "large", "small", "open", "closed", "best", "worst",
    "zero", "one", "few", "human", "grid", "ground", "deep", "near", "semi", "non", "multi", "single",
    "state", "end", "data",
];
const TAILS: [&str; 32] = [
    "based",
    "aware",
    "specific",
    "driven",
    "dependent",
    "independent",
    "level",
    "scale",
    "shot",
    "free",
    "trained",
    "tuned",
    "tuning",
    "layer",
    "dimensional",
    "searched",
    "like",
    "quality",
    "order",
    "rank",
    "step",
    "time",
    "known",
    "wise",
    "sized",
    "world",
    "invariant",
    "agnostic",
    "parametric",
    "supervised",
    "attention",
    "grained",
];

/// Word parts that also occur as words, so that their presence proves nothing.
fn is_fragment(word: &str) -> bool {
    const FRAGMENTS: [&str; 40] = [
        "per", "con", "pro", "pre", "com", "dis", "mis", "sub", "sup", "tion", "ing", "ment", "able", "form",
        "der", "ter", "ment", "age", "ate", "ever", "other", "out", "over", "under", "rep", "res", "ver",
        "den", "gen", "the", "for", "and", "all", "art", "act", "ions", "ally", "ness", "ties", "vers",
    ];
    FRAGMENTS.contains(&word)
}

/// True if `line` ends in a hyphen that follows a letter.
pub(crate) fn ends_in_hyphen(line: &str) -> bool {
    let mut chars = line.chars().rev();
    matches!(chars.next(), Some('-' | '\u{ad}')) && chars.next().is_some_and(char::is_alphanumeric)
}

/// Removes soft hyphens that stand inside a line.
pub(crate) fn drop_soft_hyphens(text: &str) -> String {
    text.replace('\u{ad}', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(known: &str, left: &str, right: &str) -> String {
        let mut vocabulary = Vocabulary::default();
        vocabulary.learn(known, false);
        let mut text = left.to_owned();
        vocabulary.join(&mut text, right);
        text
    }

    #[test]
    fn a_word_broken_at_the_line_end_is_joined_and_a_compound_keeps_its_hyphen() {
        assert_eq!(joined("", "the algo-", "rithm is"), "the algorithm is");
        assert_eq!(joined("", "the algo\u{ad}", "rithm is"), "the algorithm is");
        assert_eq!(joined("a low-rank matrix", "the low-", "rank term"), "the low-rank term");
        assert_eq!(joined("two stream networks", "our two-", "stream model"), "our two-stream model");
        assert_eq!(joined("", "the state-of-the-", "art model"), "the state-of-theart model");
        assert_eq!(joined("the art of", "state-of-the-", "art model"), "state-of-the-art model");
        assert_eq!(joined("", "Gauss-", "Newton"), "Gauss-Newton");
        assert_eq!(joined("", "GPT-", "4"), "GPT-4");
    }

    #[test]
    fn ligatures_and_mathematical_letters_become_letters() {
        let mut out = String::new();
        "ﬁ ﬄ 𝑥\u{a0}µ\u{200b}\u{2}".chars().for_each(|c| push_folded(&mut out, c));
        assert_eq!(out, "fi ffl x μ\u{ad}");
    }
}
