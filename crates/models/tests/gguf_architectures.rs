//! The micro checkpoints as a converter to GGUF would write them give the same logits as their folders.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use common::{goldens, ids, json_of};
use models::gguf::Gguf;
use models::{
    Architecture, Decoder, DecoderConfig, DecoderOptions, RopeScaling, SafetensorsFolder, Segment, Step,
    WeightSource, parse_config,
};

/// Names as llama.cpp's converter maps them.
fn stored_name(name: &str, architecture: Architecture) -> String {
    let fused = architecture == Architecture::Phi3;
    name.replace("model.layers.", "blk.")
        .replace("model.embed_tokens", "token_embd")
        .replace("model.norm", "output_norm")
        .replace("lm_head", "output")
        .replace("self_attn.q_norm", "attn_q_norm")
        .replace("self_attn.k_norm", "attn_k_norm")
        .replace("self_attn.qkv_proj", "attn_qkv")
        .replace("self_attn.q_proj", "attn_q")
        .replace("self_attn.k_proj", "attn_k")
        .replace("self_attn.v_proj", "attn_v")
        .replace("self_attn.o_proj", "attn_output")
        .replace("input_layernorm", "attn_norm")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("mlp.gate_up_proj", if fused { "ffn_up" } else { "?" })
        .replace("mlp.gate_proj", "ffn_gate")
        .replace("mlp.up_proj", "ffn_up")
        .replace("mlp.down_proj", "ffn_down")
}

/// `LlamaModel.permute` of the converter.
fn interleaved(tensor: &Tensor, heads: usize) -> Tensor {
    let dims = tensor.dims().to_vec();
    let rest = dims[1..].iter().product::<usize>();
    let split = tensor.reshape((heads, 2, dims[0] / heads / 2, rest)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape(dims).unwrap()
}

fn convert(config: &DecoderConfig, weights: &SafetensorsFolder) -> Gguf {
    let c = config;
    let name = match c.architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
        Architecture::Phi3 => "phi3",
    };
    let count = |n: usize| Meta::U32(n as u32);
    let mut meta = vec![("general.architecture".to_string(), Meta::String(name.into()))];
    let mut add = |key: &str, value: Meta| meta.push((format!("{name}.{key}"), value));
    add("block_count", count(c.num_layers));
    add("context_length", count(c.max_position_embeddings));
    add("embedding_length", count(c.hidden_size));
    add("feed_forward_length", count(c.intermediate_size));
    add("attention.head_count", count(c.num_heads));
    add("attention.head_count_kv", count(c.num_kv_heads));
    add("attention.layer_norm_rms_epsilon", Meta::F32(c.rms_norm_eps as f32));
    add("rope.freq_base", Meta::F32(c.rope.theta as f32));
    if c.architecture == Architecture::Phi3 {
        add("rope.dimension_count", count(c.rope.rotary_dim));
        add("attention.sliding_window", count(c.sliding_window[0].unwrap_or(0)));
    } else {
        add("attention.key_length", count(c.head_dim));
        add("attention.value_length", count(c.head_dim));
    }
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let factors = |list: Vec<f64>| {
        let list: Vec<f32> = list.into_iter().map(|f| f as f32).collect();
        Tensor::from_vec(list.clone(), list.len(), &Device::Cpu).unwrap()
    };
    match &c.rope.scaling {
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings,
            attention_factor,
        } => {
            add("rope.scaling.original_context_length", count(*original_max_position_embeddings));
            add("rope.scaling.attn_factor", Meta::F32(*attention_factor as f32));
            tensors.push(("rope_factors_short.weight".into(), factors(short_factor.clone())));
            tensors.push(("rope_factors_long.weight".into(), factors(long_factor.clone())));
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = *original_max_position_embeddings as f64;
            let list = (0..c.rope.rotary_dim / 2).map(|i| {
                let frequency = 1.0 / c.rope.theta.powf(2.0 * i as f64 / c.rope.rotary_dim as f64);
                let length = 2.0 * std::f64::consts::PI / frequency;
                let smooth = (context / length - low_freq_factor) / (high_freq_factor - low_freq_factor);
                1.0 / (if length < context / high_freq_factor {
                    1.0
                } else if length > context / low_freq_factor {
                    1.0 / factor
                } else {
                    (1.0 - smooth) / factor + smooth
                })
            });
            tensors.push(("rope_freqs.weight".into(), factors(list.collect())));
        }
        RopeScaling::Linear { factor } => {
            add("rope.scaling.type", Meta::String("linear".into()));
            add("rope.scaling.factor", Meta::F32(*factor as f32));
        }
        RopeScaling::None => {}
    }
    for hf in weights.names() {
        let mut tensor = weights.tensor(&hf).unwrap().to_dtype(DType::F32).unwrap();
        if name == "llama" && hf.contains("q_proj") {
            tensor = interleaved(&tensor, c.num_heads);
        } else if name == "llama" && hf.contains("k_proj") {
            tensor = interleaved(&tensor, c.num_kv_heads);
        }
        tensors.push((stored_name(&hf, c.architecture), tensor));
    }
    let tensors: Vec<(String, QTensor)> =
        tensors.into_iter().map(|(n, t)| (n, QTensor::quantize(&t, GgmlDType::F32).unwrap())).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let meta: Vec<(&str, &Meta)> = meta.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &meta, &tensors).unwrap();
    Gguf::from_bytes(Path::new(name), Arc::new(bytes.into_inner())).unwrap()
}

fn logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let mut cache = decoder.cache();
    let sequence = cache.create(decoder.rope_regime(ids.len()));
    let step = Step { segments: vec![Segment { sequence, tokens: ids.to_vec() }] };
    let hidden = decoder.forward(&step, &mut cache).unwrap();
    decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn converted_checkpoints_give_the_logits_of_their_folders() {
    let Some(folder) = goldens() else { return };
    for name in [
        "llama_untied",
        "llama_tied_headdim",
        "llama3_rope",
        "mistral_nemo",
        "qwen2_tied",
        "qwen3",
        "phi3_partial",
        "phi3_longrope",
    ] {
        let folder = folder.join("models").join(name);
        let path = folder.join("config.json");
        let config = parse_config(&json_of(&path), &path).unwrap();
        let source = SafetensorsFolder::open(&folder).unwrap();
        let gguf = convert(&config, &source);
        let options = DecoderOptions { device: Device::Cpu, dtype: DType::F32 };
        let ours = Decoder::load(&config, &source, &options).unwrap();
        let theirs = Decoder::load(&gguf.config().unwrap(), &gguf, &options).unwrap();
        let golden = json_of(&folder.join("golden.json"));
        for prompt in ["p7", "p33", "p96"] {
            let tokens = ids(&golden["prompts"][prompt]["ids"]);
            let (a, b) = (logits(&ours, &tokens), logits(&theirs, &tokens));
            let d = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
            assert!(d < 2e-5, "{name} {prompt}: {d}");
        }
    }
}
