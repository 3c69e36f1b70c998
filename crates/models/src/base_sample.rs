//! What an adapter remembers of the checkpoint it was trained over, so that another one of the same shapes is noticed.

use std::path::Path;

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::weights::{WeightSource, read};

const FILE: &str = "base.json";
const TENSOR: &str = "model.layers.0.mlp.down_proj.weight";
const COUNT: usize = 256;
/// Rounded, quantised or tuned further, a checkpoint stays close to itself; with another one it does not correlate.
const SAME: f64 = 0.9;

/// A few weights of a base. A hash would refuse the same model in another format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseSample {
    schema: String,
    tensor: String,
    values: Vec<f32>,
}

impl BaseSample {
    /// The first numbers of one matrix; none if the source has no such matrix.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(weights: &dyn WeightSource) -> Result<Option<Self>, ModelError> {
        if !weights.names().iter().any(|n| n == TENSOR) {
            return Ok(None);
        }
        let values = weights.tensor(TENSOR)?.flatten_all()?;
        let values = values.narrow(0, 0, COUNT.min(values.elem_count()))?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Some(Self { schema: "cycle.base/1".into(), tensor: TENSOR.into(), values }))
    }

    /// Writes `base.json` into an adapter's folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(FILE);
        let text = serde_json::to_string(self).map_err(|e| ModelError::invalid(&path, e))?;
        std::fs::write(&path, text).map_err(|source| ModelError::Io { path, source })
    }

    /// Holds the `base.json` of an adapter's folder, where there is one, against the base at hand.
    ///
    /// # Errors
    /// If the adapter was trained over another base.
    pub fn check(folder: &Path, weights: &dyn WeightSource) -> Result<(), ModelError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(());
        }
        let then: Self = serde_json::from_slice(&read(&path)?).map_err(|e| ModelError::invalid(&path, e))?;
        match Self::of(weights)? {
            Some(now) if then.tensor == now.tensor && then.correlation(&now) < SAME => {
                Err(ModelError::Adapter(format!(
                    "was trained over another base of the same shapes ({} agrees to {:.2} of 1)",
                    now.tensor,
                    then.correlation(&now)
                )))
            }
            _ => Ok(()),
        }
    }

    /// Cosine of both samples.
    fn correlation(&self, other: &Self) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let norms = dot(&self.values, &self.values) * dot(&other.values, &other.values);
        if norms == 0.0 { 1.0 } else { dot(&self.values, &other.values) / norms.sqrt() }
    }
}
