//! A training as TOML, with the names of transformers, TRL and PEFT. Unknown keys are refused, the nearest name offered.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::objectives::{OneOrMany, Settings};

mod parse;
pub use parse::read_toml;
use parse::{apply, bad, one_line, read};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Supervised fine-tuning.
    Sft,
    /// A score head over the decoder.
    Reward,
    /// Preferences between answers.
    Preference,
}

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained.
    pub kind: Kind,
    /// The checkpoint to start from: a folder or a GGUF file, either with `+ADAPTER_DIR` merged into it.
    pub model: String,
    /// The reference of a preference objective; the model at the start if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_model: Option<String>,
    /// The output folder.
    pub out: PathBuf,
    /// Order of rows, start of what is random.
    #[serde(default)]
    pub seed: u64,
    /// Number type of the products; weights that move, sums and moments are f32 in any case.
    #[serde(default)]
    pub dtype: Dtype,
    /// Which activations are computed again in the backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// Rows.
    pub data: Data,
    /// Loss.
    #[serde(default)]
    pub objective: Objective,
    /// A low-rank adapter is trained instead of all parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// SPO's degree classification beside a preference objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degree: Option<Degree>,
    /// A reference that follows the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<FollowingReference>,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
    /// Checkpoints.
    #[serde(default)]
    pub save: Save,
}

/// Number type of the products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As the references compute.
    #[default]
    F32,
    /// Operands of 8 bits of mantissa, sums in f32: up to twice as fast.
    Bf16,
}

/// Which activations are computed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Those that do not fit into a quarter of a gigabyte.
    #[default]
    Auto,
    /// All: the least memory.
    Always,
    /// None: the least time.
    Never,
}

/// A low-rank adapter (arXiv 2106.09685), named as PEFT names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank.
    #[serde(default = "defaults::rank")]
    pub r: usize,
    /// α.
    #[serde(default = "defaults::alpha")]
    pub lora_alpha: f64,
    /// α/√r instead of α/r.
    #[serde(default)]
    pub use_rslora: bool,
    /// `"all-linear"` or names of modules.
    #[serde(default = "defaults::targets")]
    pub target_modules: OneOrMany<String>,
    /// An adapter's folder to go on from; its settings count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

/// A reference that moves towards the policy: TRL's `sync_ref_model`. Every step with a small α is an exponential moving
/// average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowingReference {
    /// Steps between updates.
    #[serde(alias = "sync_steps")]
    pub ref_model_sync_steps: usize,
    /// ref ← α·policy + (1 − α)·ref.
    #[serde(alias = "mixup_alpha")]
    pub ref_model_mixup_alpha: f64,
}

/// How SPO degrades an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Removal {
    /// Key phrases by RAKE, the most important first.
    #[default]
    Keywords,
    /// Phrases at random: the control.
    Random,
    /// The least important first: the control of equal length.
    Low,
}

/// What a head reads of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The mean hidden state of its tokens.
    #[default]
    Mean,
    /// The last token's.
    Last,
}

/// SPO's auxiliary loss (arXiv 2409.17791): classify how much of an answer was removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Degree {
    /// γ.
    #[serde(default = "defaults::degree_weight")]
    pub weight: f64,
    /// Versions beside the whole answer.
    #[serde(default = "defaults::degrees")]
    pub degrees: usize,
    /// Which phrases go. Rows may bring degrees of their own (`degree_chosen`, `degree_rejected`) instead.
    #[serde(default)]
    pub removal: Removal,
    /// What the head reads.
    #[serde(default)]
    pub pool: Pool,
    /// The head's learning rate over the policy's.
    #[serde(default = "defaults::head_rate")]
    pub head_rate: f64,
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

/// The loss of one token in supervised fine-tuning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenLoss {
    /// −log p.
    #[default]
    Nll,
    /// −p·log p with p held fast (dynamic fine-tuning, arXiv 2508.05629).
    Dft,
}

/// The loss of supervised fine-tuning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftObjective {
    /// Which tokens count.
    pub loss_on: LossOn,
    /// Loss of a token.
    pub loss_type: TokenLoss,
    /// Share of the target that is spread over the vocabulary.
    pub label_smoothing: f64,
}

/// Shape of a reward model's head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewardName {
    /// Bradley–Terry: a scalar, trained on pairs.
    #[default]
    Bt,
    /// General preference model: an embedding and a skew-symmetric operator (arXiv 2410.02197).
    Gpm,
    /// A scalar, trained on scores.
    Regression,
}

/// GPM's scale gate over the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// All blocks alike.
    #[default]
    None,
    /// softmax of the prompt's logits.
    Softmax,
    /// k · softmax(logits / √hidden), as the repository's trainer has it.
    SoftmaxScaled,
}

/// The loss of a reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardObjective {
    /// Its head.
    pub name: RewardName,
    /// Width 2k of a GPM embedding.
    pub dim: usize,
    /// GPM's gate.
    pub gate: GateName,
    /// Unit length of GPM embeddings.
    pub l2: bool,
    /// An explicit scalar beside the cyclic part (s = rᵢ − rⱼ + ⟨Rvᵢ, vⱼ⟩).
    pub scalar: bool,
    /// Temperature; 1 for Bradley–Terry, 0.1 for GPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// GPM: the score over τ is held against this number instead (half the squared error).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// Weight of (r_chosen + r_rejected)².
    pub center_rewards_coefficient: f64,
    /// Learning rate of the head over that of the decoder.
    pub head_rate: f64,
    /// The decoder stays as it is: only the head moves.
    pub freeze_trunk: bool,
}

impl RewardObjective {
    /// A setting that its head has no use for and that is not left at its default.
    fn stray(&self) -> Option<&'static str> {
        let plain = Self::default();
        let gpm = self.name == RewardName::Gpm;
        let others = [
            ("dim", !gpm && self.dim != plain.dim),
            ("gate", !gpm && self.gate != plain.gate),
            ("l2", !gpm && self.l2 != plain.l2),
            ("scalar", !gpm && self.scalar != plain.scalar),
            (
                "center_rewards_coefficient",
                self.name != RewardName::Bt && self.center_rewards_coefficient != 0.0,
            ),
            ("tau", self.name == RewardName::Regression && self.tau.is_some()),
            ("target", self.name == RewardName::Regression && self.target.is_some()),
        ];
        others.into_iter().find(|(_, stray)| *stray).map(|(name, _)| name)
    }
}

impl Default for RewardObjective {
    fn default() -> Self {
        Self {
            name: RewardName::default(),
            dim: 6,
            gate: GateName::default(),
            l2: true,
            scalar: false,
            tau: None,
            target: None,
            center_rewards_coefficient: 0.0,
            head_rate: 1.0,
            freeze_trunk: false,
        }
    }
}

/// Loss, by the recipe's kind.
#[allow(clippy::large_enum_variant)] // there is one in a recipe
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Objective {
    /// `kind = "sft"`.
    Sft(SftObjective),
    /// `kind = "reward"`.
    Reward(RewardObjective),
    /// `kind = "preference"`.
    Preference(Settings),
}

impl Default for Objective {
    fn default() -> Self {
        Self::Sft(SftObjective::default())
    }
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

impl Optimizer {
    /// Optimiser steps over so many rows.
    pub fn steps(&self, rows: usize) -> usize {
        let per_step = self.batch_size * self.gradient_accumulation_steps;
        self.max_steps.unwrap_or_else(|| {
            (self.num_train_epochs.unwrap_or(1.0) * rows as f64 / per_step as f64).ceil() as usize
        })
    }
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
    use crate::objectives::OneOrMany;

    pub(super) fn rank() -> usize {
        16
    }
    pub(super) fn alpha() -> f64 {
        32.0
    }
    pub(super) fn targets() -> OneOrMany<String> {
        OneOrMany::One("all-linear".into())
    }
    pub(super) fn degree_weight() -> f64 {
        0.1
    }
    pub(super) fn degrees() -> usize {
        3
    }
    pub(super) fn head_rate() -> f64 {
        10.0
    }
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

impl Recipe {
    /// Parses TOML, after `--set key=value` changes (`optimizer.learning_rate=1e-4`).
    ///
    /// # Errors
    /// If it is no TOML, a key is unknown, missing or of the wrong type, or a value makes no sense.
    pub fn parse(text: &str, set: &[String]) -> Result<Self, TrainError> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(one_line(&e)))?;
        for change in set {
            apply(&mut table, change)?;
        }
        let objective = match table.remove("objective") {
            None => toml::Table::new(),
            Some(toml::Value::Table(t)) => t,
            Some(_) => return Err(bad("objective is no table".into())),
        };
        let mut recipe: Self = read(toml::Value::Table(table))?;
        let objective = toml::Value::Table(objective);
        recipe.objective = match recipe.kind {
            Kind::Sft => Objective::Sft(read(objective)?),
            Kind::Reward => Objective::Reward(read(objective)?),
            Kind::Preference => Objective::Preference(read(objective)?),
        };
        recipe.check()?;
        Ok(recipe)
    }

    #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN is refused too
    fn check(&self) -> Result<(), TrainError> {
        let bad = |what: &str| Err(TrainError::Recipe(what.into()));
        let o = &self.optimizer;
        if o.max_steps.is_none() && o.num_train_epochs.is_none() {
            return bad("optimizer needs max_steps or num_train_epochs");
        }
        if o.max_steps == Some(0) || o.num_train_epochs.is_some_and(|n| !(n > 0.0 && n.is_finite())) {
            return bad(
                "max_steps is at least 1, num_train_epochs above 0: a training without a step is none",
            );
        }
        if o.batch_size == 0 || o.gradient_accumulation_steps == 0 || self.data.max_length < 2 {
            return bad("batch_size and gradient_accumulation_steps are at least 1, max_length at least 2");
        }
        if !(o.learning_rate.is_finite() && o.learning_rate > 0.0) {
            return bad("learning_rate must be positive");
        }
        let unit = 0.0..1.0;
        if !unit.contains(&o.adam_beta1) || !unit.contains(&o.adam_beta2) || !(o.adam_epsilon > 0.0) {
            return bad("adam_beta1 and adam_beta2 lie in [0, 1), adam_epsilon is above 0");
        }
        if let Some(lora) = &self.lora {
            if lora.r == 0 || !(lora.lora_alpha > 0.0) {
                return bad("lora.r is at least 1 and lora.lora_alpha above 0");
            }
        }
        if let Some(follow) = &self.reference {
            if follow.ref_model_sync_steps == 0 || !(0.0..=1.0).contains(&follow.ref_model_mixup_alpha) {
                return bad("ref_model_sync_steps is at least 1, ref_model_mixup_alpha lies in [0, 1]");
            }
            if self.lora.is_some() {
                return bad("a reference that follows needs a training of all parameters, without [lora]");
            }
        }
        if let Some(degree) = &self.degree {
            let positive = |x: f64| x.is_finite() && x > 0.0;
            if degree.degrees == 0 || !positive(degree.weight) || !positive(degree.head_rate) {
                return bad("degree.degrees is at least 1, degree.weight and degree.head_rate are above 0");
            }
        }
        match &self.objective {
            Objective::Sft(o) if !(0.0..1.0).contains(&o.label_smoothing) => {
                bad("label_smoothing lies in [0, 1)")
            }
            Objective::Reward(o) if o.stray().is_some() => Err(TrainError::Recipe(
                format!("{} belongs to another head than {:?}", o.stray().unwrap_or_default(), o.name)
                    .to_lowercase(),
            )),
            Objective::Reward(o) if o.freeze_trunk && self.lora.is_some() => bad(
                "freeze_trunk keeps the decoder as it is, [lora] trains an adapter of it: give one of them",
            ),
            Objective::Reward(o) if !(o.head_rate > 0.0 && o.head_rate.is_finite()) => {
                bad("head_rate is above 0")
            }
            Objective::Reward(o) if o.dim < 2 || o.dim % 2 == 1 => bad("dim is an even number, at least 2"),
            Objective::Reward(o) if o.tau.is_some_and(|t| !(t > 0.0)) => bad("tau is above 0"),
            Objective::Preference(settings) => {
                let objective = crate::objectives::Objective::new(settings).map_err(TrainError::Recipe)?;
                if self.reference.is_some() && !objective.needs().reference {
                    return bad("[reference] is given, but the objective has no reference");
                }
                if self.reference_model.is_some() && !objective.needs().reference {
                    return bad("reference_model is given, but the objective has no reference");
                }
                if self.degree.is_some() && !objective.needs().pairs {
                    return bad(
                        "[degree] compares the two answers of a pair; this objective takes single answers",
                    );
                }
                if objective.needs().mismatched && o.batch_size * o.gradient_accumulation_steps < 2 {
                    return bad(
                        "kto compares a prompt with another row's answer: a step needs at least 2 rows \
                         (batch_size times gradient_accumulation_steps)",
                    );
                }
                Ok(())
            }
            _ if self.degree.is_some() || self.reference.is_some() || self.reference_model.is_some() => {
                bad("degree, reference and reference_model belong to kind = \"preference\"")
            }
            _ => Ok(()),
        }
    }
}
