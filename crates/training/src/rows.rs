//! The rows that a recipe names, as the ids of its model.

use std::path::PathBuf;

use models::{ChatTemplate, Model, Outline, Tokenizer, TrainableDecoder};

use crate::data::{Reading, Row, RowKind, Rows};
use crate::error::TrainError;
use crate::network::Network;
use crate::objectives::{Needs, Objective as Preference};
use crate::recipe::{LossOn, Objective, Recipe, RewardName};
use crate::trainer::Watch;

/// What an objective wants of its rows beside answers.
fn needs(objective: &Objective) -> Result<Needs, TrainError> {
    match objective {
        Objective::Preference(settings) => Ok(Preference::new(settings).map_err(TrainError::Recipe)?.needs()),
        _ => Ok(Needs::default()),
    }
}

/// The kind of rows that an objective wants.
fn row_kind(objective: &Objective) -> Result<RowKind, TrainError> {
    Ok(match objective {
        Objective::Sft(_) => RowKind::Text,
        Objective::Reward(o) if o.name == RewardName::Regression => RowKind::Score,
        Objective::Reward(_) => RowKind::Pair,
        Objective::Preference(_) => {
            if needs(objective)?.pairs {
                RowKind::Pair
            } else {
                RowKind::Label
            }
        }
    })
}

/// What a model says of texts.
pub(crate) struct Language<'a> {
    tokenizer: &'a Tokenizer,
    chat: &'a ChatTemplate,
    chat_is_fallback: bool,
    eos: Option<u32>,
    context: usize,
}

impl<'a> From<&'a Outline> for Language<'a> {
    fn from(o: &'a Outline) -> Self {
        let (eos, context) = (o.eos.first().copied(), o.context());
        Self { tokenizer: &o.tokenizer, chat: &o.chat, chat_is_fallback: o.chat_is_fallback, eos, context }
    }
}

impl<'a> From<&'a Model<TrainableDecoder>> for Language<'a> {
    fn from(m: &'a Model<TrainableDecoder>) -> Self {
        let (eos, context) = (m.eos.first().copied(), m.context());
        Self { tokenizer: &m.tokenizer, chat: &m.chat, chat_is_fallback: m.chat_is_fallback, eos, context }
    }
}

/// How a recipe's rows become ids under a model of this tokenizer and template.
pub(crate) fn reading<'a>(
    recipe: &Recipe,
    language: impl Into<Language<'a>>,
) -> Result<Reading<'a>, TrainError> {
    let Language { tokenizer, chat, chat_is_fallback, eos, context } = language.into();
    let loss_on = match &recipe.objective {
        Objective::Sft(o) => o.loss_on,
        _ => LossOn::Completion,
    };
    Ok(Reading {
        tokenizer,
        chat,
        chat_is_fallback,
        eos,
        kind: row_kind(&recipe.objective)?,
        needs: needs(&recipe.objective)?,
        loss_on,
        max_length: recipe.data.max_length.min(context),
        overlong: recipe.data.overlong,
    })
}

/// Training and held-out rows, all of whose tokens the vocabulary has.
pub(crate) fn rows(
    recipe: &Recipe,
    reading: &Reading<'_>,
    vocabulary: usize,
) -> Result<(Rows, Rows), TrainError> {
    let read = |path: &PathBuf| {
        let rows = reading.file(path)?;
        for row in &rows.rows {
            let bad = |what: String| TrainError::Data { path: path.clone(), row: row.number(), what };
            if let Some(id) = row.outside(vocabulary) {
                return Err(bad(format!("token {id}, but the model has a vocabulary of {vocabulary}")));
            }
            if let (Objective::Reward(_), Row::Pair(pair)) = (&recipe.objective, row) {
                pair.targets.probable().map_err(bad)?;
            }
            if let (Some(degree), Row::Pair(pair)) = (&recipe.degree, row) {
                pair.degradable(degree).map_err(bad)?;
            }
        }
        Ok(rows)
    };
    let eval = recipe.data.eval.as_ref().map(read).transpose()?.unwrap_or_default();
    Ok((read(&recipe.data.train)?, eval))
}

/// Training and held-out rows of a loaded model; the watch hears of those that were too long.
pub(crate) fn read(
    recipe: &Recipe,
    network: &Network,
    watch: &mut dyn Watch,
) -> Result<(Vec<Row>, Vec<Row>), TrainError> {
    let model = &network.model;
    let reading = reading(recipe, model)?;
    let (train, eval) = rows(recipe, &reading, model.decoder.config().vocab_size)?;
    if train.overlong > 0 {
        watch.note(&format!(
            "{} of {} rows were longer than {} tokens",
            train.overlong,
            train.rows.len(),
            reading.max_length
        ));
    }
    Ok((train.rows, eval.rows))
}
