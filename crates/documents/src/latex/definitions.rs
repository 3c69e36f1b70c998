//! What a paper defines: commands, environments, theorems, switches, acronyms.

use super::expand::{Macro, Parameter, plain};
use super::reader::{Environment, Reader};
use super::tokens::Token;
use std::rc::Rc;

impl Reader {
    pub(super) fn conditional(&mut self, name: &str) {
        let truth = match name {
            "iftrue" | "ifPDFTeX" | "ifpdf" => true,
            "ifmmode" => self.math,
            "ifx" | "if" => {
                let (a, b) = (self.input.next(), self.input.next());
                let defined =
                    |t: &Option<Token>| matches!(t, Some(Token::Command(c)) if self.macros.contains_key(c));
                a == b || !defined(&a) && matches!(&b, Some(Token::Command(c)) if &**c == "undefined")
            }
            "ifdefined" => {
                matches!(self.input.next(), Some(Token::Command(c)) if self.macros.contains_key(&c))
            }
            other => other.strip_prefix("if").and_then(|f| self.switches.get(f)).copied().unwrap_or(false),
        };
        if !truth {
            self.input.skip_branch(&self.switches);
        }
    }

    pub(super) fn command_name(&mut self) -> Option<Rc<str>> {
        self.input.star();
        let tokens = self.input.argument()?;
        tokens.into_iter().find_map(|t| if let Token::Command(name) = t { Some(name) } else { None })
    }

    pub(super) fn define(&mut self, name: Rc<str>, parameters: Vec<Parameter>, body: Vec<Token>) {
        if protected(&name) {
            return;
        }
        self.aliases.remove(&name);
        self.macros.insert(name, Macro { parameters, body: body.into() });
    }

    pub(super) fn define_command(&mut self, kind: &str) {
        let Some(name) = self.command_name() else { return };
        if kind == "DeclarePairedDelimiter" {
            self.input.argument();
            self.input.argument();
            return;
        }
        let count = self
            .input
            .optional()
            .map(|t| plain(&t))
            .and_then(|t| t.parse::<usize>().ok())
            .unwrap_or(0)
            .min(9);
        let default = if count > 0 { self.input.optional() } else { None };
        let Some(body) = self.input.argument() else { return };
        if kind == "providecommand" && self.macros.contains_key(&name) {
            return;
        }
        let mut parameters = vec![Parameter::Mandatory; count];
        if let (Some(default), Some(first)) = (default, parameters.first_mut()) {
            *first = Parameter::Optional(default);
        }
        // \renewcommand\x{\x …} would call itself for ever; LaTeX would too, but a reader goes on.
        if body.iter().any(|t| matches!(t, Token::Command(c) if *c == name)) {
            return;
        }
        self.define(name, parameters, body);
    }

    pub(super) fn define_document_command(&mut self) {
        let Some(name) = self.command_name() else { return };
        let (Some(signature), Some(body)) = (self.input.argument(), self.input.argument()) else { return };
        let mut parameters = Vec::new();
        let mut tokens = signature.into_iter();
        while let Some(token) = tokens.next() {
            match token {
                Token::Char('m') => parameters.push(Parameter::Mandatory),
                Token::Char('o') => parameters.push(Parameter::Optional(Vec::new())),
                Token::Char('s') => parameters.push(Parameter::Star),
                Token::Char('O') => {
                    let mut default = Vec::new();
                    let mut depth = 0;
                    for t in tokens.by_ref() {
                        match t {
                            Token::Open => depth += 1,
                            Token::Close => depth -= 1,
                            other => default.push(other),
                        }
                        if depth <= 0 {
                            break;
                        }
                    }
                    parameters.push(Parameter::Optional(default));
                }
                _ => {}
            }
        }
        self.define(name, parameters, body);
    }

    pub(super) fn define_primitive(&mut self) {
        let Some(Token::Command(name)) = self.input.next() else { return };
        let mut parameters: Vec<Parameter> = Vec::new();
        let mut delimiter: Vec<Token> = Vec::new();
        let mut seen = false;
        loop {
            match self.input.peek() {
                Some(Token::Open) => break,
                None => return,
                _ => {}
            }
            match self.input.next() {
                Some(Token::Parameter(_)) => {
                    close_parameter(&mut parameters, &mut delimiter, seen);
                    parameters.push(Parameter::Mandatory);
                    seen = true;
                }
                Some(token) => delimiter.push(token),
                None => return,
            }
            if delimiter.len() > 40 {
                return;
            }
        }
        close_parameter(&mut parameters, &mut delimiter, seen);
        let Some(body) = self.input.argument() else { return };
        if body.iter().any(|t| matches!(t, Token::Command(c) if *c == name)) {
            return;
        }
        self.define(name, parameters, body);
    }

    pub(super) fn let_command(&mut self) {
        let Some(Token::Command(name)) = self.input.next() else { return };
        self.input.skip_spaces();
        if matches!(self.input.peek(), Some(Token::Char('='))) {
            self.input.next();
            self.input.skip_spaces();
        }
        match self.input.next() {
            Some(Token::Command(target)) if !protected(&name) && target != name => {
                match self.macros.get(&target).cloned() {
                    Some(body) => {
                        self.macros.insert(name, body);
                    }
                    None => {
                        self.macros.remove(&name);
                        self.aliases.insert(name, target);
                    }
                }
            }
            Some(token @ Token::Char(_)) => self.define(name, Vec::new(), vec![token]),
            _ => {}
        }
    }

    pub(super) fn define_environment(&mut self) {
        self.input.star();
        let name = self.key();
        let count = self
            .input
            .optional()
            .map(|t| plain(&t))
            .and_then(|t| t.parse::<usize>().ok())
            .unwrap_or(0)
            .min(9);
        let default = if count > 0 { self.input.optional() } else { None };
        let (Some(begin), Some(end)) = (self.input.argument(), self.input.argument()) else { return };
        const KEPT: [&str; 10] = [
            "abstract",
            "document",
            "figure",
            "table",
            "equation",
            "align",
            "thebibliography",
            "itemize",
            "enumerate",
            "proof",
        ];
        if KEPT.contains(&name.as_str()) {
            return;
        }
        let mut parameters = vec![Parameter::Mandatory; count];
        if let (Some(default), Some(first)) = (default, parameters.first_mut()) {
            *first = Parameter::Optional(default);
        }
        let begin = Macro { parameters, body: begin.into() };
        self.environments.insert(name, Environment { begin, end: end.into() });
    }

    pub(super) fn define_theorem(&mut self) {
        self.input.star();
        self.input.optional();
        let name = self.key();
        self.input.optional();
        let title = self.input.braced().map(|t| self.text_of(t)).unwrap_or_else(|| name.clone());
        self.input.optional();
        if !name.is_empty() && name != "proof" {
            self.theorems.insert(name, title);
        }
    }

    pub(super) fn define_acronym(&mut self, kind: &str) {
        self.input.optional().filter(|_| kind == "newacronym");
        let key = self.key();
        let option = self.input.optional();
        let Some(first) = self.input.braced() else { return };
        if kind == "DeclareAcronym" {
            let text = plain(&first);
            let field = |name: &str| {
                text.split(',').find_map(|part| {
                    let (n, v) = part.split_once('=')?;
                    (n.trim() == name).then(|| v.trim().trim_matches(['{', '}']).to_owned())
                })
            };
            if let Some(long) = field("long") {
                self.acronyms.insert(key.clone(), (field("short").unwrap_or(key), long));
            }
            return;
        }
        let first = self.text_of(first);
        if kind == "newacronym" {
            let long = self.captured_argument();
            self.acronyms.insert(key, (first, long));
        } else {
            let short = option.map(|o| self.text_of(o)).unwrap_or_else(|| key.clone());
            self.acronyms.insert(key, (short, first));
        }
    }

    pub(super) fn acronym(&mut self, name: &str) {
        self.input.star();
        self.input.optional();
        let key = self.key();
        let (short, long) = self.acronyms.get(&key).cloned().unwrap_or_else(|| (key.clone(), String::new()));
        let plural = if name.ends_with('p') || name.ends_with("pl") { "s" } else { "" };
        let first = self.acronyms_seen.insert(key);
        let text = match name {
            "acs" | "acsp" | "acrshort" => format!("{short}{plural}"),
            "acl" | "aclp" | "acrlong" if !long.is_empty() => format!("{long}{plural}"),
            _ if (first || name.starts_with("acf") || name == "acrfull")
                && !long.is_empty()
                && long != short =>
            {
                format!("{long}{plural} ({short}{plural})")
            }
            _ => format!("{short}{plural}"),
        };
        self.text.push_str(&text);
    }
}

fn close_parameter(parameters: &mut [Parameter], delimiter: &mut Vec<Token>, seen: bool) {
    let end = std::mem::take(delimiter);
    if seen
        && !end.is_empty()
        && let Some(last) = parameters.last_mut()
    {
        *last = Parameter::Until(end);
    }
}

/// Commands that a paper's own definitions must not hide.
fn protected(name: &str) -> bool {
    const NAMES: [&str; 44] = [
        "section",
        "subsection",
        "subsubsection",
        "chapter",
        "paragraph",
        "title",
        "author",
        "cite",
        "citep",
        "citet",
        "item",
        "begin",
        "end",
        "documentclass",
        "caption",
        "label",
        "ref",
        "eqref",
        "cref",
        "Cref",
        "autoref",
        "textbf",
        "emph",
        "textit",
        "abstract",
        "maketitle",
        "bibitem",
        "input",
        "include",
        "footnote",
        "url",
        "href",
        "par",
        "\\",
        "thanks",
        "appendix",
        "bibliography",
        "newblock",
        "newcommand",
        "def",
        "fi",
        "else",
        "thefootnote",
        "tableofcontents",
    ];
    NAMES.contains(&name)
}
