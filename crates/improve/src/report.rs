//! What a loop did, as one document: `cycle.loop/1`.

mod chart;
mod page;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{LoopConfig, TermName};
use crate::error::ImproveError;
use crate::evaluate::HeldOut;
use crate::ledger::{self, Kind, Ledger};
use crate::prompts::PromptSets;
use crate::reward::reward;
use crate::rows::{Checked, Cost, Decision, Rewarded, Sample, Scored, Trained};
use crate::stats::mean;

pub use page::page;

/// A loop so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `cycle.loop/1`.
    pub schema: String,
    /// Id of the run.
    pub run: String,
    /// SHA-256 of all its rows but the costs.
    pub hash: String,
    /// What was asked for.
    pub config: LoopConfig,
    /// Units of the first judge's scores.
    pub judge_units: String,
    /// Of the second's.
    pub second_units: String,
    /// Iterations so far, the start as number 0.
    pub iterations: Vec<Iteration>,
    /// `running`, `done`, or `stopped` by a guard.
    pub status: String,
    /// Hash of the policy in force.
    pub policy: Option<String>,
    /// Held-out papers of the start and of the last policy, side by side.
    pub examples: Vec<Example>,
}

/// One iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// 0 is the start.
    pub iteration: usize,
    /// What was found on held-out prompts, once it is.
    pub decision: Option<Decision>,
    /// What was trained, once it is.
    pub trained: Option<Trained>,
    /// Samples of training prompts.
    pub samples: usize,
    /// Mean of the rewards of these, and of each of its terms.
    pub reward: Option<f64>,
    /// By name.
    pub terms: BTreeMap<TermName, f64>,
    /// The judge's own noise, where it was measured.
    pub noise: Option<f64>,
    /// By phase.
    pub costs: BTreeMap<String, Cost>,
}

/// A prompt's papers before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Why this one is shown: `most gained`, `median`, `most lost`.
    pub which: String,
    /// The prompt's topic, or how many references it gave.
    pub prompt: String,
    /// At the start.
    pub before: Shown,
    /// Under the last policy.
    pub after: Shown,
}

/// A paper with what was said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// As it was written.
    pub text: String,
    /// First judge.
    pub judge: Option<f64>,
    /// Second judge.
    pub second: Option<f64>,
    /// What the checks found.
    pub faults: Vec<String>,
    /// What a panel wrote of it.
    pub review: Option<serde_json::Value>,
}

/// Reads a loop's rows into a report.
///
/// # Errors
/// If they cannot be read.
pub fn report(
    config: &LoopConfig,
    run: &str,
    units: (String, String),
    ledger: &dyn Ledger,
) -> Result<Report, ImproveError> {
    let mut iterations = Vec::new();
    for iteration in 0..=config.iterations {
        let found = one(config, iteration, ledger)?;
        if found.decision.is_none() && found.samples == 0 && found.costs.is_empty() {
            break;
        }
        iterations.push(found);
    }
    let last = iterations.iter().rev().find_map(|i| i.decision.as_ref().map(|d| (i.iteration, d)));
    let status = match last {
        Some((_, decision)) if !decision.accepted => "stopped",
        Some((n, _)) if n == config.iterations => "done",
        _ => "running",
    };
    let policy = last.map(|(_, d)| d.policy.clone());
    let shown = last.map_or(0, |(n, _)| n);
    let examples = if shown > 0 { examples(config, shown, ledger)? } else { Vec::new() };
    Ok(Report {
        schema: "cycle.loop/1".into(),
        run: run.into(),
        hash: ledger::hash(ledger, config.iterations)?,
        config: config.clone(),
        judge_units: units.0,
        second_units: units.1,
        iterations,
        status: status.into(),
        policy,
        examples,
    })
}

fn one(config: &LoopConfig, iteration: usize, ledger: &dyn Ledger) -> Result<Iteration, ImproveError> {
    let decision = ledger::read::<Decision>(ledger, Kind::Decision, iteration)?.into_values().next();
    let trained = ledger::read::<Trained>(ledger, Kind::Policy, iteration)?.into_values().next();
    let samples = ledger::read::<Sample>(ledger, Kind::Sample, iteration)?;
    let scores = ledger::read::<Scored>(ledger, Kind::Score, iteration)?;
    let checks = ledger::read::<Checked>(ledger, Kind::Check, iteration)?;
    let rewards: Vec<Rewarded> = samples
        .keys()
        .filter_map(|key| Some(reward(&config.reward, scores.get(key)?, checks.get(key)?)))
        .collect();
    let totals: Vec<f64> = rewards.iter().filter_map(|r| r.total).collect();
    let mut terms: BTreeMap<TermName, Vec<f64>> = BTreeMap::new();
    for (name, value) in rewards.iter().flat_map(|r| &r.terms) {
        terms.entry(*name).or_default().push(*value);
    }
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    for (id, cost) in ledger::read::<Cost>(ledger, Kind::Cost, iteration)? {
        let phase = id.split(' ').next().unwrap_or_default().to_string();
        let sum = costs.entry(phase).or_default();
        sum.prompt_tokens += cost.prompt_tokens;
        sum.prompt_tokens_reused += cost.prompt_tokens_reused;
        sum.generated_tokens += cost.generated_tokens;
        sum.trained_tokens += cost.trained_tokens;
        sum.seconds += cost.seconds;
    }
    Ok(Iteration {
        iteration,
        decision,
        trained,
        samples: samples.len(),
        reward: mean(&totals),
        terms: terms.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect(),
        noise: ledger::read::<f64>(ledger, Kind::Noise, iteration)?.into_values().next(),
        costs,
    })
}

/// The held-out prompts whose papers gained most, lost most, and the one in the middle.
fn examples(config: &LoopConfig, last: usize, ledger: &dyn Ledger) -> Result<Vec<Example>, ImproveError> {
    let (before, after) = (HeldOut::read(ledger, 0)?, HeldOut::read(ledger, last)?);
    let prompts = PromptSets::read(&config.prompts, config.sample.stage)?;
    let first_of = |held: &HeldOut, best_of: usize| -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for id in held.counted(best_of) {
            if let Some(sample) = held.samples.get(id).filter(|s| s.text.is_some()) {
                found.entry(sample.prompt.clone()).or_insert_with(|| id.to_string());
            }
        }
        found
    };
    let (old, new) = (first_of(&before, 1), first_of(&after, config.sample.best_of));
    let score = |held: &HeldOut, id: &str| held.first.get(id).and_then(|s| s.mean);
    let mut gains: Vec<(f64, &String)> = old
        .iter()
        .filter_map(|(prompt, id)| Some((score(&after, new.get(prompt)?)? - score(&before, id)?, prompt)))
        .collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let places =
        [("most gained", 0), ("median", gains.len() / 2), ("most lost", gains.len().saturating_sub(1))];
    let shown = |held: &HeldOut, id: &str| -> Option<Shown> {
        let first = held.first.get(id);
        Some(Shown {
            text: held.samples.get(id)?.text.clone()?,
            judge: first.and_then(|s| s.mean),
            second: held.second.get(id).and_then(|s| s.mean),
            faults: held.checks.get(id).map(|c| c.faults.clone()).unwrap_or_default(),
            review: first
                .and_then(|s| s.review.clone())
                .or_else(|| held.second.get(id).and_then(|s| s.review.clone())),
        })
    };
    let mut found: Vec<Example> = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for (which, place) in places {
        let Some((_, prompt)) = gains.get(place) else { continue };
        if !taken.insert(place) {
            continue;
        }
        let told = prompts.held_out.iter().find(|p| p.id == **prompt).map_or_else(
            || (*prompt).clone(),
            |p| p.topic.clone().unwrap_or_else(|| format!("{} references", p.literature.entries.len())),
        );
        let pair = old.get(*prompt).zip(new.get(*prompt));
        let Some((before, after)) = pair.and_then(|(o, n)| shown(&before, o).zip(shown(&after, n))) else {
            continue;
        };
        found.push(Example { which: which.into(), prompt: told, before, after });
    }
    Ok(found)
}

impl Report {
    /// The figures for a terminal.
    pub fn table(&self) -> String {
        let number = |v: Option<f64>, digits: usize| v.map_or("–".into(), |v| format!("{v:.digits$}"));
        let gain = |i: &Option<crate::rows::Interval>| match i {
            Some(crate::rows::Interval { mean, low: Some(low), high: Some(high), .. }) => {
                format!("{mean:+.3} [{low:+.3}, {high:+.3}]")
            }
            Some(i) => format!("{:+.3}", i.mean),
            None => "–".into(),
        };
        let mut rows = vec![
            [
                "iteration",
                "judge",
                "gain",
                "second",
                "gain",
                "valid",
                "tokens",
                "distinct",
                "log-ratio",
                "pairs",
                "kept",
            ]
            .map(String::from),
        ];
        for i in &self.iterations {
            let Some(d) = &i.decision else { continue };
            let e = &d.evaluation;
            rows.push([
                if i.iteration == 0 { "start".into() } else { i.iteration.to_string() },
                number(e.judge.map(|j| j.mean), 3),
                gain(&e.judge_gain),
                number(e.second.map(|j| j.mean), 3),
                gain(&e.second_gain),
                format!("{:.0} %", 100.0 * e.validity),
                format!("{:.0}", e.tokens),
                format!("{:.3}", e.distinct),
                number(e.kl, 3),
                i.trained.as_ref().map_or("–".into(), |t| t.rows.to_string()),
                if d.accepted { "yes" } else { "no" }.into(),
            ]);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            out += cells.join("  ").trim_end();
            out.push('\n');
        }
        for i in &self.iterations {
            for alarm in i.decision.iter().flat_map(|d| &d.alarms) {
                out += &format!("iteration {}: {alarm}\n", i.iteration);
            }
        }
        out
    }
}
