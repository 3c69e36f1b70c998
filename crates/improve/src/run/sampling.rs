//! Papers of a policy.

use std::collections::BTreeSet;
use std::time::Instant;

use lm::{Completion, LanguageModel, LmError, Output, Part, Request};
use serde_json::{Value, json};

use super::{Loop, derive};
use crate::config::Learn;
use crate::error::ImproveError;
use crate::ledger::{self, Kind, id};
use crate::policy::{Policy, ask};
use crate::prompts::Prompt;
use crate::rows::{Cost, Sample};

/// A batch of samples.
struct Drawn {
    rows: Vec<(String, Sample)>,
    /// By prompt.
    asked: Vec<(String, Value)>,
    cost: Cost,
}

impl Loop<'_> {
    /// Refuses to go on with a loop whose prompts were changed under it: its papers would be about others.
    pub(super) fn same_prompts(&self) -> Result<(), ImproveError> {
        for iteration in 0..=self.config.iterations {
            let chosen = if iteration == 0 { vec![] } else { self.prompts_of(iteration) };
            for (kind, prompts) in [(Kind::HeldOut, &self.prompts.held_out), (Kind::Sample, &chosen)] {
                let papers = ledger::read::<Sample>(self.ledger, kind, iteration)?;
                if let Some(gone) = papers.values().find(|s| prompts.iter().all(|p| p.id != s.prompt)) {
                    return Err(ImproveError::Config(format!(
                        "the prompts are others than when this loop was sampled ({} is missing): put them back, or begin another loop",
                        gone.prompt
                    )));
                }
            }
        }
        Ok(())
    }

    /// Draws `count` papers for each prompt that has none yet, a batch of prompts at a time.
    pub(super) fn sample(
        &mut self,
        iteration: usize,
        kind: Kind,
        prompts: &[Prompt],
        count: usize,
        policy: &Policy,
    ) -> Result<(), ImproveError> {
        if kind == Kind::HeldOut && iteration > 0 && *policy == self.start {
            // The same policy, prompts and seeds: the same papers.
            for kind in [Kind::Prompt, Kind::HeldOut] {
                let rows: Vec<_> =
                    self.ledger.rows(kind, 0).map_err(ImproveError::Ledger)?.into_iter().collect();
                self.ledger.put(kind, iteration, &rows).map_err(ImproveError::Ledger)?;
            }
        }
        let there = ledger::read::<Sample>(self.ledger, kind, iteration)?;
        let done: BTreeSet<&str> = there.values().map(|s| s.prompt.as_str()).collect();
        let missing: Vec<&Prompt> = prompts.iter().filter(|p| !done.contains(p.id.as_str())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = if kind == Kind::HeldOut { "sampling held-out prompts" } else { "sampling" };
        self.observer.phase(iteration, what, prompts.len());
        let remote = match &self.config.sample.server {
            None => None,
            Some(template) => {
                let reference = template.replace("{policy}", &policy.name);
                Some(lm::open(&reference.parse()?, &self.options)?)
            }
        };
        let mut finished = prompts.len() - missing.len();
        for batch in missing.chunks(self.config.sample.batch) {
            self.stop_if_asked()?;
            self.observer.advance(finished);
            let drawn = match &remote {
                Some(model) => self.draw(iteration, kind, batch, count, model.as_ref(), policy)?,
                None => {
                    self.local(policy)?;
                    let Some((_, model)) = &self.open else { continue };
                    self.draw(iteration, kind, batch, count, model, policy)?
                }
            };
            let Drawn { rows, asked, cost } = drawn;
            ledger::put(self.ledger, Kind::Prompt, iteration, &asked)?;
            ledger::put(self.ledger, kind, iteration, &rows)?;
            self.spent(iteration, kind.name(), cost, &rows[0].0)?;
            finished += batch.len();
        }
        self.observer.advance(finished);
        Ok(())
    }

    /// How much of a paper is wanted.
    pub(super) fn learned(&self, kind: Kind) -> Learn {
        if kind == Kind::Sample { self.config.pairs.learn } else { Learn::Whole }
    }

    fn draw(
        &self,
        iteration: usize,
        kind: Kind,
        prompts: &[&Prompt],
        count: usize,
        model: &dyn LanguageModel,
        policy: &Policy,
    ) -> Result<Drawn, ImproveError> {
        let started = Instant::now();
        let s = &self.config.sample;
        let info = model.info();
        let hash = info.sha256.clone().unwrap_or_else(|| info.reference.clone());
        // A policy that was opened from files is called by them.
        let hash = if s.server.is_none() { policy.sha256.clone() } else { hash };
        let learn = self.learned(kind);
        let (mut requests, mut keys, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            for index in 0..count {
                // Held-out papers are drawn with the same seeds in every iteration: what differs is the policy.
                let place = if kind == Kind::HeldOut { 0 } else { iteration };
                let seed =
                    derive(self.config.seed, &format!("{}\n{place}\n{}\n{index}", kind.name(), prompt.id));
                let mut request = self.request(model, prompt, seed)?;
                if learn == Learn::Judged {
                    no_further(&mut request);
                }
                let key = id('s', &format!("{hash}\n{}\n{index}\n{seed}\n{}", prompt.id, kind.name()));
                keys.push((key, prompt.id.clone(), index, seed));
                if index == 0 {
                    asked.push((prompt.id.clone(), json!(request.messages)));
                }
                requests.push(request);
            }
        }
        let observer = self.observer;
        let mut note = |text: &str| observer.note(text);
        let earlier = ledger::read::<Sample>(self.ledger, kind, iteration)?;
        let answered = earlier.values().any(|s| s.policy == hash && s.text.is_some());
        let answers = ask(model, &requests, observer.progress(), s.patience, answered, &mut note)?;
        let mut cost = Cost::default();
        let mut rows = Vec::new();
        for ((request, answer), (key, prompt, index, seed)) in requests.iter().zip(answers).zip(keys) {
            let answer = match answer {
                Err(LmError::Interrupted) => return Err(ImproveError::Interrupted),
                // Of this machine or the way to the server, not of the paper.
                Err(
                    e @ (LmError::Remote(_) | LmError::Denied(_) | LmError::Offline(_) | LmError::Memory(_)),
                ) => {
                    return Err(e.into());
                }
                other => other,
            };
            if let Ok(answer) = &answer {
                cost.prompt_tokens += answer.usage.prompt_tokens;
                cost.prompt_tokens_reused += answer.usage.prompt_tokens_reused;
                cost.generated_tokens += answer.usage.generated_tokens;
            }
            let mut row = sample(request, answer, prompt, index, seed, &hash);
            if learn == Learn::Judged {
                beginning(&mut row);
            }
            rows.push((key, row));
        }
        cost.seconds = started.elapsed().as_secs_f64();
        Ok(Drawn { rows, asked, cost })
    }
}

/// Where the part ends that a judge of title and abstract reads.
const READ: &str = "\\end{abstract}";

/// Ends a form behind the abstract; other answers are drawn whole.
fn no_further(request: &mut Request) {
    let Output::Script(script) = &mut request.output else { return };
    let read = script.parts.iter().enumerate().find_map(|(i, part)| match part {
        Part::Literal(text) => Some((i, text.find(READ)? + READ.len())),
        _ => None,
    });
    if let Some((last, end)) = read {
        script.parts.truncate(last + 1);
        if let Part::Literal(text) = &mut script.parts[last] {
            text.truncate(end);
        }
    }
}

/// Leaves what stands up to the end of the abstract. A limit behind it is none.
fn beginning(sample: &mut Sample) {
    let Some(text) = &mut sample.text else { return };
    let Some(end) = text.find(READ).map(|at| at + READ.len()) else { return };
    sample.tokens = (sample.tokens * end).div_ceil(text.len());
    text.truncate(end);
    if sample.cut_at.is_some_and(|at| at >= end) {
        sample.cut_at = None;
        sample.unfinished.clear();
    }
}

fn sample(
    request: &Request,
    answer: Result<Completion, LmError>,
    prompt: String,
    index: usize,
    seed: u64,
    policy: &str,
) -> Sample {
    let parts = match &request.output {
        Output::Script(script) => script.parts.iter().filter(|p| matches!(p, Part::Free { .. })).count(),
        _ => 1,
    };
    let mut sample = Sample {
        prompt,
        index,
        policy: policy.into(),
        seed,
        prompt_sha256: String::new(),
        text: None,
        failed: None,
        unfinished: Vec::new(),
        cut_at: None,
        parts,
        tokens: 0,
    };
    match answer {
        Ok(answer) => {
            let written = research::written(request, &answer);
            sample.prompt_sha256 = answer.prompt_sha256;
            sample.tokens = match answer.usage.generated_tokens {
                // Not every server counts.
                0 => crate::stats::words(&written.text).len(),
                counted => counted,
            };
            sample.unfinished = written.unfinished;
            sample.cut_at = written.cut_at;
            if written.text.trim().is_empty() {
                sample.failed = Some("the model wrote nothing".into());
            } else {
                sample.text = Some(written.text);
            }
        }
        Err(e) => sample.failed = Some(e.to_string()),
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_ends_behind_the_abstract_and_so_does_a_free_text_whose_limit_came_later() {
        let free = Part::Free {
            name: "abstract".into(),
            stop: Vec::new(),
            max_tokens: 9,
            min_tokens: 0,
            grammar: None,
        };
        let literal = |text: &str| Part::Literal(text.into());
        let form = |parts: Vec<Part>| Request {
            output: Output::Script(lm::Script { parts }),
            ..Request::new(Vec::new(), 9)
        };
        let rest = literal("more");
        let mut request =
            form(vec![literal("\\title{"), free.clone(), literal("\n\\end{abstract}\n\n\\section"), rest]);
        no_further(&mut request);
        assert_eq!(request, form(vec![literal("\\title{"), free, literal("\n\\end{abstract}")]));

        let row = |cut_at: usize| {
            let text = "We do.\\end{abstract}\nMore and";
            let mut row = sample(&request, Err(LmError::Model("none".into())), "q".into(), 0, 0, "p");
            row.text = Some(text.into());
            (row.cut_at, row.unfinished, row.tokens) = (Some(cut_at), vec!["answer".into()], 29);
            beginning(&mut row);
            row
        };
        let later = row(29);
        assert_eq!(later.text.as_deref(), Some("We do.\\end{abstract}"));
        assert_eq!((later.cut_at, later.unfinished.len(), later.tokens), (None, 0, 20));
        assert_eq!((row(3).cut_at, row(3).unfinished.len()), (Some(3), 1));
    }
}
