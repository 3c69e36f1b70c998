//! Objectives of preference training as values: log-probabilities in, loss and gradient out, in `f64`, without tensors.
//!
//! [`table`] lists every objective once; the command line, the documentation and the tests follow from it. A trainer
//! asks [`Objective::needs`] what to compute, fills a [`Batch`] with log-probabilities (nats), and sends
//! [`Loss::gradients`] back through its model. Names and definitions are those of TRL 1.16 where it has the objective.

mod direct;
mod evaluate;
pub(crate) mod math;
mod objective;
mod pairs;
mod policy_only;
mod self_play;
mod settings;
mod sides;
mod spo;
mod table;
mod transport;
mod unpaired;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use objective::Objective;
pub use pairs::{PairRules, Sample, repeats};
pub use settings::{Divergence, OneOrMany, Reduction, Settings};
pub use spo::{DegreeLoss, degree_loss};
pub use table::{Entry, table};

/// What the models say of one completion. All log-probabilities are in nats.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Policy log-probability of every completion token, EOS included: `[completion tokens]`.
    pub policy: Vec<f64>,
    /// The same under the frozen reference; empty where none is needed.
    pub reference: Vec<f64>,
    /// Policy log-probabilities of the prompt's tokens but the first; only where [`Needs::prompt`].
    pub prompt: Vec<f64>,
    /// log Σ_v p(v)² at every completion token; only where [`Needs::square_sums`].
    pub square_sums: Vec<f64>,
}

/// What is known of a pair beside its log-probabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// s(chosen ≻ π_t), the mean preference score against the policy's own samples, its own included as 0.
    pub score_chosen: Option<f64>,
    /// s(rejected ≻ π_t).
    pub score_rejected: Option<f64>,
    /// P(chosen ≻ π_t) for `sppo`, `dno`; P(chosen ≻ rejected) for `sppo_single`.
    pub p_chosen: Option<f64>,
    /// P(rejected ≻ π_t).
    pub p_rejected: Option<f64>,
    /// How much better the chosen one is, in units of the loss's argument.
    pub margin: Option<f64>,
}

impl Targets {
    /// What of [`Needs`] is missing, or is no number that it can be.
    ///
    /// # Errors
    /// The names of what is missing; or the name, the value and the range.
    pub fn check(&self, needs: &Needs) -> Result<(), String> {
        let lacks = [
            (needs.scores, [self.score_chosen, self.score_rejected], "score_chosen and score_rejected"),
            (needs.probabilities && !needs.both_probabilities, [self.p_chosen; 2], "p_chosen"),
            (needs.both_probabilities, [self.p_chosen, self.p_rejected], "p_chosen and p_rejected"),
            (needs.margins, [self.margin; 2], "margin"),
        ];
        if let Some((_, _, names)) = lacks.iter().find(|(needed, v, _)| *needed && v.contains(&None)) {
            return Err(format!("has no {names}"));
        }
        if needs.probabilities { self.probable() } else { Ok(()) }
    }

    /// Whether the probabilities are some.
    ///
    /// # Errors
    /// The name, the value and the range.
    pub fn probable(&self) -> Result<(), String> {
        for (name, p) in [("p_chosen", self.p_chosen), ("p_rejected", self.p_rejected)] {
            if let Some(p) = p.filter(|p| !(0.0..=1.0).contains(p)) {
                return Err(format!("has {name} = {p}; a probability lies in [0, 1]"));
            }
        }
        Ok(())
    }
}

/// A preferred completion and a worse one of the same prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pair {
    /// The preferred one.
    pub chosen: Answer,
    /// The worse one.
    pub rejected: Answer,
    /// What else is known.
    pub targets: Targets,
}

/// A completion called good or bad by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled {
    /// The completion.
    pub answer: Answer,
    /// Good.
    pub desirable: bool,
}

/// Rows of one evaluation.
#[derive(Debug, Clone, Copy)]
pub enum Batch<'a> {
    /// For objectives of pairs.
    Pairs(&'a [Pair]),
    /// For objectives of single answers.
    Labelled {
        /// The answers.
        rows: &'a [Labelled],
        /// Summed log-probabilities (policy, reference) of completions under prompts of other rows, for KTO's z.
        mismatched: &'a [(f64, f64)],
    },
}

/// dLoss / d log-probability, per token; the shapes are those of the answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradient {
    /// With respect to [`Answer::policy`].
    pub policy: Vec<f64>,
    /// With respect to [`Answer::prompt`]; empty where the objective does not touch the prompt.
    pub prompt: Vec<f64>,
}

/// The value of an objective on a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// Mean over the rows, to be minimised.
    pub value: f64,
    /// Pairs: chosen 0..n, then rejected 0..n. Labelled: in the order of the rows.
    pub gradients: Vec<Gradient>,
    /// As TRL names and defines them: `rewards/chosen`, `rewards/accuracies` (strictly greater), `logps/chosen`, …
    pub metrics: BTreeMap<String, f64>,
}

/// What an objective remembers from batch to batch; a part of every checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The running shift δ of `bco` and `bco_pair_delta`; none before the first batch.
    pub shift: Option<f64>,
}

/// What a trainer has to bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Log-probabilities under a frozen reference (π_t, the model at the start of the round, for self-play).
    pub reference: bool,
    /// Pairs, else labelled rows.
    pub pairs: bool,
    /// Log-probabilities of the prompt.
    pub prompt: bool,
    /// log Σ_v p(v)² per token, which takes the whole softmax.
    pub square_sums: bool,
    /// Completions under prompts of other rows.
    pub mismatched: bool,
    /// `score_chosen` and `score_rejected`.
    pub scores: bool,
    /// `p_chosen`.
    pub probabilities: bool,
    /// `p_rejected`: all that take `p_chosen`, but for `sppo_single`, which compares the two answers with each other.
    pub both_probabilities: bool,
    /// `margin`.
    pub margins: bool,
    /// An NLL over tokens: how many count in the whole step enters the loss ([`Objective::evaluate_part`]).
    pub step_tokens: bool,
    /// Statistics of the batch enter the loss: it is evaluated on all rows of a step.
    pub whole_batch: bool,
}

/// What a paired loss sees of one completion.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    /// Σ log π (the tail weighted by `ld_alpha`), nats.
    policy: f64,
    /// Tokens.
    tokens: f64,
    /// Σ log π − Σ log π_ref, nats.
    ratio: f64,
    /// u(ratio) of the f-divergence; the ratio itself for reverse KL.
    score: f64,
}

impl Side {
    /// Mean log-probability of a token, nats.
    fn average(&self) -> f64 {
        self.policy / self.tokens
    }

    /// Log-ratio of the reference.
    fn reference(&self) -> f64 {
        self.policy - self.ratio
    }
}

/// What a paired loss sees of one pair. Targets the objective does not need are 0.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    chosen: Side,
    rejected: Side,
    /// s(· ≻ π_t), chosen and rejected.
    scores: (f64, f64),
    /// P(· ≻ π_t), chosen and rejected.
    probabilities: (f64, f64),
    margin: f64,
}

/// The loss of one pair and its derivatives with respect to the sides' scores (log-probability sums where there is no
/// reference).
#[derive(Debug, Clone, Copy, Default)]
struct Slope {
    value: f64,
    chosen: f64,
    rejected: f64,
}

impl Slope {
    /// A loss of the difference of two scores.
    fn of_difference(value: f64, slope: f64) -> Self {
        Self { value, chosen: slope, rejected: -slope }
    }

    fn scaled(self, by: f64) -> Self {
        Self { value: self.value * by, chosen: self.chosen * by, rejected: self.rejected * by }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            chosen: self.chosen + other.chosen,
            rejected: self.rejected + other.rejected,
        }
    }
}
