//! Reads whatever layout a model wrote: the two layouts of CycleReviewer, DeepReviewer's boxes, our own script.
//!
//! What is missing stays missing; nothing is ever 0 because it could not be read (`facts` of the published parser:
//! "10" became 1, a missing rating entered the mean as 0, a single newline lost every score).

use std::collections::BTreeMap;

use crate::form::{Form, ScoreField};
use crate::review::ScoreRead;

/// One reviewer's fields as found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Text by the form's key (or the heading in snake case where the form has none).
    pub sections: BTreeMap<String, String>,
    /// Scores by key.
    pub scores: BTreeMap<String, ScoreRead>,
    /// The text it was read from.
    pub raw: String,
}

/// A whole answer as found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Salvaged {
    /// In the order of the text.
    pub reviewers: Vec<Found>,
    /// The meta-review.
    pub meta_review: Option<String>,
    /// `accept` or `reject`.
    pub decision: Option<String>,
}

/// A heading line: its text without marks, and what stands behind a colon on the same line.
fn heading(line: &str) -> Option<(String, String)> {
    let trimmed = line.trim();
    let rest = trimmed.trim_start_matches('#');
    if rest.len() == trimmed.len() || !(rest.starts_with(' ') || rest.starts_with('*')) {
        return None;
    }
    let text = rest.trim().trim_matches('*').trim();
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name, value.trim()),
        None => (text, ""),
    };
    let name = name.trim().trim_matches('*').trim().to_lowercase();
    (!name.is_empty() && name.len() < 60).then(|| (name, value.to_string()))
}

/// Headings that open something else than a section of a reviewer.
enum Mark {
    Reviewer,
    Meta,
    Decision,
    Field(String),
}

fn mark(name: &str, form: &Form) -> Option<Mark> {
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ' || c == '#' || c == '.');
    match bare {
        "reviewer" | "review" => return Some(Mark::Reviewer),
        "meta review" | "meta-review" | "metareview" => return Some(Mark::Meta),
        "paper decision" | "decision" | "final decision" => return Some(Mark::Decision),
        _ => {}
    }
    let fields = form
        .sections
        .iter()
        .map(|s| (&s.heading, &s.key))
        .chain(form.scores.iter().map(|s| (&s.heading, &s.key)));
    for (heading, key) in fields {
        if heading.to_lowercase() == name || *key == name {
            return Some(Mark::Field(key.clone()));
        }
    }
    const FURTHER: [&str; 6] =
        ["flag for ethics review", "suggestions", "limitations", "code of conduct", "overall", "weakness"];
    if FURTHER.contains(&name) || name.starts_with("justification") {
        let key = match name {
            "overall" => form.main_score.clone(),
            "weakness" => "weaknesses".into(),
            other => other.replace(' ', "_"),
        };
        return Some(Mark::Field(key));
    }
    None
}

/// The content of a `\boxed_NAME{` block: up to a line that is just `}`, or to the next block or the end.
fn boxed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("\\boxed_{name}{{");
    let start = text.find(&open)? + open.len();
    let rest = &text[start..];
    // A quotation may hold a line that begins with a brace; only a line that is one ends the block, and the last of
    // them before the next block is the one that does.
    let end = rest.find("\\boxed_").unwrap_or(rest.len());
    let block = &rest[..end];
    let mut close = None;
    let mut at = 0;
    for line in block.split_inclusive('\n') {
        if line.trim() == "}" {
            close = Some(at);
        }
        at += line.len();
    }
    Some(block[..close.unwrap_or(block.len())].trim())
}

/// Reads an answer by the form.
pub fn salvage(text: &str, form: &Form) -> Salvaged {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if text.contains("\\boxed_review{") || text.contains("\\boxed_simreviewers{") {
        let mut result = boxed(&text, "simreviewers").map(|t| read(t, form)).unwrap_or_default();
        if let Some(review) = boxed(&text, "review") {
            let own = read(&format!("## Reviewer\n{review}"), form);
            result.decision = own.decision.or(result.decision);
            if result.reviewers.is_empty() {
                result.reviewers = own.reviewers;
            } else if let Some(summary) = own.reviewers.first().and_then(|r| r.sections.get("summary")) {
                result.meta_review = Some(summary.clone());
            }
        }
        return result;
    }
    read(&text, form)
}

fn read(text: &str, form: &Form) -> Salvaged {
    let mut result = Salvaged::default();
    let mut current: Option<Found> = None;
    let mut field: Option<String> = None;
    let mut place = Place::Before;
    let mut body = String::new();

    #[derive(Clone, Copy, PartialEq)]
    enum Place {
        Before,
        Reviewer,
        Meta,
        Decision,
    }

    let flush = |place: Place,
                 field: &mut Option<String>,
                 body: &mut String,
                 current: &mut Option<Found>,
                 result: &mut Salvaged| {
        let content = body.trim().trim_end_matches('*').trim().to_string();
        body.clear();
        if content.is_empty() {
            *field = None;
            return;
        }
        match place {
            Place::Meta if field.is_none() => result.meta_review = Some(content),
            Place::Meta => {}
            Place::Decision => result.decision = decision(&content).or(result.decision.take()),
            Place::Reviewer => {
                if let (Some(key), Some(found)) = (field.take(), current.as_mut()) {
                    match form.score(&key) {
                        Some(scale) => {
                            if let Some(score) = score(&content, scale) {
                                found.scores.entry(key).or_insert(score);
                            }
                        }
                        None => {
                            found.sections.entry(key).or_insert(content);
                        }
                    }
                }
            }
            Place::Before => {}
        }
        *field = None;
    };

    for line in text.lines() {
        let stars = line.trim().len() >= 5 && line.trim().chars().all(|c| c == '*');
        let found = if stars { None } else { heading(line).and_then(|(n, v)| Some((mark(&n, form)?, v))) };
        if stars {
            flush(place, &mut field, &mut body, &mut current, &mut result);
            if place == Place::Reviewer {
                result.reviewers.extend(current.take());
                place = Place::Before;
            } else if place != Place::Decision {
                place = Place::Before;
            }
            continue;
        }
        let Some((mark, value)) = found else {
            // Unknown headings are part of the text: papers quote LaTeX, Markdown and C.
            body.push_str(line);
            body.push('\n');
            if let Some(f) = current.as_mut() {
                f.raw.push_str(line);
                f.raw.push('\n');
            }
            continue;
        };
        flush(place, &mut field, &mut body, &mut current, &mut result);
        match mark {
            Mark::Reviewer => {
                result.reviewers.extend(current.take());
                current = Some(Found::default());
                place = Place::Reviewer;
            }
            Mark::Meta => {
                result.reviewers.extend(current.take());
                place = Place::Meta;
            }
            Mark::Decision => {
                result.reviewers.extend(current.take());
                place = Place::Decision;
                body.push_str(&value);
                body.push('\n');
            }
            Mark::Field(key) => {
                if place == Place::Meta {
                    // Headings inside a meta-review (justifications) are not the meta-review itself.
                    field = Some(key);
                    continue;
                }
                let again = current
                    .as_ref()
                    .is_some_and(|f| f.sections.contains_key(&key) || f.scores.contains_key(&key));
                // Layout B has no reviewer headings: a form that begins anew is the next reviewer.
                if again && form.layout.order.first() == Some(&key) {
                    result.reviewers.extend(current.take());
                }
                current.get_or_insert_with(Found::default);
                place = Place::Reviewer;
                field = Some(key);
                body.push_str(&value);
                body.push('\n');
            }
        }
        if let Some(f) = current.as_mut() {
            f.raw.push_str(line);
            f.raw.push('\n');
        }
    }
    flush(place, &mut field, &mut body, &mut current, &mut result);
    result.reviewers.extend(current.take());
    result.reviewers.retain(|r| !r.sections.is_empty() || !r.scores.is_empty());
    result
}

/// Accept or reject; "Do not accept" is a rejection.
pub fn decision(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let line = lower.lines().find(|l| !l.trim().is_empty())?;
    let accept = line.contains("accept");
    let negated =
        ["not accept", "n't accept", "cannot accept", "unacceptable", "not be accepted", "never accept"]
            .iter()
            .any(|n| line.contains(n));
    if line.contains("reject") && !line.contains("not reject") && !line.contains("n't reject") {
        return Some(if accept && !negated && line.find("accept") < line.find("reject") {
            // "Accept (not a clear reject)" begins with its answer.
            "accept".into()
        } else {
            "reject".into()
        });
    }
    (accept || line.contains("not reject")).then(|| if negated { "reject".into() } else { "accept".into() })
}

/// The number that a score's text begins with: `10: strong accept`, ` 6`, `**6**`, `6.5`, `Rating: 6`, `6/10`, `six`.
pub fn score(text: &str, scale: &ScoreField) -> Option<ScoreRead> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty())?;
    let line = line.trim_start_matches(|c: char| "*_`\"'([{-–—:•> ".contains(c));
    let lower = line.to_lowercase();
    let heading = scale.heading.to_lowercase();
    let line = lower
        .strip_prefix(&heading)
        .or_else(|| lower.strip_prefix("score"))
        .or_else(|| lower.strip_prefix("rating"))
        .unwrap_or(&lower)
        .trim_start_matches(|c: char| "*_`:=- (".contains(c));
    let digits: String = line.chars().take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ',').collect();
    let digits = digits.replace(',', ".");
    let digits = digits.trim_end_matches('.');
    let (low, high) = scale.range();
    let value = match digits.parse::<f64>() {
        Ok(v) if v.is_finite() => v,
        _ => {
            // In words: a number, or the label of a value.
            const WORDS: [&str; 11] =
                ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
            let first: String = line.chars().take_while(char::is_ascii_alphabetic).collect();
            match WORDS.iter().position(|w| *w == first) {
                Some(n) => n as f64,
                None => {
                    let by_label = scale.values.iter().filter(|v| !v.label.is_empty());
                    by_label
                        .filter(|v| line.starts_with(&v.label.to_lowercase()))
                        .max_by_key(|v| v.label.len())
                        .map(|v| v.value as f64)?
                }
            }
        }
    };
    // A number far outside the scale is not a score (a year, a percentage).
    if value < low.min(0.0) || value > high.max(10.0) {
        return None;
    }
    let off_scale = !scale.values.iter().any(|v| v.value as f64 == value);
    Some(ScoreRead { value, expected: None, distribution: None, off_scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        Form::named("iclr2024").unwrap()
    }

    fn reviewer(rating: &str) -> String {
        format!(
            "## Reviewer\n\n### Summary\n\nA paper.\n\n### Soundness\n\n2 fair\n\n### Presentation\n\n3 good\n\n\
             ### Contribution\n\n2 fair\n\n### Strengths\n\nClear.\n\n### Weaknesses\n\nSmall.\n\n### Questions\n\nWhy?\n\n\
             ### Rating\n\n{rating}\n\n### Confidence\n\n4: You are confident\n\n**********\n\n"
        )
    }

    fn rating(text: &str) -> Option<f64> {
        salvage(text, &form()).reviewers.first().and_then(|r| r.scores.get("rating")).map(|s| s.value)
    }

    const END: &str = "## Meta Review\n\nMixed.\n\n### justification_for_why_not_higher_score\n\nSmall.\n\n**********\n\n## Paper Decision\n\nReject\n";

    // One test per row of the table of the published parser's faults.
    #[test]
    fn a_rating_of_ten_is_not_one() {
        assert_eq!(rating(&reviewer("10: strong accept")), Some(10.0));
    }

    #[test]
    fn a_decimal_rating_keeps_its_decimals() {
        let found = salvage(&reviewer("6.5"), &form());
        let score = &found.reviewers[0].scores["rating"];
        assert_eq!((score.value, score.off_scale), (6.5, true));
    }

    #[test]
    fn spaces_and_bold_are_read_and_an_empty_section_is_missing_while_the_rest_is_kept() {
        assert_eq!(rating(&reviewer(" 6")), Some(6.0));
        assert_eq!(rating(&reviewer("**6**")), Some(6.0));
        let found = salvage(&reviewer(""), &form());
        assert!(!found.reviewers[0].scores.contains_key("rating"));
        assert_eq!(found.reviewers[0].scores["soundness"].value, 2.0);
    }

    #[test]
    fn a_reviewer_without_a_rating_does_not_enter_the_mean() {
        let text = reviewer("3") + &reviewer("8").replace("### Rating\n\n8\n\n", "") + END;
        let found = salvage(&text, &form());
        let ratings: Vec<f64> =
            found.reviewers.iter().filter_map(|r| r.scores.get("rating")).map(|s| s.value).collect();
        assert_eq!((found.reviewers.len(), ratings), (2, vec![3.0]));
    }

    #[test]
    fn one_newline_and_a_colon_after_the_heading_are_read() {
        assert_eq!(rating("## Reviewer\n### Summary\nA.\n### Rating\n5\n"), Some(5.0));
        assert_eq!(rating("## Reviewer\n### Summary:\nA.\n### Rating:\n\n5\n"), Some(5.0));
        assert_eq!(rating("## Reviewer 1\n### Summary\nA.\n### Rating: 5\n"), Some(5.0));
    }

    #[test]
    fn without_a_decision_the_ratings_are_kept() {
        let found = salvage(&(reviewer("5") + &reviewer("6")), &form());
        assert_eq!((found.reviewers.len(), found.decision), (2, None));
    }

    #[test]
    fn do_not_accept_is_a_rejection() {
        for (text, want) in [
            ("Do not accept", "reject"),
            ("Accept", "accept"),
            ("Reject", "reject"),
            ("**Accept** (poster)", "accept"),
            ("We cannot accept this paper", "reject"),
            ("accept, not a clear reject", "accept"),
        ] {
            assert_eq!(decision(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(decision("Undecided"), None);
    }

    #[test]
    fn carriage_returns_change_nothing() {
        let text = reviewer("5") + END;
        let plain = salvage(&text, &form());
        assert_eq!(plain, salvage(&text.replace('\n', "\r\n"), &form()));
        assert_eq!(plain.decision.as_deref(), Some("reject"));
    }

    #[test]
    fn the_summary_is_the_summary() {
        assert_eq!(salvage(&reviewer("5"), &form()).reviewers[0].sections["summary"], "A paper.");
    }

    #[test]
    fn a_meta_review_in_the_same_chunk_as_the_decision_is_kept() {
        let text = reviewer("5") + "## Meta Review\n\nMixed.\n\n## Paper Decision\n\nAccept\n";
        let found = salvage(&text, &form());
        assert_eq!(
            (found.meta_review.as_deref(), found.decision.as_deref()),
            (Some("Mixed."), Some("accept"))
        );
    }

    #[test]
    fn hashes_inside_a_section_are_text() {
        let text =
            reviewer("5").replace("Small.", "The macro\n##define X\n## A heading of the paper\nis wrong.");
        let weaknesses = &salvage(&text, &form()).reviewers[0].sections["weaknesses"];
        assert!(weaknesses.contains("##define X") && weaknesses.ends_with("is wrong."), "{weaknesses}");
    }

    #[test]
    fn a_preamble_is_no_reviewer() {
        let text = String::from("Here are the reviews you asked for.\n\n") + &reviewer("5") + END;
        assert_eq!(salvage(&text, &form()).reviewers.len(), 1);
    }

    #[test]
    fn layout_b_is_read_too() {
        let one = reviewer("5").replace("## Reviewer\n\n", "").replace("### ", "## ");
        let found = salvage(&(one.clone() + &one + &END.replace("### ", "## ")), &form());
        assert_eq!(found.reviewers.len(), 2);
        assert_eq!(found.reviewers[1].scores["rating"].value, 5.0);
        assert_eq!(found.decision.as_deref(), Some("reject"));
    }

    #[test]
    fn deep_reviewers_boxes_are_read_for_each_reviewer() {
        let reviewers = reviewer("5").replace("## Reviewer\n", "## Reviewer 1\n")
            + &reviewer("6").replace("## Reviewer\n", "## Reviewer 2\n");
        let text = format!(
            "Thinking.\n\\boxed_simreviewers{{\n{reviewers}\n}}\n\n\\boxed_verification{{\nfn f() {{\n}}\nfine\n}}\n\n\
             \\boxed_review{{\n## Summary:\n\nAll in all.\n\n## Rating:\n\n5.67\n\n## Decision:\n\nReject\n}}\n"
        );
        let found = salvage(&text, &form());
        assert_eq!(found.reviewers.len(), 2);
        assert_eq!(found.reviewers[1].scores["rating"].value, 6.0);
        assert_eq!(
            (found.meta_review.as_deref(), found.decision.as_deref()),
            (Some("All in all."), Some("reject"))
        );
        let fast = salvage(
            "\\boxed_review{\n## Summary:\n\nShort.\n\n## Rating:\n\n5.25\n\n## Decision:\n\nAccept\n}\n",
            &form(),
        );
        assert_eq!(fast.reviewers[0].scores["rating"].value, 5.25);
        assert_eq!(fast.decision.as_deref(), Some("accept"));
    }

    #[test]
    fn forty_spellings_of_a_rating() {
        let form = form();
        let scale = form.score("rating").unwrap();
        for (text, want) in [
            ("6", Some(6.0)),
            (" 6 ", Some(6.0)),
            ("**6**", Some(6.0)),
            ("6.", Some(6.0)),
            ("6:", Some(6.0)),
            ("6: marginally above", Some(6.0)),
            ("6 - accept", Some(6.0)),
            ("6/10", Some(6.0)),
            ("6 / 10", Some(6.0)),
            ("6 out of 10", Some(6.0)),
            ("(6)", Some(6.0)),
            ("[6]", Some(6.0)),
            ("\"6\"", Some(6.0)),
            ("`6`", Some(6.0)),
            ("Rating: 6", Some(6.0)),
            ("rating = 6", Some(6.0)),
            ("Score: 6", Some(6.0)),
            ("**Rating:** 6", Some(6.0)),
            ("- 6", Some(6.0)),
            ("6.5", Some(6.5)),
            ("6,5", Some(6.5)),
            ("5.67", Some(5.67)),
            ("10", Some(10.0)),
            ("10: strong accept", Some(10.0)),
            ("10/10", Some(10.0)),
            ("1", Some(1.0)),
            ("1: strong reject", Some(1.0)),
            ("0", Some(0.0)),
            ("six", Some(6.0)),
            ("Ten", Some(10.0)),
            ("strong reject", Some(1.0)),
            ("Accept, good paper", Some(8.0)),
            ("reject, not good enough", Some(3.0)),
            ("", None),
            ("N/A", None),
            ("none", None),
            ("2024", None),
            ("85%", None),
            ("I would rate it highly", None),
            ("—", None),
            ("\n\n8\n", Some(8.0)),
        ] {
            assert_eq!(score(text, scale).map(|s| s.value), want, "{text:?}");
        }
    }
}
