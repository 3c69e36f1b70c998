//! Outlines: motivation, main idea, experiments and results of a paper, by a model that cannot leave the form, checked
//! against the paper. A small model chooses among the paper's own sentences and tables; a large one, or a server, writes
//! JSON. Either way a result with a number that does not stand in the paper is left out and counted.

mod choice;
mod written;

use std::collections::HashSet;

use lm::{LanguageModel, LmError, Progress};
use serde::{Deserialize, Serialize};

use crate::messages::results_json;
use crate::numbers::missing;
use crate::record::ResultItem;
use crate::research::ResearchPaper;
use choice::{Candidate, candidates, choose, chosen, sentences_of};
use written::{write, written};

const CHOICES: &str = include_str!("../../../prompts/datasets/outline_choices.md");
const WRITTEN: &str = include_str!("../../../prompts/datasets/outline.md");

/// What is known of a paper's argument and experiments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// Why it was worth doing.
    pub motivation: String,
    /// What it does.
    pub main_idea: String,
    /// The experiments.
    pub setup: Vec<ResultItem>,
    /// Their results.
    pub results: Vec<ResultItem>,
    /// How the check went.
    pub check: OutlineCheck,
    /// The model.
    pub model: String,
}

/// How the check against the paper went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineCheck {
    /// Results that were left out for a number that does not stand in the paper.
    pub left_out: usize,
    /// These numbers.
    pub missing: Vec<String>,
}

/// The outlines of some papers, each or why there is none.
///
/// # Errors
/// If the model fails as a whole.
pub fn outlines(
    model: &dyn LanguageModel,
    papers: &[&ResearchPaper],
    progress: &dyn Progress,
) -> Result<Vec<Result<Outline, String>>, LmError> {
    let chooses = model.capabilities().scripts && !model.info().is_large();
    let mut requests = Vec::new();
    let mut asked: Vec<Result<(usize, Vec<String>, Vec<Candidate>), String>> = Vec::new();
    for paper in papers {
        let (sentences, candidates) = (sentences_of(paper), candidates(paper));
        if sentences.is_empty() {
            asked.push(Err("it has no sentence to take a motivation from".into()));
            continue;
        }
        let request = if chooses { choose(paper, &sentences, &candidates) } else { write(paper, model) };
        asked.push(request.map(|r| {
            requests.push(r);
            (requests.len() - 1, sentences, candidates)
        }));
    }
    let mut answers: Vec<Option<Result<lm::Completion, LmError>>> =
        model.complete(&requests, progress)?.into_iter().map(Some).collect();
    let name = model.info().reference.clone();
    let mut out = Vec::new();
    for (paper, asked) in papers.iter().zip(asked) {
        out.push(match asked {
            Err(why) => Err(why),
            Ok((at, sentences, candidates)) => match answers[at].take() {
                Some(Ok(answer)) => {
                    let made = if chooses {
                        chosen(&answer, &sentences, &candidates)
                    } else {
                        written(&answer.text)
                    };
                    made.and_then(|m| checked(m, paper, &name))
                }
                Some(Err(LmError::Interrupted)) => return Err(LmError::Interrupted),
                Some(Err(e)) => Err(format!("the extractor failed: {e}")),
                None => Err("the extractor gave no answer".into()),
            },
        });
    }
    Ok(out)
}

struct Made {
    motivation: String,
    main_idea: String,
    setup: Vec<ResultItem>,
    results: Vec<ResultItem>,
}

/// Leaves out results whose numbers do not stand in the paper. A paper with a table has results.
fn checked(made: Made, paper: &ResearchPaper, model: &str) -> Result<Outline, String> {
    let known: HashSet<String> = paper.numbers.iter().cloned().collect();
    let mut check = OutlineCheck::default();
    let mut results = Vec::new();
    for item in made.results {
        let wrong = missing(&results_json(std::slice::from_ref(&item)).to_string(), &known);
        if wrong.is_empty() {
            results.push(item);
        } else {
            check.left_out += 1;
            check.missing.extend(wrong);
        }
    }
    if results.is_empty() && !paper.tables.is_empty() {
        let why = if check.left_out > 0 {
            format!("no result is left: {} do not stand in the paper", check.missing.join(", "))
        } else {
            "no result was found, though the paper has a table".into()
        };
        return Err(why);
    }
    if made.motivation.trim().is_empty() || made.main_idea.trim().is_empty() {
        return Err("motivation or main idea is empty".into());
    }
    Ok(Outline {
        motivation: made.motivation,
        main_idea: made.main_idea,
        setup: made.setup,
        results,
        check,
        model: model.into(),
    })
}

/// The key under which an outline is kept: the paper, the model and the words said to it.
pub fn key(paper: &ResearchPaper, model: &dyn LanguageModel) -> String {
    let info = model.info();
    let text = format!(
        "{}\n{}\n{}\n{CHOICES}\n{WRITTEN}",
        serde_json::to_string(paper).unwrap_or_default(),
        info.reference,
        info.sha256.as_deref().unwrap_or_default()
    );
    sources::sha256(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TableRow;

    fn paper() -> ResearchPaper {
        ResearchPaper {
            title: Some("On agreement".into()),
            abstract_text: Some("Reviewers disagree, and nobody knows why. We measure agreement over many years of reviews. It is low.".into()),
            sections: Vec::new(),
            headings: Vec::new(),
            figures: Vec::new(),
            tables: vec![TableRow { caption: "Agreement by year. Higher is better.".into(), rows: vec![vec!["year".into(), "r".into()], vec!["2020".into(), "0.31".into()]] }],
            references: Vec::new(),
            cited: 0,
            resolved: 0,
            unresolved: Vec::new(),
            plain: vec![("Results".into(), "As Table 1 shows, it fell.".into())],
            numbers: ["2020", "0.31", "1"].map(String::from).to_vec(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn an_invented_number_takes_its_result_with_it_and_an_empty_list_is_no_outline() {
        let answer = |value: &str| {
            format!(
                "Here: {{\"motivation\":\"m\",\"main_idea\":\"i\",\"experimental_setup\":[],\"experimental_results\":[{{\"name\":\"a\",\"table\":[[\"2020\",\"{value}\"]],\"description\":\"\"}}]}}"
            )
        };
        let check = |value: &str| written(&answer(value)).and_then(|m| checked(m, &paper(), "m"));
        let good = check("0.310").unwrap();
        assert_eq!((good.results.len(), good.check.left_out), (1, 0));
        assert!(check("0.99").unwrap_err().contains("0.99"));
        assert!(written("no json at all").is_err());
    }

    #[test]
    fn a_small_model_is_shown_the_papers_own_sentences_and_tables() {
        let (sentences, candidates) = (sentences_of(&paper()), candidates(&paper()));
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert_eq!(candidates[0].item.description.as_deref(), Some("As Table 1 shows, it fell."));
        let request = choose(&paper(), &sentences, &candidates).unwrap();
        assert!(
            request.messages[0].content.contains("R1. Agreement by year. (year, r)"),
            "{}",
            request.messages[0].content
        );
    }
}
