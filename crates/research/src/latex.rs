//! LaTeX as a model writes it, to blocks: nothing it writes can fail, what is not understood is text.

use typeset::{Block, Inline, PaperSection};

/// Counts of what became of citations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Citations {
    /// Keys of the given references.
    pub kept: usize,
    /// Misspelt keys, set right.
    pub repaired: usize,
    /// Keys of no given reference, taken out.
    pub removed: usize,
}

/// Turns citation keys into given ones.
pub struct Keys<'a> {
    /// What may be cited.
    pub known: Vec<&'a str>,
    /// What became of them.
    pub counts: Citations,
    /// Keys in the order of first citation.
    pub cited: Vec<String>,
}

impl Keys<'_> {
    fn resolve(&mut self, key: &str) -> Option<String> {
        let found = if self.known.contains(&key) {
            self.counts.kept += 1;
            Some(key.to_string())
        } else {
            let near = self.known.iter().map(|k| (distance(k, key), *k)).min();
            match near {
                Some((d, k)) if d <= 2 && key.len() > 4 => {
                    self.counts.repaired += 1;
                    Some(k.to_string())
                }
                _ => {
                    self.counts.removed += 1;
                    None
                }
            }
        };
        if let Some(key) = &found {
            if !self.cited.contains(key) {
                self.cited.push(key.clone());
            }
        }
        found
    }
}

/// Levenshtein's distance, case ignored.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (j, y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(left + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j] = left;
            left = cost;
        }
        row[b.len()] = left;
    }
    row[b.len()]
}

/// The argument in braces after `at`; to the end of the text where it is not closed.
fn braced(text: &str) -> (&str, &str) {
    let Some(rest) = text.strip_prefix('{') else { return ("", text) };
    let mut depth = 1;
    for (i, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&rest[..i], &rest[i + 1..]);
        }
    }
    (rest, "")
}

/// What stands between `\begin{name}` and `\end{name}`, where it is there.
pub(crate) fn environment<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let start = text.find(&format!("\\begin{{{name}}}"))? + name.len() + 8;
    let rest = &text[start..];
    let end =
        rest.find(&format!("\\end{{{name}}}")).or_else(|| rest.find("\n\\section")).unwrap_or(rest.len());
    Some(rest[..end].trim())
}

/// The title, without the braces that a model forgets to close.
pub(crate) fn title(text: &str) -> Option<String> {
    let start = text.find("\\title{")? + 6;
    let (inner, _) = braced(text[start..].lines().next().unwrap_or_default());
    let title = plain(inner);
    (!title.is_empty()).then_some(title)
}

/// Sections and their blocks; text before the first section is left out.
pub fn sections(latex: &str, keys: &mut Keys<'_>) -> Vec<PaperSection> {
    let mut out: Vec<PaperSection> = Vec::new();
    let mut rest = latex;
    const COMMANDS: [(&str, u8); 3] = [("\\section", 1), ("\\subsection", 2), ("\\subsubsection", 3)];
    let next = |text: &str, from: usize| -> Option<(usize, u8, usize)> {
        COMMANDS
            .iter()
            .filter_map(|(c, level)| {
                let at = text.get(from..)?.find(c)? + from;
                let after = &text[at + c.len()..];
                let star = usize::from(after.starts_with('*'));
                after[star..].starts_with('{').then_some((at, *level, at + c.len() + star))
            })
            .min()
    };
    while let Some((_, level, open)) = next(rest, 0) {
        let (heading, body) = braced(&rest[open..]);
        let end = next(body, 0).map_or(body.len(), |n| n.0);
        out.push(PaperSection { level, heading: plain(heading), blocks: blocks(&body[..end], keys) });
        rest = &body[end..];
    }
    out
}

const DISPLAYS: [&str; 6] = ["equation", "equation*", "align", "align*", "displaymath", "gather"];

/// Paragraphs, formulas and lists of a piece of text.
pub fn blocks(text: &str, keys: &mut Keys<'_>) -> Vec<Block> {
    let mut out = Vec::new();
    let mut paragraph = String::new();
    // A fence that closes the model's LaTeX is not part of it.
    let mut rest = text.split("```").next().unwrap_or_default().trim();
    while !rest.is_empty() {
        let at = [rest.find("\\begin{"), rest.find("\\["), rest.find("$$"), rest.find("\n\n")];
        let Some(at) = at.into_iter().flatten().min() else {
            paragraph.push_str(rest);
            break;
        };
        paragraph.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("\n\n") {
            push(&mut out, &mut paragraph, keys);
            rest = after.trim_start();
        } else if let Some(after) = rest.strip_prefix("\\[") {
            push(&mut out, &mut paragraph, keys);
            let end = after.find("\\]").unwrap_or(after.len());
            formula(&mut out, &after[..end]);
            rest = after.get(end + 2..).unwrap_or_default();
        } else if let Some(after) = rest.strip_prefix("$$") {
            push(&mut out, &mut paragraph, keys);
            let end = after.find("$$").unwrap_or(after.len());
            formula(&mut out, &after[..end]);
            rest = after.get(end + 2..).unwrap_or_default();
        } else {
            push(&mut out, &mut paragraph, keys);
            let (name, after) = braced(&rest["\\begin".len()..]);
            let close = format!("\\end{{{name}}}");
            let (inner, after) = match after.find(&close) {
                Some(end) => (&after[..end], &after[end + close.len()..]),
                None => (after, ""),
            };
            match name {
                "itemize" | "enumerate" => {
                    let items: Vec<Vec<Inline>> = inner
                        .split("\\item")
                        .skip(1)
                        .map(|i| inlines(i.trim(), keys))
                        .filter(|i| !i.is_empty())
                        .collect();
                    if !items.is_empty() {
                        out.push(Block::List { ordered: name == "enumerate", items });
                    }
                }
                "verbatim" | "lstlisting" => out.push(Block::Code(inner.trim().to_string())),
                name if DISPLAYS.contains(&name) => formula(&mut out, inner),
                // Tables come from the results alone; figures cannot be drawn from words.
                "table" | "table*" | "tabular" | "figure" | "figure*" => {}
                _ => out.extend(blocks(inner, keys)),
            }
            rest = after.trim_start();
        }
    }
    push(&mut out, &mut paragraph, keys);
    out
}

fn formula(out: &mut Vec<Block>, latex: &str) {
    let latex = latex.trim();
    if !latex.is_empty() {
        out.push(Block::Equation(latex.to_string()));
    }
}

fn push(out: &mut Vec<Block>, paragraph: &mut String, keys: &mut Keys<'_>) {
    let text = std::mem::take(paragraph);
    let inlines = inlines(text.trim(), keys);
    if !inlines.is_empty() {
        out.push(Block::Paragraph(inlines));
    }
}

/// Running text.
pub fn inlines(text: &str, keys: &mut Keys<'_>) -> Vec<Inline> {
    let mut out: Vec<Inline> = Vec::new();
    let mut plain_text = String::new();
    let mut rest = text;
    let flush = |out: &mut Vec<Inline>, t: &mut String| {
        let joined = t.split_whitespace().collect::<Vec<_>>().join(" ");
        if !joined.is_empty() {
            let lead = if t.starts_with(char::is_whitespace) && !out.is_empty() { " " } else { "" };
            let trail = if t.ends_with(char::is_whitespace) { " " } else { "" };
            out.push(Inline::Text(format!("{lead}{joined}{trail}")));
        }
        t.clear();
    };
    while let Some(c) = rest.chars().next() {
        if c == '$' {
            if let Some(end) = rest[1..].find('$').filter(|e| *e > 0 && *e < 300) {
                flush(&mut out, &mut plain_text);
                out.push(Inline::Math(rest[1..1 + end].to_string()));
                rest = &rest[end + 2..];
                continue;
            }
        }
        if c == '\\' {
            let name: String = rest[1..].chars().take_while(char::is_ascii_alphabetic).collect();
            let after = &rest[1 + name.len()..];
            let wrapped = match name.as_str() {
                "emph" | "textit" | "textsl" => Some(Inline::Emph as fn(String) -> Inline),
                "textbf" => Some(Inline::Strong as fn(String) -> Inline),
                "texttt" => Some(Inline::Code as fn(String) -> Inline),
                _ => None,
            };
            if let Some(make) = wrapped.filter(|_| after.starts_with('{')) {
                let (inner, tail) = braced(after);
                flush(&mut out, &mut plain_text);
                out.push(make(plain(inner)));
                rest = tail;
                continue;
            }
            if name.starts_with("cite") {
                let after = after.trim_start_matches('*');
                // Optional arguments: [see][p. 3].
                let mut tail = after;
                while let Some(t) = tail.strip_prefix('[') {
                    tail = t.find(']').map_or("", |e| &t[e + 1..]);
                }
                if tail.starts_with('{') {
                    let (inner, after) = braced(tail);
                    let found: Vec<String> =
                        inner.split(',').filter_map(|k| keys.resolve(k.trim())).collect();
                    if found.is_empty() {
                        let kept = plain_text.trim_end().len();
                        plain_text.truncate(kept);
                    } else {
                        flush(&mut out, &mut plain_text);
                        out.push(Inline::Cite { keys: found, textual: name == "citet" });
                    }
                    rest = after;
                    continue;
                }
            }
            match name.as_str() {
                "ref" | "label" | "eqref" | "autoref" => {
                    rest = braced(after).1;
                    continue;
                }
                "" => {
                    let escaped = rest[1..].chars().next();
                    match escaped {
                        Some(e @ ('%' | '&' | '#' | '_' | '$' | '{' | '}')) => plain_text.push(e),
                        _ => plain_text.push(' '),
                    }
                    rest = &rest[1 + escaped.map_or(0, char::len_utf8)..];
                    continue;
                }
                _ => {
                    // An unknown command: its argument is text, the command itself is not.
                    rest = after;
                    continue;
                }
            }
        }
        match c {
            '{' | '}' => {}
            '~' => plain_text.push(' '),
            '`' | '\'' if rest.starts_with("``") || rest.starts_with("''") => {
                plain_text.push(if c == '`' { '“' } else { '”' });
                rest = &rest[2..];
                continue;
            }
            c => plain_text.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    flush(&mut out, &mut plain_text);
    out
}

/// Text without commands.
fn plain(text: &str) -> String {
    let mut none = Keys { known: Vec::new(), counts: Citations::default(), cited: Vec::new() };
    let parts = inlines(text, &mut none);
    let joined: String = parts
        .into_iter()
        .map(|i| match i {
            Inline::Text(t) | Inline::Emph(t) | Inline::Strong(t) | Inline::Code(t) | Inline::Math(t) => t,
            Inline::Cite { .. } | Inline::Number { .. } => String::new(),
        })
        .collect();
    joined.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys<'static> {
        Keys { known: vec!["smith2020", "doe2019"], counts: Citations::default(), cited: Vec::new() }
    }

    #[test]
    fn citations_outside_the_references_are_repaired_or_removed_and_counted() {
        let mut k = keys();
        let text = r"As shown \citep{smith2020, smoth2020}, but not \citet{nobody} or \cite[p.~3]{doe2019}.";
        let out = inlines(text, &mut k);
        assert_eq!(k.counts, Citations { kept: 2, repaired: 1, removed: 1 });
        assert_eq!(k.cited, ["smith2020", "doe2019"]);
        assert!(matches!(&out[1], Inline::Cite { keys, .. } if keys.len() == 2));
    }

    #[test]
    fn broken_latex_is_text_and_never_fails() {
        for text in [
            "\\section{A",
            "\\begin{itemize} \\item x",
            "$x",
            "{{{",
            "\\",
            "\\cite{",
            "\\[ x",
            "\\emph{a {b} c",
        ] {
            let mut k = keys();
            sections(text, &mut k);
            blocks(text, &mut k);
        }
        let mut k = keys();
        let s = sections(
            "\\section{One}\nText $a_1$.\n\n\\begin{equation}x=1\\end{equation}\n\\subsection{Two}\n\\begin{itemize}\\item p\\item q\\end{itemize}",
            &mut k,
        );
        assert_eq!((s.len(), s[0].blocks.len(), s[1].level), (2, 2, 2));
    }
}
