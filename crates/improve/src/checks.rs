//! What can be said of a sample without a judge: is it whole, do its citations and numbers hold, does it repeat itself.

use std::collections::BTreeSet;

use research::{Literature, Outline, Stage};

use crate::config::TermName;
use crate::rows::{Checked, Sample};
use crate::stats::words;

/// Parts that a stage should hold.
const WANTED: f64 = 5.0;

/// Looks at a sample. `numbers` are those that may stand in it: absent where there are no results.
pub fn check(
    sample: &Sample,
    stage: Stage,
    literature: &Literature,
    numbers: Option<&BTreeSet<String>>,
) -> Checked {
    let mut checked = Checked::default();
    let Some(text) = &sample.text else {
        let why = sample.failed.clone().unwrap_or_else(|| "no text".into());
        checked.faults.push(why);
        return checked;
    };
    let missing = Outline::of(text).missing(stage);
    checked.terms.insert(TermName::Complete, 1.0 - missing.len() as f64 / WANTED);
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
        let known = |key: &&String| literature.entries.iter().any(|e| e.key == **key);
        let resolved = cited.iter().filter(known).count();
        checked.terms.insert(TermName::Citations, resolved as f64 / cited.len() as f64);
        if resolved < cited.len() {
            let lost: Vec<&str> = cited.iter().filter(|k| !known(k)).map(String::as_str).collect();
            checked.faults.push(format!("cites what is not there: {}", lost.join(", ")));
        }
    }
    if let Some(known) = numbers {
        let stated = decimals(text);
        if !stated.is_empty() {
            let held = stated.iter().filter(|n| known.contains(*n)).count();
            checked.terms.insert(TermName::Numbers, held as f64 / stated.len() as f64);
            if held < stated.len() {
                checked.faults.push(format!("{} numbers that no result has", stated.len() - held));
            }
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
pub fn decimals(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.split(|c: char| !is_part(c))
        .map(|t| t.trim_matches('.'))
        .filter(|t| t.matches('.').count() == 1)
        .map(str::to_string)
        .collect()
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
            parts: 4,
            tokens: 120,
        }
    }

    const WHOLE: &str = "## Motivation\n\nIt is slow.\n\n## Main Idea\n\nMake it fast \\citep[see][]{known}.\n\n```latex\n\\title{Fast}\n\n\
        \\begin{abstract}\nWe are fast: 93.5 against 91.2.\n\\end{abstract}\n```\n\n## Experimental Setup\n\n```json\n\
        [{\"name\": \"A\", \"description\": \"One.\"}, {\"name\": \"B\", \"description\": \"Two.\"}]\n```";

    fn literature() -> Literature {
        documents::parse_bibliography("@article{known, title = {A title}}", "t").into()
    }

    #[test]
    fn a_whole_opening_has_no_fault_and_each_lack_is_named() {
        let fine = check(&sample(WHOLE), Stage::Opening, &literature(), None);
        assert!(fine.is_valid(), "{:?}", fine.faults);
        assert_eq!(fine.terms[&TermName::Complete], 1.0);
        assert_eq!(fine.terms[&TermName::Citations], 1.0);
        assert!(!fine.terms.contains_key(&TermName::Numbers), "without results no number is wrong");

        let known = BTreeSet::from(["93.5".to_string()]);
        let numbers = check(&sample(WHOLE), Stage::Opening, &literature(), Some(&known));
        assert_eq!(numbers.terms[&TermName::Numbers], 0.5);

        let half = WHOLE.replace("\\title{Fast}", "").replace("\"name\": \"B\"", "\"name\": 3");
        let lacks = check(&sample(&half), Stage::Opening, &literature(), None);
        assert!(
            lacks.faults[0].contains("title") && lacks.faults[0].contains("set-up"),
            "{:?}",
            lacks.faults
        );

        let lost = check(&sample(&WHOLE.replace("known", "unknown")), Stage::Opening, &literature(), None);
        assert!(lost.faults[0].contains("unknown"));

        let loops = format!("{WHOLE}\n{}", "we run it again and again and again and ".repeat(40));
        assert!(check(&sample(&loops), Stage::Opening, &literature(), None).terms[&TermName::Distinct] < 0.5);
    }
}
