//! Walks through LaTeX source and writes the paper: expands the paper's macros, knows the usual commands, keeps the text
//! of those it does not know.

use super::expand::{Input, Macro, plain};
use super::files::Files;
use super::paper::{Paper, Place};
use super::tokens::{Token, tokenize};
use crate::text::collapse;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Captures inside captures deeper than this are cut.
const MAX_CAPTURE: usize = 40;
/// Files inside files.
pub(super) const MAX_INCLUDE: usize = 16;

/// An environment of the paper's own.
pub(super) struct Environment {
    pub(super) begin: Macro,
    pub(super) end: Rc<[Token]>,
}

pub(super) struct Float {
    pub(super) captions: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// "Figure", "Table", "Algorithm".
    pub(super) name: &'static str,
}

/// The state of the walk.
pub(crate) struct Reader {
    pub(crate) paper: Paper,
    pub(crate) files: Files,
    /// Folder of the main file.
    pub(super) base: String,
    pub(super) input: Input,
    pub(super) macros: HashMap<Rc<str>, Macro>,
    pub(super) aliases: HashMap<Rc<str>, Rc<str>>,
    pub(super) environments: HashMap<String, Environment>,
    pub(super) theorems: HashMap<String, String>,
    pub(super) switches: HashMap<String, bool>,
    pub(super) acronyms: HashMap<String, (String, String)>,
    pub(super) acronyms_seen: HashSet<String>,
    /// The paragraph (or captured argument) in the making.
    pub(super) text: String,
    /// Floats and notes that wait for the end of the paragraph.
    pub(super) after: Vec<String>,
    pub(super) math: bool,
    pub(super) in_heading: bool,
    pub(super) captures: usize,
    pub(super) includes: usize,
    pub(super) lists: Vec<Option<u32>>,
    pub(super) floats: Vec<Float>,
    /// Environments that are open because of a user's `\begin`.
    pub(super) opened: Vec<String>,
}

impl Reader {
    /// A reader of these files.
    pub(crate) fn new(files: Files) -> Self {
        Reader {
            paper: Paper::default(),
            files,
            base: String::new(),
            input: Input::default(),
            macros: HashMap::new(),
            aliases: HashMap::new(),
            environments: HashMap::new(),
            // Many classes bring these along.
            theorems: [
                "Theorem",
                "Lemma",
                "Proposition",
                "Corollary",
                "Definition",
                "Remark",
                "Example",
                "Assumption",
                "Claim",
            ]
            .into_iter()
            .map(|name| (name.to_lowercase(), name.to_owned()))
            .collect(),
            switches: HashMap::new(),
            acronyms: HashMap::new(),
            acronyms_seen: HashSet::new(),
            text: String::new(),
            after: Vec::new(),
            math: false,
            in_heading: false,
            captures: 0,
            includes: 0,
            lists: Vec::new(),
            floats: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Reads the main file to its end.
    pub(crate) fn read_main(&mut self, name: &str, source: &str) {
        self.base = name.rsplit_once('/').map_or(String::new(), |(b, _)| b.to_owned());
        // A fragment without preamble is all body.
        if !source.contains("\\begin{document}") {
            self.paper.place = Place::Front;
        }
        self.input.push(tokenize(source).into());
        self.run();
        self.finish_paragraph();
        self.paper.end_reference();
        if self.input.exhausted {
            self.paper.findings.push(crate::read::note(
                "macro-limit",
                "a macro calls itself or grows without end; the text after it was not read",
            ));
        }
    }

    /// Reads a bibliography file (`.bbl`) after the paper.
    pub(crate) fn read_bibliography(&mut self, source: &str) {
        self.paper.place = Place::Bibliography;
        self.input = Input::default();
        self.input.push(tokenize(source).into());
        self.run();
        self.finish_paragraph();
        self.paper.end_reference();
    }

    /// A piece of LaTeX as plain text.
    pub(crate) fn fragment(&mut self, source: &str) -> String {
        self.text_of(tokenize(source))
    }

    pub(super) fn run(&mut self) {
        while let Some(token) = self.input.next() {
            self.token(token);
        }
    }

    pub(super) fn token(&mut self, token: Token) {
        match token {
            Token::Char(c) => self.char(c),
            Token::Open | Token::Close | Token::Parameter(_) => {}
            Token::Math => self.math_shift(),
            Token::Space => self.space(),
            Token::Paragraph => self.end_paragraph(),
            Token::Tie => self.text.push(' '),
            Token::Align => self.text.push(' '),
            Token::Superscript => self.script('^'),
            Token::Subscript => self.script('_'),
            Token::Verb(text) => self.text.push_str(&text),
            Token::Verbatim(body) => self.verbatim(&body.0, &body.1, &body.2),
            Token::Command(name) => self.command(&name),
        }
    }

    pub(super) fn char(&mut self, c: char) {
        if self.math && matches!(c, '=' | '<' | '>') {
            self.text.extend([' ', c, ' ']);
        } else if self.math && c == '-' {
            self.text.push('−');
        } else {
            self.text.push(c);
        }
    }

    pub(super) fn space(&mut self) {
        if !self.math {
            self.text.push(' ');
        }
    }

    pub(super) fn verbatim(&mut self, name: &str, options: &str, body: &str) {
        match name {
            "filecontents" | "filecontents*" => self.files.add(options, body),
            "comment" | "CCSXML" | "luacode" | "pycode" => {}
            _ if self.captures > 0 => self.text.push_str(body),
            _ => {
                self.end_paragraph();
                if !body.trim().is_empty() {
                    self.paper.paragraph(body.trim_matches('\n').trim_end().to_owned());
                }
            }
        }
    }

    /// The text of tokens, set apart from the paragraph in the making.
    pub(super) fn text_of(&mut self, tokens: Vec<Token>) -> String {
        self.capture(tokens, false)
    }

    pub(super) fn math_of(&mut self, tokens: Vec<Token>) -> String {
        self.capture(tokens, true)
    }

    pub(super) fn capture(&mut self, tokens: Vec<Token>, math: bool) -> String {
        if self.captures >= MAX_CAPTURE {
            return String::new();
        }
        self.captures += 1;
        let outer_text = std::mem::take(&mut self.text);
        let outer_math = std::mem::replace(&mut self.math, math);
        let frames = self.input.replace(tokens.into());
        self.run();
        self.input.restore(frames);
        self.math = outer_math;
        self.captures -= 1;
        let text = std::mem::replace(&mut self.text, outer_text);
        if math { collapse(&text) } else { tidy(&text) }
    }

    pub(super) fn captured_argument(&mut self) -> String {
        match self.input.argument() {
            Some(tokens) => self.text_of(tokens),
            None => String::new(),
        }
    }

    pub(super) fn key(&mut self) -> String {
        self.input.braced().map(|t| plain(&t)).unwrap_or_default()
    }

    /// Ends a paragraph, or only a line within an argument.
    pub(super) fn end_paragraph(&mut self) {
        if self.captures > 0 {
            self.text.push(' ');
            return;
        }
        self.finish_paragraph();
    }

    pub(super) fn finish_paragraph(&mut self) {
        let text = tidy(&std::mem::take(&mut self.text));
        if !text.is_empty() {
            self.paper.paragraph(text);
        }
        if self.captures == 0 {
            for text in std::mem::take(&mut self.after) {
                // Notes of the title page belong to it; those of an abstract wait for the first section.
                if self.paper.place == Place::Abstract {
                    self.after.push(text)
                } else {
                    self.paper.paragraph(text)
                }
            }
        }
    }

    pub(super) fn command(&mut self, name: &str) {
        if let Some(found) = self.macros.get(name) {
            let found = found.clone();
            self.input.expand(&found);
            return;
        }
        if let Some(alias) = self.aliases.get(name).cloned() {
            self.builtin(&alias);
            return;
        }
        self.builtin(name);
    }
}

/// Dashes, quotation marks, single spaces, no space before punctuation, no empty brackets.
pub(crate) fn tidy(text: &str) -> String {
    let text = collapse(text);
    if text.is_empty() {
        return text;
    }
    let text = text.replace("---", "—").replace("--", "–").replace("``", "“").replace("''", "”");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ',' | '.' | ';' | ':' | ')' | '!' | '?') && out.ends_with(' ') && !out.ends_with("  ")
        {
            let before = out.trim_end().chars().last();
            if before.is_some_and(|b| b.is_alphanumeric() || ")]}”’\"'".contains(b)) && c != ':' {
                out.truncate(out.trim_end().len());
            }
        }
        out.push(c);
    }
    out.replace("()", "").replace("[]", "").replace("( )", "").trim().to_owned()
}
