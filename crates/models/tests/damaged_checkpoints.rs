//! What is wrong with a checkpoint is said by name, by loading and by verifying.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use common::{config, numbers, tokenizer, weights, write_checkpoint};
use models::{LoadOptions, Model, ModelError, ModelSource, verify};
use serde_json::json;

fn source(folder: &Path) -> ModelSource {
    ModelSource { path: folder.into(), adapter: None }
}

/// The error of loading, which `verify` must name too.
fn fault(folder: &Path) -> ModelError {
    let error = Model::load(&source(folder), &LoadOptions::default()).err().expect("loading must fail");
    let report = verify(&source(folder));
    let found: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    assert!(found.contains(&error.to_string()), "verify says {found:?}, loading {error}");
    error
}

fn damaged(name: &str, damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write_checkpoint(&path);
    damage(&path);
    fault(&path).to_string()
}

fn save(folder: &Path, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_whole_checkpoint_loads_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let model = Model::load(&source(folder.path()), &LoadOptions::default()).unwrap();
    assert_eq!(
        (model.eos.as_slice(), model.bos, model.chat_is_fallback),
        ([258].as_slice(), Some(257), false)
    );
    let report = verify(&source(folder.path()));
    assert!(report.faults.is_empty() && report.notes.is_empty(), "{report:?}");
    assert_eq!((report.tensors, report.sha256.as_ref()), (20, Some(&model.sha256)));
    let shown = models::describe(&source(folder.path())).unwrap();
    assert_eq!(shown.parameters, weights().values().map(|t| t.elem_count() as u64).sum::<u64>());
    assert_eq!(shown.memory(candle_core::DType::F32, 10).cache, 2 * 4 * 2 * 16 * 10);
}

#[test]
fn a_missing_shard_is_named() {
    let message = damaged("shards", |folder| {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        let (mut first, mut map) = (weights(), serde_json::Map::new());
        let taken = first.remove("model.norm.weight");
        assert!(taken.is_some());
        for name in first.keys() {
            map.insert(name.clone(), json!("model-00001-of-00002.safetensors"));
        }
        map.insert("model.norm.weight".into(), json!("model-00002-of-00002.safetensors"));
        candle_core::safetensors::save(&first, folder.join("model-00001-of-00002.safetensors")).unwrap();
        std::fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
            .unwrap();
    });
    assert!(message.contains("model-00002-of-00002.safetensors is missing"), "{message}");
}

#[test]
fn missing_misshapen_and_infinite_tensors_are_named_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let mut tensors = weights();
    tensors.remove("model.layers.1.mlp.up_proj.weight");
    tensors.insert("model.layers.0.self_attn.k_proj.weight".into(), numbers(&[32, 32], 1));
    let mut values = vec![0f32; 32 * 32];
    values[77] = f32::NAN;
    tensors.insert(
        "model.layers.0.self_attn.o_proj.weight".into(),
        Tensor::from_vec(values, (32, 32), &Device::Cpu).unwrap(),
    );
    save(folder.path(), &tensors);
    let faults: Vec<String> = verify(&source(folder.path())).faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    for wanted in [
        "[32, 32], the configuration needs [16, 32]",
        "o_proj.weight holds NaN",
        "no tensor model.layers.1.mlp.up",
    ] {
        assert!(faults.iter().any(|f| f.contains(wanted)), "{wanted}: {faults:?}");
    }
    assert!(Model::load(&source(folder.path()), &LoadOptions::default()).is_err());
}

#[test]
fn a_nan_weight_stops_loading() {
    let message = damaged("nan", |folder| {
        let mut tensors = weights();
        let mut values = vec![0.5f32; 32];
        values[31] = f32::NEG_INFINITY;
        tensors.insert("model.norm.weight".into(), Tensor::from_vec(values, 32, &Device::Cpu).unwrap());
        save(folder, &tensors);
    });
    assert_eq!(message, "the tensor model.norm.weight holds NaN or infinite values");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let message = damaged("tokens", |folder| {
        let mut larger = tokenizer();
        larger["model"]["vocab"]["zz"] = json!(300);
        std::fs::write(folder.join("tokenizer.json"), larger.to_string()).unwrap();
    });
    assert!(message.contains("301 tokens") && message.contains("260 rows"), "{message}");
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_ones() {
    let message = damaged("mamba", |folder| {
        let mut other = config();
        other["model_type"] = json!("mamba");
        std::fs::write(folder.join("config.json"), other.to_string()).unwrap();
    });
    assert!(message.contains("mamba") && message.contains("qwen3 and phi3"), "{message}");
}

#[test]
fn other_activations_and_rope_scalings_are_refused() {
    for (key, value, wanted) in [
        ("hidden_act", json!("gelu_tanh"), "gelu_tanh"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
        ("num_key_value_heads", json!(3), "cannot share 3"),
        ("hidden_size", json!("wide"), "hidden_size"),
    ] {
        let message = damaged("other", |folder| {
            let mut other = config();
            other[key] = value;
            std::fs::write(folder.join("config.json"), other.to_string()).unwrap();
        });
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn sizes_beyond_reason_are_refused_before_anything_is_allocated() {
    let huge = 1u64 << 39;
    for (key, value) in [
        ("num_hidden_layers", json!(huge)),
        ("vocab_size", json!(huge)),
        ("head_dim", json!(huge)),
        ("hidden_size", json!(huge)),
        ("intermediate_size", json!(huge)),
        ("num_attention_heads", json!(huge)),
        ("num_attention_heads", json!(0)),
        ("num_hidden_layers", json!(-1)),
        ("max_position_embeddings", json!(0)),
        ("rope_theta", json!(-1.0)),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0})),
        ("rms_norm_eps", json!(0.0)),
    ] {
        let message = damaged("huge", |folder| {
            let mut other = config();
            other[key] = value.clone();
            std::fs::write(folder.join("config.json"), other.to_string()).unwrap();
            // Without a tokenizer one is made of the vocabulary's size.
            std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
        });
        assert!(message.contains("config.json"), "{key} {value}: {message}");
    }
}

#[test]
fn quantised_folders_and_whole_numbers_are_no_weights() {
    let message = damaged("fp8", |folder| {
        let mut other = config();
        other["quantization_config"] = json!({"quant_method": "fp8"});
        std::fs::write(folder.join("config.json"), other.to_string()).unwrap();
    });
    assert!(message.contains("fp8") && message.contains("GGUF"), "{message}");
    let message = damaged("int", |folder| {
        let mut tensors = weights();
        let ones = Tensor::ones((32, 32), candle_core::DType::I64, &Device::Cpu).unwrap();
        tensors.insert("model.layers.0.self_attn.o_proj.weight".into(), ones);
        save(folder, &tensors);
    });
    assert!(message.contains("o_proj.weight has the type I64"), "{message}");
    for garbage in ["", "{", "[]", "{\"model_type\": 7}", "null"] {
        let message =
            damaged("config", |folder| std::fs::write(folder.join("config.json"), garbage).unwrap());
        assert!(message.contains("config.json") || message.contains("architecture"), "{message}");
    }
}

#[test]
fn truncated_empty_and_absent_files_are_refused() {
    let cut = damaged("cut", |folder| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains("no whole safetensors file"), "{cut}");
    let empty = damaged("empty", |folder| std::fs::write(folder.join("model.safetensors"), b"").unwrap());
    assert!(empty.contains("model.safetensors"), "{empty}");
    let absent = damaged("absent", |folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    assert!(absent.contains("config.json"), "{absent}");
    assert!(fault(Path::new("nowhere/at/all")).to_string().contains("nowhere/at/all"));
}

#[test]
fn without_a_tokenizer_ids_still_work_and_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let model = Model::load(&source(folder.path()), &LoadOptions::default()).unwrap();
    assert_eq!(model.tokenizer.decode(&[5, 19], false).unwrap(), "5 19");
    assert!(model.encode_plain("text").unwrap_err().to_string().contains("no tokenizer.json"));
    let report = verify(&source(folder.path()));
    assert!(report.faults.is_empty() && report.notes[0].contains("no tokenizer"), "{report:?}");
}
