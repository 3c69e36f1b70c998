//! Writing a decoder as GGUF, as the models that ship are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::names::gguf_name;
use super::rotate_halves;
use super::vocabulary::kind_of;
use crate::config::{Architecture, DecoderConfig, RopeScaling};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// What goes into a GGUF file beside its tensors.
pub struct GgufHeader<'a> {
    /// Shown by tools.
    pub name: &'a str,
    /// The decoder: llama, mistral without a window, qwen2 or qwen3.
    pub config: &'a DecoderConfig,
    /// A byte-level tokenizer of a kind that GGUF has a name for (SmolLM, GPT-2, Llama 3, Qwen, Tekken, GPT-4o).
    pub tokenizer: &'a Tokenizer,
    /// Source of the chat template.
    pub chat_template: Option<&'a str>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
}

/// How many tensors became what, by the names of the kinds.
pub type Written = BTreeMap<String, usize>;

/// Writes a decoder as GGUF with all matrices quantised to `kind`; see [`write_mixed`].
///
/// # Errors
/// As [`write_mixed`].
pub fn write(
    path: &Path,
    header: &GgufHeader<'_>,
    weights: &dyn WeightSource,
    kind: GgmlDType,
) -> Result<Written, ModelError> {
    write_mixed(path, header, weights, &|_| kind)
}

/// Writes a decoder as GGUF: each matrix quantised to what `kind` says for its Hugging Face name
/// (rows that do not fill its blocks of 256 to the next finer kind of 32, as llama.cpp does, then F32), norms in f32. The file appears whole, by rename.
///
/// # Errors
/// If the architecture or the tokenizer is another one, a tensor is missing, or the disk is full.
pub fn write_mixed(
    path: &Path,
    header: &GgufHeader<'_>,
    weights: &dyn WeightSource,
    kind: &dyn Fn(&str) -> GgmlDType,
) -> Result<Written, ModelError> {
    let c = header.config;
    let architecture = name_of(c).ok_or_else(|| {
        ModelError::invalid(
            path,
            format!(
                "{:?} with its window or rotary scaling is not written as GGUF; llama, mistral without a window, qwen2 \
                 and qwen3 are",
                c.architecture
            ),
        )
    })?;
    let tokenizer: serde_json::Value = serde_json::from_str(&header.tokenizer.to_json()?)
        .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    let pre = kind_of(&tokenizer).ok_or_else(|| {
        ModelError::Tokenizer(
            "it splits text in a way that a GGUF file cannot name; keep the Hugging Face folder".into(),
        )
    })?;
    let bare = header.tokenizer.encode_with_special("")?;
    let adds_bos = header.bos.is_some() && bare.first() == header.bos.as_ref();
    let strings = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    let merges = tokenizer["model"]["merges"]
        .as_array()
        .map(|list| {
            list.iter()
                .map(|m| match m {
                    serde_json::Value::Array(pair) => {
                        pair.iter().filter_map(|p| p.as_str()).collect::<Vec<_>>().join(" ")
                    }
                    other => other.as_str().unwrap_or_default().to_string(),
                })
                .collect()
        })
        .unwrap_or_default();
    let (mut tokens, mut types) = (Vec::new(), Vec::new());
    for id in 0..c.vocab_size as u32 {
        match header.tokenizer.token(id) {
            Some(token) => {
                // 1: normal, 3: control, 4: added but part of the text.
                let kind = match (header.tokenizer.is_special(id), header.tokenizer.is_added(id)) {
                    (true, _) => 3,
                    (false, true) => 4,
                    (false, false) => 1,
                };
                types.push(Value::I32(kind));
                tokens.push(token);
            }
            None => {
                types.push(Value::I32(5));
                tokens.push(format!("[unused{id}]"));
            }
        }
    }
    let u32_of = |n: usize| Value::U32(n as u32);
    let mut metadata: Vec<(String, Value)> = [
        ("general.architecture", Value::String(architecture.into())),
        ("general.name", Value::String(header.name.into())),
        ("general.alignment", Value::U32(32)),
        (".block_count", u32_of(c.num_layers)),
        (".context_length", u32_of(c.max_position_embeddings)),
        (".embedding_length", u32_of(c.hidden_size)),
        (".feed_forward_length", u32_of(c.intermediate_size)),
        (".attention.head_count", u32_of(c.num_heads)),
        (".attention.head_count_kv", u32_of(c.num_kv_heads)),
        (".attention.key_length", u32_of(c.head_dim)),
        (".attention.value_length", u32_of(c.head_dim)),
        (".attention.layer_norm_rms_epsilon", Value::F32(c.rms_norm_eps as f32)),
        (".rope.freq_base", Value::F32(c.rope.theta as f32)),
        (".rope.dimension_count", u32_of(c.rope.rotary_dim)),
        (".vocab_size", u32_of(c.vocab_size)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String(pre.into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", strings(merges)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(adds_bos)),
    ]
    .into_iter()
    .map(|(key, value)| {
        (if key.starts_with('.') { format!("{architecture}{key}") } else { key.into() }, value)
    })
    .collect();
    if let Some(id) = header.bos {
        metadata.push(("tokenizer.ggml.bos_token_id".into(), Value::U32(id)));
    }
    if let Some(id) = header.eos {
        metadata.push(("tokenizer.ggml.eos_token_id".into(), Value::U32(id)));
    }
    if let Some(template) = header.chat_template {
        metadata.push(("tokenizer.chat_template".into(), Value::String(template.into())));
    }
    let (mut tensors, mut kinds) = (Vec::new(), Written::new());
    if let Some(factors) = factors(c) {
        let factors = Tensor::new(factors, &Device::Cpu)?;
        tensors.push(("rope_freqs.weight".to_string(), QTensor::quantize(&factors, GgmlDType::F32)?));
    }
    for name in weights.names() {
        let Some(stored) = gguf_name(&name) else { continue };
        if c.tie_word_embeddings && name == "lm_head.weight" {
            continue;
        }
        let mut tensor = weights.tensor(&name)?.to_dtype(candle_core::DType::F32)?;
        // Only files of the architecture "llama" interleave the rotary halves.
        let turned = if architecture != "llama" {
            None
        } else if name.contains("q_proj") {
            Some(c.num_heads)
        } else {
            name.contains("k_proj").then_some(c.num_kv_heads)
        };
        if let Some(heads) = turned {
            tensor = rotate_halves(&tensor, heads, false)?;
        }
        let kind = kind(&name);
        let width = tensor.dims().last().copied().unwrap_or(0);
        let fits = |kind: &GgmlDType| width % kind.block_size() == 0;
        let dtype = match tensor.rank() {
            0 | 1 => GgmlDType::F32,
            _ => [kind, finer(kind)].into_iter().find(fits).unwrap_or(GgmlDType::F32),
        };
        *kinds.entry(format!("{dtype:?}")).or_default() += 1;
        tensors.push((stored, QTensor::quantize(&tensor, dtype)?));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut ending = path.file_name().unwrap_or_default().to_os_string();
    ending.push(".partial");
    let temporary = path.with_file_name(ending);
    let written = (|| {
        let mut file = BufWriter::new(File::create(&temporary)?);
        gguf_file::write(&mut file, &metadata, &tensors).map_err(io_of)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map(|()| kinds).map_err(|source| {
        // What cannot be finished does not keep the room.
        let _ = std::fs::remove_file(&temporary);
        ModelError::Io { path: path.into(), source }
    })
}

/// What stands in for a kind whose blocks of 256 a row does not fill.
fn finer(kind: GgmlDType) -> GgmlDType {
    match kind {
        GgmlDType::Q2K | GgmlDType::Q3K => GgmlDType::Q4_0,
        GgmlDType::Q4K => GgmlDType::Q5_0,
        GgmlDType::Q5K => GgmlDType::Q5_1,
        _ => GgmlDType::Q8_0,
    }
}

/// The name of a family in GGUF files, if such a file can say all that the configuration does.
fn name_of(c: &DecoderConfig) -> Option<&'static str> {
    let scaled = c.rope.scaling != RopeScaling::None;
    if c.sliding_window.iter().any(Option::is_some) || scaled && factors(c).is_none() {
        return None;
    }
    match c.architecture {
        // llama.cpp knows mistral as a llama.
        Architecture::Llama | Architecture::Mistral => Some("llama"),
        Architecture::Qwen2 if !scaled => Some("qwen2"),
        Architecture::Qwen3 if !scaled => Some("qwen3"),
        _ => None,
    }
}

/// What divides the rotary frequencies, one by one, where it is the same for texts of every length: `rope_freqs.weight`.
fn factors(c: &DecoderConfig) -> Option<Vec<f32>> {
    let fixed = match &c.rope.scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Linear { .. } => true,
        RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } => {
            short_factor == long_factor && *attention_factor == 1.0
        }
        RopeScaling::None => false,
    };
    let plain = |i: usize| c.rope.theta.powf(-2.0 * i as f64 / c.rope.rotary_dim as f64);
    let ([scaled, _], _) = crate::decoder::frequencies(c);
    fixed.then(|| scaled.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect())
}

/// The system's error inside of candle's, where it is one.
fn io_of(error: candle_core::Error) -> std::io::Error {
    match error {
        candle_core::Error::Io(e) => e,
        other => std::io::Error::other(other.to_string()),
    }
}
