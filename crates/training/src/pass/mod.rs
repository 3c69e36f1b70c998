//! One micro-batch: rows → packed batch → forward → loss → gradients.

mod degree;
mod preference;
mod reward;
mod supervised;

use std::collections::BTreeMap;

use models::Gradients;

use crate::data::Row;
use crate::error::TrainError;
use crate::network::Network;
use crate::objectives::{Objective as Preference, State};
use crate::recipe::{Objective, SftObjective};
use crate::reference::ReferenceCache;

pub(crate) use degree::Degradation;

/// What a micro-batch gives.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Its share of the step's loss.
    pub(crate) loss: f64,
    /// Its share of the step's gradient.
    pub(crate) gradients: Gradients,
    /// Means over its rows.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Lines of the rows whose numbers are not finite.
    pub(crate) broken: Vec<usize>,
    /// What the objective remembers.
    pub(crate) state: State,
    /// Reference log-probabilities that were computed.
    pub(crate) references: Vec<(usize, Vec<Vec<f32>>)>,
}

/// The loss in force.
pub(crate) enum Loss {
    /// Supervised.
    Sft(SftObjective),
    /// Preferences.
    Preference(Box<Preference>),
    /// A reward model's.
    Reward,
}

impl Loss {
    pub(crate) fn new(objective: &Objective) -> Result<Self, TrainError> {
        Ok(match objective {
            Objective::Sft(o) => Self::Sft(o.clone()),
            Objective::Reward(_) => Self::Reward,
            Objective::Preference(settings) => {
                Self::Preference(Box::new(Preference::new(settings).map_err(TrainError::Recipe)?))
            }
        })
    }
}

/// A micro-batch and its place in the step.
pub(crate) struct Micro<'a> {
    pub(crate) rows: &'a [Row],
    /// Tokens that count in the whole step (supervised losses are exact in tokens).
    pub(crate) counted: usize,
    /// Micro-batches of the step (other losses are the mean of theirs).
    pub(crate) share: f64,
    pub(crate) state: State,
    pub(crate) cache: &'a ReferenceCache,
    /// Without gradients: held-out rows.
    pub(crate) only_loss: bool,
    pub(crate) degrade: Option<&'a Degradation>,
}

/// Loss and gradients of a micro-batch.
pub(crate) fn run(network: &Network, loss: &Loss, micro: &Micro<'_>) -> Result<Outcome, TrainError> {
    match loss {
        Loss::Sft(objective) => supervised::run(network, objective, micro),
        Loss::Preference(objective) => preference::run(network, objective, micro),
        Loss::Reward => reward::run(network, micro),
    }
}
