//! What headings look like: their numbers and the names that papers use.

/// A heading's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Number {
    /// "3", "3.2", "3.2.1".
    Arabic(Vec<u32>),
    /// "IV".
    Roman(u32),
    /// "A", "B.2": a letter, then numbers.
    Letter(char, Vec<u32>),
}

impl Number {
    /// 1 for a section, 2 for a subsection, 3 below.
    pub(crate) fn level(&self) -> u8 {
        let depth = match self {
            Number::Arabic(parts) => parts.len(),
            Number::Roman(_) => 1,
            Number::Letter(_, parts) => parts.len() + 1,
        };
        depth.clamp(1, 3) as u8
    }
}

/// A heading's number as it stood ("3.2", without a dot at the end), its meaning, and the heading without it.
pub(crate) fn split_number(text: &str) -> Option<(String, Number, &str)> {
    let text = text.trim_start();
    let rest = text
        .strip_prefix("Appendix ")
        .or_else(|| text.strip_prefix("APPENDIX "))
        .or_else(|| text.strip_prefix("§"))
        .unwrap_or(text);
    let prefixed = rest.len() != text.len();
    let end = rest.find(|c: char| c.is_whitespace() || c == ':' || c == '—').unwrap_or(rest.len());
    let token = &rest[..end];
    let heading = rest[end..].trim_start_matches(|c: char| c.is_whitespace() || ".:—–-|".contains(c));
    // U+FFFD: a full stop that its font does not map.
    let label = token.trim_end_matches(['.', ')', ':', '\u{fffd}']);
    if label.is_empty() || label.len() > 12 {
        return None;
    }
    let dotted = token.len() != label.len();
    let mut parts = label.split('.');
    let first = parts.next()?;
    let numbers: Option<Vec<u32>> =
        parts.map(|p| (p.len() <= 2).then(|| p.parse::<u32>().ok()).flatten().filter(|n| *n <= 60)).collect();
    let numbers = numbers?;
    let number = if first.bytes().all(|b| b.is_ascii_digit()) {
        if first.len() > 2 {
            return None;
        }
        let head = first.parse::<u32>().ok()?;
        if head == 0 && numbers.is_empty() {
            return None;
        }
        Number::Arabic(std::iter::once(head).chain(numbers).collect())
    } else if let (Some(value), true) = (roman(first), numbers.is_empty() && (dotted || first.len() > 1)) {
        Number::Roman(value)
    } else if first.len() == 1 && first.bytes().all(|b| b.is_ascii_uppercase()) {
        Number::Letter(first.chars().next()?, numbers)
    } else {
        return None;
    };
    if heading.is_empty() && !prefixed {
        return None;
    }
    Some((label.to_owned(), number, heading))
}

/// True for "A Study": a letter that may be the article as well as a number.
pub(crate) fn bare_letter(text: &str) -> bool {
    let mut chars = text.trim_start().chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase()) && chars.next() == Some(' ')
}

fn roman(text: &str) -> Option<u32> {
    const UNITS: [(&str, u32); 13] = [
        ("XX", 20),
        ("XIX", 19),
        ("XVIII", 18),
        ("XVII", 17),
        ("XVI", 16),
        ("XV", 15),
        ("XIV", 14),
        ("XIII", 13),
        ("XII", 12),
        ("XI", 11),
        ("X", 10),
        ("IX", 9),
        ("VIII", 8),
    ];
    UNITS
        .into_iter()
        .chain([("VII", 7), ("VI", 6), ("V", 5), ("IV", 4), ("III", 3), ("II", 2), ("I", 1)])
        .find(|(name, _)| *name == text)
        .map(|(_, value)| value)
}

/// What a heading without its number announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The abstract.
    Abstract,
    /// The bibliography.
    References,
    /// An appendix begins.
    Appendix,
    /// Thanks, funding, author contributions, conflicts of interest: says who the authors are.
    Thanks,
    /// Keywords, classification codes.
    Keywords,
    /// One of the usual sections.
    Usual,
}

/// The role of a heading, if its words are among the usual ones.
pub(crate) fn role(heading: &str) -> Option<Role> {
    let plain: String = heading
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '&' { c } else { ' ' })
        .collect::<String>()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let thanks = [
        "acknow",
        "aknowledg",
        "funding",
        "author contribution",
        "authors contribution",
        "contributions of authors",
        "conflict of interest",
        "conflicts of interest",
        "competing interest",
        "declaration of interest",
        "declaration of competing",
        "disclosure of funding",
        "about the author",
        "biograph",
        "credit author",
    ];
    let within = ["acknowledg", "team contribution", "individual contribution", "contribution statement"];
    // A number is not part of what a heading says.
    let numbered = plain.starts_with(|c: char| c.is_ascii_digit());
    if (thanks.iter().any(|t| plain.starts_with(t)) || !numbered && within.iter().any(|t| plain.contains(t)))
        && plain.split(' ').count() <= 8
    {
        return Some(Role::Thanks);
    }
    Some(match plain.as_str() {
        "abstract" | "summary" | "zusammenfassung" | "a b s t r a c t" => Role::Abstract,
        "references"
        | "reference"
        | "bibliography"
        | "literature cited"
        | "literature"
        | "references and notes"
        | "works cited"
        | "literatur"
        | "cited literature"
        | "references cited" => Role::References,
        "appendix"
        | "appendices"
        | "supplementary material"
        | "supplementary materials"
        | "supplemental material"
        | "supplementary information"
        | "supplement"
        | "technical appendix"
        | "online appendix"
        | "supporting information" => Role::Appendix,
        "keywords"
        | "index terms"
        | "key words"
        | "keywords and phrases"
        | "ccs concepts"
        | "general terms"
        | "categories and subject descriptors" => Role::Keywords,
        "introduction"
        | "background"
        | "related work"
        | "related works"
        | "preliminaries"
        | "method"
        | "methods"
        | "methodology"
        | "approach"
        | "model"
        | "experiments"
        | "experiment"
        | "experimental setup"
        | "experimental results"
        | "results"
        | "results and discussion"
        | "evaluation"
        | "analysis"
        | "discussion"
        | "discussions"
        | "conclusion"
        | "conclusions"
        | "conclusion and future work"
        | "conclusions and future work"
        | "limitations"
        | "limitation"
        | "ethics statement"
        | "ethical considerations"
        | "broader impact"
        | "broader impact statement"
        | "impact statement"
        | "reproducibility statement"
        | "future work"
        | "materials and methods"
        | "data"
        | "dataset"
        | "datasets"
        | "setup"
        | "implementation"
        | "motivation"
        | "overview"
        | "problem statement"
        | "problem formulation"
        | "data availability"
        | "code availability"
        | "concluding remarks"
        | "discussion and conclusion"
        | "introduction and related work"
        | "ethics"
        | "summary and conclusion"
        | "summary and conclusions"
        | "notation"
        | "ablation studies"
        | "ablation study" => Role::Usual,
        _ => return None,
    })
}

/// True for headings that open an appendix by their words ("Appendix A …", "Supplementary …").
pub(crate) fn opens_appendix(heading: &str) -> bool {
    let plain = heading.trim().to_lowercase();
    role(heading) == Some(Role::Appendix)
        || ["appendix", "supplementary material", "supplemental material", "appendices"]
            .iter()
            .any(|p| plain.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_words_and_years() {
        let split = |t: &str| split_number(t).map(|(label, n, rest)| (label, n.level(), rest.to_owned()));
        assert_eq!(split("3 Results"), Some(("3".into(), 1, "Results".into())));
        assert_eq!(split("3.2. Ablation"), Some(("3.2".into(), 2, "Ablation".into())));
        assert_eq!(split("IV. EXPERIMENTS"), Some(("IV".into(), 1, "EXPERIMENTS".into())));
        assert_eq!(split("B.1 Proofs"), Some(("B.1".into(), 2, "Proofs".into())));
        assert_eq!(split("Appendix A: Proofs"), Some(("A".into(), 1, "Proofs".into())));
        assert_eq!(split("2019 was a year"), None);
        assert_eq!(split("Results"), None);
        assert_eq!(split("7"), None);
    }

    #[test]
    fn roles_are_found_whatever_the_case() {
        assert_eq!(role("REFERENCES"), Some(Role::References));
        assert_eq!(role("Acknowledgements and Funding"), Some(Role::Thanks));
        assert_eq!(role("Contributions and Acknowledgments"), Some(Role::Thanks));
        assert_eq!(role("Acknowedgement"), Some(Role::Thanks));
        assert_eq!(role("Contributions"), None);
        assert_eq!(role("Neural nets"), None);
    }
}
