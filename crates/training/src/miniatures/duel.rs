//! Policies over a finite set of answers, played against each other under an oracle of preferences.
//!
//! The policy is a micro decoder whose vocabulary is the set of answers: after a prompt of three words the next word is the
//! answer, so that π(y|x) is exact. It is trained by [`crate::Trainer`] with the objectives of [`crate::objectives`].

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::micro::{Micro, Reader};
use super::runs::{Random, train};
use crate::error::TrainError;
use crate::games::{exploitability, nash};

/// P(i ≻ j), `[answers][answers]`, and one such matrix a prompt.
pub(super) type Oracle = Vec<Vec<f64>>;
/// π(y|x), `[prompts][answers]`.
pub(super) type Policy = Vec<Vec<f64>>;

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// P = σ(S) of a skew-symmetric S.
pub(super) fn oracle_of(scores: &[Vec<f64>]) -> Oracle {
    scores.iter().map(|row| row.iter().map(|s| sigmoid(*s)).collect()).collect()
}

/// P − ½, the game that the oracle's win rates are.
fn game(oracle: &Oracle) -> Vec<Vec<f64>> {
    oracle.iter().map(|row| row.iter().map(|p| p - 0.5).collect()).collect()
}

/// A random oracle without a best answer: S of normal numbers (deviation 1.5), drawn again until the Nash strategy mixes
/// at least three answers, each with at least a tenth.
pub(super) fn cyclic_oracle(answers: usize, random: &mut Random) -> Result<Oracle, TrainError> {
    loop {
        let mut scores = vec![vec![0.0; answers]; answers];
        for i in 0..answers {
            for j in 0..i {
                let (u, v) = (random.uniform().max(1e-12), random.uniform());
                let s = 1.5 * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                (scores[i][j], scores[j][i]) = (s, -s);
            }
        }
        let oracle = oracle_of(&scores);
        let strategy = nash(&game(&oracle)).map_err(TrainError::Recipe)?;
        if strategy.iter().filter(|p| **p >= 0.1).count() >= 3 {
            return Ok(oracle);
        }
    }
}

/// P(first ≻ second) of two policies on one prompt.
pub(super) fn wins(oracle: &Oracle, first: &[f64], second: &[f64]) -> f64 {
    let against = |row: &Vec<f64>| row.iter().zip(second).map(|(p, y)| p * y).sum::<f64>();
    oracle.iter().zip(first).map(|(row, x)| x * against(row)).sum()
}

/// KL(first ‖ second), nats.
pub(super) fn divergence(first: &[f64], second: &[f64]) -> f64 {
    first.iter().zip(second).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Exploitability in P − ½, mean over prompts.
pub(super) fn exploited(oracles: &[Oracle], policy: &Policy) -> f64 {
    let each = oracles.iter().zip(policy).map(|(o, p)| exploitability(&game(o), p).0);
    each.sum::<f64>() / oracles.len() as f64
}

/// The mixture of policies, uniform over iterates.
pub(super) fn average(iterates: &[Policy]) -> Policy {
    let mut sum = iterates.first().cloned().unwrap_or_default();
    for policy in iterates.iter().skip(1) {
        for (s, p) in sum.iter_mut().flatten().zip(policy.iter().flatten()) {
            *s += p;
        }
    }
    let n = iterates.len().max(1) as f64;
    sum.iter_mut().flatten().for_each(|s| *s /= n);
    sum
}

/// Exploitability of the average of the first 1, 2, … iterates.
pub(super) fn averages(oracles: &[Oracle], iterates: &[Policy]) -> Vec<f64> {
    (1..=iterates.len()).map(|t| exploited(oracles, &average(&iterates[..t]))).collect()
}

/// How a round trains.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) steps: usize,
    pub(super) rate: f64,
    /// Answers drawn from the policy for each prompt; rows are pairs of them.
    pub(super) draws: usize,
}

/// A policy and where it lies.
pub(super) struct Player {
    answers: usize,
    prompts: Vec<Vec<u32>>,
    checkpoint: PathBuf,
    folder: PathBuf,
    round: usize,
}

impl Player {
    /// An untrained policy with logits of deviation 1: not uniform, which may be Nash already.
    pub(super) fn new(folder: &Path, answers: usize, prompts: usize, seed: u64) -> Result<Self, TrainError> {
        let checkpoint = folder.join("start");
        // Logits are normal numbers of deviation 1 then: hidden states have length √32.
        Micro { head: 1.0 / 32f64.sqrt(), ..Micro::of_ids(answers, 32, 1, 8) }.write(&checkpoint, seed)?;
        let word = |x: usize| (x % answers) as u32;
        let prompts = (0..prompts).map(|x| vec![word(x), word(x / answers), word(x + 1)]).collect();
        Ok(Self { answers, prompts, checkpoint, folder: folder.into(), round: 0 })
    }

    /// π(y|x) as it is now.
    pub(super) fn policy(&self) -> Result<Policy, TrainError> {
        let logs = Reader::open(&self.checkpoint)?.next(&self.prompts)?;
        Ok(logs.iter().map(|row| row.iter().map(|l| l.exp()).collect()).collect())
    }

    /// A row of a training file; `targets` are columns beside it.
    pub(super) fn row(&self, prompt: usize, chosen: usize, rejected: usize, targets: &Value) -> Value {
        let mut row = json!({"prompt": self.prompts[prompt], "chosen": [chosen], "rejected": [rejected]});
        if let (Some(row), Some(targets)) = (row.as_object_mut(), targets.as_object()) {
            row.extend(targets.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        row
    }

    /// Trains on rows for `steps` from here, the reference being the policy as it is.
    pub(super) fn learn(
        &mut self,
        objective: &str,
        rows: &[Value],
        steps: usize,
        rate: f64,
    ) -> Result<(), TrainError> {
        if rows.is_empty() {
            // All draws of all prompts were the same answer: nothing to compare, the policy stays.
            return Ok(());
        }
        let recipe = format!(
            "kind = \"preference\"\nseed = {}\n[data]\n[objective]\n{objective}\n[optimizer]\nlearning_rate = {rate}\n\
             lr_scheduler_type = \"linear\"\nbatch_size = 64\nmax_steps = {steps}\n",
            self.round
        );
        let out = self.folder.join(format!("round-{}", self.round));
        let (made, _) = train(&self.checkpoint, &out, &recipe, rows, &[])?;
        let next = self.folder.join(format!("policy-{}", self.round));
        std::fs::rename(&made, &next).map_err(TrainError::io(&next))?;
        std::fs::remove_dir_all(&out).map_err(TrainError::io(&out))?;
        std::fs::remove_dir_all(&self.checkpoint).map_err(TrainError::io(&self.checkpoint))?;
        self.checkpoint = next;
        self.round += 1;
        Ok(())
    }

    /// Draws from the policy for each prompt, `[prompts][draws]`.
    pub(super) fn draw(&self, policy: &Policy, draws: usize, random: &mut Random) -> Vec<Vec<usize>> {
        let one = |p: &Vec<f64>, random: &mut Random| {
            let mut left = random.uniform();
            for (y, p) in p.iter().enumerate() {
                left -= p;
                if left < 0.0 {
                    return y;
                }
            }
            self.answers - 1
        };
        policy.iter().map(|p| (0..draws).map(|_| one(p, random)).collect()).collect()
    }

    /// Rounds of self-play: draws, rows of them by `label(prompt, draws)`, a training. Returns the start and every
    /// iterate, `rounds` in all.
    pub(super) fn play(
        &mut self,
        rounds: usize,
        round: &Round,
        objective: &str,
        random: &mut Random,
        label: &dyn Fn(&Self, usize, &[usize], &mut Random) -> Vec<Value>,
    ) -> Result<Vec<Policy>, TrainError> {
        let mut iterates = vec![self.policy()?];
        for t in 1..rounds {
            let draws = self.draw(&iterates[t - 1], round.draws, random);
            let mut rows = Vec::new();
            for (x, draws) in draws.iter().enumerate() {
                rows.extend(label(self, x, draws, random));
            }
            self.learn(objective, &rows, round.steps, round.rate)?;
            iterates.push(self.policy()?);
        }
        Ok(iterates)
    }
}

/// The draws as pairs of different answers, one after the other.
pub(super) fn pairs(draws: &[usize]) -> impl Iterator<Item = (usize, usize)> + '_ {
    draws.chunks_exact(2).map(|p| (p[0], p[1])).filter(|(a, b)| a != b)
}
