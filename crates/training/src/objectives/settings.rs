//! An objective's name and parameters as a recipe writes them.

use serde::{Deserialize, Serialize};

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What an NLL term is averaged over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// All tokens of the batch alike (TRL's `sft` and `cpo_alpha`).
    #[default]
    Token,
    /// Tokens of a sequence, then sequences (CycleResearcher, 2411.00816).
    Sequence,
}

/// The f-divergence that holds the policy to its reference (2309.16240); h is the summed log-ratio.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// u(h) = h: standard DPO.
    #[default]
    ReverseKl,
    /// u(h) = 1 − e⁻ʰ.
    ForwardKl,
    /// u(h) = log 2 + log σ(h).
    JsDivergence,
    /// u(h) = (e^((a−1)h) − 1)/(a−1); reverse KL at a = 1.
    AlphaDivergence,
}

/// Name and parameters. What is not given takes the default of [`super::table`]; what the objective does not use is
/// refused by [`super::Objective::new`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A name of the table, or several whose losses are added.
    #[serde(alias = "loss_type")]
    pub name: OneOrMany<String>,
    /// One weight a name; all 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weights: Option<Vec<f64>>,
    /// Inverse temperature of the implicit reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Margin the chosen one should win by (SimPO's γ, not γ/β).
    #[serde(alias = "simpo_gamma", skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Shape of AlphaPO's reward; 0 is the log-probability itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// DNO's inverse temperature; the target scale of `gpo_scaled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Temperature of DiscoPOP's blend.
    #[serde(alias = "discopop_tau", skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Probability that a label is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Weight of −log π(chosen) beside the loss (TRL's `cpo_alpha`, `rpo_alpha`).
    #[serde(alias = "cpo_alpha", alias = "rpo_alpha", skip_serializing_if = "Option::is_none")]
    pub nll_weight: Option<f64>,
    /// What that term is averaged over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_reduction: Option<Reduction>,
    /// Divergence to the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_divergence_type: Option<Divergence>,
    /// a of the alpha divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_alpha_divergence_coef: Option<f64>,
    /// Weight of the tokens past the shorter answer's length (LD-DPO, 2409.06411).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ld_alpha: Option<f64>,
    /// Pairs weigh by how likely the policy finds them (WPO, 2406.11827).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_weighting: Option<bool>,
    /// The reference is taken as uniform: log-ratios become log-probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_free: Option<bool>,
    /// Weight of desirable rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,
    /// Weight of undesirable rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,
    /// `ln_gpo` divides log-ratios by tokens to this power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_exponent: Option<f64>,
    /// Share of the old shift δ kept at every batch of `bco`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_decay: Option<f64>,
}

impl Settings {
    /// An objective with its defaults.
    pub fn named(name: &str) -> Self {
        Self { name: OneOrMany::One(name.into()), ..Self::default() }
    }

    /// Numbers by name.
    pub(super) fn numbers(&self) -> [(&'static str, Option<f64>); 13] {
        [
            ("beta", self.beta),
            ("gamma", self.gamma),
            ("alpha", self.alpha),
            ("eta", self.eta),
            ("tau", self.tau),
            ("label_smoothing", self.label_smoothing),
            ("nll_weight", self.nll_weight),
            ("f_alpha_divergence_coef", self.f_alpha_divergence_coef),
            ("ld_alpha", self.ld_alpha),
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
            ("length_exponent", self.length_exponent),
            ("shift_decay", self.shift_decay),
        ]
    }

    /// Names of all parameters given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let numbers = self.numbers().into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name);
        let others = [
            ("nll_reduction", self.nll_reduction.is_some()),
            ("f_divergence_type", self.f_divergence_type.is_some()),
            ("use_weighting", self.use_weighting.is_some()),
            ("reference_free", self.reference_free.is_some()),
        ];
        numbers.chain(others.into_iter().filter(|(_, given)| *given).map(|(name, _)| name)).collect()
    }
}
