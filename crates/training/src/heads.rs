//! Small heads over hidden states: scores of a reward model, SPO's degrees. Computed in f64; their widths are a few numbers.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use models::{Gradients, ModelSource, TrainableDecoder};

use crate::error::TrainError;
use crate::recipe::{Degree, GateName, RewardName, RewardObjective};
use crate::rewards::BradleyTerry;
use crate::rewards::gpm::{Gate, Gpm};

/// A linear map without bias, `[out, hidden]`.
pub(crate) struct LinearHead {
    pub(crate) name: &'static str,
    variable: Var,
}

impl LinearHead {
    /// From a saved tensor of this name, or N(0, 1/(hidden + 1)) (the start of both heads in 2410.02197's code).
    fn new(
        name: &'static str,
        outputs: usize,
        decoder: &mut TrainableDecoder,
        seed: u64,
        saved: Option<Tensor>,
    ) -> Result<Self, TrainError> {
        let hidden = decoder.config().hidden_size;
        let start = match saved {
            Some(t) if t.dims() == [outputs, hidden] => t,
            Some(t) => {
                return Err(TrainError::Recipe(format!(
                    "{name} of the checkpoint is {:?}, this objective needs [{outputs}, {hidden}]",
                    t.dims()
                )));
            }
            None => {
                let values = normal(seed, name, outputs * hidden, 1.0 / (hidden as f64 + 1.0).sqrt());
                Tensor::from_vec(values, (outputs, hidden), &Device::Cpu)?
            }
        };
        Ok(Self { name, variable: decoder.add_variable(name, &start)? })
    }

    fn values(&self) -> Result<Vec<Vec<f64>>, TrainError> {
        let rows = self.variable.to_vec2::<f32>()?;
        Ok(rows.into_iter().map(|r| r.into_iter().map(f64::from).collect()).collect())
    }

    /// `[rows, out]`.
    pub(crate) fn forward(&self, hidden: &[Vec<f32>]) -> Result<Vec<Vec<f64>>, TrainError> {
        let weight = self.values()?;
        let dot = |w: &[f64], h: &[f32]| w.iter().zip(h).map(|(w, h)| w * f64::from(*h)).sum();
        Ok(hidden.iter().map(|h| weight.iter().map(|w| dot(w, h)).collect()).collect())
    }

    /// Adds the head's own gradient and returns that of the hidden rows.
    pub(crate) fn backward(
        &self,
        hidden: &[Vec<f32>],
        grads: &[Vec<f64>],
        gradients: &mut Gradients,
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let weight = self.values()?;
        let width = weight.first().map_or(0, Vec::len);
        let mut own = vec![0f64; weight.len() * width];
        let mut back = vec![vec![0f64; width]; hidden.len()];
        for ((h, g), back) in hidden.iter().zip(grads).zip(&mut back) {
            for (o, (&g, w)) in g.iter().zip(&weight).enumerate() {
                for i in 0..width {
                    own[o * width + i] += g * f64::from(h[i]);
                    back[i] += g * w[i];
                }
            }
        }
        gradients.add_values(self.name, own.into_iter().map(|v| v as f32).collect());
        Ok(back)
    }
}

/// Numbers of N(0, deviation²), a function of the seed and the name alone (Box–Muller over SplitMix64).
pub(crate) fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut state = name
        .bytes()
        .fold(seed ^ 0x6a09_e667_f3bc_c908, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| {
            let (u, v) = (next(), next());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * deviation) as f32
        })
        .collect()
}

/// The tensor of a head that the adapter that goes on brings, else the merged one, else the checkpoint.
fn saved(
    name: &str,
    source: &ModelSource,
    adapter: &BTreeMap<String, Tensor>,
) -> Result<Option<Tensor>, TrainError> {
    if let Some(tensor) = adapter.get(&factor_of_head(name)) {
        return Ok(Some(tensor.clone()));
    }
    let weights = source.weights()?;
    if weights.names().iter().any(|n| n == name) { Ok(Some(weights.tensor(name)?)) } else { Ok(None) }
}

/// What an adapter calls a head.
fn factor_of_head(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Takes the heads of reward models out of an adapter's tensors.
pub(crate) fn take_heads(tensors: &mut BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let names = models::HEADS.map(factor_of_head);
    let heads: Vec<String> = tensors.keys().filter(|n| names.contains(n)).cloned().collect();
    heads.into_iter().filter_map(|name| tensors.remove_entry(&name)).collect()
}

/// How answers are compared.
pub(crate) enum Comparison {
    /// Scalars.
    Scalar(BradleyTerry),
    /// A scalar against a known score.
    Score,
    /// Vectors, with a gate over the prompt where there is one.
    Vectors(Gpm, Option<LinearHead>),
}

/// The head of a reward model.
pub(crate) struct RewardHead {
    pub(crate) value: LinearHead,
    pub(crate) comparison: Comparison,
    /// What a comparison is held against instead of a label.
    pub(crate) target: Option<f64>,
}

impl RewardHead {
    /// A new head, or the one that the checkpoint or the adapter brings.
    pub(crate) fn new(
        objective: &RewardObjective,
        decoder: &mut TrainableDecoder,
        seed: u64,
        source: &ModelSource,
        adapter: &BTreeMap<String, Tensor>,
    ) -> Result<Self, TrainError> {
        let mut head = |name: &'static str, outputs| {
            LinearHead::new(name, outputs, decoder, seed, saved(name, source, adapter)?)
        };
        match objective.name {
            RewardName::Bt => {
                let comparison = Comparison::Scalar(BradleyTerry {
                    tau: objective.tau.unwrap_or(1.0),
                    centre: objective.center_rewards_coefficient,
                });
                Ok(Self { value: head("score.weight", 1)?, comparison, target: objective.target })
            }
            RewardName::Regression => {
                let value = head("score.weight", 1)?;
                Ok(Self { value, comparison: Comparison::Score, target: None })
            }
            RewardName::Gpm => {
                let blocks = objective.dim / 2;
                let mut gpm = Gpm {
                    blocks,
                    gate: Gate::None,
                    l2: objective.l2,
                    tau: objective.tau.unwrap_or(0.1),
                    scalar: objective.scalar,
                };
                let value = head("value_head.weight", gpm.width())?;
                let gated = objective.gate != GateName::None;
                let gate = if gated { Some(head("prompt_head.weight", blocks)?) } else { None };
                gpm.gate = match objective.gate {
                    GateName::None => Gate::None,
                    GateName::Softmax => Gate::Softmax,
                    GateName::SoftmaxScaled => Gate::ScaledSoftmax { hidden: decoder.config().hidden_size },
                };
                Ok(Self { value, comparison: Comparison::Vectors(gpm, gate), target: objective.target })
            }
        }
    }
}

/// SPO's classifier of degrees; thrown away after the training.
pub(crate) struct DegreeHead {
    pub(crate) head: LinearHead,
    pub(crate) settings: Degree,
}

impl DegreeHead {
    /// A head of `degrees + 1` classes: a new one, or the one that the checkpoint brings.
    pub(crate) fn new(
        settings: &Degree,
        decoder: &mut TrainableDecoder,
        seed: u64,
        source: &ModelSource,
    ) -> Result<Self, TrainError> {
        const NAME: &str = "degree_head.weight";
        let start = saved(NAME, source, &BTreeMap::new())?;
        let head = LinearHead::new(NAME, settings.degrees + 1, decoder, seed, start)?;
        Ok(Self { head, settings: settings.clone() })
    }
}
