//! LaTeX source as tokens. Catcodes are fixed, except that `@` is a letter after `\makeatletter`.

use std::rc::Rc;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// `\name` or `\*`.
    Command(Rc<str>),
    /// An ordinary character.
    Char(char),
    /// `{` and `}`.
    Open,
    Close,
    /// `$`; `$$` is two of them.
    Math,
    /// `#1`.
    Parameter(u8),
    /// White space within a paragraph.
    Space,
    /// A blank line.
    Paragraph,
    /// `&`, `~`, `^`, `_`.
    Align,
    Tie,
    Superscript,
    Subscript,
    /// The body of an environment that is not to be interpreted (verbatim, listings, comments, embedded files): its
    /// name, what stood in brackets or braces after it, its text.
    Verbatim(Rc<(String, String, String)>),
    /// `\verb|…|`.
    Verb(Rc<str>),
}

const RAW_ENVIRONMENTS: [&str; 13] = [
    "verbatim",
    "verbatim*",
    "Verbatim",
    "lstlisting",
    "minted",
    "comment",
    "filecontents",
    "filecontents*",
    "CCSXML",
    "alltt",
    "luacode",
    "pycode",
    "tcblisting",
];

/// Cuts source text into tokens. Never fails: an unclosed raw environment goes to the end.
pub(crate) fn tokenize(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::with_capacity(chars.len() / 2);
    let mut i = 0;
    let mut at_letter = false;
    let mut line_start = true;
    while i < chars.len() {
        let c = chars[i];
        i += 1;
        match c {
            '\\' => {
                line_start = false;
                let start = i;
                while i < chars.len() && (chars[i].is_ascii_alphabetic() || at_letter && chars[i] == '@') {
                    i += 1;
                }
                if i == start {
                    if i < chars.len() {
                        let symbol = chars[i];
                        i += 1;
                        if symbol == '\n' {
                            out.push(Token::Command(" ".into()));
                        } else {
                            out.push(Token::Command(symbol.to_string().into()));
                        }
                    }
                    continue;
                }
                let name: String = chars[start..i].iter().collect();
                match name.as_str() {
                    "makeatletter" => at_letter = true,
                    "makeatother" => at_letter = false,
                    "verb" | "lstinline" | "mintinline" => {
                        if let Some((text, next)) = verb(&chars, i, &name) {
                            out.push(Token::Verb(text.into()));
                            i = next;
                            continue;
                        }
                    }
                    "begin" => {
                        if let Some((token, next)) = raw_environment(&chars, i) {
                            out.push(token);
                            i = next;
                            continue;
                        }
                    }
                    _ => {}
                }
                out.push(Token::Command(name.into()));
                // Space after a control word is eaten; a blank line is not.
                let mut breaks = 0;
                let before = i;
                while i < chars.len() && chars[i].is_whitespace() {
                    breaks += usize::from(chars[i] == '\n');
                    i += 1;
                }
                if breaks >= 2 {
                    i = before;
                } else if breaks == 1 {
                    line_start = true;
                }
            }
            '%' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
                // The line end goes with the comment, and the indent of the next line; a blank line after it stays.
                if i < chars.len() {
                    i += 1;
                    while i < chars.len() && (chars[i] == ' ' || chars[i] == '\t') {
                        i += 1;
                    }
                    line_start = true;
                    if chars.get(i) == Some(&'\n') {
                        push_space(&mut out, true);
                    }
                }
            }
            '\n' | ' ' | '\t' | '\r' => {
                let mut breaks = usize::from(c == '\n');
                while i < chars.len() && chars[i].is_whitespace() {
                    breaks += usize::from(chars[i] == '\n');
                    i += 1;
                }
                push_space(&mut out, breaks >= 2 || line_start && breaks >= 1 && c == '\n');
                line_start = breaks >= 1;
            }
            '{' => out.push(Token::Open),
            '}' => out.push(Token::Close),
            '$' => out.push(Token::Math),
            '&' => out.push(Token::Align),
            '~' => out.push(Token::Tie),
            '^' => out.push(Token::Superscript),
            '_' => out.push(Token::Subscript),
            '#' => match chars.get(i).and_then(|d| d.to_digit(10)) {
                Some(digit) if digit > 0 => {
                    i += 1;
                    out.push(Token::Parameter(digit as u8));
                }
                _ => {
                    // "##1" inside a definition inside a definition.
                    if chars.get(i) != Some(&'#') {
                        out.push(Token::Char('#'));
                    }
                }
            },
            '\u{feff}' => {}
            c if c.is_control() => {}
            c => out.push(Token::Char(c)),
        }
        if !c.is_whitespace() && c != '%' {
            line_start = false;
        }
    }
    out
}

fn push_space(out: &mut Vec<Token>, paragraph: bool) {
    match (out.last(), paragraph) {
        (Some(Token::Paragraph), _) | (Some(Token::Space), false) => {}
        (Some(Token::Space), true) => {
            out.pop();
            out.push(Token::Paragraph);
        }
        (_, true) => out.push(Token::Paragraph),
        (_, false) => out.push(Token::Space),
    }
}

fn verb(chars: &[char], mut i: usize, name: &str) -> Option<(String, usize)> {
    if chars.get(i) == Some(&'*') {
        i += 1;
    }
    if name != "verb" {
        while chars.get(i).is_some_and(|c| *c == ' ') {
            i += 1;
        }
        if chars.get(i) == Some(&'[') {
            i += chars[i..].iter().position(|c| *c == ']')? + 1;
        }
        if name == "mintinline" && chars.get(i) == Some(&'{') {
            i += chars[i..].iter().position(|c| *c == '}')? + 1;
        }
    }
    let open = *chars.get(i)?;
    if open.is_alphanumeric() || open.is_whitespace() {
        return None;
    }
    let close = if open == '{' { '}' } else { open };
    let length =
        chars[i + 1..].iter().take(2000).position(|c| *c == close || *c == '\n' && name == "verb")?;
    Some((chars[i + 1..i + 1 + length].iter().collect(), i + 2 + length))
}

/// A raw environment whose `{name}` begins at `i`.
fn raw_environment(chars: &[char], mut i: usize) -> Option<(Token, usize)> {
    while chars.get(i).is_some_and(|c| *c == ' ') {
        i += 1;
    }
    if chars.get(i) != Some(&'{') {
        return None;
    }
    let end = i + 1 + chars[i + 1..].iter().take(40).position(|c| *c == '}')?;
    let name: String = chars[i + 1..end].iter().collect();
    if !RAW_ENVIRONMENTS.contains(&name.as_str()) {
        return None;
    }
    let mut start = end + 1;
    let mut options = String::new();
    let takes_brace = name.starts_with("filecontents") || name == "minted";
    loop {
        match chars.get(start) {
            Some('[') => {
                let close = chars[start..].iter().position(|c| *c == ']')?;
                start += close + 1;
            }
            Some('{') if takes_brace && options.is_empty() => {
                let close = chars[start..].iter().position(|c| *c == '}')?;
                options = chars[start + 1..start + close].iter().collect();
                start += close + 1;
            }
            _ => break,
        }
    }
    let ending: Vec<char> = format!("\\end{{{name}}}").chars().collect();
    let stop = (start..chars.len()).find(|at| chars[*at] == '\\' && chars[*at..].starts_with(&ending));
    let (body_end, next) = match stop {
        Some(at) => (at, at + ending.len()),
        None => (chars.len(), chars.len()),
    };
    let body: String = chars[start..body_end].iter().collect();
    Some((Token::Verbatim(Rc::new((name, options, body))), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_join_lines_and_escaped_percent_signs_stay() {
        let tokens = tokenize("a%x\n  b 50\\% c\n\nd");
        let text: String = tokens
            .iter()
            .map(|t| match t {
                Token::Char(c) => *c,
                Token::Command(_) => '\\',
                Token::Space => ' ',
                Token::Paragraph => '|',
                _ => '?',
            })
            .collect();
        assert_eq!(text, "ab 50\\ c|d");
    }

    #[test]
    fn an_unclosed_verbatim_goes_to_the_end() {
        let tokens = tokenize("\\begin{verbatim}\n\\x{ % ");
        assert!(matches!(&tokens[0], Token::Verbatim(v) if v.2 == "\n\\x{ % "));
    }
}
