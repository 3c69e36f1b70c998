//! Bibliographies: `.bib` files as people keep them (duplicate keys, broken entries, unknown macros, an `Abstract:` line
//! before an entry), `.bbl` files, `\bibitem`s. Good entries are kept, broken ones are named.

use crate::read::{decode, io_reason};
use crate::text::collapse;
use crate::{ReadError, ReadOptions, Reference, latex};
use serde::{Deserialize, Serialize};
use serde_bibtex::MacroDictionary;
use serde_bibtex::de::Deserializer;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// One publication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BibEntry {
    /// The key it is cited by.
    pub key: String,
    /// "article", "inproceedings", … in lower case.
    pub entry_type: String,
    /// Plain text.
    pub title: Option<String>,
    /// "First Last", in order; "others" is left out.
    pub authors: Vec<String>,
    /// The year, where the field holds one.
    pub year: Option<i32>,
    /// Journal, book title, or publisher.
    pub venue: Option<String>,
    /// From the field `abstract`, or the line `Abstract: …` before the entry.
    pub abstract_text: Option<String>,
    /// Where it stands: "refs.bib:120".
    pub locator: String,
    /// The entry as BibTeX that any parser reads: balanced braces, no macros, no abstract.
    pub bibtex: String,
}

impl BibEntry {
    /// "Authors. Title. Venue, year."
    pub fn one_line(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if !self.authors.is_empty() {
            parts.push(self.authors.join(", "));
        }
        parts.extend(self.title.clone());
        match (&self.venue, self.year) {
            (Some(venue), Some(year)) => parts.push(format!("{venue}, {year}")),
            (Some(venue), None) => parts.push(venue.clone()),
            (None, Some(year)) => parts.push(year.to_string()),
            (None, None) => {}
        }
        let mut out = String::new();
        for part in parts {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&part);
            if !part.ends_with(['.', '?', '!']) {
                out.push('.');
            }
        }
        out
    }
}

/// All entries that could be read, and what was wrong with the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bibliography {
    /// In the order of the files; each key once.
    pub entries: Vec<BibEntry>,
    /// One line each: where, what, what was done.
    pub problems: Vec<String>,
}

/// Reads a `.bib`, `.bbl` or `.tex` file, or all bibliographies of a folder (its `.bib` files, sorted; without any,
/// its `.bbl` and `.tex` files).
pub fn bibliography(path: &Path) -> Result<Bibliography, ReadError> {
    let missing = |e: std::io::Error| ReadError::Missing { path: path.into(), reason: io_reason(&e) };
    let metadata = std::fs::metadata(path).map_err(missing)?;
    let mut out = Bibliography::default();
    if metadata.is_dir() {
        let files = latex::gather_folder(path, &ReadOptions::default())?;
        let of = |kinds: &[&str]| -> Vec<(String, String)> {
            files
                .iter()
                .filter(|(n, _)| crate::read::has_extension(Path::new(n), kinds))
                .map(|(n, b)| (n.clone(), decode(b)))
                .collect()
        };
        let mut texts = of(&["bib"]);
        if texts.is_empty() {
            texts = of(&["bbl", "tex"]);
        }
        for (name, text) in texts {
            out.append(parse(&text, &name));
        }
    } else {
        let bytes = std::fs::read(path).map_err(missing)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if bytes.contains(&0) {
            return Err(ReadError::NotWhatItSays {
                path: path.into(),
                reason: "binary data, not a bibliography".into(),
            });
        }
        out.append(parse(&decode(&bytes), &name));
    }
    if out.entries.is_empty() {
        let reason = match out.problems.first() {
            Some(problem) => format!("no readable bibliography entry ({problem})"),
            None => "no bibliography entry in it".into(),
        };
        return Err(ReadError::Empty { path: path.into(), reason });
    }
    Ok(out)
}

impl Bibliography {
    fn append(&mut self, other: Bibliography) {
        self.problems.extend(other.problems);
        for entry in other.entries {
            match self.entries.iter().find(|e| e.key == entry.key) {
                None => self.entries.push(entry),
                Some(first) => self.problems.push(format!(
                    "{}: key `{}` is also at {}; the first is kept",
                    entry.locator, entry.key, first.locator
                )),
            }
        }
    }
}

#[derive(Deserialize)]
struct RawEntry {
    entry_type: String,
    entry_key: String,
    fields: BTreeMap<String, String>,
}

/// Parses the text of a bibliography (`.bib`, `.bbl`, a source with `\bibitem`s); `name` is for messages.
pub fn parse(text: &str, name: &str) -> Bibliography {
    let mut out = Bibliography::default();
    if !text.contains('@') && text.contains("\\bibitem") || text.contains("\\begin{thebibliography}") {
        for reference in latex::bibitems(text) {
            out.append(Bibliography { entries: vec![from_bibitem(reference, name)], problems: Vec::new() });
        }
        if !text.contains('@') || !out.entries.is_empty() {
            return out;
        }
    }
    let chunks = chunks(text);
    let strings: String =
        chunks.iter().filter(|c| c.kind == "string").map(|c| c.text).collect::<Vec<_>>().join("\n");
    for chunk in chunks.iter().filter(|c| !matches!(c.kind.as_str(), "string" | "comment" | "preamble")) {
        let locator = format!("{name}:{}", chunk.line);
        match entry(chunk, &strings) {
            Ok((mut raw, note)) => {
                if let Some(note) = note {
                    out.problems.push(format!("{locator}: {note}"));
                }
                let given =
                    raw.fields.remove("abstract").map(|a| latex::to_text(&a)).filter(|a| !a.is_empty());
                let abstract_text = given.or_else(|| chunk.abstract_line.map(collapse));
                out.append(Bibliography {
                    entries: vec![build(raw, abstract_text, locator)],
                    problems: Vec::new(),
                });
            }
            Err(reason) => out
                .problems
                .push(format!("{locator}: entry `{}` is broken and left out: {reason}", chunk.key)),
        }
    }
    out
}

struct Chunk<'t> {
    kind: String,
    key: &'t str,
    text: &'t str,
    line: usize,
    abstract_line: Option<&'t str>,
    closed: bool,
}

/// Entries by their `@`: each up to its closing brace, or, if it has none, up to the next entry at a line's start.
fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut last_end = 0;
    let mut line = 1;
    let mut counted = 0;
    while let Some(found) = text[at..].find('@').map(|i| i + at) {
        at = found + 1;
        let kind: String = text[at..].chars().take_while(char::is_ascii_alphabetic).collect();
        let after = at + kind.len();
        let open = after + text[after..].len() - text[after..].trim_start().len();
        let Some(brace) = bytes.get(open).copied().filter(|b| matches!(b, b'{' | b'(')) else { continue };
        // An address in a comment line is no entry; entries begin a line or follow another one.
        let before = text[..found].rsplit('\n').next().unwrap_or("");
        let trimmed = before.trim();
        if kind.is_empty()
            || !trimmed.is_empty() && !trimmed.ends_with(['}', ')', ','])
            || trimmed.starts_with('%')
        {
            continue;
        }
        let limit = next_entry(text, open);
        let (end, closed) = close_of(bytes, open, limit, brace);
        line += text[counted..found].matches('\n').count();
        counted = found;
        let key_text = &text[open + 1..end];
        let key = key_text.split([',', '}', '\n']).next().unwrap_or("").trim();
        out.push(Chunk {
            kind: kind.to_lowercase(),
            key,
            text: &text[found..end],
            line,
            abstract_line: abstract_before(&text[last_end..found]),
            closed,
        });
        last_end = end;
        at = end;
    }
    out
}

/// Start of the next line that begins with `@name{`, from `open` on.
fn next_entry(text: &str, open: usize) -> usize {
    let mut from = open;
    while let Some(i) = text[from..].find("\n@").map(|i| i + from) {
        let rest = &text[i + 2..];
        let name = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if name > 0 && rest[name..].trim_start().starts_with(['{', '(']) {
            return i + 1;
        }
        from = i + 2;
    }
    text.len()
}

fn close_of(bytes: &[u8], open: usize, limit: usize, brace: u8) -> (usize, bool) {
    let mut depth = 0usize;
    let mut i = open;
    while i < limit {
        match bytes[i] {
            b'\\' => i += 1,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && brace == b'{' {
                    return (i + 1, true);
                }
            }
            b')' if brace == b'(' && depth == 0 => return (i + 1, true),
            _ => {}
        }
        i += 1;
    }
    (limit, false)
}

fn abstract_before(gap: &str) -> Option<&str> {
    gap.lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .and_then(|l| l.trim().strip_prefix("Abstract:"))
        .map(str::trim)
        .filter(|a| !a.is_empty())
}

/// One entry, and a note where something had to be mended.
fn entry(chunk: &Chunk<'_>, strings: &str) -> Result<(RawEntry, Option<String>), String> {
    if chunk.key.is_empty() || chunk.key.contains('=') {
        return Err("it has no key".into());
    }
    if chunk.key.contains(char::is_whitespace) {
        return Err("its key holds a space".into());
    }
    if !chunk.closed {
        return Err("its braces do not close".into());
    }
    let once = |text: &str| -> Result<RawEntry, String> {
        let mut macros = MacroDictionary::default();
        macros.set_month_macros();
        let entries = Deserializer::from_str_with_macros(text, macros).into_iter_regular_entry::<RawEntry>();
        let mut last = Err("nothing in it".to_owned());
        for entry in entries {
            last = entry.map_err(|e| e.to_string());
        }
        last.map(|mut e| {
            e.fields = e.fields.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect();
            e
        })
    };
    let with_strings = format!("{strings}\n{}", chunk.text);
    match once(&with_strings) {
        Ok(raw) => Ok((raw, None)),
        Err(first) => {
            // Macros that nobody defined stand for themselves.
            let bare = bare_words(chunk.text);
            if bare.is_empty() {
                return Err(first);
            }
            let defined: String = bare.iter().map(|w| format!("@string{{{w} = {{{w}}}}}\n")).collect();
            match once(&format!("{defined}{with_strings}"))
                .or_else(|_| once(&format!("{defined}{}", chunk.text)))
            {
                Ok(raw) => Ok((
                    raw,
                    Some(format!(
                        "entry `{}`: `{}` is not defined and read as a word",
                        chunk.key,
                        bare.join("`, `")
                    )),
                )),
                Err(_) => Err(first),
            }
        }
    }
}

/// Words that stand as values without quotes.
fn bare_words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for (i, _) in text.match_indices('=') {
        let value = text[i + 1..].trim_start();
        let word: String = value.chars().take_while(|c| c.is_alphanumeric() || "_-:.".contains(*c)).collect();
        let rest = value[word.len()..].trim_start();
        if word.chars().next().is_some_and(char::is_alphabetic)
            && rest.starts_with([',', '}', '#', ')'])
            && !out.contains(&word)
        {
            out.push(word);
        }
    }
    out
}

fn build(raw: RawEntry, abstract_text: Option<String>, locator: String) -> BibEntry {
    let plain = |name: &str| raw.fields.get(name).map(|v| latex::to_text(v)).filter(|v| !v.is_empty());
    let year = plain("year").or_else(|| plain("date")).and_then(|y| first_year(&y));
    let venue =
        ["journal", "journaltitle", "booktitle", "howpublished", "school", "institution", "publisher"]
            .iter()
            .find_map(|f| plain(f))
            .or_else(|| plain("archiveprefix").or_else(|| plain("eprinttype")));
    BibEntry {
        title: plain("title"),
        authors: raw
            .fields
            .get("author")
            .or_else(|| raw.fields.get("editor"))
            .map(|a| authors(a))
            .unwrap_or_default(),
        year,
        venue,
        abstract_text,
        locator,
        bibtex: clean(&raw),
        key: raw.entry_key,
        entry_type: raw.entry_type.to_lowercase(),
    }
}

fn first_year(text: &str) -> Option<i32> {
    let digits: Vec<&str> = text.split(|c: char| !c.is_ascii_digit()).filter(|d| d.len() == 4).collect();
    digits.iter().find_map(|d| d.parse::<i32>().ok().filter(|y| (1400..=2200).contains(y)))
}

/// Names at " and " outside of braces, each as "First Last".
fn authors(field: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut current = String::new();
    let mut depth = 0usize;
    for word in field.split_whitespace() {
        if depth == 0 && word.eq_ignore_ascii_case("and") {
            names.push(std::mem::take(&mut current));
            continue;
        }
        depth += word.matches('{').count();
        depth = depth.saturating_sub(word.matches('}').count());
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    names.push(current);
    names
        .into_iter()
        .filter(|n| !n.trim().is_empty() && n.trim() != "others")
        .map(|name| {
            // A comma inside braces belongs to a corporate name.
            let parts: Vec<&str> = if name.trim().starts_with('{') && name.trim().ends_with('}') {
                vec![name.trim()]
            } else {
                name.split(',').map(str::trim).collect()
            };
            let joined = match parts.as_slice() {
                [last, first] => format!("{first} {last}"),
                [last, suffix, first] => format!("{first} {last} {suffix}"),
                _ => parts.join(" "),
            };
            latex::to_text(&joined)
        })
        .filter(|n| !n.is_empty())
        .collect()
}

fn clean(raw: &RawEntry) -> String {
    let mut out = format!("@{}{{{}", raw.entry_type.to_lowercase(), raw.entry_key);
    for (name, value) in &raw.fields {
        let value = collapse(value);
        if value.is_empty() || matches!(name.as_str(), "abstract" | "file" | "keywords" | "note_") {
            continue;
        }
        out.push_str(&format!(",\n  {name} = {{{}}}", balanced(&value)));
    }
    out.push_str("\n}\n");
    out
}

/// The value with braces that pair up.
fn balanced(value: &str) -> String {
    let mut depth = 0usize;
    let mut fine = true;
    let mut escaped = false;
    for c in value.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '{' if !escaped => depth += 1,
            '}' if !escaped => match depth.checked_sub(1) {
                Some(d) => depth = d,
                None => fine = false,
            },
            _ => {}
        }
        escaped = false;
    }
    if fine && depth == 0 && !escaped {
        value.to_owned()
    } else {
        value.replace(['{', '}'], "").trim_end_matches('\\').to_owned()
    }
}

fn from_bibitem(reference: Reference, name: &str) -> BibEntry {
    let key = reference.key.unwrap_or_default();
    let year =
        reference.text.split(|c: char| !c.is_ascii_digit()).rfind(|d| d.len() == 4).and_then(first_year);
    let title = reference.title.clone();
    let authors = title
        .as_deref()
        .and_then(|t| reference.text.find(t))
        .map(|i| reference.text[..i].trim_end_matches([' ', '.', ',', '“', '"']).to_owned())
        .filter(|a| !a.is_empty() && a.len() < 400)
        .map(|a| {
            a.replace(" and ", ", ")
                .split(", ")
                .map(|n| n.trim().to_owned())
                .filter(|n| !n.is_empty())
                .collect()
        })
        .unwrap_or_default();
    let mut fields = BTreeMap::new();
    if let Some(title) = &title {
        fields.insert("title".to_owned(), title.clone());
    }
    if let Some(year) = year {
        fields.insert("year".to_owned(), year.to_string());
    }
    fields.insert("note".to_owned(), reference.text.clone());
    let raw = RawEntry { entry_type: "misc".into(), entry_key: key.clone(), fields };
    BibEntry {
        bibtex: clean(&raw),
        locator: name.to_owned(),
        entry_type: "misc".into(),
        key,
        title,
        authors,
        year,
        venue: None,
        abstract_text: None,
    }
}

/// Entries of a `.bbl` that biber wrote for biblatex.
pub(crate) fn biblatex_entries(text: &str) -> Vec<Reference> {
    let mut out: Vec<Reference> = Vec::new();
    let mut seen = HashSet::new();
    for part in text.split("\\entry{").skip(1) {
        let Some((key, rest)) = part.split_once('}') else { continue };
        if !seen.insert(key.to_owned()) {
            continue;
        }
        let field = |name: &str| {
            let start = rest.find(&format!("\\field{{{name}}}{{"))? + name.len() + 9;
            let end = group_end(&rest[start..])?;
            Some(latex::to_text(&rest[start..start + end]))
        };
        let families: Vec<String> = rest
            .match_indices("family={")
            .filter_map(|(i, m)| {
                let start = i + m.len();
                group_end(&rest[start..]).map(|end| latex::to_text(&rest[start..start + end]))
            })
            .take(30)
            .collect();
        let title = field("title");
        let mut text = families.join(", ");
        for piece in [title.clone(), field("journaltitle").or_else(|| field("booktitle")), field("year")]
            .into_iter()
            .flatten()
        {
            if !text.is_empty() {
                text.push_str(". ");
            }
            text.push_str(&piece);
        }
        out.push(Reference { key: Some(key.to_owned()), text, title });
    }
    out
}

fn group_end(text: &str) -> Option<usize> {
    let mut depth = 1usize;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSY: &str = r#"
% mail me@example.org
@string{nips = {NeurIPS}}
Abstract: We propose a thing.
@inproceedings{a, title={The {Thing}: \'Etude}, author={Doe, Jane and {Big Corp, Inc.} and others}, booktitle=nips, year=2017, month=jun}
@article{broken, title={No end, year=2001
@article{a, title={Again}}
@misc{b, title="Other", booktitle=icml, year={in press}, abstract={Short \emph{one}.}}
@article{no key, title={X}}
@article(c, title={Round}, year={c. 1999})
"#;

    #[test]
    fn good_entries_are_kept_and_broken_ones_are_named() {
        let b = parse(MESSY, "x.bib");
        let keys: Vec<_> = b.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c"], "{:?}", b.problems);
        let a = &b.entries[0];
        assert_eq!(a.title.as_deref(), Some("The Thing: Étude"));
        assert_eq!(a.authors, ["Jane Doe", "Big Corp, Inc."]);
        assert_eq!((a.year, a.venue.as_deref()), (Some(2017), Some("NeurIPS")));
        assert_eq!(a.abstract_text.as_deref(), Some("We propose a thing."));
        assert_eq!(a.locator, "x.bib:5");
        assert_eq!(b.entries[1].abstract_text.as_deref(), Some("Short one."));
        assert_eq!((b.entries[1].year, b.entries[2].year), (None, Some(1999)));
        for word in ["broken", "`a` is also", "icml", "no key"] {
            assert!(b.problems.iter().any(|p| p.contains(word)), "{word}: {:?}", b.problems);
        }
    }

    #[test]
    fn cleaned_entries_are_read_by_a_strict_parser() {
        for entry in parse(MESSY, "x.bib").entries {
            let parsed = biblatex::Bibliography::parse(&entry.bibtex);
            assert!(parsed.is_ok(), "{} {parsed:?}", entry.bibtex);
        }
    }

    #[test]
    fn bibitems_become_entries() {
        let b = parse(
            "\\begin{thebibliography}{9}\\bibitem{k} Jane Doe and J. Roe. \\newblock A title. \\newblock Venue, 2003.\\end{thebibliography}",
            "x.bbl",
        );
        assert_eq!(b.entries[0].title.as_deref(), Some("A title"));
        assert_eq!(b.entries[0].year, Some(2003));
        assert_eq!(b.entries[0].authors, ["Jane Doe", "J. Roe"]);
    }
}
