//! What can be said of a sample without a judge: is it whole, do its citations and numbers hold, does it repeat itself.

use std::collections::BTreeSet;

use research::{Outline, Stage};

use crate::config::{Learn, TermName};
use crate::prompts::Prompt;
use crate::rows::{Checked, Sample};
use crate::stats::words;

/// Looks at a sample of a prompt, which holds so much of a stage.
pub fn check(sample: &Sample, stage: Stage, learn: Learn, prompt: &Prompt) -> Checked {
    let mut checked = Checked::default();
    let Some(text) = &sample.text else {
        let why = sample.failed.clone().unwrap_or_else(|| "no text".into());
        checked.faults.push(why);
        return checked;
    };
    let missing = |outline: &Outline| match learn {
        Learn::Whole => outline.missing(stage),
        Learn::Judged => outline.missing_head(),
    };
    let (wanted, missing) = (missing(&Outline::default()).len(), missing(&Outline::of(text)));
    checked.terms.insert(TermName::Complete, 1.0 - missing.len() as f64 / wanted as f64);
    if !missing.is_empty() {
        checked.faults.push(format!("without {}", missing.join(", ")));
    }
    let parts = sample.parts.max(1) as f64;
    checked.terms.insert(TermName::Finished, 1.0 - sample.unfinished.len() as f64 / parts);
    if !sample.unfinished.is_empty() {
        checked.faults.push(format!("not ended: {}", sample.unfinished.join(", ")));
    }
    let cited = citations(text);
    if !cited.is_empty() {
        let known = |key: &&String| prompt.literature.entries.iter().any(|e| e.key == **key);
        let resolved = cited.iter().filter(known).count();
        checked.terms.insert(TermName::Citations, resolved as f64 / cited.len() as f64);
        if resolved < cited.len() {
            let lost: Vec<&str> = cited.iter().filter(|k| !known(k)).map(String::as_str).collect();
            checked.faults.push(format!("cites what is not there: {}", lost.join(", ")));
        }
    }
    if let Some(given) = &prompt.given {
        let known = values(&format!("{} {}", given.results, given.first));
        let stated = decimals(text);
        let lost: Vec<&str> = stated.iter().copied().filter(|n| !is_rounding(n, &known)).collect();
        if !stated.is_empty() {
            checked.terms.insert(TermName::Numbers, 1.0 - lost.len() as f64 / stated.len() as f64);
        }
        if !lost.is_empty() {
            checked.faults.push(format!("states what no result has: {}", lost.join(", ")));
        }
    }
    let fresh = 1.0 - repeated(text);
    checked.terms.insert(TermName::Distinct, fresh);
    if fresh < 0.5 {
        checked.faults.push(format!("{:.0} % of its 4-grams are repeats", 100.0 * (1.0 - fresh)));
    }
    checked.terms.insert(TermName::Length, sample.tokens as f64 / 100.0);
    checked
}

/// Keys of `\cite`, `\citep`, `\citet` and the like.
pub fn citations(text: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for (at, _) in text.match_indices("\\cite") {
        let rest = &text[at + 5..];
        let command = rest.find(|c: char| !c.is_ascii_lowercase() && c != '*').unwrap_or(rest.len());
        let mut rest = &rest[command..];
        while let Some(inner) = rest.strip_prefix('[') {
            rest = inner.find(']').map_or("", |end| &inner[end + 1..]);
        }
        let Some(inner) = rest.strip_prefix('{') else { continue };
        let list = &inner[..inner.find('}').unwrap_or(inner.len())];
        keys.extend(list.split(',').map(|k| k.trim().to_string()).filter(|k| !k.is_empty()));
    }
    keys
}

/// Numbers with a decimal point, as they are written: those that results have and prose has not by itself.
pub fn decimals(text: &str) -> Vec<&str> {
    numerals(text).filter(|t| t.contains('.')).collect()
}

/// Digits with at most one point; dates, versions and the like are none.
fn numerals(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|t| t.trim_matches('.'))
        .filter(|t| !t.is_empty() && t.matches('.').count() < 2)
}

fn values(text: &str) -> Vec<f64> {
    numerals(text).filter_map(|t| t.parse().ok()).collect()
}

/// True if a known value, or a known share in per cent, is the stated one at its own number of decimals.
fn is_rounding(stated: &str, known: &[f64]) -> bool {
    let places = stated.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let half = 0.5 * 10f64.powi(-(places as i32)) * (1.0 + 1e-9);
    let Ok(value) = stated.parse::<f64>() else { return false };
    known.iter().any(|k| (k - value).abs() <= half || (*k <= 1.0 && (100.0 * k - value).abs() <= half))
}

/// Share of 4-grams of words that stood in the text before.
pub fn repeated(text: &str) -> f64 {
    let words = words(text);
    let (mut seen, mut again, mut all) = (BTreeSet::new(), 0u32, 0u32);
    for gram in words.windows(4) {
        all += 1;
        again += u32::from(!seen.insert(gram));
    }
    if all == 0 { 0.0 } else { f64::from(again) / f64::from(all) }
}

#[cfg(test)]
mod tests {
    use research::Given;

    use super::*;

    fn sample(text: &str) -> Sample {
        Sample {
            prompt: "q".into(),
            index: 0,
            policy: "p".into(),
            seed: 0,
            prompt_sha256: String::new(),
            text: Some(text.into()),
            failed: None,
            unfinished: Vec::new(),
            cut_at: None,
            parts: 4,
            tokens: 120,
        }
    }

    const WHOLE: &str = "## Motivation\n\nIt is slow.\n\n## Main Idea\n\nMake it fast \\citep[see][]{known}.\n\n```latex\n\\title{Fast}\n\n\
        \\begin{abstract}\nWe are fast: 93.5 against 91.2.\n\\end{abstract}\n```\n\n## Experimental Setup\n\n```json\n\
        [{\"name\": \"A\", \"description\": \"One.\"}, {\"name\": \"B\", \"description\": \"Two.\"}]\n```";

    fn prompt(given: Option<Given>) -> Prompt {
        let literature = documents::parse_bibliography("@article{known, title = {A title}}", "t").into();
        Prompt { id: "q".into(), topic: None, literature, given }
    }

    #[test]
    fn a_whole_opening_has_no_fault_and_each_lack_is_named() {
        let opening = |text: &str| check(&sample(text), Stage::Opening, Learn::Whole, &prompt(None));
        let fine = opening(WHOLE);
        assert!(fine.is_valid(), "{:?}", fine.faults);
        assert_eq!(fine.terms[&TermName::Complete], 1.0);
        assert_eq!(fine.terms[&TermName::Citations], 1.0);
        assert!(!fine.terms.contains_key(&TermName::Numbers), "without results no number is wrong");

        let half = WHOLE.replace("\\title{Fast}", "").replace("\"name\": \"B\"", "\"name\": 3");
        let lacks = opening(&half);
        assert!(
            lacks.faults[0].contains("title") && lacks.faults[0].contains("set-up"),
            "{:?}",
            lacks.faults
        );
        assert!(opening(&WHOLE.replace("known", "unknown")).faults[0].contains("unknown"));
        let (head, _) = WHOLE.split_once("\n```\n\n## Exp").unwrap();
        let judged = |text: &str| check(&sample(text), Stage::Opening, Learn::Judged, &prompt(None));
        assert!(judged(head).is_valid() && !opening(head).is_valid());
        assert!(judged(&head.replace("\\title{Fast}", "")).faults[0].contains("title"));
        let loops = format!("{WHOLE}\n{}", "we run it again and again and again and ".repeat(40));
        assert!(opening(&loops).terms[&TermName::Distinct] < 0.5);
    }

    #[test]
    fn every_number_of_a_second_half_is_a_rounding_of_one_that_was_given() {
        let results = serde_json::json!([{"name": "A", "result": {"table": [["m", "acc"], ["ours", 0.93456], ["base", "91.2"]]}}]);
        let given =
            Given::new("\\title{T}\n\\begin{abstract}\nA rate of 1.5.\n\\end{abstract}".into(), results)
                .unwrap();
        let second = |numbers: &str| {
            let text = format!(
                "```latex\n\\section{{Results}}\n\n{numbers}\n\n\\section{{Conclusion}}\n\nIt holds.\n```"
            );
            check(&sample(&text), Stage::SecondHalf, Learn::Whole, &prompt(Some(given.clone())))
        };
        let fine = second("We reach 93.5 (0.935) against 91.20 with a rate of 1.5 in version 1.2.3.");
        assert!(fine.is_valid(), "{:?}", fine.faults);
        assert_eq!((fine.terms[&TermName::Numbers], fine.terms[&TermName::Complete]), (1.0, 1.0));
        let made_up = second("We reach 93.4 against 91.2.");
        assert_eq!(made_up.terms[&TermName::Numbers], 0.5);
        assert_eq!(made_up.faults, ["states what no result has: 93.4"]);
        assert!(!second("It is better.").terms.contains_key(&TermName::Numbers));
    }
}
