//! Text as LaTeX shows it literally, whatever characters it holds: pdfLaTeX stops at a character that its fonts lack.

use unicode_normalization::UnicodeNormalization;

/// Greek letters and signs that stand in papers outside formulas; set as mathematics.
const SIGNS: [(char, &str); 66] = [
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "varepsilon"),
    ('ϵ', "epsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('ι', "iota"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('π', "pi"),
    ('ρ', "rho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('υ', "upsilon"),
    ('φ', "varphi"),
    ('ϕ', "phi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
    ('Γ', "Gamma"),
    ('Δ', "Delta"),
    ('Θ', "Theta"),
    ('Λ', "Lambda"),
    ('Ξ', "Xi"),
    ('Π', "Pi"),
    ('Σ', "Sigma"),
    ('Φ', "Phi"),
    ('Ψ', "Psi"),
    ('Ω', "Omega"),
    ('ℓ', "ell"),
    ('←', "leftarrow"),
    ('→', "rightarrow"),
    ('↔', "leftrightarrow"),
    ('↑', "uparrow"),
    ('↓', "downarrow"),
    ('⇒', "Rightarrow"),
    ('⇔', "Leftrightarrow"),
    ('∀', "forall"),
    ('∂', "partial"),
    ('∃', "exists"),
    ('∅', "emptyset"),
    ('∇', "nabla"),
    ('∈', "in"),
    ('∏', "prod"),
    ('∑', "sum"),
    ('−', "-"),
    ('∗', "ast"),
    ('∘', "circ"),
    ('∙', "bullet"),
    ('√', "surd"),
    ('∞', "infty"),
    ('∩', "cap"),
    ('∪', "cup"),
    ('∫', "int"),
    ('∼', "sim"),
    ('≈', "approx"),
    ('≠', "neq"),
    ('≡', "equiv"),
    ('≤', "leq"),
    ('≥', "geq"),
];

/// Combining marks and the commands that set them.
const ACCENTS: [(char, &str); 14] = [
    ('\u{300}', "`"),
    ('\u{301}', "'"),
    ('\u{302}', "^"),
    ('\u{303}', "~"),
    ('\u{304}', "="),
    ('\u{306}', "u"),
    ('\u{307}', "."),
    ('\u{308}', "\""),
    ('\u{30a}', "r"),
    ('\u{30b}', "H"),
    ('\u{30c}', "v"),
    ('\u{323}', "d"),
    ('\u{327}', "c"),
    ('\u{328}', "k"),
];

/// What T1 fonts and `inputenc` set as it stands.
fn is_plain(c: char) -> bool {
    c.is_ascii() || matches!(c, '¡'..='ſ')
}

/// A character beyond the fonts as a command; `None` where there is none.
fn command(c: char) -> Option<String> {
    if let Some((_, name)) = SIGNS.iter().find(|(sign, _)| *sign == c) {
        let slash = if *name == "-" { "" } else { "\\" };
        return Some(format!("\\ensuremath{{{slash}{name}}}"));
    }
    match c {
        'Ơ' => return Some("{\\'O}".into()),
        'ơ' => return Some("{\\'o}".into()),
        'Ư' => return Some("{\\'U}".into()),
        'ư' => return Some("{\\'u}".into()),
        'ﬀ' => return Some("ff".into()),
        'ﬁ' => return Some("fi".into()),
        'ﬂ' => return Some("fl".into()),
        'ﬃ' => return Some("ffi".into()),
        'ﬄ' => return Some("ffl".into()),
        '\u{2002}'..='\u{200a}' | '\u{202f}' => return Some(" ".into()),
        '\u{2010}' | '\u{2011}' => return Some("-".into()),
        '•' => return Some("\\textbullet{}".into()),
        '€' => return Some("\\texteuro{}".into()),
        '™' => return Some("\\texttrademark{}".into()),
        '†' => return Some("\\dag{}".into()),
        '‡' => return Some("\\ddag{}".into()),
        '‰' => return Some("\\textperthousand{}".into()),
        _ => {}
    }
    // A letter with accents: the letter, then its accents from the inside.
    let mut parts = c.nfd();
    let base = parts.next().filter(|b| *b != c && is_plain(*b))?;
    let mut out = base.to_string();
    for mark in parts {
        let (_, name) = ACCENTS.iter().find(|(m, _)| *m == mark)?;
        out = format!("\\{name}{{{out}}}");
    }
    Some(format!("{{{out}}}"))
}

fn push(out: &mut String, c: char) {
    match c {
        '“' => out.push_str("``"),
        '”' => out.push_str("''"),
        '‘' => out.push('`'),
        '’' => out.push('\''),
        '–' => out.push_str("--"),
        '—' => out.push_str("---"),
        '…' => out.push_str("\\ldots{}"),
        '\u{a0}' => out.push('~'),
        '\u{ad}' => out.push_str("\\-"),
        '\u{200b}'..='\u{200f}' | '\u{feff}' => {}
        c if is_plain(c) => out.push(c),
        c => match command(c) {
            Some(command) => out.push_str(&command),
            None => out.push_str("[?]"),
        },
    }
}

/// Plain text: everything that means something to LaTeX is escaped; what its fonts lack becomes `[?]`.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.nfc() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '%' | '_' => {
                out.push('\\');
                out.push(c);
            }
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => {}
            c => push(&mut out, c),
        }
    }
    out
}

/// Source that is LaTeX already (a BibTeX entry): only characters beyond the fonts are replaced.
pub(crate) fn settable(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for c in source.nfc() {
        push(&mut out, c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_its_letters_and_loses_its_meaning_to_latex() {
        assert_eq!(escape("a_b & 5% “x” — é"), "a\\_b \\& 5\\% ``x'' --- é");
        assert_eq!(
            escape("α→β ≤ 3"),
            "\\ensuremath{\\alpha}\\ensuremath{\\rightarrow}\\ensuremath{\\beta} \\ensuremath{\\leq} 3"
        );
        assert_eq!(escape("Nguyễn"), "Nguy{\\~{\\^{e}}}n");
        assert_eq!(escape("李"), "[?]");
        // Decomposed input is the same text.
        assert_eq!(escape("e\u{301}"), "é");
    }

    #[test]
    fn a_bibtex_entry_keeps_its_commands() {
        assert_eq!(settable("author = {Đặng, T{\\\"o}m}"), "author = {Đ{\\u{\\d{a}}}ng, T{\\\"o}m}");
    }
}
