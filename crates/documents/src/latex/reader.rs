//! Walks through LaTeX source and writes the paper: expands the paper's macros, knows the usual commands, keeps the text
//! of those it does not know.

use super::expand::{Input, Macro, Parameter, is_conditional, plain};
use super::files::Files;
use super::paper::{BLOCK, LABEL_END, LABEL_START, Paper, Place};
use super::symbols::{accent, compose, math_accent, operator, symbol};
use super::tokens::{Token, tokenize};
use crate::Table;
use crate::text::collapse;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Captures inside captures deeper than this are cut.
const MAX_CAPTURE: usize = 40;
/// Files inside files.
const MAX_INCLUDE: usize = 16;

/// An environment of the paper's own.
struct Environment {
    begin: Macro,
    end: Rc<[Token]>,
}

struct Float {
    captions: Vec<String>,
    rows: Vec<Vec<String>>,
    /// "Figure", "Table", "Algorithm".
    name: &'static str,
}

/// The state of the walk.
pub(crate) struct Reader {
    pub(crate) paper: Paper,
    pub(crate) files: Files,
    /// Folder of the main file.
    base: String,
    input: Input,
    macros: HashMap<Rc<str>, Macro>,
    aliases: HashMap<Rc<str>, Rc<str>>,
    environments: HashMap<String, Environment>,
    theorems: HashMap<String, String>,
    switches: HashMap<String, bool>,
    acronyms: HashMap<String, (String, String)>,
    acronyms_seen: HashSet<String>,
    /// The paragraph (or captured argument) in the making.
    text: String,
    /// Floats and notes that wait for the end of the paragraph.
    after: Vec<String>,
    math: bool,
    captures: usize,
    includes: usize,
    lists: Vec<Option<u32>>,
    floats: Vec<Float>,
    /// Environments that are open because of a user's `\begin`.
    opened: Vec<String>,
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
            theorems: HashMap::new(),
            switches: HashMap::new(),
            acronyms: HashMap::new(),
            acronyms_seen: HashSet::new(),
            text: String::new(),
            after: Vec::new(),
            math: false,
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

    fn run(&mut self) {
        while let Some(token) = self.input.next() {
            self.token(token);
        }
    }

    fn token(&mut self, token: Token) {
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

    fn char(&mut self, c: char) {
        if self.math && matches!(c, '=' | '<' | '>') {
            self.text.extend([' ', c, ' ']);
        } else if self.math && c == '-' {
            self.text.push('−');
        } else {
            self.text.push(c);
        }
    }

    fn space(&mut self) {
        if !self.math {
            self.text.push(' ');
        }
    }

    fn verbatim(&mut self, name: &str, options: &str, body: &str) {
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

    fn math_shift(&mut self) {
        let display = matches!(self.input.peek(), Some(Token::Math));
        if display {
            self.input.next();
        }
        let mut tokens = Vec::new();
        while let Some(token) = self.input.next() {
            match token {
                Token::Math => {
                    if display && matches!(self.input.peek(), Some(Token::Math)) {
                        self.input.next();
                    }
                    break;
                }
                // A dollar sign without its partner must not swallow the paper.
                Token::Paragraph if !display => {
                    tokens.push(Token::Paragraph);
                    self.input.push(tokens.into());
                    return;
                }
                token => tokens.push(token),
            }
            if tokens.len() > 20_000 {
                break;
            }
        }
        let text = self.math_of(tokens);
        if display {
            self.text.push(' ');
        }
        self.text.push_str(&text);
        if display {
            self.text.push(' ');
        }
    }

    fn script(&mut self, mark: char) {
        if !self.math {
            self.text.push(mark);
            return;
        }
        let Some(argument) = self.input.argument() else { return };
        let text = self.math_of(argument);
        match text.chars().count() {
            0 => {}
            1 => {
                if text != "′" {
                    self.text.push(mark);
                }
                self.text.push_str(&text);
            }
            _ => {
                self.text.push(mark);
                self.text.push('{');
                self.text.push_str(&text);
                self.text.push('}');
            }
        }
    }

    /// The text of tokens, set apart from the paragraph in the making.
    fn text_of(&mut self, tokens: Vec<Token>) -> String {
        self.capture(tokens, false)
    }

    fn math_of(&mut self, tokens: Vec<Token>) -> String {
        self.capture(tokens, true)
    }

    fn capture(&mut self, tokens: Vec<Token>, math: bool) -> String {
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

    fn captured_argument(&mut self) -> String {
        match self.input.argument() {
            Some(tokens) => self.text_of(tokens),
            None => String::new(),
        }
    }

    fn key(&mut self) -> String {
        self.input.braced().map(|t| plain(&t)).unwrap_or_default()
    }

    /// Ends a paragraph, or only a line within an argument.
    fn end_paragraph(&mut self) {
        if self.captures > 0 {
            self.text.push(' ');
            return;
        }
        self.finish_paragraph();
    }

    fn finish_paragraph(&mut self) {
        let text = tidy(&std::mem::take(&mut self.text));
        if !text.is_empty() {
            self.paper.paragraph(text);
        }
        if self.captures == 0 {
            for text in std::mem::take(&mut self.after) {
                // Notes of the title page belong to it; those of an abstract wait for the first section.
                if self.paper.place == Place::Abstract { self.after.push(text) } else { self.paper.paragraph(text) }
            }
        }
    }

    fn command(&mut self, name: &str) {
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

    fn builtin(&mut self, name: &str) {
        if is_conditional(name, &self.switches) {
            return self.conditional(name);
        }
        if self.math && self.math_command(name) {
            return;
        }
        if let Some(mark) = accent(name) {
            let letter = self.captured_argument();
            let text = compose(&letter, mark);
            return self.text.push_str(&text);
        }
        if name.contains("cite") && !name.starts_with("bib") && !self.files_command(name) {
            return self.cite(name);
        }
        match name {
            "%" | "$" | "&" | "#" | "_" | "{" | "}" => self.text.push_str(name),
            " " | "," | ";" | ":" | ">" | "quad" | "qquad" | "enspace" | "thinspace" | "space" | "hfill" | "newline"
            | "linebreak" | "hskip" | "\n" => self.text.push(' '),
            "!" | "/" | "-" | "@" | "*" | "+" | "relax" | "protect" | "xspace" | "noindent" | "indent" | "centering" => {}
            "\\" | "tabularnewline" => {
                self.input.star();
                self.input.optional();
                self.text.push(' ');
            }
            "(" => {
                let tokens = self.until_command(")");
                let text = self.math_of(tokens);
                self.text.push_str(&text);
            }
            "[" => {
                let tokens = self.until_command("]");
                let text = self.math_of(tokens);
                self.text.push(' ');
                self.text.push_str(&text);
                self.text.push(' ');
            }
            "par" => self.end_paragraph(),
            "begin" => {
                let name = self.key();
                self.begin(&name);
            }
            "end" => {
                let name = self.key();
                self.end(&name);
            }
            "input" | "include" | "subfile" | "import" | "subimport" | "subfileinclude" | "InputIfFileExists" => self.include(name),
            "documentclass" | "documentstyle" => {
                self.input.optional();
                let class = self.key();
                self.paper.book = ["book", "report", "scrbook", "scrreprt", "memoir", "now", "thesis"].contains(&class.as_str());
            }
            "usepackage" | "RequirePackage" => {
                self.input.optional();
                let names = self.key();
                for package in names.split(',') {
                    self.local_package(package.trim());
                }
            }
            "newcommand" | "renewcommand" | "providecommand" | "DeclareRobustCommand" | "newrobustcmd" | "DeclarePairedDelimiter" => {
                self.define_command(name);
            }
            "DeclareMathOperator" => {
                self.input.star();
                let Some(target) = self.command_name() else { return };
                if let Some(body) = self.input.argument() {
                    self.define(target, Vec::new(), body);
                }
            }
            "NewDocumentCommand" | "RenewDocumentCommand" | "ProvideDocumentCommand" | "DeclareDocumentCommand" => self.define_document_command(),
            "def" | "gdef" | "edef" | "xdef" => self.define_primitive(),
            "let" => self.let_command(),
            "newenvironment" | "renewenvironment" => self.define_environment(),
            "newtheorem" | "declaretheorem" => self.define_theorem(),
            "newif" => {
                if let Some(Token::Command(flag)) = self.input.next()
                    && let Some(flag) = flag.strip_prefix("if")
                {
                    self.switches.insert(flag.to_owned(), false);
                }
            }
            "else" => {
                self.input.skip_branch(&self.switches);
            }
            "fi" | "or" => {}
            "ifthenelse" | "iftoggle" | "ifbool" => {
                self.input.argument();
                self.input.argument();
            }
            "newacronym" | "acro" | "acrodef" | "DeclareAcronym" | "newacro" => self.define_acronym(name),
            "ac" | "acp" | "acs" | "acl" | "acf" | "gls" | "glspl" | "Gls" | "Glspl" | "Ac" | "Acp" | "acsp" | "aclp" | "acrshort"
            | "acrlong" | "acrfull" | "acfp" => self.acronym(name),
            "title" | "icmltitle" | "Title" | "papertitle" | "neuripstitle" => {
                self.input.optional();
                let title = self.captured_argument();
                if !title.is_empty() {
                    self.paper.title = Some(title);
                }
            }
            "author" | "authors" | "Author" | "icmlauthor" | "affiliation" | "institute" | "address" | "affil" | "icmlaffiliation"
            | "email" | "icmlcorrespondingauthor" | "date" | "thanks" | "keywords" | "Keywords" | "icmlkeywords" | "institution"
            | "authorrunning" | "titlerunning" | "orcidID" | "IEEEauthorblockN" | "IEEEauthorblockA" | "name" | "addr" | "AND"
            | "subjclass" | "correspondingauthor" | "editor" | "editors" | "conference" | "city" | "country" | "state" => self.front_matter(name),
            "hypersetup" | "pdfinfo" => self.metadata(),
            "abstract" | "Abstract" if matches!(self.input.peek(), Some(Token::Open)) => {
                let text = self.captured_argument();
                if !text.is_empty() {
                    self.paper.summary.push(text);
                }
            }
            "chapter" => self.heading(0),
            "section" => self.heading(1),
            "subsection" => self.heading(2),
            "subsubsection" => self.heading(3),
            "paragraph" | "subparagraph" => {
                self.input.star();
                self.input.optional();
                let lead = self.captured_argument();
                self.end_paragraph();
                self.text.push_str(&lead);
                if !lead.ends_with(['.', ':', '?', '!']) {
                    self.text.push('.');
                }
                self.text.push(' ');
            }
            "appendix" | "appendices" => {
                self.end_paragraph();
                self.paper.begin_appendix();
            }
            "item" => self.item(),
            "caption" | "captionof" | "subcaption" => self.caption(name),
            "footnote" | "footnotetext" => {
                self.input.optional();
                let text = self.captured_argument();
                if self.paper.place == Place::Front {
                    self.paper.front.push(text);
                } else if !text.is_empty() {
                    self.after.push(format!("Footnote: {text}"));
                }
            }
            "label" => {
                let key = self.key();
                self.paper.label(&key);
            }
            "ref" | "eqref" | "pageref" | "autoref" | "cref" | "Cref" | "nameref" | "vref" | "autopageref" | "figref" | "secref"
            | "tabref" | "Autoref" => self.reference(name),
            "bibliography" | "addbibresource" => {
                self.input.optional();
                let names = self.key();
                self.paper.bibliographies.extend(names.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()));
            }
            "bibitem" => {
                self.finish_paragraph();
                self.input.optional();
                let key = self.key();
                self.paper.place = Place::Bibliography;
                self.paper.begin_reference(key);
            }
            "newblock" => self.text.push(BLOCK),
            "bibinfo" | "bibfield" | "bibnamefont" | "bibfnamefont" | "href" | "hyperref" | "textcolor" | "colorbox" | "hyperlink"
            | "hypertarget" | "foreignlanguage" | "scalebox" | "rotatebox" | "fontsize" | "parbox" => {
                // The first argument is no text; the second is.
                self.input.optional();
                if matches!(name, "bibnamefont" | "bibfnamefont") {
                    return;
                }
                if name == "hyperref" && !matches!(self.input.peek(), Some(Token::Open)) {
                    return;
                }
                if name != "hyperref" {
                    self.input.argument();
                }
                if name == "fontsize" {
                    self.input.argument();
                }
            }
            "texorpdfstring" => {
                let first = self.input.argument();
                self.input.argument();
                if let Some(first) = first {
                    self.input.push(first.into());
                }
            }
            "ensuremath" => {
                if let Some(tokens) = self.input.argument() {
                    let text = self.math_of(tokens);
                    self.text.push_str(&text);
                }
            }
            "url" | "nolinkurl" | "path" | "doi" => {
                let address = self.key();
                self.text.push_str(&address);
            }
            "enquote" => {
                let text = self.captured_argument();
                self.text.push_str(&format!("“{text}”"));
            }
            "multirow" | "multicolumn" => {
                self.input.optional();
                self.input.argument();
                self.input.optional();
                self.input.argument();
            }
            "maketitle" => {
                self.end_paragraph();
            }
            "tableofcontents" | "listoffigures" | "listoftables" | "printglossary" | "printacronyms" => {}
            "printbibliography" => {
                self.input.optional();
            }
            "acknowledgments" | "acknowledgements" | "acks" | "acknowledgment" => {
                self.end_paragraph();
                self.paper.heading(1, false, "Acknowledgments".into());
            }
            "today" => {}
            "number" | "the" | "arabic" => {
                self.input.argument();
            }
            _ => self.other(name),
        }
    }

    /// Commands that are dropped with their arguments, symbols, switches, and unknown ones, whose arguments are text.
    fn other(&mut self, name: &str) {
        if let Some(text) = symbol(name) {
            return self.text.push_str(text);
        }
        if let Some(flag) = name.strip_suffix("true").filter(|f| self.switches.contains_key(*f)) {
            self.switches.insert(flag.to_owned(), true);
            return;
        }
        if let Some(flag) = name.strip_suffix("false").filter(|f| self.switches.contains_key(*f)) {
            self.switches.insert(flag.to_owned(), false);
            return;
        }
        if let Some(arguments) = dropped(name) {
            self.input.star();
            for _ in 0..arguments {
                while self.input.optional().is_some() {}
                if self.input.braced().is_none() {
                    // `\vspace 3pt`: nothing to drop that can be told apart.
                    break;
                }
            }
            if arguments > 0 {
                // Only what directly follows may still be an option.
                return;
            }
            return;
        }
        if operator(name) {
            return self.text.push_str(name);
        }
        const SWITCHES: [&str; 30] = [
            "bf", "it", "em", "sf", "tt", "rm", "sc", "sl", "small", "footnotesize", "scriptsize", "tiny", "normalsize", "large",
            "Large", "LARGE", "huge", "Huge", "bfseries", "itshape", "ttfamily", "sffamily", "raggedright", "newpage",
            "clearpage", "hline", "toprule", "midrule", "bottomrule", "normalfont",
        ];
        if SWITCHES.contains(&name) {
            if matches!(name, "newpage" | "clearpage") {
                self.end_paragraph();
            }
            return;
        }
        // Unknown: an option is no text, arguments are.
        if !self.math && matches!(self.input.peek(), Some(Token::Char('['))) {
            self.input.optional();
        }
    }

    fn files_command(&self, name: &str) -> bool {
        matches!(name, "citestyle" | "citestyleset" | "setcitestyle" | "bibcite" | "DeclareCiteCommand" | "citeindextrue")
    }

    fn cite(&mut self, name: &str) {
        self.input.star();
        let mut notes = Vec::new();
        while notes.len() < 2
            && let Some(note) = self.input.optional()
        {
            notes.push(note);
        }
        let Some(keys) = self.input.braced() else { return };
        let keys = plain(&keys);
        let mut known = Vec::new();
        for key in keys.split(',').map(str::trim).filter(|k| !k.is_empty()) {
            if key == "*" {
                self.paper.cites_all = true;
                continue;
            }
            if !self.paper.cited.iter().any(|k| k == key) {
                self.paper.cited.push(key.to_owned());
            }
            known.push(key.to_owned());
        }
        if name.contains("nocite") || known.is_empty() {
            return;
        }
        let note = notes.pop().map(|n| self.text_of(n)).filter(|n| !n.is_empty());
        self.text.push('[');
        self.text.push_str(&known.join(", "));
        if let Some(note) = note {
            self.text.push_str(", ");
            self.text.push_str(&note);
        }
        self.text.push(']');
    }

    fn reference(&mut self, name: &str) {
        self.input.star();
        let keys = self.key();
        let kind = if matches!(name, "cref" | "Cref" | "autoref" | "vref" | "Autoref") { "t" } else { "n" };
        if name == "pageref" || name == "nameref" {
            return;
        }
        let eq = name == "eqref";
        if eq {
            self.text.push('(');
        }
        self.text.push(LABEL_START);
        self.text.push_str(kind);
        self.text.push(':');
        self.text.push_str(&keys);
        self.text.push(LABEL_END);
        if eq {
            self.text.push(')');
        }
    }

    fn heading(&mut self, depth: usize) {
        let star = self.input.star();
        self.input.optional();
        let heading = self.captured_argument();
        if self.captures > 0 {
            // A heading inside an argument is just its words.
            self.text.push_str(&heading);
            return;
        }
        self.finish_paragraph();
        self.paper.end_reference();
        if matches!(self.paper.place, Place::Nowhere) {
            return;
        }
        self.paper.heading(depth, !star, heading);
        for text in std::mem::take(&mut self.after) {
            self.paper.paragraph(text);
        }
    }

    fn item(&mut self) {
        let label = self.input.optional();
        self.end_paragraph();
        let label = label.map(|l| self.text_of(l));
        match (label, self.lists.last_mut()) {
            (Some(label), _) if !label.is_empty() => {
                self.text.push_str(&label);
                self.text.push(' ');
            }
            (_, Some(Some(n))) => {
                *n += 1;
                let n = *n;
                self.text.push_str(&format!("{n}. "));
            }
            _ => self.text.push_str("- "),
        }
    }

    fn caption(&mut self, name: &str) {
        self.input.star();
        if name == "captionof" {
            self.input.argument();
        }
        self.input.optional();
        let Some(tokens) = self.input.braced() else { return };
        // The label may stand inside: count first.
        let kind = self.floats.last().map_or("Figure", |f| f.name);
        let number = if name == "subcaption" { None } else { Some(self.paper.count(kind)) };
        let text = self.text_of(tokens);
        let caption = match number {
            Some(number) => format!("{kind} {number}: {text}"),
            None => text,
        };
        match self.floats.last_mut() {
            Some(float) => float.captions.push(caption),
            None => self.after.push(caption),
        }
    }

    fn front_matter(&mut self, name: &str) {
        self.input.star();
        self.input.optional();
        let first = self.captured_argument();
        let mut text = first;
        if matches!(name, "icmlauthor" | "icmlaffiliation" | "icmlcorrespondingauthor") {
            let second = self.captured_argument();
            text = if name == "icmlauthor" { text } else { second };
        }
        if !text.is_empty() && name != "date" && !name.ends_with("running") {
            self.paper.front.push(text);
        }
    }

    fn metadata(&mut self) {
        let Some(tokens) = self.input.argument() else { return };
        let mut rest = tokens.as_slice();
        while let Some(at) = rest.iter().position(|t| *t == Token::Char('p')) {
            rest = &rest[at..];
            let name: String = rest.iter().take(8).map_while(|t| if let Token::Char(c) = t { Some(*c) } else { None }).collect();
            if name == "pdftitle" && self.paper.title.is_none() {
                let mut sub = Input::default();
                sub.push(rest[8..].to_vec().into());
                sub.skip_spaces();
                sub.next();
                if let Some(value) = sub.argument() {
                    let title = self.text_of(value);
                    if !title.is_empty() {
                        self.paper.title = Some(title);
                    }
                }
                return;
            }
            rest = &rest[1..];
        }
    }

    fn include(&mut self, command: &str) {
        let name = match self.input.braced() {
            Some(tokens) => plain(&tokens),
            // `\input file` up to the next space.
            None => {
                let mut name = String::new();
                while let Some(Token::Char(c)) = self.input.peek() {
                    name.push(*c);
                    self.input.next();
                }
                name
            }
        };
        let name = if command.ends_with("import") { format!("{name}/{}", self.key()) } else { name };
        if name.is_empty() {
            return;
        }
        let found = self.files.find(&self.base, &name, "tex").map(|(n, t)| (n.to_owned(), t.to_owned()));
        let Some((found, text)) = found else {
            if self.files.find(&self.base, &name, "bbl").is_none() {
                self.paper.missing_file(&name);
            }
            return;
        };
        self.includes += 1;
        if self.includes > 400 || self.includes > MAX_INCLUDE && text.contains(&format!("{{{name}}}")) {
            self.paper.missing_file(&format!("{found} (included in itself)"));
            return;
        }
        let text = match text.split_once("\\begin{document}") {
            // A file with its own preamble: only its body.
            Some((_, body)) if self.paper.place != Place::Nowhere => {
                body.split("\\end{document}").next().unwrap_or(body).to_owned()
            }
            _ => text,
        };
        self.input.push(tokenize(&text).into());
    }

    /// The paper's own style file: its definitions matter, its text does not.
    fn local_package(&mut self, name: &str) {
        if self.includes > 60 || name.is_empty() {
            return;
        }
        let found = self.files.find(&self.base, name, "sty").filter(|(n, _)| n.ends_with(".sty")).map(|(_, t)| t.to_owned());
        if let Some(text) = found
            && text.len() < 60_000
            && self.paper.place == Place::Nowhere
        {
            self.includes += 1;
            self.input.push(tokenize(&text).into());
        }
    }

    fn until_command(&mut self, end: &str) -> Vec<Token> {
        let mut out = Vec::new();
        while let Some(token) = self.input.next() {
            match &token {
                Token::Command(name) if &**name == end => break,
                _ => out.push(token),
            }
            if out.len() > 20_000 {
                break;
            }
        }
        out
    }

    /// The tokens up to `\end{name}`.
    fn environment_body(&mut self, name: &str) -> Vec<Token> {
        let mut out = Vec::new();
        let mut depth = 0usize;
        while let Some(token) = self.input.next() {
            if let Token::Command(command) = &token
                && (&**command == "begin" || &**command == "end")
            {
                let begin = &**command == "begin";
                let tokens = self.input.braced().unwrap_or_default();
                if plain(&tokens) == name {
                    if begin {
                        depth += 1;
                    } else if depth == 0 {
                        return out;
                    } else {
                        depth -= 1;
                    }
                }
                out.push(token);
                out.push(Token::Open);
                out.extend(tokens);
                out.push(Token::Close);
                continue;
            }
            out.push(token);
        }
        out
    }

    fn begin(&mut self, name: &str) {
        if let Some(environment) = self.environments.get(name) {
            let begin = environment.begin.clone();
            self.opened.push(name.to_owned());
            return self.input.expand(&begin);
        }
        let base = name.trim_end_matches('*');
        match base {
            "document" => {
                self.text.clear();
                self.after.clear();
                self.paper.place = Place::Front;
            }
            "abstract" | "onecolabstract" | "Abstract" | "sciabstract" => {
                self.finish_paragraph();
                self.paper.place = Place::Abstract;
            }
            "equation" | "align" | "eqnarray" | "gather" | "multline" | "displaymath" | "alignat" | "flalign" | "math" | "dmath"
            | "subequations" | "empheq" => {
                let numbered = !name.ends_with('*') && !matches!(base, "displaymath" | "math");
                if base == "alignat" || base == "empheq" {
                    self.input.optional();
                    self.input.braced();
                }
                let body = self.environment_body(name);
                if numbered {
                    self.paper.count("Equation");
                }
                let text = self.math_of(body);
                self.text.push(' ');
                self.text.push_str(&text);
                self.text.push(' ');
            }
            "figure" | "wrapfigure" | "sidewaysfigure" | "SCfigure" | "figwindow" | "teaserfigure" => self.float(name, "Figure"),
            "table" | "wraptable" | "sidewaystable" | "longtable" | "supertabular" | "longtabu" | "xltabular" => self.float(name, "Table"),
            "algorithm" | "algorithm2e" | "listing" | "code" | "program" => self.float(name, "Algorithm"),
            "tabular" | "tabularx" | "tabulary" | "tabu" | "array" | "NiceTabular" | "tblr" if !self.math => self.tabular(name),
            "tikzpicture" | "pgfpicture" | "axis" | "forest" | "tikzcd" | "picture" | "psfrags" | "pspicture" | "overpic"
            | "filecontents" | "gnuplot" | "dot2tex" => {
                self.environment_body(name);
            }
            "itemize" | "compactitem" | "description" | "list" | "trivlist" | "inparaitem" | "todolist" | "itemize_" => {
                self.input.optional();
                if base == "list" {
                    self.input.braced();
                    self.input.braced();
                }
                self.end_paragraph();
                self.lists.push(None);
            }
            "enumerate" | "compactenum" | "inparaenum" | "enumerate_" => {
                self.input.optional();
                self.end_paragraph();
                self.lists.push(Some(0));
            }
            "thebibliography" => {
                self.input.braced();
                self.finish_paragraph();
                self.paper.place = Place::Bibliography;
            }
            "appendices" | "appendix" | "subappendices" => {
                self.end_paragraph();
                self.paper.begin_appendix();
            }
            "keywords" | "keyword" | "IEEEkeywords" | "Keywords" | "AMS" | "frontmatter_keywords" => {
                let body = self.environment_body(name);
                let text = self.text_of(body);
                self.paper.front.push(text);
            }
            "acknowledgments" | "acknowledgements" | "acks" | "ack" | "acknowledgment" | "acknowledgement" => {
                self.finish_paragraph();
                self.paper.heading(1, false, "Acknowledgments".into());
            }
            "icmlauthorlist" | "authorlist" | "aug" => {
                let body = self.environment_body(name);
                self.text_of(body);
            }
            "proof" => {
                let option = self.input.optional();
                self.end_paragraph();
                let lead = option.map_or_else(|| "Proof".to_owned(), |o| self.text_of(o));
                self.text.push_str(&format!("{lead}. "));
            }
            "minipage" | "multicols" | "adjustbox" | "subfigure" | "spacing" | "subtable" | "adjustwidth" | "wrapfloat" | "turn"
            | "rotate" | "scope" | "tcolorbox" | "mdframed" | "resizebox" | "threeparttable" | "tablenotes" | "algorithmic" => {
                while self.input.optional().is_some() {}
                if !matches!(base, "tcolorbox" | "mdframed" | "threeparttable" | "tablenotes" | "algorithmic") {
                    self.input.braced();
                }
                if base == "adjustwidth" {
                    self.input.braced();
                }
            }
            _ => {
                if let Some(title) = self.theorems.get(name).cloned() {
                    let option = self.input.optional();
                    self.end_paragraph();
                    let number = self.paper.count(&title);
                    let name = option.map(|o| self.text_of(o)).filter(|o| !o.is_empty());
                    match name {
                        Some(name) => self.text.push_str(&format!("{title} {number} ({name}). ")),
                        None => self.text.push_str(&format!("{title} {number}. ")),
                    }
                } else if !self.math {
                    self.input.optional();
                }
            }
        }
    }

    fn end(&mut self, name: &str) {
        if self.opened.last().is_some_and(|o| o == name) {
            self.opened.pop();
            if let Some(environment) = self.environments.get(name) {
                let end = environment.end.clone();
                self.input.push(end);
            }
            return;
        }
        match name.trim_end_matches('*') {
            "document" => self.input.clear(),
            "abstract" | "onecolabstract" | "Abstract" | "sciabstract" => {
                self.finish_paragraph();
                if self.paper.place == Place::Abstract {
                    self.paper.place = Place::Front;
                }
            }
            "itemize" | "compactitem" | "description" | "enumerate" | "compactenum" | "list" | "trivlist" | "inparaenum"
            | "inparaitem" => {
                self.end_paragraph();
                self.lists.pop();
            }
            "thebibliography" => {
                self.finish_paragraph();
                self.paper.end_reference();
                self.paper.place = Place::Section;
            }
            "proof" | "quote" | "quotation" | "center" => self.end_paragraph(),
            other if self.theorems.contains_key(other) || self.theorems.contains_key(name) => self.end_paragraph(),
            _ => {}
        }
    }

    fn float(&mut self, name: &str, kind: &'static str) {
        while self.input.optional().is_some() {}
        if name.starts_with("wrap") {
            self.input.braced();
            while self.input.optional().is_some() {}
            self.input.braced();
        }
        let long = name.starts_with("longtab") || name.starts_with("supertab") || name.starts_with("xltab");
        if long {
            if name.starts_with("xltab") {
                self.input.braced();
            }
            self.input.braced();
        }
        let mut body = self.environment_body(name);
        self.floats.push(Float { captions: Vec::new(), rows: Vec::new(), name: kind });
        let text = if long {
            // Its rows are the body itself; captions and repeated heads stand among them.
            body.retain(|t| !matches!(t, Token::Command(c) if matches!(&**c, "endhead" | "endfirsthead" | "endfoot" | "endlastfoot")));
            let rows = self.rows(body);
            if let Some(float) = self.floats.last_mut() {
                float.rows.extend(rows);
            }
            String::new()
        } else {
            self.text_of(body)
        };
        let Some(float) = self.floats.pop() else { return };
        let rows: Vec<Vec<String>> = float.rows.into_iter().filter(|r| r.iter().any(|c| !c.is_empty())).collect();
        if kind == "Table" || !rows.is_empty() {
            let caption = float.captions.join(" ");
            let mut block = caption.clone();
            for row in &rows {
                block.push('\n');
                block.push_str(&row.join(" | "));
            }
            if !block.trim().is_empty() {
                self.after.push(block.trim().to_owned());
            }
            if !caption.is_empty() || !rows.is_empty() {
                self.paper.tables.push(Table { caption, rows, page: None });
            }
        } else {
            self.after.extend(float.captions);
            if kind == "Algorithm" && !text.is_empty() {
                self.after.push(text);
            }
        }
    }

    fn tabular(&mut self, name: &str) {
        self.input.optional();
        if matches!(name, "tabular*" | "tabularx" | "tabulary" | "tabularx*") {
            self.input.braced();
        }
        self.input.optional();
        self.input.braced();
        let body = self.environment_body(name);
        let rows = self.rows(body);
        let rows: Vec<Vec<String>> = rows.into_iter().filter(|r| r.iter().any(|c| !c.is_empty())).collect();
        match self.floats.last_mut() {
            Some(float) => float.rows.extend(rows),
            None => {
                let block = rows.iter().map(|r| r.join(" | ")).collect::<Vec<_>>().join("\n");
                if self.captures > 0 {
                    self.text.push_str(&block.replace('\n', " "));
                } else if !block.is_empty() {
                    self.end_paragraph();
                    self.paper.paragraph(block);
                }
            }
        }
    }

    /// Rows of cells: cut at `\\` and `&` outside of groups and nested environments.
    fn rows(&mut self, body: Vec<Token>) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row: Vec<String> = Vec::new();
        let mut cell: Vec<Token> = Vec::new();
        let mut depth = 0usize;
        let mut tokens = body.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match &token {
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::Command(c) if &**c == "begin" => depth += 1,
                Token::Command(c) if &**c == "end" => depth = depth.saturating_sub(1),
                Token::Align if depth == 0 => {
                    let text = self.text_of(std::mem::take(&mut cell));
                    row.push(text);
                    continue;
                }
                Token::Command(c) if depth == 0 && matches!(&**c, "\\" | "tabularnewline" | "cr") => {
                    let text = self.text_of(std::mem::take(&mut cell));
                    row.push(text);
                    rows.push(std::mem::take(&mut row));
                    // `\\[3pt]`
                    if tokens.peek() == Some(&Token::Char('[')) {
                        for t in tokens.by_ref() {
                            if t == Token::Char(']') {
                                break;
                            }
                        }
                    }
                    continue;
                }
                _ => {}
            }
            cell.push(token);
        }
        let text = self.text_of(cell);
        if !text.is_empty() || !row.is_empty() {
            row.push(text);
            rows.push(row);
        }
        rows
    }

    fn conditional(&mut self, name: &str) {
        let truth = match name {
            "iftrue" | "ifPDFTeX" | "ifpdf" => true,
            "ifmmode" => self.math,
            "ifx" | "if" => {
                let (a, b) = (self.input.next(), self.input.next());
                let defined = |t: &Option<Token>| matches!(t, Some(Token::Command(c)) if self.macros.contains_key(c));
                a == b || !defined(&a) && matches!(&b, Some(Token::Command(c)) if &**c == "undefined")
            }
            "ifdefined" => matches!(self.input.next(), Some(Token::Command(c)) if self.macros.contains_key(&c)),
            other => other.strip_prefix("if").and_then(|f| self.switches.get(f)).copied().unwrap_or(false),
        };
        if !truth {
            self.input.skip_branch(&self.switches);
        }
    }

    /// Commands that mean something else in mathematics; false if `name` is none of them.
    fn math_command(&mut self, name: &str) -> bool {
        if let Some(mark) = math_accent(name) {
            if let Some(tokens) = self.input.argument() {
                let text = self.math_of(tokens);
                let text = if text.chars().count() == 1 { compose(&text, mark) } else { text };
                self.text.push_str(&text);
            }
            return true;
        }
        match name {
            "frac" | "dfrac" | "tfrac" | "nicefrac" | "sfrac" | "cfrac" => {
                let (Some(a), Some(b)) = (self.input.argument(), self.input.argument()) else { return true };
                let (a, b) = (self.math_of(a), self.math_of(b));
                let wrap = |s: String| if s.chars().all(char::is_alphanumeric) { s } else { format!("({s})") };
                self.text.push_str(&format!("{}/{}", wrap(a), wrap(b)));
            }
            "sqrt" => {
                self.input.optional();
                if let Some(tokens) = self.input.argument() {
                    let text = self.math_of(tokens);
                    self.text.push_str(&format!("√({text})"));
                }
            }
            "text" | "textrm" | "mbox" | "textnormal" | "textbf" | "textit" | "operatorname" | "textsc" | "texttt" | "intertext"
            | "mathrm" | "textsf" | "hbox" => {
                self.input.star();
                if let Some(tokens) = self.input.argument() {
                    let before = matches!(tokens.first(), Some(Token::Space));
                    let after = matches!(tokens.last(), Some(Token::Space));
                    let text = self.text_of(tokens);
                    if before {
                        self.text.push(' ');
                    }
                    self.text.push_str(&text);
                    if after || name == "operatorname" {
                        self.text.push(' ');
                    }
                }
            }
            "left" | "right" | "middle" => {
                if matches!(self.input.peek(), Some(Token::Char('.'))) {
                    self.input.next();
                }
            }
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" | "biggl" | "biggr" | "limits" | "nolimits"
            | "displaystyle" | "textstyle" | "scriptstyle" | "nonumber" | "notag" | "boldsymbol" | "mathbf" | "mathcal"
            | "mathbb" | "mathfrak" | "mathsf" | "bm" | "," | ";" | ":" | "!" | ">" => {
                if matches!(name, ";" | ":" | ">") {
                    self.text.push(' ');
                }
            }
            "\\" => {
                self.input.star();
                self.input.optional();
                self.text.push_str("; ");
            }
            "quad" | "qquad" | " " => self.text.push(' '),
            "begin" => {
                let name = self.key();
                if matches!(name.as_str(), "array" | "alignedat" | "subarray") {
                    self.input.optional();
                    self.input.braced();
                }
            }
            "end" => {
                self.key();
            }
            "tag" => {
                self.input.star();
                self.input.argument();
            }
            "stackrel" | "overset" | "underset" => {
                self.input.argument();
            }
            "underbrace" | "overbrace" | "underline" | "not" | "substack" | "mathop" | "mathbin" | "mathrel" => {}
            _ if operator(name) => {
                if self.text.ends_with(char::is_alphanumeric) {
                    self.text.push(' ');
                }
                self.text.push_str(name);
                if !matches!(self.input.peek(), Some(Token::Subscript | Token::Superscript | Token::Char('(' | '['))) {
                    self.text.push(' ');
                }
            }
            _ => match symbol(name) {
                Some(text) => {
                    let relation = text.chars().count() == 1 && "≤≥≠≪≫≈~≃≅≡∝→←↔⇒⇐⇔↦∈∉∋⊂⊆⊃⊇∪∩∧∨×±".contains(text);
                    if relation {
                        self.text.push(' ');
                    }
                    self.text.push_str(text);
                    if relation {
                        self.text.push(' ');
                    }
                }
                None => return false,
            },
        }
        true
    }

    // --- definitions ---

    fn command_name(&mut self) -> Option<Rc<str>> {
        self.input.star();
        let tokens = self.input.argument()?;
        tokens.into_iter().find_map(|t| if let Token::Command(name) = t { Some(name) } else { None })
    }

    fn define(&mut self, name: Rc<str>, parameters: Vec<Parameter>, body: Vec<Token>) {
        if protected(&name) {
            return;
        }
        self.aliases.remove(&name);
        self.macros.insert(name, Macro { parameters, body: body.into() });
    }

    fn define_command(&mut self, kind: &str) {
        let Some(name) = self.command_name() else { return };
        if kind == "DeclarePairedDelimiter" {
            self.input.argument();
            self.input.argument();
            return;
        }
        let count = self.input.optional().map(|t| plain(&t)).and_then(|t| t.parse::<usize>().ok()).unwrap_or(0).min(9);
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

    fn define_document_command(&mut self) {
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

    fn define_primitive(&mut self) {
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

    fn let_command(&mut self) {
        let Some(Token::Command(name)) = self.input.next() else { return };
        self.input.skip_spaces();
        if matches!(self.input.peek(), Some(Token::Char('='))) {
            self.input.next();
            self.input.skip_spaces();
        }
        match self.input.next() {
            Some(Token::Command(target)) if !protected(&name) && target != name => match self.macros.get(&target).cloned() {
                Some(body) => {
                    self.macros.insert(name, body);
                }
                None => {
                    self.macros.remove(&name);
                    self.aliases.insert(name, target);
                }
            },
            Some(token @ Token::Char(_)) => self.define(name, Vec::new(), vec![token]),
            _ => {}
        }
    }

    fn define_environment(&mut self) {
        self.input.star();
        let name = self.key();
        let count = self.input.optional().map(|t| plain(&t)).and_then(|t| t.parse::<usize>().ok()).unwrap_or(0).min(9);
        let default = if count > 0 { self.input.optional() } else { None };
        let (Some(begin), Some(end)) = (self.input.argument(), self.input.argument()) else { return };
        const KEPT: [&str; 10] =
            ["abstract", "document", "figure", "table", "equation", "align", "thebibliography", "itemize", "enumerate", "proof"];
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

    fn define_theorem(&mut self) {
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

    fn define_acronym(&mut self, kind: &str) {
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

    fn acronym(&mut self, name: &str) {
        self.input.star();
        self.input.optional();
        let key = self.key();
        let (short, long) = self.acronyms.get(&key).cloned().unwrap_or_else(|| (key.clone(), String::new()));
        let plural = if name.ends_with('p') || name.ends_with("pl") { "s" } else { "" };
        let first = self.acronyms_seen.insert(key);
        let text = match name {
            "acs" | "acsp" | "acrshort" => format!("{short}{plural}"),
            "acl" | "aclp" | "acrlong" if !long.is_empty() => format!("{long}{plural}"),
            _ if (first || name.starts_with("acf") || name == "acrfull") && !long.is_empty() && long != short => {
                format!("{long}{plural} ({short}{plural})")
            }
            _ => format!("{short}{plural}"),
        };
        self.text.push_str(&text);
    }
}

fn close_parameter(parameters: &mut [Parameter], delimiter: &mut Vec<Token>, seen: bool) {
    let end = std::mem::take(delimiter);
    if seen && !end.is_empty() && let Some(last) = parameters.last_mut() {
        *last = Parameter::Until(end);
    }
}

/// Commands that a paper's own definitions must not hide.
fn protected(name: &str) -> bool {
    const NAMES: [&str; 44] = [
        "section", "subsection", "subsubsection", "chapter", "paragraph", "title", "author", "cite", "citep", "citet", "item",
        "begin", "end", "documentclass", "caption", "label", "ref", "eqref", "cref", "Cref", "autoref", "textbf", "emph", "textit",
        "abstract", "maketitle", "bibitem", "input", "include", "footnote", "url", "href", "par", "\\", "thanks", "appendix",
        "bibliography", "newblock", "newcommand", "def", "fi", "else", "thefootnote", "tableofcontents",
    ];
    NAMES.contains(&name)
}

/// Commands that are dropped together with so many arguments.
fn dropped(name: &str) -> Option<usize> {
    Some(match name {
        "vspace" | "hspace" | "includegraphics" | "index" | "todo" | "bibliographystyle" | "pagestyle" | "thispagestyle" | "phantom"
        | "hphantom" | "vphantom" | "cellcolor" | "rowcolor" | "color" | "setstretch" | "captionsetup" | "graphicspath"
        | "geometry" | "pagenumbering" | "cline" | "cmidrule" | "footnotemark" | "stepcounter" | "refstepcounter" | "ifdefempty"
        | "usetikzlibrary" | "tikzset" | "lstset" | "pgfplotsset" | "sisetup" | "newcounter" | "newlength" | "bibliographyunit"
        | "iclrfinalcopy" | "icmlsetsymbol" | "printAffiliationsAndNotice" | "institutenum" | "linespread" | "hyphenation"
        | "allowdisplaybreaks" | "crefname_" | "fancyhead" | "fancyfoot" | "lhead" | "rhead" | "chead" | "lfoot" | "rfoot" | "cfoot"
        | "ShortHeadings" | "jmlrheading" | "vskip" | "hyphenpenalty" | "titleformat_" | "arxivnumber" | "ccsdesc" | "acmDOI"
        | "acmISBN" | "acmYear" | "copyrightyear" | "setcopyright" | "settopmatter" | "citestyle" | "setcitestyle" | "nobreakdash"
        | "bibpunct" | "startcontents" | "printcontents" | "DeclareUnicodeCharacter" | "subjectclass" | "addtolength_" | "input_"
        | "centerline_" | "setmainfont" | "setsansfont" | "setmonofont" | "mathversion" | "fontfamily" | "fontseries" | "fontshape"
        | "markright" | "newsavebox" | "usebox" | "sbox" | "tikz" | "pgfkeys" | "AtBeginDocument" | "AtEndDocument" | "newtoks" => 1,
        "setlength" | "setcounter" | "addtocounter" | "addtolength" | "rule" | "markboth" | "definecolor_" | "theoremstyle_"
        | "ShortHeadings_" | "crefname" | "Crefname" | "raisebox_" | "newfloat" | "floatname" | "titlespacing" | "setbibpreamble"
        | "newcolumntype" | "DeclareGraphicsRule" | "bibcite" | "sethlcolor" | "lstdefinestyle" | "lstdefinelanguage"
        | "DeclareMathSymbol" | "SetKwInOut" | "SetKwFunction" | "firstpageno_" | "pdfbookmark" | "lstinputlisting_" => 2,
        "addcontentsline" | "definecolor" | "resizebox_" | "titleformat" | "colorlet_" | "DeclareFieldFormat" => 3,
        "resizebox" => 2,
        "raisebox" | "theoremstyle" | "colorlet" | "lstinputlisting" | "bstctlcite" => 1,
        "jmlrheading_" => 6,
        _ => return None,
    })
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
        if matches!(c, ',' | '.' | ';' | ':' | ')' | '!' | '?') && out.ends_with(' ') && !out.ends_with("  ") {
            let before = out.trim_end().chars().last();
            if before.is_some_and(|b| b.is_alphanumeric() || ")]}”’\"'".contains(b)) && c != ':' {
                out.truncate(out.trim_end().len());
            }
        }
        out.push(c);
    }
    out.replace("()", "").replace("[]", "").replace("( )", "").trim().to_owned()
}
