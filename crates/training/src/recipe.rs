//! A training as TOML, with the names of transformers, TRL and PEFT. Unknown keys are refused, the nearest name offered.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Supervised fine-tuning.
    Sft,
}

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained.
    pub kind: Kind,
    /// The checkpoint to start from.
    pub model: PathBuf,
    /// The output folder.
    pub out: PathBuf,
    /// Order of rows.
    #[serde(default)]
    pub seed: u64,
    /// Rows.
    pub data: Data,
    /// Loss.
    #[serde(default)]
    pub objective: Objective,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
    /// Checkpoints.
    #[serde(default)]
    pub save: Save,
}

/// Rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// JSONL, plain or `.zst`.
    pub train: PathBuf,
    /// Held-out rows.
    pub eval: Option<PathBuf>,
    /// Tokens of the longest row.
    #[serde(default = "defaults::max_length")]
    pub max_length: usize,
    /// What happens to longer ones.
    #[serde(default)]
    pub overlong: Overlong,
    /// A new order every epoch.
    #[serde(default = "defaults::yes")]
    pub shuffle: bool,
}

/// What happens to rows longer than `max_length`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The training does not start.
    Error,
    /// They are left out and counted.
    Skip,
    /// Their end is cut and they are counted.
    #[default]
    Truncate,
}

/// Which tokens count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The assistant's.
    #[default]
    Completion,
    /// All but the first.
    All,
}

/// Loss.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Which tokens count.
    #[serde(default)]
    pub loss_on: LossOn,
}

/// Shape of the learning rate over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// Down to 0 along a half cosine.
    #[default]
    Cosine,
    /// Down to 0 along a line.
    Linear,
    /// No change, no warm-up.
    Constant,
    /// No change after the warm-up.
    ConstantWithWarmup,
}

/// AdamW and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak.
    pub learning_rate: f64,
    /// Decay of the first moment.
    #[serde(default = "defaults::beta1")]
    pub adam_beta1: f64,
    /// Decay of the second moment.
    #[serde(default = "defaults::beta2")]
    pub adam_beta2: f64,
    /// Outside the root.
    #[serde(default = "defaults::epsilon")]
    pub adam_epsilon: f64,
    /// Decoupled; norms and biases are left out.
    #[serde(default)]
    pub weight_decay: f64,
    /// Global L2 norm of the gradient; 0 does not clip.
    #[serde(default = "defaults::norm")]
    pub max_grad_norm: f64,
    /// Shape.
    #[serde(default)]
    pub lr_scheduler_type: Scheduler,
    /// Steps, or a share of all if below 1.
    #[serde(default)]
    pub warmup_steps: f64,
    /// Optimiser steps; takes precedence over epochs.
    pub max_steps: Option<usize>,
    /// Passes over the data.
    pub num_train_epochs: Option<f64>,
    /// Rows of a micro-batch.
    #[serde(default = "defaults::batch")]
    pub batch_size: usize,
    /// Micro-batches of a step.
    #[serde(default = "defaults::one")]
    pub gradient_accumulation_steps: usize,
}

/// Checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Save {
    /// Steps between checkpoints.
    pub every: usize,
    /// Older ones are deleted.
    pub keep: usize,
}

impl Default for Save {
    fn default() -> Self {
        Self { every: 100, keep: 2 }
    }
}

mod defaults {
    pub(super) fn max_length() -> usize {
        2048
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn beta1() -> f64 {
        0.9
    }
    pub(super) fn beta2() -> f64 {
        0.999
    }
    pub(super) fn epsilon() -> f64 {
        1e-8
    }
    pub(super) fn norm() -> f64 {
        1.0
    }
    pub(super) fn batch() -> usize {
        4
    }
    pub(super) fn one() -> usize {
        1
    }
}

/// Every key of a recipe, for the nearest name.
const KEYS: [&str; 30] = [
    "kind",
    "model",
    "out",
    "seed",
    "data",
    "objective",
    "optimizer",
    "save",
    "train",
    "eval",
    "max_length",
    "overlong",
    "shuffle",
    "loss_on",
    "learning_rate",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "num_train_epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "every",
    "keep",
    "lora",
    "reference_model",
];

impl Recipe {
    /// Parses TOML, after `--set key=value` changes (`optimizer.learning_rate=1e-4`).
    ///
    /// # Errors
    /// If it is no TOML, a key is unknown, missing or of the wrong type, or a value makes no sense.
    pub fn parse(text: &str, set: &[String]) -> Result<Self, TrainError> {
        let bad = |what: String| TrainError::Recipe(what);
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(one_line(&e)))?;
        for change in set {
            let (path, value) =
                change.split_once('=').ok_or_else(|| bad(format!("--set {change}: write key=value")))?;
            let value = format!("v = {value}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| toml::Value::String(value.into()));
            let mut at = &mut table;
            let mut keys: Vec<&str> = path.split('.').collect();
            let last = keys.pop().unwrap_or_default();
            for key in keys {
                at = at
                    .entry(key)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .ok_or_else(|| bad(format!("--set {change}: {key} is no table")))?;
            }
            at.insert(last.into(), value);
        }
        for key in ["lora", "reference_model"] {
            if table.contains_key(key) {
                return Err(bad(format!(
                    "{key}: this version trains all parameters by `kind = \"sft\"` only"
                )));
            }
        }
        if let Some(kind @ ("reward" | "preference")) = table.get("kind").and_then(|k| k.as_str()) {
            return Err(bad(format!("kind = {kind:?} is not in this version; it trains \"sft\"")));
        }
        let recipe: Self = toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| {
            let message = one_line(&e);
            let unknown = message.split('`').nth(1).filter(|_| message.contains("unknown field"));
            match unknown.and_then(nearest) {
                Some(near) => bad(format!("{message}; did you mean {near}?")),
                None => bad(message),
            }
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), TrainError> {
        let bad = |what: &str| Err(TrainError::Recipe(what.into()));
        let o = &self.optimizer;
        if o.max_steps.is_none() && o.num_train_epochs.is_none() {
            return bad("optimizer needs max_steps or num_train_epochs");
        }
        if o.batch_size == 0 || o.gradient_accumulation_steps == 0 || self.data.max_length < 2 {
            return bad("batch_size and gradient_accumulation_steps are at least 1, max_length at least 2");
        }
        if !(o.learning_rate.is_finite() && o.learning_rate > 0.0) {
            return bad("learning_rate must be positive");
        }
        Ok(())
    }
}

fn nearest(word: &str) -> Option<&'static str> {
    KEYS.into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .min()
        .filter(|(d, _)| *d <= 4)
        .map(|(_, k)| k)
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}
