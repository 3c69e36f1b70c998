//! Mathematics as Unicode: `\frac{a}{b}` is "a/b", `x_i^2` stays, fonts vanish.

use super::reader::Reader;
use super::symbols::{compose, math_accent, operator, symbol};
use super::tokens::Token;

impl Reader {
    pub(super) fn math_shift(&mut self) {
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

    pub(super) fn script(&mut self, mark: char) {
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

    /// Commands that mean something else in mathematics; false if `name` is none of them.
    pub(super) fn math_command(&mut self, name: &str) -> bool {
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
                let wrap =
                    |s: String| if s.chars().all(char::is_alphanumeric) { s } else { format!("({s})") };
                self.text.push_str(&format!("{}/{}", wrap(a), wrap(b)));
            }
            "sqrt" => {
                self.input.optional();
                if let Some(tokens) = self.input.argument() {
                    let text = self.math_of(tokens);
                    self.text.push_str(&format!("√({text})"));
                }
            }
            "text" | "textrm" | "mbox" | "textnormal" | "textbf" | "textit" | "operatorname" | "textsc"
            | "texttt" | "intertext" | "mathrm" | "textsf" | "hbox" => {
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
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" | "biggl" | "biggr"
            | "limits" | "nolimits" | "displaystyle" | "textstyle" | "scriptstyle" | "nonumber" | "notag"
            | "boldsymbol" | "mathbf" | "mathcal" | "mathbb" | "mathfrak" | "mathsf" | "bm" | "," | ";"
            | ":" | "!" | ">" => {
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
            "underbrace" | "overbrace" | "underline" | "not" | "substack" | "mathop" | "mathbin"
            | "mathrel" => {}
            _ if operator(name) => {
                if self.text.ends_with(char::is_alphanumeric) {
                    self.text.push(' ');
                }
                self.text.push_str(name);
                if !matches!(
                    self.input.peek(),
                    Some(Token::Subscript | Token::Superscript | Token::Char('(' | '['))
                ) {
                    self.text.push(' ');
                }
            }
            _ => match symbol(name) {
                Some(text) => {
                    let relation =
                        text.chars().count() == 1 && "≤≥≠≪≫≈~≃≅≡∝→←↔⇒⇐⇔↦∈∉∋⊂⊆⊃⊇∪∩∧∨×±".contains(text);
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
}
