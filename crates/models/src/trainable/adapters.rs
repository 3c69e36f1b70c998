//! LoRA as PEFT knows it: its settings, the names of its factors, its folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::adapter::PlainLora;
use crate::config::{Architecture, DecoderConfig};
use crate::error::ModelError;
use crate::hash::{sha256_of_bytes, sha256_of_files};

/// What `adapter_config.json` says of a plain LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Rank.
    pub r: usize,
    /// α.
    pub alpha: f64,
    /// Factor α/√r instead of α/r (arXiv 2312.03732).
    pub use_rslora: bool,
    /// Last parts of the modules' names (`q_proj`).
    pub target_modules: Vec<String>,
}

impl LoraSettings {
    /// The factor of B·A.
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// Names of a block's linear modules: what PEFT's `all-linear` takes.
pub fn linear_modules(config: &DecoderConfig) -> &'static [&'static str] {
    match config.architecture {
        Architecture::Phi3 => &["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        _ => &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
}

/// PEFT's name of a factor.
pub(super) fn factor(module: &str, which: char) -> String {
    format!("base_model.model.{module}.lora_{which}.weight")
}

/// An adapter's folder, read.
pub struct AdapterFiles {
    /// Its settings.
    pub settings: LoraSettings,
    /// Its tensors by their PEFT names, f32; a reward head stands among them.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where it was read.
    pub folder: PathBuf,
}

impl AdapterFiles {
    /// Reads `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the kind is not plain LoRA.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let plain = PlainLora::read(folder)?;
        let file = folder.join("adapter_model.safetensors");
        let tensors = candle_core::safetensors::load_buffer(&crate::weights::read(&file)?, &Device::Cpu)
            .map_err(|e| ModelError::invalid(&file, format!("is no whole safetensors file ({e})")))?;
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let tensor = tensor.to_dtype(DType::F32)?;
                if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
                    return Err(ModelError::NotFinite(name));
                }
                Ok((name, tensor))
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { settings: plain.settings, tensors, folder: folder.into() })
    }

    /// SHA-256 (hex) of the tensors of an adapter's folder and of its settings.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn fingerprint(folder: &Path) -> Result<String, ModelError> {
        let weights = sha256_of_files(&[folder.join("adapter_model.safetensors")])?;
        Ok(sha256_of_bytes(format!("{weights}\n{:?}", PlainLora::read(folder)?.settings).as_bytes()))
    }

    /// `adapter_config.json` as PEFT reads it.
    pub fn config(settings: &LoraSettings, base: &str, task: &str, saved_modules: &[&str]) -> Value {
        let mut targets = settings.target_modules.clone();
        targets.sort();
        let saved = if saved_modules.is_empty() { Value::Null } else { json!(saved_modules) };
        json!({"peft_type": "LORA", "task_type": task, "base_model_name_or_path": base, "r": settings.r,
            "lora_alpha": settings.alpha, "use_rslora": settings.use_rslora, "target_modules": targets,
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
            "init_lora_weights": true, "modules_to_save": saved, "use_dora": false,
            "rank_pattern": {}, "alpha_pattern": {}})
    }
}
