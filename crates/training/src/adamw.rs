//! AdamW (arXiv 1711.05101), moments in f32.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::recipe::Optimizer;
use models::Gradients;

/// First and second moment of one parameter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// The optimiser's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdamW {
    pub(crate) step: usize,
    pub(crate) moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// θ ← θ·(1 − lr·wd) − lr·m̂ / (√v̂ + ε), with bias-corrected moments; `scale` multiplies the gradients (clipping),
    /// `factor(name)` the learning rate of a group (heads).
    pub(crate) fn update(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &Gradients,
        scale: f64,
        rate: f64,
        factor: impl Fn(&str) -> f64,
        options: &Optimizer,
    ) -> candle_core::Result<()> {
        self.step += 1;
        let (beta1, beta2) = (options.adam_beta1, options.adam_beta2);
        let correction1 = 1.0 - beta1.powi(self.step as i32);
        let correction2 = 1.0 - beta2.powi(self.step as i32);
        for (name, variable) in variables {
            let Some(gradient) = gradients.sums.get(name) else { continue };
            let rate = rate * factor(name);
            let moments = self.moments.entry(name.clone()).or_insert_with(|| Moments {
                first: vec![0.0; gradient.len()],
                second: vec![0.0; gradient.len()],
            });
            let decays = !(name.contains("norm") || name.ends_with("bias"));
            let keep = if decays { 1.0 - rate * options.weight_decay } else { 1.0 };
            let mut values = variable.flatten_all()?.to_vec1::<f32>()?;
            let (b1, b2, scale) = (beta1 as f32, beta2 as f32, scale as f32);
            let step = (rate / correction1) as f32;
            let root = (1.0 / correction2).sqrt() as f32;
            let (keep, epsilon) = (keep as f32, options.adam_epsilon as f32);
            const CHUNK: usize = 1 << 14;
            values
                .par_chunks_mut(CHUNK)
                .zip(moments.first.par_chunks_mut(CHUNK).zip(moments.second.par_chunks_mut(CHUNK)))
                .zip(gradient.par_chunks(CHUNK))
                .for_each(|((values, (first, second)), gradient)| {
                    for i in 0..values.len() {
                        let g = gradient[i] * scale;
                        first[i] = b1 * first[i] + (1.0 - b1) * g;
                        second[i] = b2 * second[i] + (1.0 - b2) * g * g;
                        values[i] = values[i] * keep - step * first[i] / (second[i].sqrt() * root + epsilon);
                    }
                });
            variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)?;
        }
        Ok(())
    }
}
