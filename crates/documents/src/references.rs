//! The entries of a bibliography, from the text of their lines.

use crate::Reference;
use crate::text::collapse;

/// The label of an entry ("[12]", "[ABC+19]", "12.") and the rest of the line.
pub(crate) fn split_label(line: &str) -> Option<(String, &str)> {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix('[') {
        let (label, rest) = rest.split_once(']')?;
        let label = label.trim();
        let short = !label.is_empty() && label.chars().count() <= 40;
        return (short && label.chars().any(char::is_alphanumeric))
            .then(|| (label.to_owned(), rest.trim_start()));
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=3).contains(&digits) {
        let rest = &line[digits..];
        let rest = rest.strip_prefix('.').or_else(|| rest.strip_prefix(')'))?;
        if rest.starts_with(' ') || rest.starts_with(|c: char| c.is_uppercase()) {
            return Some((line[..digits].to_owned(), rest.trim_start()));
        }
    }
    None
}

/// An entry from its text.
pub(crate) fn entry(text: &str) -> Reference {
    let text = collapse(text);
    match split_label(&text) {
        Some((key, rest)) => Reference { title: title_of(rest), key: Some(key), text: rest.to_owned() },
        None => Reference { title: title_of(&text), key: None, text },
    }
}

/// The title of an entry: what stands in quotation marks, else the sentence after the year or after the authors.
pub(crate) fn title_of(entry: &str) -> Option<String> {
    for (open, close) in [('“', '”'), ('"', '"'), ('„', '“')] {
        if let Some((_, rest)) = entry.split_once(open)
            && let Some((title, _)) = rest.split_once(close)
            && title.split_whitespace().count() >= 2
        {
            return Some(title.trim().trim_end_matches([',', '.']).to_owned());
        }
    }
    let sentences = sentences(entry);
    let good =
        |s: &str| s.split_whitespace().count() >= 2 && s.chars().filter(|c| c.is_alphabetic()).count() >= 8;
    // "Authors. 2019. Title. Venue" and "Authors (2019). Title. Venue".
    for (i, sentence) in sentences.iter().enumerate().take(4) {
        if ends_in_year(sentence)
            && let Some(next) = sentences.get(i + 1)
            && good(next)
        {
            return Some(clean_title(next));
        }
    }
    // "Authors. Title. Venue, year." and "Authors: Title. Venue (year)".
    let first = sentences.first()?;
    if let Some((authors, title)) = first.split_once(": ")
        && authors.contains([',', '.'])
        && good(title)
    {
        return Some(clean_title(title));
    }
    sentences.get(1).filter(|s| good(s)).map(|s| clean_title(s))
}

fn clean_title(text: &str) -> String {
    text.trim().trim_end_matches(['.', ',']).trim().to_owned()
}

fn ends_in_year(sentence: &str) -> bool {
    let t = sentence.trim_end_matches(|c: char| c == '.' || c == ')' || c == ',' || c.is_whitespace());
    let t = t.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(t);
    let year = t.get(t.len().saturating_sub(4)..).unwrap_or("");
    year.len() == 4
        && (year.starts_with("19") || year.starts_with("20"))
        && year.bytes().all(|b| b.is_ascii_digit())
}

/// Sentences by full stops that do not stand behind an initial or a known abbreviation.
fn sentences(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    for (i, c) in text.char_indices() {
        if !matches!(c, '.' | '?' | '!') || !bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace) {
            continue;
        }
        let word = text[start..i].rsplit(|c: char| c.is_whitespace()).next().unwrap_or("");
        let letters: Vec<char> = word.chars().collect();
        let initial = c == '.'
            && (letters.len() == 1 && letters[0].is_uppercase()
                || letters.len() <= 4
                    && letters.contains(&'-')
                    && letters.iter().all(|c| c.is_uppercase() || *c == '-')
                || word.contains('.') && letters.len() <= 5
                || [
                    "al", "Jr", "Sr", "et", "eds", "ed", "vol", "no", "pp", "St", "vs", "Proc", "Int",
                    "Conf", "Trans",
                ]
                .contains(&word)
                    && {
                        !(word == "al" && text[i + 1..].trim_start().starts_with(|c: char| c.is_uppercase()))
                    });
        if !initial {
            let sentence = text[start..=i].trim();
            if !sentence.is_empty() {
                out.push(sentence);
            }
            start = i + 1;
        }
    }
    let rest = text[start..].trim();
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_titles_are_found_in_the_usual_styles() {
        let e = entry("[12] A. Vaswani, N. Shazeer. Attention is all you need. In NIPS, 2017.");
        assert_eq!(e.key.as_deref(), Some("12"));
        assert_eq!(e.title.as_deref(), Some("Attention is all you need"));
        let e = entry("Jacob Devlin and Ming-Wei Chang. 2019. BERT: Pre-training of transformers. In NAACL.");
        assert_eq!(e.title.as_deref(), Some("BERT: Pre-training of transformers"));
        let e = entry("3. J. K. Author, “A title, with comma,” IEEE Trans., 2001.");
        assert_eq!((e.key.as_deref(), e.title.as_deref()), (Some("3"), Some("A title, with comma")));
    }
}
