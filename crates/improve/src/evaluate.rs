//! A policy's figures on held-out prompts.

use std::collections::BTreeMap;

use crate::config::TermName;
use crate::error::ImproveError;
use crate::ledger::{self, Kind, Ledger};
use crate::rows::{Checked, Evaluation, Sample, Scored};
use crate::stats::{deviation, distinct, interval, mean, self_bleu, words};

/// The held-out papers of an iteration with all that is said of them.
pub struct HeldOut {
    /// By id.
    pub samples: BTreeMap<String, Sample>,
    /// The first judge's.
    pub first: BTreeMap<String, Scored>,
    /// The second judge's.
    pub second: BTreeMap<String, Scored>,
    /// The checks'.
    pub checks: BTreeMap<String, Checked>,
}

impl HeldOut {
    /// Reads them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(ledger: &dyn Ledger, iteration: usize) -> Result<Self, ImproveError> {
        Ok(Self {
            samples: ledger::read(ledger, Kind::HeldOut, iteration)?,
            first: ledger::read(ledger, Kind::Score, iteration)?,
            second: ledger::read(ledger, Kind::SecondScore, iteration)?,
            checks: ledger::read(ledger, Kind::Check, iteration)?,
        })
    }

    /// The papers that count: of every `best_of` drawn in a row, the one that the first judge likes best.
    pub fn counted(&self, best_of: usize) -> Vec<&str> {
        let mut by_prompt: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
        for (id, s) in &self.samples {
            by_prompt.entry(&s.prompt).or_default().push((s.index, id));
        }
        let liking = |id: &str| self.first.get(id).and_then(|s| s.mean).unwrap_or(f64::NEG_INFINITY);
        let mut counted = Vec::new();
        for mut drawn in by_prompt.into_values() {
            drawn.sort_unstable();
            for group in drawn.chunks(best_of.max(1)) {
                // The first of equals, as drawn.
                let best = group.iter().rev().max_by(|a, b| liking(a.1).total_cmp(&liking(b.1)));
                counted.extend(best.map(|b| b.1));
            }
        }
        counted
    }

    /// Of these the first `n` of each prompt: distinct words and self-BLEU depend on how many papers are looked at.
    fn first_of_each<'a>(&self, counted: &[&'a str], n: usize) -> Vec<&'a str> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut is_early = |id: &str| {
            let Some(sample) = self.samples.get(id) else { return false };
            let seen = seen.entry(&sample.prompt).or_default();
            *seen += 1;
            *seen <= n
        };
        counted.iter().copied().filter(|id| is_early(id)).collect()
    }

    /// Share of valid papers of each prompt.
    fn valid(&self, counted: &[&str]) -> BTreeMap<String, f64> {
        let valid = |id: &str| Some((self.samples.get(id)?, self.checks.get(id)?.is_valid()));
        means(counted.iter().filter_map(|id| valid(id)).map(|(s, valid)| (s, f64::from(u8::from(valid)))))
    }

    /// Mean score of each prompt.
    fn by_prompt(&self, counted: &[&str], scores: &BTreeMap<String, Scored>) -> BTreeMap<String, f64> {
        means(counted.iter().filter_map(|id| Some((self.samples.get(*id)?, scores.get(*id)?.mean?))))
    }
}

fn means<'a>(values: impl Iterator<Item = (&'a Sample, f64)>) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (sample, value) in values {
        all.entry(sample.prompt.clone()).or_default().push(value);
    }
    all.into_iter().filter_map(|(prompt, values)| Some((prompt, mean(&values)?))).collect()
}

/// Figures of a policy, and its gains over the start. Intervals are over prompts; a prompt counts for a gain where both
/// have a score. `start` comes with its own best-of-K; diversity is that of `diverse` papers a prompt, so that policies of
/// which more or fewer papers count can be compared.
pub fn figures(
    now: &HeldOut,
    start: Option<(&HeldOut, usize)>,
    best_of: usize,
    diverse: usize,
    confidence: f64,
    accepts: &dyn Fn(f64) -> Option<bool>,
) -> Evaluation {
    let counted = now.counted(best_of);
    let of = |scores: &BTreeMap<String, Scored>| now.by_prompt(&counted, scores);
    let (first, second) = (of(&now.first), of(&now.second));
    let values = |m: &BTreeMap<String, f64>| m.values().copied().collect::<Vec<f64>>();
    let gain = |mine: &BTreeMap<String, f64>, theirs: BTreeMap<String, f64>| {
        let differences: Vec<f64> =
            mine.iter().filter_map(|(prompt, score)| Some(score - theirs.get(prompt)?)).collect();
        interval(&differences, confidence)
    };
    let base = start.map(|(s, best_of)| (s, s.counted(best_of)));
    let validity_change = base.as_ref().and_then(|(s, ids)| gain(&now.valid(&counted), s.valid(ids)));
    let single = |scores: &BTreeMap<String, Scored>, ids: &[&str]| {
        let all: Vec<f64> = ids.iter().filter_map(|id| scores.get(*id)?.mean).collect();
        deviation(&all)
    };
    let (judge_sd, second_sd) = match &base {
        Some((s, ids)) => (single(&s.first, ids), single(&s.second, ids)),
        None => (single(&now.first, &counted), single(&now.second, &counted)),
    };
    let texts: Vec<Vec<String>> = now
        .first_of_each(&counted, diverse)
        .into_iter()
        .filter_map(|id| now.samples.get(id)?.text.as_deref())
        .map(words)
        .collect();
    let checked: Vec<&Checked> = counted.iter().filter_map(|id| now.checks.get(*id)).collect();
    let ratios: Vec<f64> = checked.iter().filter_map(|c| c.log_ratio).collect();
    let opinions: Vec<bool> =
        counted.iter().filter_map(|id| now.first.get(*id)?.mean).filter_map(accepts).collect();
    let share = |n: usize, of: usize| if of == 0 { 0.0 } else { n as f64 / of as f64 };
    let mut terms: BTreeMap<TermName, Vec<f64>> = BTreeMap::new();
    for (name, value) in checked.iter().flat_map(|c| &c.terms) {
        terms.entry(*name).or_default().push(*value);
    }
    let written = || counted.iter().filter_map(|id| now.samples.get(*id)).filter(|s| s.text.is_some());
    let tokens: Vec<f64> = written().map(|s| s.tokens as f64).collect();
    let unscored = |scores: &BTreeMap<String, Scored>| {
        counted.iter().filter(|id| scores.get(**id).is_none_or(|s| s.mean.is_none())).count()
    };
    Evaluation {
        judge: interval(&values(&first), confidence),
        second: interval(&values(&second), confidence),
        judge_gain: base.as_ref().and_then(|(s, ids)| gain(&first, s.by_prompt(ids, &s.first))),
        second_gain: base.as_ref().and_then(|(s, ids)| gain(&second, s.by_prompt(ids, &s.second))),
        judge_sd,
        second_sd,
        validity: share(checked.iter().filter(|c| c.is_valid()).count(), counted.len()),
        validity_change,
        acceptance: (!opinions.is_empty())
            .then(|| share(opinions.iter().filter(|o| **o).count(), opinions.len())),
        tokens: mean(&tokens).unwrap_or(0.0),
        distinct: distinct(&texts, 2),
        self_bleu: self_bleu(&texts),
        kl: mean(&ratios),
        terms: terms.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect(),
        failed: counted.len() - written().count(),
        unscored: unscored(&now.first),
        second_unscored: unscored(&now.second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_best_of_k_is_as_diverse_as_its_first_papers_however_many_were_drawn() {
        let held_out = |papers: usize| {
            let (mut samples, mut first) = (BTreeMap::new(), BTreeMap::new());
            for prompt in ["p", "q"] {
                for index in 0..papers {
                    // Every paper's own first word; the rest is the same in all of them.
                    let text = format!("{prompt}{index} of what all papers say again and again");
                    let sample: Sample = serde_json::from_value(serde_json::json!({
                        "prompt": prompt, "index": index, "policy": "", "seed": 0, "prompt_sha256": "",
                        "text": text, "parts": 1, "tokens": 9,
                    }))
                    .unwrap();
                    let score = serde_json::json!({"judge": "", "mean": index});
                    first.insert(format!("{prompt}{index}"), serde_json::from_value(score).unwrap());
                    samples.insert(format!("{prompt}{index}"), sample);
                }
            }
            HeldOut { samples, first, second: BTreeMap::new(), checks: BTreeMap::new() }
        };
        let of = |papers: usize, best_of: usize, diverse: usize| {
            let e = figures(&held_out(papers), None, best_of, diverse, 0.95, &|_| None);
            (e.distinct, e.self_bleu, e.judge.map(|j| j.mean))
        };
        let (one, all) = (of(1, 1, 1), of(10, 1, 10));
        assert!(all.0 < one.0, "more papers repeat more: {all:?}, {one:?}");
        let (start, best) = (of(10, 1, 1), of(10, 10, 1));
        assert_eq!((start.0, start.1), (one.0, one.1));
        assert_eq!(start.2, Some(4.5), "its score is that of all papers");
        assert_eq!((best.0, best.2), (one.0, Some(9.0)));
    }
}
