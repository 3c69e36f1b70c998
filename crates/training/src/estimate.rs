//! What a recipe will do, without doing it: rows are read and counted, no weight is.

use models::{AdapterFiles, ModelSource, Outline, inventory};
use serde::Serialize;

use crate::data::Row;
use crate::error::TrainError;
use crate::memory::Memory;
use crate::network::targets;
use crate::recipe::{GateName, Lora, Objective, Recipe, RewardName};
use crate::rows::{reading, rows};

/// The size of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Optimiser steps.
    pub steps: usize,
    /// Rows that are used.
    pub rows: usize,
    /// Rows longer than `max_length`, left out or cut.
    pub overlong: usize,
    /// Held-out rows.
    pub eval_rows: usize,
    /// Passes over the rows.
    pub epochs: f64,
    /// Tokens of one pass; every answer counts with its prompt.
    pub tokens_per_epoch: usize,
    /// Tokens of the largest row.
    pub longest: usize,
    /// Weights that move.
    pub trained: u64,
    /// Weights of the model that do not.
    pub frozen: u64,
    /// Memory at the peak.
    pub memory: Memory,
}

impl Estimate {
    /// Reads the recipe's rows and the description of its model.
    ///
    /// # Errors
    /// As [`crate::Trainer::new`], for everything but the weights' values.
    pub fn of(recipe: &Recipe) -> Result<Self, TrainError> {
        let source = ModelSource::parse(&recipe.model);
        let outline = Outline::of(&source)?;
        let reading = reading(recipe, &outline)?;
        let (train, eval) = rows(recipe, &reading, outline.config.vocab_size)?;
        let o = &recipe.optimizer;
        let steps = o.steps(train.rows.len());
        let used = steps * o.batch_size * o.gradient_accumulation_steps;
        let all: u64 = inventory(&outline.config).iter().map(|(_, shape)| elements(shape)).sum();
        let moving = match &recipe.lora {
            Some(lora) => adapter(lora, &source, &outline)?,
            None if matches!(&recipe.objective, Objective::Reward(r) if r.freeze_trunk) => 0,
            None => all,
        };
        let trained = moving + head(recipe, outline.config.hidden_size);
        let memory = Memory::predict(recipe, &outline.config, &train.rows, trained as usize)?;
        Ok(Self {
            memory,
            steps,
            rows: train.rows.len(),
            overlong: train.overlong,
            eval_rows: eval.rows.len(),
            epochs: used as f64 / train.rows.len() as f64,
            tokens_per_epoch: train.rows.iter().map(Row::tokens).sum(),
            longest: train.rows.iter().map(Row::tokens).max().unwrap_or(0),
            trained,
            frozen: if recipe.lora.is_some() || moving == 0 { all } else { 0 },
        })
    }
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

/// Numbers of an adapter: r rows of A and r columns of B for every module it touches.
fn adapter(lora: &Lora, source: &ModelSource, outline: &Outline) -> Result<u64, TrainError> {
    let (r, modules) = match &lora.init {
        Some(folder) => {
            let settings = AdapterFiles::read(folder)?.settings;
            (settings.r, settings.target_modules)
        }
        None => (lora.r, targets(lora, source)?),
    };
    let touched = |name: &str| {
        let module = name.strip_suffix(".weight").and_then(|n| n.rsplit('.').next());
        module.is_some_and(|m| modules.iter().any(|t| t == m))
    };
    let shapes = inventory(&outline.config).into_iter().filter(|(name, _)| touched(name));
    Ok(shapes.map(|(_, shape)| (r * shape.iter().sum::<usize>()) as u64).sum())
}

/// Numbers of the heads beside the decoder.
fn head(recipe: &Recipe, hidden: usize) -> u64 {
    let degree = recipe.degree.as_ref().map_or(0, |d| d.degrees + 1);
    let rows = match &recipe.objective {
        Objective::Reward(r) if r.name == RewardName::Gpm => {
            let gate = if r.gate == GateName::None { 0 } else { r.dim / 2 };
            r.dim + usize::from(r.scalar) + gate
        }
        Objective::Reward(_) => 1,
        _ => degree,
    };
    (rows * hidden) as u64
}
