//! One optimiser step: micro-batches of rows → packed batch → forward → loss → gradients.

mod degree;
mod preference;
mod reward;
mod supervised;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use models::Gradients;

use crate::data::Row;
use crate::error::TrainError;
use crate::network::Network;
use crate::objectives::{Objective as Preference, State};
use crate::recipe::{Objective, SftObjective};
use crate::reference::ReferenceCache;

pub(crate) use degree::Degradation;

/// What a step gives.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The step's loss.
    pub(crate) loss: f64,
    /// The step's gradient: every micro-batch adds to the same numbers.
    pub(crate) gradients: Gradients,
    metrics: Means,
    /// Lines of the rows whose numbers are not finite.
    pub(crate) broken: Vec<usize>,
    /// What the objective remembers.
    pub(crate) state: State,
    /// Reference log-probabilities that were computed.
    pub(crate) references: Vec<(usize, Vec<Vec<f32>>)>,
}

/// Sums of metrics and of the weights they were added with.
#[derive(Debug, Default)]
pub(crate) struct Means(BTreeMap<String, (f64, f64)>);

impl Means {
    /// Adds what a step found, as so many rows.
    pub(crate) fn add(&mut self, outcome: &Outcome, rows: f64) {
        for (name, (sum, weight)) in &outcome.metrics.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = (own.0 + rows * sum, own.1 + rows * weight);
        }
    }

    /// Means over the shares that had the metric.
    pub(crate) fn values(&self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, f64> =
            self.0.iter().map(|(name, (sum, weight))| (name.clone(), sum / weight)).collect();
        // Single answers: a share may have held one label alone.
        let of = |name: &str| all.get(name).copied();
        if let (Some(chosen), Some(rejected)) = (of("rewards/chosen"), of("rewards/rejected")) {
            all.insert("rewards/margins".into(), chosen - rejected);
        }
        all
    }
}

impl Outcome {
    /// Adds a metric of a share of the step. One that this share has nothing to say about is not added at all.
    fn metric(&mut self, name: &str, value: f64, share: f64) {
        let (sum, weight) = self.metrics.0.entry(name.into()).or_default();
        *sum += share * value;
        *weight += share;
    }

    /// Means over the step.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        self.metrics.values()
    }
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

/// The rows of a step and what its micro-batches share.
pub(crate) struct Step<'a> {
    /// Micro-batches, never empty.
    pub(crate) batches: &'a [Vec<Row>],
    pub(crate) state: State,
    pub(crate) cache: &'a ReferenceCache,
    /// Without gradients: held-out rows.
    pub(crate) only_loss: bool,
    pub(crate) degrade: Option<&'a Degradation>,
    /// Set when nobody waits for the outcome any more.
    pub(crate) stop: &'a AtomicBool,
}

impl Step<'_> {
    /// Errs where nobody waits any more.
    fn wanted(&self) -> Result<(), TrainError> {
        if self.stop.load(Ordering::Relaxed) { Err(TrainError::Interrupted(0)) } else { Ok(()) }
    }
}

/// A micro-batch and its place in the step.
pub(crate) struct Micro<'a> {
    pub(crate) rows: &'a [Row],
    /// Tokens that count in the whole step (supervised losses are exact in tokens).
    pub(crate) counted: usize,
    /// Its part of the step's rows: losses that are means over rows are the weighed mean of the micro-batches'.
    pub(crate) share: f64,
    pub(crate) cache: &'a ReferenceCache,
    /// Without gradients: held-out rows.
    pub(crate) only_loss: bool,
    pub(crate) degrade: Option<&'a Degradation>,
}

/// Loss and gradients of a step. How its rows fall into micro-batches changes memory and time, not the result: where an
/// objective looks at the whole batch, it is given the whole step.
pub(crate) fn run(network: &Network, loss: &Loss, step: &Step<'_>) -> Result<Outcome, TrainError> {
    let mut outcome = Outcome { state: step.state.clone(), ..Outcome::default() };
    let counted = step.batches.iter().flatten().map(Row::counted).sum();
    let all: usize = step.batches.iter().map(Vec::len).sum();
    let micros: Vec<Micro<'_>> = step
        .batches
        .iter()
        .map(|rows| Micro {
            rows,
            counted,
            share: rows.len() as f64 / all.max(1) as f64,
            cache: step.cache,
            only_loss: step.only_loss,
            degrade: step.degrade,
        })
        .collect();
    if let Loss::Preference(objective) = loss {
        preference::run(network, objective, &micros, &|| step.wanted(), &mut outcome)?;
        return Ok(outcome);
    }
    for micro in &micros {
        step.wanted()?;
        match loss {
            Loss::Sft(objective) => supervised::run(network, objective, micro, &mut outcome)?,
            Loss::Preference(_) | Loss::Reward => reward::run(network, micro, &mut outcome)?,
        }
        if !outcome.loss.is_finite() {
            break;
        }
    }
    Ok(outcome)
}
