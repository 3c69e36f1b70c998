//! LaTeX formulas to typst's notation: the common part of it; everything else stays source.

use std::iter::Peekable;
use std::str::Chars;

/// Greek letters and symbols that have a plain name in typst.
const SYMBOLS: [(&str, &str); 78] = [
    ("alpha", "alpha"),
    ("beta", "beta"),
    ("gamma", "gamma"),
    ("delta", "delta"),
    ("epsilon", "epsilon.alt"),
    ("varepsilon", "epsilon"),
    ("zeta", "zeta"),
    ("eta", "eta"),
    ("theta", "theta"),
    ("iota", "iota"),
    ("kappa", "kappa"),
    ("lambda", "lambda"),
    ("mu", "mu"),
    ("nu", "nu"),
    ("xi", "xi"),
    ("pi", "pi"),
    ("rho", "rho"),
    ("sigma", "sigma"),
    ("tau", "tau"),
    ("phi", "phi.alt"),
    ("varphi", "phi"),
    ("chi", "chi"),
    ("psi", "psi"),
    ("omega", "omega"),
    ("Gamma", "Gamma"),
    ("Delta", "Delta"),
    ("Theta", "Theta"),
    ("Lambda", "Lambda"),
    ("Xi", "Xi"),
    ("Pi", "Pi"),
    ("Sigma", "Sigma"),
    ("Phi", "Phi"),
    ("Psi", "Psi"),
    ("Omega", "Omega"),
    ("sum", "sum"),
    ("prod", "product"),
    ("int", "integral"),
    ("infty", "infinity"),
    ("partial", "partial"),
    ("nabla", "nabla"),
    ("in", "in"),
    ("notin", "in.not"),
    ("subset", "subset"),
    ("cup", "union"),
    ("cap", "inter"),
    ("leq", "lt.eq"),
    ("le", "lt.eq"),
    ("geq", "gt.eq"),
    ("ge", "gt.eq"),
    ("neq", "eq.not"),
    ("ne", "eq.not"),
    ("approx", "approx"),
    ("sim", "tilde.op"),
    ("propto", "prop"),
    ("equiv", "equiv"),
    ("times", "times"),
    ("cdot", "dot.op"),
    ("pm", "plus.minus"),
    ("to", "arrow.r"),
    ("rightarrow", "arrow.r"),
    ("leftarrow", "arrow.l"),
    ("Rightarrow", "arrow.r.double"),
    ("mapsto", "arrow.r.bar"),
    ("forall", "forall"),
    ("exists", "exists"),
    ("ldots", "dots.h"),
    ("cdots", "dots.h.c"),
    ("dots", "dots.h"),
    ("mid", "bar.v"),
    ("circ", "circle.small"),
    ("star", "star.op"),
    ("odot", "dot.o"),
    ("oplus", "plus.o"),
    ("otimes", "times.o"),
    ("ell", "ell"),
    ("top", "top"),
    ("langle", "chevron.l"),
    ("rangle", "chevron.r"),
];
/// Upright operator names.
const OPERATORS: [&str; 15] =
    ["log", "exp", "max", "min", "arg", "sin", "cos", "tanh", "lim", "sup", "inf", "det", "dim", "ker", "Pr"];
/// Commands with one argument.
const WRAPPERS: [(&str, &str); 16] = [
    ("mathbf", "bold"),
    ("boldsymbol", "bold"),
    ("bm", "bold"),
    ("mathbb", "bb"),
    ("mathcal", "cal"),
    ("mathrm", "upright"),
    ("mathit", "italic"),
    ("mathsf", "sans"),
    ("hat", "hat"),
    ("bar", "overline"),
    ("overline", "overline"),
    ("tilde", "tilde"),
    ("vec", "arrow"),
    ("dot", "dot"),
    ("sqrt", "sqrt"),
    ("widehat", "hat"),
];

/// The formula in typst's notation; `None` where something is not known.
pub(crate) fn typst(latex: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = latex.chars().peekable();
    sequence(&mut chars, &mut out, None, 0)?;
    let text = out.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

type Input<'a> = Peekable<Chars<'a>>;

fn sequence(input: &mut Input<'_>, out: &mut String, end: Option<char>, depth: usize) -> Option<()> {
    if depth > 40 {
        return None;
    }
    loop {
        let Some(c) = input.next() else { return end.is_none().then_some(()) };
        match c {
            _ if Some(c) == end => return Some(()),
            '\\' => command(input, out, depth)?,
            '{' => {
                out.push_str(" zws (");
                out.truncate(out.len() - 1);
                let mut inner = String::new();
                sequence(input, &mut inner, Some('}'), depth + 1)?;
                out.truncate(out.len() - 4);
                out.push_str(&inner);
                out.push(' ');
            }
            '}' => return None,
            '_' | '^' => {
                out.push(c);
                out.push('(');
                out.push_str(&argument(input, depth)?);
                out.push_str(") ");
            }
            'a'..='z' | 'A'..='Z' => {
                out.push(' ');
                out.push(c);
                out.push(' ');
            }
            '0'..='9' | '.' => out.push(c),
            '+' | '-' | '=' | '<' | '>' | '(' | ')' | '[' | ']' | '|' | '!' | '*' | ':' => {
                out.push(' ');
                out.push(c);
                out.push(' ');
            }
            ',' | ';' => out.push_str(" \\, ".replace(',', &c.to_string()).as_str()),
            '\'' => out.push('\''),
            '/' => out.push_str(" slash "),
            c if c.is_whitespace() => out.push(' '),
            '~' => out.push(' '),
            c if c.is_alphabetic() => out.push(c),
            _ => return None,
        }
    }
}

/// A braced group or one symbol.
fn argument(input: &mut Input<'_>, depth: usize) -> Option<String> {
    let mut out = String::new();
    while input.peek().is_some_and(|c| c.is_whitespace()) {
        input.next();
    }
    match input.next()? {
        '{' => sequence(input, &mut out, Some('}'), depth + 1)?,
        '\\' => command(input, &mut out, depth + 1)?,
        c if c.is_alphanumeric() || "*+-'".contains(c) => out.push(c),
        _ => return None,
    }
    let text = out.trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// A braced group as it stands.
fn verbatim(input: &mut Input<'_>) -> Option<String> {
    while input.peek().is_some_and(|c| c.is_whitespace()) {
        input.next();
    }
    if input.next()? != '{' {
        return None;
    }
    let mut out = String::new();
    for c in input.by_ref() {
        match c {
            '}' => return Some(out),
            '{' | '\\' | '"' | '#' | '$' => return None,
            c => out.push(c),
        }
    }
    None
}

fn command(input: &mut Input<'_>, out: &mut String, depth: usize) -> Option<()> {
    let mut name = String::new();
    while let Some(c) = input.peek().filter(|c| c.is_ascii_alphabetic()) {
        name.push(*c);
        input.next();
    }
    if name.is_empty() {
        match input.next()? {
            ',' | ';' | ':' | ' ' | '!' | '\\' => out.push(' '),
            '{' => out.push_str(" brace.l "),
            '}' => out.push_str(" brace.r "),
            '|' => out.push_str(" bar.v.double "),
            '%' => out.push_str(" percent "),
            _ => return None,
        }
        return Some(());
    }
    if let Some((_, symbol)) = SYMBOLS.iter().find(|(n, _)| *n == name) {
        out.push_str(&format!(" {symbol} "));
        return Some(());
    }
    if OPERATORS.contains(&name.as_str()) {
        out.push_str(&format!(" {name} "));
        return Some(());
    }
    if let Some((_, wrapper)) = WRAPPERS.iter().find(|(n, _)| *n == name) {
        let inner = argument(input, depth)?;
        out.push_str(&format!(" {wrapper}({inner}) "));
        return Some(());
    }
    match name.as_str() {
        "frac" | "dfrac" | "tfrac" => {
            let (a, b) = (argument(input, depth)?, argument(input, depth)?);
            out.push_str(&format!(" frac({a}, {b}) "));
        }
        "text" | "textrm" | "mbox" | "operatorname" | "textbf" => {
            out.push_str(&format!(" \"{}\" ", verbatim(input)?))
        }
        "left" | "right" | "big" | "Big" | "bigl" | "bigr" | "Bigl" | "Bigr" => {
            if input.peek() == Some(&'.') {
                input.next();
            }
        }
        "quad" | "qquad" => out.push_str(" quad "),
        "label" => {
            verbatim(input)?;
        }
        "nonumber" | "displaystyle" | "limits" => {}
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::typst;

    #[test]
    fn common_formulas_convert_and_strange_ones_stay_source() {
        assert_eq!(typst(r"\alpha_{i}^2").as_deref(), Some("alpha _(i) ^(2)"));
        assert_eq!(typst(r"\frac{1}{n}").as_deref(), Some("frac(1, n)"));
        assert_eq!(typst(r"\mathbb{E}[x]").as_deref(), Some("bb(E) [ x ]"));
        for bad in [r"\unknown{x}", "{", "#read(1)", "x_{", "\"", "$"] {
            assert_eq!(typst(bad), None, "{bad}");
        }
    }
}
