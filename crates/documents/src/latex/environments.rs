//! Environments: floats, tables, lists, theorems, the bibliography.

use super::expand::plain;
use super::paper::Place;
use super::reader::{Float, Reader};
use super::tokens::Token;
use crate::Table;

impl Reader {
    pub(super) fn item(&mut self) {
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

    pub(super) fn caption(&mut self, name: &str) {
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

    /// The tokens up to `\end{name}`.
    pub(super) fn environment_body(&mut self, name: &str) -> Vec<Token> {
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

    pub(super) fn begin(&mut self, name: &str) {
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
            "equation" | "align" | "eqnarray" | "gather" | "multline" | "displaymath" | "alignat"
            | "flalign" | "math" | "dmath" | "subequations" | "empheq" => {
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
            "figure" | "wrapfigure" | "sidewaysfigure" | "SCfigure" | "figwindow" | "teaserfigure" => {
                self.float(name, "Figure")
            }
            "table" | "wraptable" | "sidewaystable" | "longtable" | "supertabular" | "longtabu"
            | "xltabular" => self.float(name, "Table"),
            "algorithm" | "algorithm2e" | "listing" | "code" | "program" => self.float(name, "Algorithm"),
            "tabular" | "tabularx" | "tabulary" | "tabu" | "array" | "NiceTabular" | "tblr" if !self.math => {
                self.tabular(name)
            }
            "tikzpicture" | "pgfpicture" | "axis" | "forest" | "tikzcd" | "picture" | "psfrags"
            | "pspicture" | "overpic" | "filecontents" | "gnuplot" | "dot2tex" => {
                self.environment_body(name);
            }
            "itemize" | "compactitem" | "description" | "list" | "trivlist" | "inparaitem" | "todolist"
            | "itemize_" => {
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
            "acknowledgments" | "acknowledgements" | "acks" | "ack" | "acknowledgment"
            | "acknowledgement" => {
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
            "minipage" | "multicols" | "adjustbox" | "subfigure" | "spacing" | "subtable" | "adjustwidth"
            | "wrapfloat" | "turn" | "rotate" | "scope" | "tcolorbox" | "mdframed" | "resizebox"
            | "threeparttable" | "tablenotes" | "algorithmic" => {
                while self.input.optional().is_some() {}
                if !matches!(base, "tcolorbox" | "mdframed" | "threeparttable" | "tablenotes" | "algorithmic")
                {
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

    pub(super) fn end(&mut self, name: &str) {
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
            "itemize" | "compactitem" | "description" | "enumerate" | "compactenum" | "list" | "trivlist"
            | "inparaenum" | "inparaitem" => {
                self.end_paragraph();
                self.lists.pop();
            }
            "thebibliography" => {
                self.finish_paragraph();
                self.paper.end_reference();
                self.paper.place = Place::Section;
            }
            "proof" | "quote" | "quotation" | "center" => self.end_paragraph(),
            other if self.theorems.contains_key(other) || self.theorems.contains_key(name) => {
                self.end_paragraph()
            }
            _ => {}
        }
    }

    pub(super) fn float(&mut self, name: &str, kind: &'static str) {
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
        let rows: Vec<Vec<String>> =
            float.rows.into_iter().filter(|r| r.iter().any(|c| !c.is_empty())).collect();
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

    pub(super) fn tabular(&mut self, name: &str) {
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
    pub(super) fn rows(&mut self, body: Vec<Token>) -> Vec<Vec<String>> {
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
}
