//! PEFT LoRA adapters, merged into the weights as they are read: W + α/r · B·A (arXiv 2106.09685).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::error::ModelError;
use crate::weights::{WeightSource, read};

/// A checkpoint seen through an adapter.
pub struct Adapted<W> {
    base: W,
    /// Weight name → A `[r, in]`, B `[out, r]`.
    pairs: BTreeMap<String, (Tensor, Tensor)>,
    scale: f64,
}

impl<W: WeightSource> Adapted<W> {
    /// Opens `adapter_config.json` and `adapter_model.safetensors` of a folder and checks that they fit the base.
    ///
    /// # Errors
    /// If a file is missing, the kind is not LoRA, or a matrix belongs to no weight of the base or has another shape.
    pub fn open(base: W, folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("adapter_config.json");
        let config: serde_json::Value =
            serde_json::from_slice(&read(&path)?).map_err(|e| ModelError::invalid(&path, e))?;
        if config["peft_type"].as_str().is_some_and(|t| t != "LORA") {
            return Err(ModelError::Adapter(format!("{} is not LORA", config["peft_type"])));
        }
        let number = |key: &str| {
            config[key].as_f64().ok_or_else(|| ModelError::invalid(&path, format!("has no {key}")))
        };
        let (r, alpha) = (number("r")?, number("lora_alpha")?);
        let scale = if config["use_rslora"].as_bool() == Some(true) { alpha / r.sqrt() } else { alpha / r };
        let file = folder.join("adapter_model.safetensors");
        let bytes = read(&file)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu)
            .map_err(|e| ModelError::invalid(&file, e))?;
        let mut halves: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
        for (name, tensor) in tensors {
            let inner = name.strip_prefix("base_model.model.").unwrap_or(&name).to_string();
            let tensor = tensor.to_dtype(DType::F32)?;
            if let Some(module) = inner.strip_suffix(".lora_A.weight") {
                halves.entry(format!("{module}.weight")).or_default().0 = Some(tensor);
            } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
                halves.entry(format!("{module}.weight")).or_default().1 = Some(tensor);
            } else {
                return Err(ModelError::Adapter(format!("{name} is neither lora_A nor lora_B")));
            }
        }
        let known: std::collections::BTreeSet<String> = base.names().into_iter().collect();
        let mut pairs = BTreeMap::new();
        for (name, pair) in halves {
            let (Some(a), Some(b)) = pair else {
                return Err(ModelError::Adapter(format!("{name} has only one of lora_A and lora_B")));
            };
            if !known.contains(&name) {
                return Err(ModelError::Adapter(format!("the base has no {name}")));
            }
            let shape = base.tensor(&name)?.dims().to_vec();
            if shape != [b.dim(0)?, a.dim(1)?] || a.dim(0)? != b.dim(1)? {
                return Err(ModelError::Adapter(format!(
                    "{name} is {shape:?}, the adapter was made for {:?}",
                    [b.dim(0)?, a.dim(1)?]
                )));
            }
            pairs.insert(name, (a, b));
        }
        Ok(Self { base, pairs, scale })
    }
}

impl<W: WeightSource> WeightSource for Adapted<W> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let weight = self.base.tensor(name)?;
        match self.pairs.get(name) {
            Some((a, b)) => Ok((weight.to_dtype(DType::F32)? + (b.matmul(a)? * self.scale)?)?),
            None => Ok(weight),
        }
    }
}
