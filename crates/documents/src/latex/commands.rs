//! The commands that the reader knows. Of those it does not know, the arguments are text.

use super::expand::{Input, is_conditional, plain};
use super::paper::{BLOCK, LABEL_END, LABEL_START, Place};
use super::reader::{MAX_INCLUDE, Reader};
use super::symbols::{accent, compose, operator, symbol};
use super::tokens::{Token, tokenize};

impl Reader {
    pub(super) fn builtin(&mut self, name: &str) {
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
            " " | "," | ";" | ":" | ">" | "quad" | "qquad" | "enspace" | "thinspace" | "space" | "hfill"
            | "newline" | "linebreak" | "hskip" | "\n" => self.text.push(' '),
            "!" | "/" | "-" | "@" | "*" | "+" | "relax" | "protect" | "xspace" | "noindent" | "indent"
            | "centering" => {}
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
            "input" | "include" | "subfile" | "import" | "subimport" | "subfileinclude"
            | "InputIfFileExists" => self.include(name),
            "documentclass" | "documentstyle" => {
                self.input.optional();
                let class = self.key();
                self.paper.book = ["book", "report", "scrbook", "scrreprt", "memoir", "now", "thesis"]
                    .contains(&class.as_str());
            }
            "usepackage" | "RequirePackage" => {
                if let Some(options) = self.input.optional() {
                    self.metadata(&options);
                }
                let names = self.key();
                for package in names.split(',') {
                    self.local_package(package.trim());
                }
            }
            "newcommand"
            | "renewcommand"
            | "providecommand"
            | "DeclareRobustCommand"
            | "newrobustcmd"
            | "DeclarePairedDelimiter" => {
                self.define_command(name);
            }
            "DeclareMathOperator" => {
                self.input.star();
                let Some(target) = self.command_name() else { return };
                if let Some(body) = self.input.argument() {
                    self.define(target, Vec::new(), body);
                }
            }
            "NewDocumentCommand"
            | "RenewDocumentCommand"
            | "ProvideDocumentCommand"
            | "DeclareDocumentCommand" => self.define_document_command(),
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
            "ac" | "acp" | "acs" | "acl" | "acf" | "gls" | "glspl" | "Gls" | "Glspl" | "Ac" | "Acp"
            | "acsp" | "aclp" | "acrshort" | "acrlong" | "acrfull" | "acfp" => self.acronym(name),
            "title" | "icmltitle" | "Title" | "papertitle" | "neuripstitle" => {
                self.input.optional();
                let title = self.captured_argument();
                if !title.is_empty() {
                    self.paper.title = Some(title);
                }
            }
            "author"
            | "authors"
            | "Author"
            | "icmlauthor"
            | "affiliation"
            | "institute"
            | "address"
            | "affil"
            | "icmlaffiliation"
            | "email"
            | "icmlcorrespondingauthor"
            | "date"
            | "thanks"
            | "keywords"
            | "Keywords"
            | "icmlkeywords"
            | "institution"
            | "authorrunning"
            | "titlerunning"
            | "orcidID"
            | "IEEEauthorblockN"
            | "IEEEauthorblockA"
            | "name"
            | "addr"
            | "AND"
            | "subjclass"
            | "correspondingauthor"
            | "editor"
            | "editors"
            | "conference"
            | "city"
            | "country"
            | "state" => self.front_matter(name),
            "hypersetup" | "pdfinfo" => {
                if let Some(tokens) = self.input.argument() {
                    self.metadata(&tokens);
                }
            }
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
            "ref" | "eqref" | "pageref" | "autoref" | "cref" | "Cref" | "nameref" | "vref" | "subref"
            | "autopageref" | "figref" | "secref" | "tabref" | "Autoref" => self.reference(name),
            "bibliography" | "addbibresource" => {
                self.input.optional();
                let names = self.key();
                self.paper
                    .bibliographies
                    .extend(names.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()));
            }
            "bibitem" => {
                self.finish_paragraph();
                self.input.optional();
                let key = self.key();
                self.paper.place = Place::Bibliography;
                self.paper.begin_reference(key);
            }
            "newblock" => self.text.push(BLOCK),
            "bibinfo" | "bibfield" | "bibnamefont" | "bibfnamefont" | "href" | "hyperref" | "textcolor"
            | "colorbox" | "hyperlink" | "hypertarget" | "foreignlanguage" | "scalebox" | "rotatebox"
            | "fontsize" | "parbox" => {
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
    pub(super) fn other(&mut self, name: &str) {
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
            "bf",
            "it",
            "em",
            "sf",
            "tt",
            "rm",
            "sc",
            "sl",
            "small",
            "footnotesize",
            "scriptsize",
            "tiny",
            "normalsize",
            "large",
            "Large",
            "LARGE",
            "huge",
            "Huge",
            "bfseries",
            "itshape",
            "ttfamily",
            "sffamily",
            "raggedright",
            "newpage",
            "clearpage",
            "hline",
            "toprule",
            "midrule",
            "bottomrule",
            "normalfont",
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

    pub(super) fn files_command(&self, name: &str) -> bool {
        matches!(
            name,
            "citestyle"
                | "citestyleset"
                | "setcitestyle"
                | "bibcite"
                | "DeclareCiteCommand"
                | "citeindextrue"
        )
    }

    pub(super) fn cite(&mut self, name: &str) {
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
        if name.contains("nocite") || known.is_empty() || self.in_heading {
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

    pub(super) fn reference(&mut self, name: &str) {
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

    pub(super) fn heading(&mut self, depth: usize) {
        let star = self.input.star();
        self.input.optional();
        self.in_heading = true;
        let heading = self.captured_argument();
        self.in_heading = false;
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

    pub(super) fn front_matter(&mut self, name: &str) {
        self.input.star();
        self.input.optional();
        // JMLR writes `\name Jane Doe` without braces: what follows is text.
        if matches!(name, "AND" | "name" | "addr" | "email")
            && !matches!(self.input.peek(), Some(Token::Open))
        {
            return self.text.push(' ');
        }
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

    /// The title among the options of hyperref, where the paper has none of its own.
    pub(super) fn metadata(&mut self, tokens: &[Token]) {
        let mut rest = tokens;
        while let Some(at) = rest.iter().position(|t| *t == Token::Char('p')) {
            rest = &rest[at..];
            let name: String = rest
                .iter()
                .take(8)
                .map_while(|t| if let Token::Char(c) = t { Some(*c) } else { None })
                .collect();
            if name == "pdftitle" && self.paper.title.is_none() {
                let mut sub = Input::default();
                sub.push(rest[8..].to_vec().into());
                sub.skip_spaces();
                if matches!(sub.peek(), Some(Token::Char('='))) {
                    sub.next();
                }
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

    pub(super) fn include(&mut self, command: &str) {
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
    pub(super) fn local_package(&mut self, name: &str) {
        if self.includes > 60 || name.is_empty() {
            return;
        }
        let found = self
            .files
            .find(&self.base, name, "sty")
            .filter(|(n, _)| n.ends_with(".sty"))
            .map(|(_, t)| t.to_owned());
        if let Some(text) = found
            && text.len() < 60_000
            && self.paper.place == Place::Nowhere
        {
            self.includes += 1;
            self.input.push(tokenize(&text).into());
        }
    }

    pub(super) fn until_command(&mut self, end: &str) -> Vec<Token> {
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
}

/// Commands that are dropped together with so many arguments.
fn dropped(name: &str) -> Option<usize> {
    Some(match name {
        "vspace"
        | "hspace"
        | "includegraphics"
        | "index"
        | "todo"
        | "bibliographystyle"
        | "pagestyle"
        | "thispagestyle"
        | "phantom"
        | "hphantom"
        | "vphantom"
        | "cellcolor"
        | "rowcolor"
        | "color"
        | "setstretch"
        | "captionsetup"
        | "graphicspath"
        | "geometry"
        | "pagenumbering"
        | "cline"
        | "cmidrule"
        | "footnotemark"
        | "stepcounter"
        | "refstepcounter"
        | "ifdefempty"
        | "usetikzlibrary"
        | "tikzset"
        | "lstset"
        | "pgfplotsset"
        | "sisetup"
        | "newcounter"
        | "newlength"
        | "bibliographyunit"
        | "iclrfinalcopy"
        | "icmlsetsymbol"
        | "printAffiliationsAndNotice"
        | "institutenum"
        | "linespread"
        | "hyphenation"
        | "allowdisplaybreaks"
        | "crefname_"
        | "fancyhead"
        | "fancyfoot"
        | "lhead"
        | "rhead"
        | "chead"
        | "lfoot"
        | "rfoot"
        | "cfoot"
        | "ShortHeadings"
        | "jmlrheading"
        | "vskip"
        | "hyphenpenalty"
        | "titleformat_"
        | "arxivnumber"
        | "ccsdesc"
        | "acmDOI"
        | "acmISBN"
        | "acmYear"
        | "copyrightyear"
        | "setcopyright"
        | "settopmatter"
        | "citestyle"
        | "setcitestyle"
        | "nobreakdash"
        | "bibpunct"
        | "startcontents"
        | "printcontents"
        | "DeclareUnicodeCharacter"
        | "subjectclass"
        | "addtolength_"
        | "input_"
        | "centerline_"
        | "setmainfont"
        | "setsansfont"
        | "setmonofont"
        | "mathversion"
        | "fontfamily"
        | "fontseries"
        | "fontshape"
        | "markright"
        | "newsavebox"
        | "usebox"
        | "sbox"
        | "tikz"
        | "pgfkeys"
        | "AtBeginDocument"
        | "AtEndDocument"
        | "newtoks" => 1,
        "setlength"
        | "setcounter"
        | "addtocounter"
        | "addtolength"
        | "rule"
        | "markboth"
        | "definecolor_"
        | "theoremstyle_"
        | "ShortHeadings_"
        | "crefname"
        | "Crefname"
        | "raisebox_"
        | "newfloat"
        | "floatname"
        | "titlespacing"
        | "setbibpreamble"
        | "newcolumntype"
        | "DeclareGraphicsRule"
        | "bibcite"
        | "sethlcolor"
        | "lstdefinestyle"
        | "lstdefinelanguage"
        | "DeclareMathSymbol"
        | "SetKwInOut"
        | "SetKwFunction"
        | "firstpageno_"
        | "pdfbookmark"
        | "lstinputlisting_" => 2,
        "addcontentsline" | "definecolor" | "resizebox_" | "titleformat" | "colorlet_"
        | "DeclareFieldFormat" => 3,
        "resizebox" => 2,
        "raisebox" | "theoremstyle" | "colorlet" | "lstinputlisting" | "bstctlcite" => 1,
        "jmlrheading_" => 6,
        _ => return None,
    })
}
