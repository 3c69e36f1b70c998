//! PEFT adapters merge as PEFT merges them, and only into the model they were made for.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use common::{numbers, weights, write_checkpoint};
use models::{Adapted, LoadOptions, Model, ModelSource, SafetensorsFolder, WeightSource};
use serde_json::{Value, json};

const TARGET: &str = "model.layers.1.mlp.down_proj";

fn write_adapter(folder: &Path, config: &Value, module: &str, out: usize, inputs: usize) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let tensors: HashMap<String, Tensor> = HashMap::from([
        (format!("base_model.model.{module}.lora_A.weight"), numbers(&[4, inputs], 1)),
        (format!("base_model.model.{module}.lora_B.weight"), numbers(&[out, 4], 2)),
    ]);
    candle_core::safetensors::save(&tensors, folder.join("adapter_model.safetensors")).unwrap();
}

fn plain() -> Value {
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["down_proj"], "rank_pattern": {}})
}

#[test]
fn the_merged_weight_is_the_base_plus_the_scaled_product() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
    write_checkpoint(&base);
    for (rslora, scale) in [(false, 2.0), (true, 4.0)] {
        let mut config = plain();
        config["use_rslora"] = json!(rslora);
        write_adapter(&adapter, &config, TARGET, 32, 64);
        let merged = Adapted::open(SafetensorsFolder::open(&base).unwrap(), &adapter).unwrap();
        let product = (numbers(&[32, 4], 2).matmul(&numbers(&[4, 64], 1)).unwrap() * scale).unwrap();
        let name = format!("{TARGET}.weight");
        let wanted = (&weights()[&name] + product).unwrap();
        let got = merged.tensor(&name).unwrap();
        let difference =
            (got - wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference == 0.0, "{difference}");
        let other = merged.tensor("model.norm.weight").unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(other, weights()["model.norm.weight"].to_vec1::<f32>().unwrap());
    }
    let typed = format!("{}+{}", base.display(), adapter.display());
    let with = Model::load(&ModelSource::parse(&typed), &LoadOptions::default()).unwrap();
    let without =
        Model::load(&ModelSource::parse(&base.display().to_string()), &LoadOptions::default()).unwrap();
    assert_ne!(with.sha256, without.sha256, "an adapter makes another model");
}

#[test]
fn an_adapter_that_does_not_fit_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
    write_checkpoint(&base);
    let fails = |wanted: &str| {
        let opened = Adapted::open(SafetensorsFolder::open(&base).unwrap(), &adapter);
        let message = opened.err().expect("must be refused").to_string();
        assert!(message.contains(wanted), "{message}");
    };
    write_adapter(&adapter, &plain(), "model.layers.7.mlp.down_proj", 32, 64);
    fails("made for another model");
    write_adapter(&adapter, &plain(), TARGET, 64, 64);
    fails("the adapter was made for [64, 64]");
    for (key, value, wanted) in [
        ("r", json!(8), "ranks 4 and 4, r is 8"),
        ("peft_type", json!("IA3"), "IA3"),
        ("use_dora", json!(true), "use_dora"),
        ("alpha_pattern", json!({"q_proj": 3}), "alpha_pattern"),
    ] {
        let mut config = plain();
        config[key] = value;
        write_adapter(&adapter, &config, TARGET, 32, 64);
        fails(wanted);
    }
}
