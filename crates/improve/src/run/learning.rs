//! From scores to pairs to a policy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use models::ModelSource;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Loop, Observer};
use crate::config::Engine;
use crate::error::ImproveError;
use crate::ledger::{self, Kind, hex};
use crate::pairs::{self, Candidate};
use crate::policy::{Policy, write};
use crate::reward::reward;
use crate::rows::{Checked, Cost, Pair, PairCounts, Sample, Scored, Trained};

impl Loop<'_> {
    /// Makes the pairs of an iteration, with those of earlier ones, and the file that is trained on.
    pub(super) fn pair(&mut self, iteration: usize, noise: f64) -> Result<PairCounts, ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, Kind::Sample, iteration)?;
        let scores = ledger::read::<Scored>(self.ledger, Kind::Score, iteration)?;
        let checks = ledger::read::<Checked>(self.ledger, Kind::Check, iteration)?;
        let silent = Scored::failed(String::new(), "not scored");
        let unchecked = Checked::default();
        let rewards: Vec<_> = samples
            .keys()
            .map(|key| {
                let scored = scores.get(key).unwrap_or(&silent);
                reward(&self.config.reward, scored, checks.get(key).unwrap_or(&unchecked))
            })
            .collect();
        let totals: Vec<f64> = rewards.iter().filter_map(|r| r.total).collect();
        let nothing = |what: String| Err(ImproveError::Nothing { iteration, what });
        if totals.is_empty() {
            let first =
                scores.values().find_map(|s| s.failed.clone()).unwrap_or_else(|| "no reason given".into());
            return nothing(format!("none of {} samples has a reward (the first: {first})", samples.len()));
        }
        let (low, high) =
            totals.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), t| (l.min(*t), h.max(*t)));
        if totals.len() > 1 && high - low <= 1e-12 {
            return nothing(format!(
                "all {} samples have the reward {low}: there is nothing to prefer",
                totals.len()
            ));
        }
        let candidates: Vec<Candidate<'_>> = samples
            .iter()
            .zip(&rewards)
            .map(|((id, sample), reward)| Candidate { id, sample, reward })
            .collect();
        let mut made = pairs::pairs(&self.config.pairs, &candidates, noise);
        if made.pairs.is_empty() {
            let c = &made.counts;
            return nothing(format!(
                "no pair is left of {} samples ({} failed, {} without a score, {} ran into a limit, {} kept back by gates, {} twice, \
                 {} pairs too close, {} of too different lengths)",
                samples.len(),
                c.failed,
                c.unscored,
                c.cut,
                c.gated,
                c.duplicates,
                c.close,
                c.lengths
            ));
        }
        let new = made.pairs.len();
        let mut taken: BTreeSet<String> = made.pairs.iter().map(|(id, _)| id.clone()).collect();
        for (back, share) in self.config.pairs.replay.iter().enumerate() {
            let Some(earlier) = iteration.checked_sub(back + 1).filter(|i| *i > 0) else { break };
            let rows: Vec<(String, Pair)> =
                ledger::read::<Pair>(self.ledger, Kind::Pair, earlier)?.into_iter().collect();
            let again = pairs::replayed(&rows, earlier, new, *share, &taken);
            taken.extend(again.iter().map(|(id, _)| id.clone()));
            made.counts.replayed += again.len();
            made.pairs.extend(again);
        }
        ledger::put(self.ledger, Kind::Pair, iteration, &made.pairs)?;
        Ok(made.counts)
    }

    /// Trains on the pairs of an iteration, or goes on with it.
    pub(super) fn train(
        &mut self,
        iteration: usize,
        policy: &Policy,
        counts: PairCounts,
    ) -> Result<(), ImproveError> {
        self.stop_if_asked()?;
        let started = Instant::now();
        let folder = self.folder(iteration);
        let degree = self.config.train.degree.is_some();
        if degree {
            self.local(policy)?;
        }
        let rows = crate::export::rows(self.ledger, iteration, self.config.train.method, &|asked| {
            // SPO's degrees read texts; everything else learns from messages.
            let Some((_, model)) = self.open.as_ref().filter(|_| degree) else { return Ok(asked) };
            let messages: Vec<lm::Message> =
                serde_json::from_value(asked).map_err(|e| ImproveError::Ledger(e.to_string()))?;
            Ok(Value::String(model.render(&messages, "")?))
        })?;
        let path = folder.join("rows.jsonl");
        let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
        write(&path, text.as_bytes())?;
        // The model is loaded again by the trainer, in another shape.
        self.open = None;
        let out = folder.join("train");
        let source = &policy.source;
        let lora = self.config.train.lora.is_some();
        let whole = |s: &ModelSource| match (&s.adapter, lora) {
            (Some(adapter), false) => PathBuf::from(format!("{}+{}", s.path.display(), adapter.display())),
            _ => s.path.clone(),
        };
        let recipe = self
            .config
            .recipe_of(&whole(source), &path, &out, source.adapter.as_ref())
            .map_err(ImproveError::Config)?;
        self.observer.phase(iteration, "training", recipe.optimizer.steps(rows.len()));
        let result = match self.config.train.engine {
            Engine::Local => {
                let start = training::Start { resume: true, cache: None };
                let mut watch = Watcher { observer: self.observer };
                training::Trainer::new(recipe, &start, &mut watch)?.run(&mut watch)
            }
            Engine::Trl => crate::handoff::train(&recipe, self.config.train.python.as_deref(), self.observer),
        };
        let done = match result {
            Err(training::TrainError::Interrupted(_)) => return Err(ImproveError::Interrupted),
            other => other?,
        };
        let trained = Policy::of(format!("iteration-{iteration}"), self.trained(&done))?;
        let (metrics, tokens) = last_metrics(&out.join("metrics.jsonl"));
        let row = Trained {
            policy: trained.sha256,
            path: Some(format!("iteration-{iteration}/train/final")),
            parent: policy.sha256.clone(),
            rows_sha256: hex(&Sha256::digest(text.as_bytes())),
            rows: rows.len(),
            metrics,
            pairs: counts,
        };
        ledger::put(self.ledger, Kind::Policy, iteration, &[("policy".into(), row)])?;
        let cost =
            Cost { trained_tokens: tokens, seconds: started.elapsed().as_secs_f64(), ..Cost::default() };
        self.spent(iteration, "train", cost, "train")
    }
}

/// The last line of a training's metrics without its times, and the tokens of all lines.
fn last_metrics(path: &Path) -> (Value, usize) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let tokens = lines.iter().filter_map(|l| l["tokens"].as_u64()).sum::<u64>() as usize;
    let mut last: BTreeMap<String, Value> = lines
        .into_iter()
        .rev()
        .find(|l| l.get("loss").is_some())
        .and_then(|l| serde_json::from_value(l).ok())
        .unwrap_or_default();
    last.remove("tokens_per_second");
    (json!(last), tokens)
}

struct Watcher<'a> {
    observer: &'a dyn Observer,
}

impl training::Watch for Watcher<'_> {
    fn step(&mut self, metrics: &Value, total: usize) {
        self.observer.step(metrics, total);
    }
    fn note(&mut self, text: &str) {
        // A training inside a loop always goes on from where it is.
        if !text.starts_with("no checkpoint yet") {
            self.observer.note(text);
        }
    }
    fn cancelled(&mut self) -> bool {
        self.observer.cancelled()
    }
    fn stopping(&mut self) {
        self.observer.stopping();
    }
}
