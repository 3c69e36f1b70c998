//! A tiny checkpoint of our own making, for tests that damage one.
#![allow(dead_code, clippy::unwrap_used)] // every test binary uses some of it; a test fails by panicking

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

pub const VOCABULARY: usize = 260;

/// `shared/goldens/infer`, or a visible note.
pub fn goldens() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/infer");
    if !path.exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: the goldens in shared/ are not here\n"),
        );
        return None;
    }
    Some(path)
}

pub fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Numbers between -0.5 and 0.5 that are the same everywhere.
pub fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn config() -> Value {
    json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": true, "hidden_act": "silu"})
}

pub fn weights() -> HashMap<String, Tensor> {
    let mut all = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let seed = all.len() as u64 + 7;
        all.insert(name, numbers(shape, seed));
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, 32]);
    add("model.norm.weight".into(), &[32]);
    for i in 0..2 {
        let at = |name: &str| format!("model.layers.{i}.{name}.weight");
        add(at("input_layernorm"), &[32]);
        add(at("post_attention_layernorm"), &[32]);
        add(at("self_attn.q_proj"), &[32, 32]);
        add(at("self_attn.k_proj"), &[16, 32]);
        add(at("self_attn.v_proj"), &[16, 32]);
        add(at("self_attn.o_proj"), &[32, 32]);
        add(at("mlp.gate_proj"), &[64, 32]);
        add(at("mlp.up_proj"), &[64, 32]);
        add(at("mlp.down_proj"), &[32, 64]);
    }
    all
}

/// Byte-level with two control tokens, one added word and one merge.
pub fn tokenizer() -> Value {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let own = (0..256).filter(|&b| printable(b));
    let moved = 256..256 + (0..256).filter(|&b| !printable(b)).count() as u32;
    let mut vocabulary = serde_json::Map::new();
    for (id, c) in own.chain(moved).filter_map(char::from_u32).enumerate() {
        vocabulary.insert(c.to_string(), json!(id));
    }
    vocabulary.insert("th".into(), json!(256));
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    };
    json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(257, "<|begin|>", true), added(258, "<|end|>", true), added(259, "<word>", false)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": ["t h"]}})
}

pub fn write_checkpoint(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config().to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let about = json!({"bos_token": "<|begin|>", "eos_token": "<|end|>",
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"});
    std::fs::write(folder.join("tokenizer_config.json"), about.to_string()).unwrap();
    candle_core::safetensors::save(&weights(), folder.join("model.safetensors")).unwrap();
}
