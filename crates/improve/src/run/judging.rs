//! Scores, checks and the decision about a policy.

use std::time::Instant;

use super::{Loop, derive};
use crate::config::TermName;
use crate::error::ImproveError;
use crate::evaluate::{self, HeldOut};
use crate::ledger::{self, Kind};
use crate::policy::{Policy, log_probability};
use crate::prompts::Prompt;
use crate::rows::{Checked, Cost, Decision, Sample, Scored};
use crate::{checks, guards, stats};

/// Samples whose checks are put together; a stop repeats no more.
const CHECKED_AT_ONCE: usize = 32;

impl Loop<'_> {
    /// Scores the samples of these prompts that have no score yet, prompt by prompt.
    pub(super) fn score(
        &mut self,
        iteration: usize,
        of: Kind,
        by: Kind,
        prompts: &[Prompt],
    ) -> Result<(), ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, of, iteration)?;
        let there = ledger::read::<Scored>(self.ledger, by, iteration)?;
        // What a judge that compares holds held-out papers against: those of the start.
        let start = match of {
            Kind::HeldOut => Some(ledger::read::<Sample>(self.ledger, Kind::HeldOut, 0)?),
            _ => None,
        };
        let what = if by == Kind::SecondScore { "second judge" } else { "judge" };
        let mut announced = false;
        for (done, prompt) in prompts.iter().enumerate() {
            let mut own: Vec<(&String, &Sample)> = samples
                .iter()
                .filter(|(key, s)| s.prompt == prompt.id && !there.contains_key(*key))
                .collect();
            if own.is_empty() {
                continue;
            }
            if !announced {
                self.observer.phase(iteration, what, prompts.len());
                announced = true;
            }
            self.stop_if_asked()?;
            self.observer.advance(done);
            own.sort_by_key(|(_, s)| s.index);
            let judge = if by == Kind::SecondScore { &self.second } else { &self.judge };
            let whole = |s: &Sample| s.text.as_deref().map(|text| prompt.whole(text));
            let texts: Vec<String> = own.iter().filter_map(|(_, s)| whole(s)).collect();
            let others: Option<Vec<String>> = start
                .as_ref()
                .map(|rows| rows.values().filter(|s| s.prompt == prompt.id).filter_map(whole).collect());
            let seed = derive(self.config.seed, &format!("review\n{}\n{}", by.name(), prompt.id));
            let (scored, cost) = judge.score(&texts, others.as_deref(), seed, self.observer.progress())?;
            let mut scored = scored.into_iter();
            let rows: Vec<(String, Scored)> = own
                .iter()
                .map(|(key, s)| {
                    let row = s.text.as_ref().and_then(|_| scored.next());
                    let none = || Scored::failed(judge.id(), "there is no text to judge");
                    ((*key).clone(), row.unwrap_or_else(none))
                })
                .collect();
            ledger::put(self.ledger, by, iteration, &rows)?;
            self.spent(iteration, by.name(), cost, &prompt.id)?;
        }
        Ok(())
    }

    /// Looks at the samples that were not looked at, and at what the start thinks of them.
    pub(super) fn check(
        &mut self,
        iteration: usize,
        of: Kind,
        prompts: &[Prompt],
        policy: &Policy,
    ) -> Result<(), ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, of, iteration)?;
        let there = ledger::read::<Checked>(self.ledger, Kind::Check, iteration)?;
        let missing: Vec<(String, Sample)> =
            samples.into_iter().filter(|(key, _)| !there.contains_key(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let wants_fluency = self.config.reward.terms.iter().any(|t| t.name == TermName::Fluency);
        let local = self.config.sample.server.is_none();
        let probabilities = (of == Kind::HeldOut || wants_fluency) && local;
        let same = *policy == self.start;
        let stage = self.config.sample.stage;
        self.observer.phase(iteration, "checks", missing.len());
        for batch in missing.chunks(CHECKED_AT_ONCE) {
            let started = Instant::now();
            let start = self.start.clone();
            let base = if probabilities { self.probabilities(&start, batch)? } else { Vec::new() };
            let own = if probabilities && !same { self.probabilities(policy, batch)? } else { Vec::new() };
            let mut rows = Vec::with_capacity(batch.len());
            for (i, (key, sample)) in batch.iter().enumerate() {
                // There is one: [`Loop::run`] begins with that.
                let Some(prompt) = prompts.iter().find(|p| p.id == sample.prompt) else { continue };
                let mut checked = checks::check(sample, stage, self.learned(of), prompt);
                if let Some(base) = base.get(i).copied().flatten() {
                    checked.terms.insert(TermName::Fluency, base);
                    let own = if same { Some(base) } else { own.get(i).copied().flatten() };
                    checked.log_ratio = own.map(|own| own - base);
                }
                rows.push((key.clone(), checked));
            }
            ledger::put(self.ledger, Kind::Check, iteration, &rows)?;
            let cost = Cost { seconds: started.elapsed().as_secs_f64(), ..Cost::default() };
            self.spent(iteration, Kind::Check.name(), cost, &batch[0].0)?;
        }
        Ok(())
    }

    /// Mean log-probability per token of each sample under a policy; `None` for those without a text.
    fn probabilities(
        &mut self,
        policy: &Policy,
        samples: &[(String, Sample)],
    ) -> Result<Vec<Option<f64>>, ImproveError> {
        self.local(policy)?;
        let Some((_, model)) = &self.open else { return Ok(vec![None; samples.len()]) };
        let mut values = Vec::with_capacity(samples.len());
        for (i, (_, sample)) in samples.iter().enumerate() {
            self.stop_if_asked()?;
            self.observer.advance(i);
            values.push(match (&sample.text, self.prompt(&sample.prompt)) {
                (Some(text), Some(prompt)) => {
                    let messages = self.request(model, prompt, 0)?.messages;
                    log_probability(model, &messages, text)?
                }
                _ => None,
            });
        }
        Ok(values)
    }

    /// The first judge's standard deviation over repeated reviews of the same papers, pooled.
    pub(super) fn noise(&mut self, iteration: usize) -> Result<f64, ImproveError> {
        let repeats = self.config.pairs.repeats;
        if repeats < 2 {
            return Ok(0.0);
        }
        let there = ledger::read::<f64>(self.ledger, Kind::Noise, iteration)?;
        if let Some(noise) = there.values().next() {
            return Ok(*noise);
        }
        const PAPERS: usize = 8;
        let samples = ledger::read::<Sample>(self.ledger, Kind::Sample, iteration)?;
        let whole = |s: &Sample| Some(self.prompt(&s.prompt)?.whole(s.text.as_deref()?));
        let texts: Vec<String> = samples.values().filter_map(whole).take(PAPERS).collect();
        self.observer.phase(iteration, "the judge's own noise", repeats);
        let mut by_paper: Vec<Vec<f64>> = vec![Vec::new(); texts.len()];
        for repeat in 0..repeats {
            self.stop_if_asked()?;
            self.observer.advance(repeat);
            let seed = derive(self.config.seed, &format!("noise\n{iteration}\n{repeat}"));
            let (scored, cost) = self.judge.score(&texts, None, seed, self.observer.progress())?;
            self.spent(iteration, Kind::Noise.name(), cost, &repeat.to_string())?;
            for (scores, s) in by_paper.iter_mut().zip(scored) {
                scores.extend(s.mean);
            }
        }
        let variances: Vec<f64> =
            by_paper.iter().filter_map(|s| stats::deviation(s)).map(|d| d * d).collect();
        let Some(variance) = stats::mean(&variances) else {
            let what = format!(
                "the judge's noise cannot be measured: it scored none of {} papers twice",
                by_paper.len()
            );
            return Err(ImproveError::Nothing { iteration, what });
        };
        let noise = variance.sqrt();
        ledger::put(self.ledger, Kind::Noise, iteration, &[("noise".into(), noise)])?;
        Ok(noise)
    }

    /// Samples, scores and checks the held-out prompts, and decides.
    pub(super) fn evaluation(
        &mut self,
        iteration: usize,
        now: &Policy,
        before: Option<(&Decision, &Policy)>,
    ) -> Result<Decision, ImproveError> {
        if let Some(decision) = self.decided(iteration)? {
            return Ok(decision);
        }
        let prompts = self.prompts.held_out.clone();
        let count = self.config.sample.held_out_per_prompt;
        self.sample(iteration, Kind::HeldOut, &prompts, count, now)?;
        self.score(iteration, Kind::HeldOut, Kind::Score, &prompts)?;
        self.score(iteration, Kind::HeldOut, Kind::SecondScore, &prompts)?;
        self.check(iteration, Kind::HeldOut, &prompts, now)?;
        let held_out = HeldOut::read(self.ledger, iteration)?;
        let start = if iteration == 0 { None } else { Some(HeldOut::read(self.ledger, 0)?) };
        // Best-of-K belongs to what is tried: the start is taken as it comes.
        let best_of = if iteration == 0 { 1 } else { self.config.sample.best_of };
        let accepts = |mean: f64| self.judge.accepts(mean);
        let confidence = self.config.guards.confidence;
        // As many papers of a prompt as count at the end.
        let diverse = count / self.config.sample.best_of;
        let figures = |over| evaluate::figures(&held_out, over, best_of, diverse, confidence, &accepts);
        let evaluation = figures(start.as_ref().map(|s| (s, 1)));
        let alarms = match before {
            Some((baseline, before)) => {
                let step = if iteration > 1 && *before != self.start {
                    let then = HeldOut::read(self.ledger, iteration - 1)?;
                    Some(figures(Some((&then, best_of))))
                } else {
                    None
                };
                guards::alarms(&self.config.guards, &baseline.evaluation, &evaluation, step.as_ref())
            }
            None => Vec::new(),
        };
        let accepted = alarms.is_empty();
        let kept = before.filter(|_| !accepted).map_or(&now.sha256, |(_, policy)| &policy.sha256);
        let decision = Decision { evaluation, alarms, policy: kept.clone(), accepted };
        ledger::put(self.ledger, Kind::Decision, iteration, &[("decision".into(), &decision)])?;
        Ok(decision)
    }
}
