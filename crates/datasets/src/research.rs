//! A paper as a row of a research set: its source in one piece, sections, figures, tables, what it cites.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use documents::{Document, LatexSource, ReadOptions, latex_source, latex_to_text, parse_bibliography};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::archive;
use crate::fragment::Reference;
use crate::numbers::numbers;
use crate::papers::{Reader, short};
use crate::record::{CitedWork, LatexSection, TableRow};
use crate::title;

/// What a file of sources gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResearchPaper {
    pub title: Option<String>,
    pub abstract_text: Option<String>,
    pub sections: Vec<LatexSection>,
    pub headings: Vec<String>,
    pub figures: Vec<String>,
    pub tables: Vec<TableRow>,
    pub references: Vec<CitedWork>,
    pub cited: usize,
    pub resolved: usize,
    /// Cited keys without an entry.
    pub unresolved: Vec<String>,
    /// Body as plain text, section by section, for the outline.
    pub plain: Vec<(String, String)>,
    /// Every number of abstract and sections, in one spelling.
    pub numbers: Vec<String>,
    pub problems: Vec<String>,
}

/// Bytes of all included files together: a file that includes itself twice would grow without end.
const MOST_SOURCE: usize = 16 << 20;
const DEEPEST: usize = 24;

#[allow(clippy::expect_used)] // the expressions are constants
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant expression")
}

static INCLUDE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\\(?:(?:input|include|subfile)\s*\{([^{}]*)\}|input[ \t]+([^\s{}\\%]+)|(?:sub)?import\*?\s*\{([^{}]*)\}\s*\{([^{}]*)\})",
    )
});
static CITE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\\([A-Za-z]*[cC]ite[A-Za-z]*)\*?\s*(?:\[[^\]]*\]\s*){0,2}\{([^{}]*)\}"));
static FIGURE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\\includegraphics\*?\s*(?:\[[^\]]*\])?\s*\{([^{}]*)\}"));
static FORMAT: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\\(?:[vh]space\*?\{[^{}]*\}|newpage|clearpage|pagebreak|looseness\s*=?\s*-?\d*|(?:small|med|big)skip\b|noindent\b)",
    )
});
static BLANKS: LazyLock<Regex> = LazyLock::new(|| regex(r"\n[ \t]*\n(?:[ \t]*\n)+"));

/// Reads a paper's sources.
///
/// # Errors
/// With the reason why it is no paper of LaTeX.
pub fn research_paper(path: &Path, reader: &Reader<'_>) -> Result<ResearchPaper, String> {
    let bytes = archive::bytes(path)?;
    let found = archive::hazards(&bytes);
    if let Some(bomb) = found.bomb {
        return Err(bomb);
    }
    let mut problems = found.problems();
    let source = latex_source(&bytes, path, &ReadOptions::default()).map_err(|e| short(&e, path))?;
    let document = reader(path).map_err(|e| short(&e, path))?;
    let mut open = Vec::new();
    let mut whole = String::new();
    flatten(&source, &source.main, &mut open, &mut whole, &mut problems);
    let body = body(&whole);
    let (references, cited, unresolved) = references(&source, &whole, &document);
    let sections = sections(body);
    // What the row itself holds: a number of the appendix, of a macro or of TeX's own counters cannot be found in it.
    let mut all_numbers = numbers(document.abstract_text.as_deref().unwrap_or_default());
    sections.iter().for_each(|s| all_numbers.extend(numbers(&s.latex)));
    let mut all_numbers: Vec<String> = all_numbers.into_iter().collect();
    all_numbers.sort();
    let plain = document.sections.iter().filter(|s| !s.appendix && !s.text.is_empty());
    Ok(ResearchPaper {
        plain: plain.map(|s| (s.heading.clone(), s.text.clone())).collect(),
        sections,
        headings: document.sections.iter().map(|s| s.heading.clone()).filter(|h| !h.is_empty()).collect(),
        figures: unique(FIGURE.captures_iter(&whole).map(|c| c[1].trim().to_string())),
        tables: document
            .tables
            .iter()
            .map(|t| TableRow { caption: t.caption.clone(), rows: t.rows.clone() })
            .collect(),
        resolved: cited - unresolved.len(),
        cited,
        unresolved,
        references,
        numbers: all_numbers,
        title: document.title,
        abstract_text: document.abstract_text,
        problems,
    })
}

fn unique(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    items.filter(|i| !i.is_empty() && seen.insert(i.clone())).collect()
}

/// The source without comments, with its inclusions in place.
fn flatten(
    source: &LatexSource,
    name: &str,
    open: &mut Vec<String>,
    out: &mut String,
    problems: &mut Vec<String>,
) {
    let find = |wanted: &str| {
        let wanted = wanted.trim().trim_matches('"').trim_start_matches("./");
        let with = format!("{wanted}.tex");
        source.files.iter().find(|(n, _)| n == wanted || *n == with)
    };
    let base = source.main.rsplit_once('/').map_or("", |(b, _)| b);
    let Some((name, text)) = find(name).or_else(|| find(&format!("{base}/{name}"))) else {
        problems.push(format!("{name} is included, but is not there"));
        return;
    };
    if open.contains(name) {
        problems.push(format!("{name} includes itself; the inner inclusion is left out"));
        return;
    }
    if open.len() >= DEEPEST || out.len() + text.len() > MOST_SOURCE {
        problems
            .push(format!("{name} is left out: inclusions are deeper than {DEEPEST} or larger than 16 MiB"));
        return;
    }
    open.push(name.clone());
    let text = without_comments(text);
    let mut at = 0;
    for found in INCLUDE.captures_iter(&text) {
        let Some(place) = found.get(0) else { continue };
        out.push_str(&text[at..place.start()]);
        at = place.end();
        let file = match (found.get(1).or(found.get(2)), found.get(3), found.get(4)) {
            (Some(file), ..) => file.as_str().to_string(),
            (_, Some(folder), Some(file)) => {
                format!("{}/{}", folder.as_str().trim_end_matches('/'), file.as_str())
            }
            _ => continue,
        };
        // An argument of a macro is no file.
        if file.contains('#') {
            out.push_str(place.as_str());
        } else {
            flatten(source, &file, open, out, problems);
        }
    }
    out.push_str(&text[at..]);
    open.pop();
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut end = None;
        let bytes = line.as_bytes();
        for (i, b) in bytes.iter().enumerate() {
            let escapes = bytes[..i].iter().rev().take_while(|c| **c == b'\\').count();
            if *b == b'%' && escapes % 2 == 0 {
                end = Some(i);
                break;
            }
        }
        match end {
            // A line that is all comment goes with its end; one that ends in a comment joins the next.
            Some(i) if line[..i].trim().is_empty() => {}
            Some(i) => out.push_str(&line[..i]),
            None => out.push_str(line),
        }
    }
    out
}

/// What stands between the beginning of the document and its appendix or bibliography.
fn body(whole: &str) -> &str {
    let start = whole.find("\\begin{document}").map_or(0, |i| i + "\\begin{document}".len());
    let body = &whole[start..];
    let ends = [
        "\\end{document}",
        "\\appendix",
        "\\begin{appendices}",
        "\\bibliography{",
        "\\begin{thebibliography}",
        "\\printbibliography",
    ];
    let end = ends.iter().filter_map(|e| body.find(e)).min().unwrap_or(body.len());
    &body[..end]
}

/// Sections of the highest level, each with all that stands below its heading.
fn sections(body: &str) -> Vec<LatexSection> {
    let mut starts = Vec::new();
    for (i, _) in body.match_indices("\\section") {
        let rest = &body[i + "\\section".len()..];
        let rest = rest.strip_prefix('*').unwrap_or(rest).trim_start();
        let rest = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((_, rest)) => rest.trim_start(),
            None => rest,
        };
        let Some(heading) = rest.strip_prefix('{').and_then(balanced) else { continue };
        let after = body.len() - rest.len() + heading.len() + 2;
        starts.push((i, after, heading));
    }
    let mut out = Vec::new();
    for (n, (_, after, heading)) in starts.iter().enumerate() {
        let end = starts.get(n + 1).map_or(body.len(), |s| s.0);
        let name = latex_to_text(heading);
        if ["abstract", "references"].contains(&name.to_lowercase().as_str()) {
            continue;
        }
        let text = FORMAT.replace_all(&body[*after..end.max(*after)], "");
        let latex = BLANKS.replace_all(text.trim(), "\n\n").into_owned();
        out.push(LatexSection { heading: name, latex });
    }
    out
}

/// Up to the brace that closes.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(&text[..i]);
                }
            }
            _ => {}
        }
    }
    None
}

/// Cited works in the order of their first citation; how many keys are cited, and which of them have no entry.
fn references(
    source: &LatexSource,
    whole: &str,
    document: &Document,
) -> (Vec<CitedWork>, usize, Vec<String>) {
    let mut keys = Vec::new();
    let mut seen = HashSet::new();
    for found in CITE.captures_iter(whole) {
        if found[1].ends_with("style") {
            continue;
        }
        for key in
            found[2].split(',').map(str::trim).filter(|k| !k.is_empty() && !k.contains(['#', '\\', '*']))
        {
            if seen.insert(key.to_string()) {
                keys.push(key.to_string());
            }
        }
    }
    let mut entries: BTreeMap<String, CitedWork> = BTreeMap::new();
    let texts = |end: &'static str| source.files.iter().filter(move |(n, _)| n.to_lowercase().ends_with(end));
    for (name, text) in texts(".bib") {
        for e in parse_bibliography(text, name).entries {
            entries.entry(e.key.to_lowercase()).or_insert(CitedWork {
                key: e.key,
                title: e.title,
                abstract_text: e.abstract_text,
                year: e.year,
                paper_id: None,
                bibtex: e.bibtex,
            });
        }
    }
    let inline = whole.contains("\\bibitem").then(|| (source.main.clone(), whole.to_string()));
    for (name, text) in texts(".bbl").cloned().chain(inline) {
        for e in parse_bibliography(&text, &name).entries {
            entries.entry(e.key.to_lowercase()).or_insert(CitedWork {
                key: e.key,
                title: e.title,
                abstract_text: e.abstract_text,
                year: e.year,
                paper_id: None,
                bibtex: e.bibtex,
            });
        }
    }
    for reference in &document.references {
        let Some(key) = &reference.key else { continue };
        let title = reference.title.clone().unwrap_or_else(|| reference.text.clone());
        entries.entry(key.to_lowercase()).or_insert_with(|| CitedWork {
            key: key.clone(),
            bibtex: format!("@misc{{{key},\n  title = {{{title}}}\n}}"),
            title: reference.title.clone(),
            ..CitedWork::default()
        });
    }
    let (mut out, mut unresolved) = (Vec::new(), Vec::new());
    for key in &keys {
        match entries.get(&key.to_lowercase()) {
            Some(entry) => out.push(CitedWork { key: key.clone(), ..entry.clone() }),
            None => unresolved.push(key.clone()),
        }
    }
    (out, keys.len(), unresolved)
}

/// Joins abstracts by title, exact in letters and digits; returns how many references have one now.
pub fn join_abstracts(references: &mut [CitedWork], known: &[Reference]) -> usize {
    let by_title: BTreeMap<String, &Reference> = known
        .iter()
        .filter_map(|r| Some((r.title.as_deref().map(title::key).filter(|k| k.len() >= 8)?, r)))
        .collect();
    for work in references.iter_mut() {
        let Some(found) = work.title.as_deref().map(title::key).and_then(|k| by_title.get(&k)) else {
            continue;
        };
        work.abstract_text = work.abstract_text.take().or_else(|| found.abstract_text.clone());
        work.paper_id = work.paper_id.take().or_else(|| found.paper_id.clone());
        work.year = work.year.or(found.year);
    }
    references.iter().filter(|w| w.abstract_text.is_some()).count()
}

/// The section from which on results are told: the second half of the dialogue begins there.
pub fn second_half(sections: &[LatexSection]) -> Option<usize> {
    const WORDS: [&str; 9] = [
        "experiment",
        "result",
        "evaluation",
        "empirical",
        "numerical",
        "simulation",
        "benchmark",
        "case stud",
        "analysis",
    ];
    let found = sections.iter().enumerate().skip(1).position(|(_, s)| {
        let heading = s.heading.to_lowercase();
        WORDS.iter().any(|w| heading.contains(w))
    });
    // Without such a heading the first tables tell where results begin; without tables a paper ends with what it
    // concludes.
    let with_table = || sections.iter().skip(1).position(|s| s.latex.contains("\\begin{table"));
    match found.or_else(with_table) {
        Some(i) => Some(i + 1),
        None if sections.len() >= 2 => Some(sections.len() - 1),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)]) -> LatexSource {
        LatexSource {
            main: files[0].0.into(),
            files: files.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect(),
        }
    }

    #[test]
    fn a_source_that_includes_itself_ends_and_is_named() {
        let s =
            source(&[("main.tex", "a\\input{b}c"), ("b.tex", "1\\input{main}\\include{b}2 50\\% % note\n3")]);
        let (mut out, mut problems) = (String::new(), Vec::new());
        flatten(&s, "main.tex", &mut Vec::new(), &mut out, &mut problems);
        assert_eq!(out, "a12 50\\% 3c");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|p| p.contains("includes itself")));
    }

    #[test]
    fn sections_hold_their_latex_and_headings_are_plain() {
        let whole = "\\begin{document}x\\section{Intro {\\em one}}\\label{a}\nText.\n\n\n\\subsection{Sub} more\\section*{Results}$x$\\vspace{1em}\n\\appendix\\section{Proof}";
        let found = sections(body(whole));
        assert_eq!(found.iter().map(|s| s.heading.as_str()).collect::<Vec<_>>(), ["Intro one", "Results"]);
        assert_eq!(found[0].latex, "\\label{a}\nText.\n\n\\subsection{Sub} more");
        assert_eq!(found[1].latex, "$x$");
        assert_eq!(second_half(&found), Some(1));
    }
}
