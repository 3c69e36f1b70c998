//! The input of the LaTeX reader: a stack of token lists, macros with their arguments, conditionals. Every loop here is
//! bounded: input may be a macro that calls itself.

use super::tokens::Token;
use std::collections::HashMap;
use std::rc::Rc;

/// A user's macro.
#[derive(Debug, Clone)]
pub(crate) struct Macro {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Rc<[Token]>,
}

/// How one argument is read.
#[derive(Debug, Clone)]
pub(crate) enum Parameter {
    /// `{…}` or a single token.
    Mandatory,
    /// `[…]`, with what stands for it when absent.
    Optional(Vec<Token>),
    /// `*` or nothing.
    Star,
    /// Up to these tokens (`\def\x#1.{…}`).
    Until(Vec<Token>),
}

/// Token lists nested deeper than this, or more tokens than this in all, are a macro gone wild.
const MAX_DEPTH: usize = 300;
const MAX_TOKENS: usize = 6_000_000;
/// Longest argument, tokens.
const MAX_ARGUMENT: usize = 400_000;

/// A stack of token lists.
#[derive(Debug, Default)]
pub(crate) struct Input {
    frames: Vec<(Rc<[Token]>, usize)>,
    /// Tokens read in all.
    used: usize,
    /// True after a cap was hit; nothing more is read.
    pub(crate) exhausted: bool,
}

impl Input {
    /// Puts tokens before what is yet to be read.
    pub(crate) fn push(&mut self, tokens: Rc<[Token]>) {
        if tokens.is_empty() {
            return;
        }
        while self.frames.last().is_some_and(|(list, at)| *at >= list.len()) {
            self.frames.pop();
        }
        if self.frames.len() >= MAX_DEPTH {
            self.exhausted = true;
            return;
        }
        self.frames.push((tokens, 0));
    }

    /// The next token.
    pub(crate) fn next(&mut self) -> Option<Token> {
        loop {
            if self.exhausted {
                return None;
            }
            let (list, at) = self.frames.last_mut()?;
            if let Some(token) = list.get(*at) {
                *at += 1;
                self.used += 1;
                if self.used > MAX_TOKENS {
                    self.exhausted = true;
                    return None;
                }
                return Some(token.clone());
            }
            self.frames.pop();
        }
    }

    /// The next token, left in place.
    pub(crate) fn peek(&mut self) -> Option<&Token> {
        while self.frames.last().is_some_and(|(list, at)| *at >= list.len()) {
            self.frames.pop();
        }
        if self.exhausted {
            return None;
        }
        self.frames.last().and_then(|(list, at)| list.get(*at))
    }

    /// Other input in place of this one; gives this one back.
    pub(crate) fn replace(&mut self, tokens: Rc<[Token]>) -> Vec<(Rc<[Token]>, usize)> {
        let old = std::mem::take(&mut self.frames);
        self.frames.push((tokens, 0));
        old
    }

    /// Undoes [`replace`](Self::replace).
    pub(crate) fn restore(&mut self, frames: Vec<(Rc<[Token]>, usize)>) {
        self.frames = frames;
    }

    /// Drops all input.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
    }

    /// Skips spaces (not blank lines).
    pub(crate) fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(Token::Space)) {
            self.next();
        }
    }

    /// A `*`, if it is next.
    pub(crate) fn star(&mut self) -> bool {
        self.skip_spaces();
        let star = matches!(self.peek(), Some(Token::Char('*')));
        if star {
            self.next();
        }
        star
    }

    /// An argument: a group without its braces, or one token. `None` at the end.
    pub(crate) fn argument(&mut self) -> Option<Vec<Token>> {
        while matches!(self.peek(), Some(Token::Space | Token::Paragraph)) {
            self.next();
        }
        match self.peek()? {
            Token::Open => {
                self.next();
                Some(self.group())
            }
            Token::Close => None,
            _ => self.next().map(|t| vec![t]),
        }
    }

    /// An argument in braces; `None` (and nothing read) if no brace follows.
    pub(crate) fn braced(&mut self) -> Option<Vec<Token>> {
        self.skip_spaces();
        if matches!(self.peek(), Some(Token::Open)) {
            self.next();
            return Some(self.group());
        }
        None
    }

    /// The rest of a group whose `{` was read.
    pub(crate) fn group(&mut self) -> Vec<Token> {
        let mut out = Vec::new();
        let mut depth = 1usize;
        while let Some(token) = self.next() {
            match token {
                Token::Open => depth += 1,
                Token::Close => {
                    depth -= 1;
                    if depth == 0 {
                        return out;
                    }
                }
                _ => {}
            }
            out.push(token);
            if out.len() > MAX_ARGUMENT {
                break;
            }
        }
        out
    }

    /// `[…]`, if it is next.
    pub(crate) fn optional(&mut self) -> Option<Vec<Token>> {
        self.skip_spaces();
        if !matches!(self.peek(), Some(Token::Char('['))) {
            return None;
        }
        self.next();
        let mut out = Vec::new();
        let mut depth = 0usize;
        while let Some(token) = self.next() {
            match token {
                Token::Open => depth += 1,
                Token::Close => {
                    if depth == 0 {
                        // A bracket that is no argument: give back what was read.
                        out.push(Token::Close);
                        out.insert(0, Token::Char('['));
                        self.push(out.into());
                        return None;
                    }
                    depth -= 1;
                }
                Token::Char(']') if depth == 0 => return Some(out),
                Token::Paragraph if depth == 0 => {
                    out.push(Token::Paragraph);
                    out.insert(0, Token::Char('['));
                    self.push(out.into());
                    return None;
                }
                _ => {}
            }
            out.push(token);
            if out.len() > 20_000 {
                break;
            }
        }
        Some(out)
    }

    /// Reads the arguments of a macro and puts its body in their place.
    pub(crate) fn expand(&mut self, body: &Macro) {
        let mut arguments: Vec<Vec<Token>> = Vec::with_capacity(body.parameters.len());
        for parameter in &body.parameters {
            arguments.push(match parameter {
                Parameter::Mandatory => self.argument().unwrap_or_default(),
                Parameter::Optional(default) => self.optional().unwrap_or_else(|| default.clone()),
                Parameter::Star => {
                    if self.star() {
                        vec![Token::Char('*')]
                    } else {
                        Vec::new()
                    }
                }
                Parameter::Until(end) => self.until(end),
            });
        }
        let tokens = substitute(&body.body, &arguments);
        if tokens.len() > MAX_ARGUMENT {
            self.exhausted = true;
            return;
        }
        self.push(tokens.into());
    }

    fn until(&mut self, end: &[Token]) -> Vec<Token> {
        let mut out: Vec<Token> = Vec::new();
        let mut depth = 0i32;
        while let Some(token) = self.next() {
            match token {
                Token::Open => depth += 1,
                Token::Close => depth -= 1,
                _ => {}
            }
            out.push(token);
            if depth <= 0 && out.ends_with(end) {
                out.truncate(out.len() - end.len());
                break;
            }
            if out.len() > 20_000 {
                break;
            }
        }
        out
    }

    /// Skips to the `\else` or `\fi` that ends this branch; true if it was `\else`.
    pub(crate) fn skip_branch(&mut self, switches: &HashMap<String, bool>) -> bool {
        let mut depth = 0usize;
        while let Some(token) = self.next() {
            if let Token::Command(name) = token {
                if is_conditional(&name, switches) {
                    depth += 1;
                } else if &*name == "fi" {
                    if depth == 0 {
                        return false;
                    }
                    depth -= 1;
                } else if &*name == "else" && depth == 0 {
                    return true;
                }
            }
        }
        false
    }
}

/// True for a command that a `\fi` ends.
pub(crate) fn is_conditional(name: &str, switches: &HashMap<String, bool>) -> bool {
    const KNOWN: [&str; 22] = [
        "if",
        "ifx",
        "ifnum",
        "ifdim",
        "ifodd",
        "ifcase",
        "ifcat",
        "ifvmode",
        "ifhmode",
        "ifmmode",
        "ifinner",
        "ifdefined",
        "ifcsname",
        "iftrue",
        "iffalse",
        "ifeof",
        "ifvoid",
        "ifhbox",
        "ifvbox",
        "ifPDFTeX",
        "ifpdf",
        "ifxetex",
    ];
    KNOWN.contains(&name) || name.strip_prefix("if").is_some_and(|n| switches.contains_key(n))
}

fn substitute(body: &[Token], arguments: &[Vec<Token>]) -> Vec<Token> {
    let mut out = Vec::with_capacity(body.len());
    for token in body {
        match token {
            Token::Parameter(n) => {
                if let Some(argument) = arguments.get(usize::from(*n).wrapping_sub(1)) {
                    out.extend(argument.iter().cloned());
                } else if arguments.is_empty() {
                    // A parameter of a definition inside this body.
                    out.push(token.clone());
                }
            }
            other => out.push(other.clone()),
        }
        if out.len() > MAX_ARGUMENT {
            break;
        }
    }
    out
}

/// The characters of tokens, commands with their backslash; for file names, labels, keys.
pub(crate) fn plain(tokens: &[Token]) -> String {
    let mut out = String::new();
    for token in tokens {
        match token {
            Token::Char(c) => out.push(*c),
            Token::Space | Token::Paragraph | Token::Tie => out.push(' '),
            Token::Subscript => out.push('_'),
            Token::Superscript => out.push('^'),
            Token::Align => out.push('&'),
            Token::Command(name) if name.len() == 1 && !name.starts_with(char::is_alphabetic) => {
                out.push_str(name)
            }
            Token::Command(name) => {
                out.push('\\');
                out.push_str(name);
            }
            _ => {}
        }
    }
    out.trim().to_owned()
}
