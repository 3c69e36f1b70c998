//! PEFT LoRA adapters, merged into the weights as they are read: W + α/r · B·A (arXiv 2106.09685), or
//! W + α/√r · B·A where the adapter says so (rsLoRA, arXiv 2312.03732).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::Value;

use crate::base_sample::BaseSample;
use crate::error::ModelError;
use crate::trainable::LoraSettings;
use crate::weights::{WeightSource, read};

/// Heads of reward models, which stand beside a decoder.
pub const HEADS: [&str; 3] = ["score.weight", "value_head.weight", "prompt_head.weight"];

/// A checkpoint seen through an adapter.
pub struct Adapted<W> {
    base: W,
    /// Weight name → A `[r, in]`, B `[out, r]`.
    pairs: BTreeMap<String, (Tensor, Tensor)>,
    /// Weights that were trained in full (`modules_to_save`): in the place of the base's, or heads beside them.
    replaced: BTreeMap<String, Tensor>,
    scale: f64,
}

impl<W: WeightSource> Adapted<W> {
    /// Opens `adapter_config.json` and `adapter_model.safetensors` of a folder and checks that they fit the base.
    ///
    /// # Errors
    /// If a file is missing, the kind is not plain LoRA, or a matrix belongs to no weight of the base or has another
    /// shape.
    pub fn open(base: W, folder: &Path) -> Result<Self, ModelError> {
        let settings = PlainLora::read(folder)?.settings;
        let (r, scale) = (settings.r, settings.scale());
        let file = folder.join("adapter_model.safetensors");
        let tensors = candle_core::safetensors::load_buffer(&read(&file)?, &candle_core::Device::Cpu)
            .map_err(|e| ModelError::invalid(&file, format!("is no whole safetensors file ({e})")))?;
        BaseSample::check(folder, &base)?;
        let known: BTreeSet<String> = base.names().into_iter().collect();
        let mut halves: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
        let mut replaced = BTreeMap::new();
        for (name, tensor) in tensors {
            let inner = name.strip_prefix("base_model.model.").unwrap_or(&name).to_string();
            let tensor = tensor.to_dtype(DType::F32)?;
            if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(ModelError::NotFinite(name));
            }
            if let Some(module) = inner.strip_suffix(".lora_A.weight") {
                halves.entry(format!("{module}.weight")).or_default().0 = Some(tensor);
            } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
                halves.entry(format!("{module}.weight")).or_default().1 = Some(tensor);
            } else if HEADS.contains(&inner.as_str())
                || known.contains(&inner) && base.shape(&inner)? == tensor.dims()
            {
                replaced.insert(inner, tensor);
            } else {
                return Err(ModelError::Adapter(format!(
                    "{name} is neither lora_A, lora_B nor a weight of the base"
                )));
            }
        }
        if halves.is_empty() {
            return Err(ModelError::Adapter(format!("{} holds no LoRA matrices", file.display())));
        }
        let mut pairs = BTreeMap::new();
        for (name, pair) in halves {
            let (Some(a), Some(b)) = pair else {
                return Err(ModelError::Adapter(format!("{name} has only one of lora_A and lora_B")));
            };
            if !known.contains(&name) {
                return Err(ModelError::Adapter(format!(
                    "the base has no {name}; it was made for another model"
                )));
            }
            let (shape, (rank, inputs), (outputs, rank_b)) = (base.shape(&name)?, a.dims2()?, b.dims2()?);
            if shape != [outputs, inputs] {
                return Err(ModelError::Adapter(format!(
                    "{name} is {shape:?}, the adapter was made for {:?}",
                    [outputs, inputs]
                )));
            }
            if rank != r || rank_b != r {
                return Err(ModelError::Adapter(format!(
                    "{name} has the ranks {rank} and {rank_b}, r is {r}"
                )));
            }
            pairs.insert(name, (a, b));
        }
        Ok(Self { base, pairs, replaced, scale })
    }
}

/// An `adapter_config.json` that asks for nothing but plain LoRA.
pub(crate) struct PlainLora {
    pub(crate) settings: LoraSettings,
}

impl PlainLora {
    pub(crate) fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("adapter_config.json");
        let config: Value =
            serde_json::from_slice(&read(&path)?).map_err(|e| ModelError::invalid(&path, e))?;
        Ok(Self { settings: settings(&config, &path)? })
    }
}

/// Refuses what plain LoRA is not.
fn settings(config: &Value, path: &Path) -> Result<LoraSettings, ModelError> {
    if config["peft_type"].as_str().is_some_and(|t| t != "LORA") {
        return Err(ModelError::Adapter(format!("{} is not LORA", config["peft_type"])));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias"] {
        if config[key] == true {
            return Err(ModelError::Adapter(format!("{key} is not supported")));
        }
    }
    for key in ["rank_pattern", "alpha_pattern", "layer_replication"] {
        let used = match &config[key] {
            Value::Object(o) => !o.is_empty(),
            other => !other.is_null(),
        };
        if used {
            return Err(ModelError::Adapter(format!("{key} is not supported")));
        }
    }
    let number = |key: &str| {
        config[key]
            .as_f64()
            .filter(|n| *n > 0.0)
            .ok_or_else(|| ModelError::invalid(path, format!("has no {key} above 0")))
    };
    let (r, alpha) = (number("r")?, number("lora_alpha")?);
    let target_modules = match &config["target_modules"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        Value::String(name) => vec![name.clone()],
        _ => Vec::new(),
    };
    Ok(LoraSettings { r: r as usize, alpha, use_rslora: config["use_rslora"] == true, target_modules })
}

impl<W: WeightSource> WeightSource for Adapted<W> {
    fn names(&self) -> Vec<String> {
        let mut names = self.base.names();
        names.extend(self.replaced.keys().filter(|n| HEADS.contains(&n.as_str())).cloned());
        names.sort();
        names.dedup();
        names
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        self.replaced.get(name).map_or_else(|| self.base.shape(name), |t| Ok(t.dims().to_vec()))
    }

    /// The base's, though what is merged is read as f32.
    fn dtype(&self, name: &str) -> Result<DType, ModelError> {
        match self.base.dtype(name) {
            // A head that the base does not have.
            Err(_) if self.replaced.contains_key(name) => Ok(DType::F32),
            other => other,
        }
    }

    fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let weight = match self.replaced.get(name) {
            Some(weight) => weight.clone(),
            None => self.base.tensor(name)?,
        };
        match self.pairs.get(name) {
            Some((a, b)) => Ok((weight.to_dtype(DType::F32)? + (b.matmul(a)? * self.scale)?)?),
            None => Ok(weight),
        }
    }
}
