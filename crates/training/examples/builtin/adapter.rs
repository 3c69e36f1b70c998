//! A trained adapter as it ships: in bf16, named after its base, with its card.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

/// Writes `adapter_config.json` and `adapter_model.safetensors` (bf16).
pub fn run(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let tensors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &Device::Cpu)?;
    let halves: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::BF16)?)))
        .collect::<Result<_, candle_core::Error>>()?;
    candle_core::safetensors::save(&halves, to.join("adapter_model.safetensors"))?;
    let config = std::fs::read_to_string(from.join("adapter_config.json"))?;
    let mut config: serde_json::Value = serde_json::from_str(&config)?;
    config["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct".into();
    std::fs::write(to.join("adapter_config.json"), format!("{config:#}\n"))?;
    if from.join("base.json").exists() {
        std::fs::copy(from.join("base.json"), to.join("base.json"))?;
    }
    let size = std::fs::metadata(to.join("adapter_model.safetensors"))?.len();
    println!("{}: {size} bytes", to.display());
    Ok(())
}
