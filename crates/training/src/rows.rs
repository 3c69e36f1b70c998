//! The rows that a recipe names, as the ids of its model.

use std::path::PathBuf;

use models::{ChatTemplate, Tokenizer};

use crate::data::{Reading, Row, RowKind, Rows};
use crate::error::TrainError;
use crate::network::Network;
use crate::objectives::Objective as Preference;
use crate::recipe::{LossOn, Objective, Recipe, RewardName};
use crate::trainer::Watch;

/// The kind of rows that an objective wants.
fn row_kind(objective: &Objective) -> Result<RowKind, TrainError> {
    Ok(match objective {
        Objective::Sft(_) => RowKind::Text,
        Objective::Reward(o) if o.name == RewardName::Regression => RowKind::Score,
        Objective::Reward(_) => RowKind::Pair,
        Objective::Preference(settings) => {
            let needs = Preference::new(settings).map_err(TrainError::Recipe)?.needs();
            if needs.pairs { RowKind::Pair } else { RowKind::Label }
        }
    })
}

/// How a recipe's rows become ids under a model of this tokenizer and template.
pub(crate) fn reading<'a>(
    recipe: &Recipe,
    tokenizer: &'a Tokenizer,
    chat: &'a ChatTemplate,
    eos: Option<u32>,
    context: usize,
) -> Result<Reading<'a>, TrainError> {
    let loss_on = match &recipe.objective {
        Objective::Sft(o) => o.loss_on,
        _ => LossOn::Completion,
    };
    Ok(Reading {
        tokenizer,
        chat,
        eos,
        kind: row_kind(&recipe.objective)?,
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
        let odd = rows.rows.iter().find_map(|r| Some((r.number(), r.outside(vocabulary)?)));
        match odd {
            Some((row, id)) => {
                let what = format!("token {id}, but the model has a vocabulary of {vocabulary}");
                Err(TrainError::Data { path: path.clone(), row, what })
            }
            None => Ok(rows),
        }
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
    let eos = model.eos.first().copied();
    let reading = reading(recipe, &model.tokenizer, &model.chat, eos, model.context())?;
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
