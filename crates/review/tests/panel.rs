//! The panel over a model that says what a test tells it: nothing is lost, nothing becomes zero, every draw is counted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use documents::{Document, ReadOptions, read_bytes};
use lm::{
    Capabilities, ChoiceOutcome, Completion, Finish, LanguageModel, LmError, Message, ModelInfo, Output,
    Part, PartOutcome, Progress, Request, Silent, Usage,
};
use review::{Form, Mode, Panel, Parsed, default_sampling};

/// Answers in order (a server), or fills scripts in with fixed words (a local model).
struct Puppet {
    info: ModelInfo,
    scripts: bool,
    answers: Mutex<Vec<String>>,
    asked: Mutex<Vec<Request>>,
}

impl Puppet {
    fn new(scripts: bool, answers: &[&str]) -> Self {
        let info = ModelInfo {
            reference: "puppet".into(),
            sha256: None,
            context: Some(8192),
            builtin: false,
            parameters: Some(1),
        };
        let answers = answers.iter().rev().map(|a| (*a).to_string()).collect();
        Self { info, scripts, answers: Mutex::new(answers), asked: Mutex::new(Vec::new()) }
    }

    fn answer(&self, request: &Request) -> Completion {
        let mut parts = BTreeMap::new();
        let mut text = String::new();
        if let Output::Script(script) = &request.output {
            for part in &script.parts {
                match part {
                    Part::Literal(l) => text += l,
                    Part::Choice { name, options, .. } => {
                        let p = 1.0 / options.len() as f64;
                        let choice = ChoiceOutcome {
                            value: options[0].clone(),
                            distribution: options.iter().map(|o| (o.clone(), p)).collect(),
                            mass: 1.0,
                        };
                        text += &options[0];
                        let outcome = PartOutcome {
                            text: options[0].clone(),
                            choice: Some(choice),
                            finish: Finish::Stop,
                        };
                        parts.insert(name.clone(), outcome);
                    }
                    Part::Free { name, .. } => {
                        let said = format!("The {name} says that agreement among reviewers is weak.");
                        text += &said;
                        parts.insert(
                            name.clone(),
                            PartOutcome { text: said, choice: None, finish: Finish::Stop },
                        );
                    }
                }
            }
        } else {
            text = self.answers.lock().unwrap().pop().unwrap_or_default();
        }
        Completion { text, parts, finish: Finish::Eos, usage: Usage::default(), prompt_sha256: "5a".into() }
    }
}

impl LanguageModel for Puppet {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { scripts: self.scripts, grammars: self.scripts }
    }
    fn count_tokens(&self, text: &str) -> Option<usize> {
        Some(text.split_whitespace().count())
    }
    fn count_prompt(&self, messages: &[Message]) -> Option<usize> {
        Some(messages.iter().map(|m| m.content.split_whitespace().count()).sum())
    }
    fn complete(
        &self,
        requests: &[Request],
        _: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError> {
        self.asked.lock().unwrap().extend(requests.iter().cloned());
        Ok(requests.iter().map(|r| Ok(self.answer(r))).collect())
    }
}

fn paper() -> Document {
    let text = "# A title of a paper\n\n## Abstract\n\nWe measure how weak agreement is among reviewers of papers.\n\n\
        ## Method\n\nWe take every score of eight years and leave one reviewer out; the rest predict the score badly.\n";
    read_bytes(text.as_bytes().to_vec(), "paper.md".as_ref(), &ReadOptions::default()).unwrap()
}

fn panel(reviewers: usize, mode: Mode) -> Panel {
    let form = Form::named("iclr2024").unwrap();
    Panel { form, reviewers, mode, sampling: default_sampling(), seed: 1, max_tokens: None }
}

fn reviewer(rating: &str) -> String {
    format!(
        "## Reviewer\n\n### Summary\n\nShort.\n\n### Soundness\n\n3 good\n\n### Presentation\n\n3 good\n\n### Contribution\n\n\
         2 fair\n\n### Strengths\n\n- One.\n\n### Weaknesses\n\n- Two.\n\n### Questions\n\n- Three?\n\n{rating}### Confidence\n\n4\n\n**********\n\n"
    )
}

#[test]
fn an_unreadable_answer_is_drawn_again_and_counted() {
    let good = reviewer("### Rating\n\n6\n\n") + &reviewer("### Rating\n\n10\n\n");
    let model = Puppet::new(false, &["I cannot review this paper.", &good]);
    let review = panel(2, Mode::Standard).review(&paper(), &model, &Silent).unwrap();
    assert_eq!((review.parse.full, review.parse.resampled, review.scores["rating"].mean), (2, 1, 8.0));
    assert!(review.reviewers.iter().all(|r| r.attempts == 2 && r.prompt_sha256.is_some()));
    assert!(
        review.reviewers[0].scores["rating"].distribution.is_none(),
        "a server's text has no distribution"
    );
}

#[test]
fn a_missing_rating_is_missing_and_a_failed_text_is_kept() {
    let partial = reviewer("### Rating\n\n6\n\n") + &reviewer("");
    let model = Puppet::new(false, &[&partial, &partial, &partial]);
    let review = panel(2, Mode::Standard).review(&paper(), &model, &Silent).unwrap();
    assert_eq!((review.reviewers[1].parsed, review.parse.partial), (Parsed::Partial, 1));
    assert!(!review.reviewers[1].scores.contains_key("rating"));
    assert_eq!((review.scores["rating"].mean, review.scores["rating"].reviewers), (6.0, 1));

    let model = Puppet::new(false, &["No.", "No.", "No."]);
    let review = panel(2, Mode::Standard).review(&paper(), &model, &Silent).unwrap();
    assert_eq!((review.parse.failed, review.parse.resampled), (1, 2));
    assert_eq!(review.reviewers[0].raw.as_deref(), Some("No."));
    assert!(review.scores.is_empty() && review.decision.is_none());
}

#[test]
fn best_mode_demands_quotations_and_asks_again_whether_the_paper_bears_a_weakness_out() {
    let model = Puppet::new(true, &[]);
    let review = panel(3, Mode::Best).review(&paper(), &model, &Silent).unwrap();
    let asked = model.asked.lock().unwrap();
    let words = |r: &Request| r.messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n");
    assert!(words(&asked[0]).contains("quotation marks"));
    // Three reviewers, a question for each of their weaknesses, one meta-review; every prompt begins with the paper.
    assert_eq!(asked.len(), 3 + 3 + 1);
    assert!(asked.iter().all(|r| r.messages[1].content.starts_with("# A title of a paper")));
    assert!(review.reviewers.iter().flat_map(|r| &r.weaknesses).all(|w| w.support == Some(0.5)));
    drop(asked);

    let model = Puppet::new(true, &[]);
    let review = panel(3, Mode::Standard).review(&paper(), &model, &Silent).unwrap();
    let asked = model.asked.lock().unwrap();
    assert!(asked.len() == 4 && !words(&asked[0]).contains("quotation marks"));
    assert!(review.reviewers.iter().flat_map(|r| &r.weaknesses).all(|w| w.support.is_none()));
}

#[test]
fn a_form_of_ones_own_is_kept_with_the_review() {
    let mut own = panel(1, Mode::Fast);
    own.form.name = "ours".into();
    let review = own.review(&paper(), &Puppet::new(true, &[]), &Silent).unwrap();
    let again: review::Review = serde_json::from_str(&serde_json::to_string(&review).unwrap()).unwrap();
    assert_eq!(again.filled_form().unwrap(), own.form);
}
