//! GGUF files: configuration, tensors, tokenizer and template from one file; and writing one.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::json;

use crate::config::{Architecture, DecoderConfig, Rope, RopeScaling};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// The bytes of a GGUF file: mapped, or part of the binary.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An opened GGUF file.
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    content: Content,
    /// Hugging Face name → name in the file.
    names: BTreeMap<String, String>,
    heads: Option<(usize, usize)>,
}

/// A mapped file as bytes.
pub(crate) struct Mapped(pub(crate) kernels::Mmap);
impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Gguf {
    /// Opens a file through a memory map.
    ///
    /// # Errors
    /// If it is missing, truncated or no GGUF file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let map = kernels::mmap(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(path, Arc::new(Mapped(map)))
    }

    /// Reads from bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, ModelError> {
        let data: &[u8] = (*bytes).as_ref();
        if !data.starts_with(b"GGUF") {
            return Err(ModelError::invalid(path, "is no GGUF file"));
        }
        let content = Content::read(&mut Cursor::new(data))
            .map_err(|e| ModelError::invalid(path, format!("is no whole GGUF file ({})", first_line(&e))))?;
        let end = content
            .tensor_infos
            .values()
            .map(|i| {
                let elements = i.shape.elem_count() as u64;
                let (block, size) = (i.ggml_dtype.block_size() as u64, i.ggml_dtype.type_size() as u64);
                content.tensor_data_offset + i.offset + elements / block * size
            })
            .max()
            .unwrap_or(0);
        if end > data.len() as u64 {
            return Err(ModelError::invalid(
                path,
                format!("is truncated: {} bytes of {end}; fetch it again", data.len()),
            ));
        }
        let names = content.tensor_infos.keys().filter_map(|n| Some((hf_name(n)?, n.clone()))).collect();
        let mut gguf = Self { path: path.into(), bytes, content, names, heads: None };
        // Only files of the architecture "llama" hold q and k with interleaved rotary halves.
        if gguf.text("general.architecture") == Some("llama") {
            let config = gguf.config()?;
            gguf.heads = Some((config.num_heads, config.num_kv_heads));
        }
        Ok(gguf)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.content.metadata.get(key)? {
            Value::F32(v) => Some(f64::from(*v)),
            Value::F64(v) => Some(*v),
            v => integer(v).map(|n| n as f64),
        }
    }

    fn count(&self, key: &str) -> Option<usize> {
        match self.content.metadata.get(key)? {
            // Some writers give a value per layer.
            Value::Array(values) => values.first().and_then(integer).map(|n| n as usize),
            v => integer(v).map(|n| n as usize),
        }
    }

    fn raw(&self, name: &str) -> Result<Tensor, ModelError> {
        let mut reader = Cursor::new((*self.bytes).as_ref());
        let tensor = self
            .content
            .tensor(&mut reader, name, &Device::Cpu)
            .map_err(|e| ModelError::invalid(&self.path, format!("{name}: {}", first_line(&e))))?;
        Ok(tensor.dequantize(&Device::Cpu)?)
    }

    /// The decoder that the metadata describe.
    ///
    /// # Errors
    /// If the architecture is not supported or a key is missing.
    pub fn config(&self) -> Result<DecoderConfig, ModelError> {
        let arch = self.text("general.architecture").unwrap_or("").to_string();
        let architecture = match arch.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "phi3" => Architecture::Phi3,
            other => return Err(ModelError::Architecture { found: other.to_string() }),
        };
        let key = |k: &str| format!("{arch}.{k}");
        let need = |k: &str| {
            self.count(&key(k))
                .filter(|&n| n > 0)
                .ok_or_else(|| ModelError::invalid(&self.path, format!("has no {arch}.{k}")))
        };
        let (hidden_size, num_heads) = (need("embedding_length")?, need("attention.head_count")?);
        let num_kv_heads = self.count(&key("attention.head_count_kv")).unwrap_or(num_heads);
        if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
            return Err(ModelError::invalid(
                &self.path,
                format!("{num_heads} attention heads cannot share {num_kv_heads} key heads"),
            ));
        }
        let head_dim = self.count(&key("attention.key_length")).unwrap_or(hidden_size / num_heads);
        let num_layers = need("block_count")?;
        let max_position_embeddings = need("context_length")?;
        let rotary_dim = self.count(&key("rope.dimension_count")).unwrap_or(head_dim);
        let vocab_size = self
            .content
            .tensor_infos
            .get("token_embd.weight")
            .and_then(|t| t.shape.dims().first().copied())
            .ok_or_else(|| ModelError::MissingTensor("token_embd.weight".into()))?;
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let window = self.count(&key("attention.sliding_window")).filter(|&w| w > 0);
        Ok(DecoderConfig {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: need("feed_forward_length")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: self.number(&key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-5),
            rope: Rope {
                theta: self.number(&key("rope.freq_base")).unwrap_or(10_000.0),
                rotary_dim,
                scaling: self.scaling(&arch, rotary_dim, max_position_embeddings)?,
            },
            max_position_embeddings,
            sliding_window: vec![window; num_layers],
            qkv_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            o_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_up.bias"),
            qk_norm: has("blk.0.attn_q_norm.weight"),
            tie_word_embeddings: !has("output.weight"),
        })
    }

    fn scaling(&self, arch: &str, rotary: usize, context: usize) -> Result<RopeScaling, ModelError> {
        let factors = |name: &str| -> Result<Option<Vec<f64>>, ModelError> {
            if !self.content.tensor_infos.contains_key(name) {
                return Ok(None);
            }
            let values = self.raw(name)?.flatten_all()?.to_vec1::<f32>()?;
            if values.len() != rotary / 2 {
                return Err(ModelError::invalid(&self.path, format!("{name} has {} factors", values.len())));
            }
            Ok(Some(values.into_iter().map(f64::from).collect()))
        };
        let original = self.count(&format!("{arch}.rope.scaling.original_context_length")).unwrap_or(context);
        if let (Some(short_factor), Some(long_factor)) =
            (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?)
        {
            let ratio = context as f64 / original as f64;
            let computed =
                if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() };
            let attention_factor =
                self.number(&format!("{arch}.rope.scaling.attn_factor")).unwrap_or(computed);
            return Ok(RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor,
            });
        }
        // Llama 3.1 files hold the finished factors of its scaling, the same for every length.
        if let Some(factor) = factors("rope_freqs.weight")? {
            return Ok(RopeScaling::LongRope {
                short_factor: factor.clone(),
                long_factor: factor,
                original_max_position_embeddings: usize::MAX,
                attention_factor: 1.0,
            });
        }
        match self.text(&format!("{arch}.rope.scaling.type")) {
            Some("linear") => match self.number(&format!("{arch}.rope.scaling.factor")) {
                Some(factor) if factor > 0.0 => Ok(RopeScaling::Linear { factor }),
                _ => Err(ModelError::invalid(&self.path, "linear rope scaling without a factor")),
            },
            None | Some("none") => Ok(RopeScaling::None),
            Some(other) => Err(ModelError::invalid(&self.path, format!("rope scaling {other:?} is not supported"))),
        }
    }

    /// Beginning and end of sequence, and whether the former is to be put before plain text.
    pub fn special_ids(&self) -> (Option<u32>, Vec<u32>, bool) {
        let id = |key: &str| self.count(&format!("tokenizer.ggml.{key}")).map(|n| n as u32);
        let eos = ["eos_token_id", "eot_token_id", "eom_token_id"].into_iter().filter_map(id);
        let mut ends: Vec<u32> = eos.collect();
        ends.dedup();
        let add = matches!(self.content.metadata.get("tokenizer.ggml.add_bos_token"), Some(Value::Bool(true)));
        (id("bos_token_id"), ends, add)
    }

    /// The chat template, where the file has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.text("tokenizer.chat_template")
    }

    /// Builds the tokenizer from the metadata.
    ///
    /// # Errors
    /// If a part is missing or its kind is not known.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let bad = |what: String| ModelError::invalid(&self.path, what);
        let strings = |key: &str| -> Result<Vec<String>, ModelError> {
            let values = self
                .content
                .metadata
                .get(key)
                .and_then(|v| v.to_vec().ok())
                .ok_or_else(|| bad(format!("has no {key}")))?;
            Ok(values.iter().filter_map(|v| v.to_string().ok().cloned()).collect())
        };
        let tokens = strings("tokenizer.ggml.tokens")?;
        let types: Vec<i64> = self
            .content
            .metadata
            .get("tokenizer.ggml.token_type")
            .and_then(|v| v.to_vec().ok())
            .map(|v| v.iter().map(|v| integer(v).unwrap_or(1)).collect())
            .unwrap_or_default();
        let model = self.text("tokenizer.ggml.model").unwrap_or("");
        let vocabulary: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
        // 3: control, 4: user defined.
        let added: Vec<serde_json::Value> = tokens
            .iter()
            .enumerate()
            .filter(|(i, _)| matches!(types.get(*i), Some(3 | 4)))
            .map(|(i, t)| {
                let special = types[i] == 3;
                json!({"id": i, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": special})
            })
            .collect();
        let json = match model {
            "gpt2" => {
                let merges = strings("tokenizer.ggml.merges")?;
                let kind = self.text("tokenizer.ggml.pre").unwrap_or("default");
                let (pre, ignore_merges, normalizer) = pre_tokenizer(kind).ok_or_else(|| {
                    bad(format!("the pre-tokenizer {kind:?} is not supported; use the Hugging Face folder instead"))
                })?;
                json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                    "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": null,
                    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                        "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges}})
            }
            "llama" => {
                let scores: Vec<f64> = self
                    .content
                    .metadata
                    .get("tokenizer.ggml.scores")
                    .and_then(|v| v.to_vec().ok())
                    .map(|v| v.iter().map(|v| v.to_f32().map_or(0.0, f64::from)).collect())
                    .ok_or_else(|| bad("has no tokenizer.ggml.scores".into()))?;
                let unknown = types.iter().position(|&t| t == 2).and_then(|i| tokens.get(i));
                json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                    "pre_tokenizer": null, "post_processor": null,
                    "decoder": {"type": "Sequence", "decoders": [
                        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                    "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                        "vocab": vocabulary, "merges": merges_from_scores(&tokens, &scores, &vocabulary)}})
            }
            other => return Err(bad(format!("the tokenizer model {other:?} is not supported"))),
        };
        Tokenizer::from_json(json.to_string().as_bytes()).map_err(|e| bad(e.to_string()))
    }
}

impl WeightSource for Gguf {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let stored = self.names.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        let tensor = self.raw(stored)?;
        match self.heads {
            Some((heads, _)) if name.contains("q_proj") => Ok(rotate_halves(&tensor, heads, true)?),
            Some((_, heads)) if name.contains("k_proj") => Ok(rotate_halves(&tensor, heads, true)?),
            _ => Ok(tensor),
        }
    }
}

/// llama.cpp keeps the two halves of a head's rotary dimensions interleaved; Hugging Face one after the other.
fn rotate_halves(tensor: &Tensor, heads: usize, to_hugging_face: bool) -> candle_core::Result<Tensor> {
    let dims = tensor.dims().to_vec();
    let rest: usize = dims[1..].iter().product();
    let half = dims[0] / heads / 2;
    let split = if to_hugging_face { (heads, half, 2, rest) } else { (heads, 2, half, rest) };
    tensor.reshape(split)?.transpose(1, 2)?.contiguous()?.reshape(dims)
}

fn integer(value: &Value) -> Option<i64> {
    Some(match value {
        Value::U8(v) => i64::from(*v),
        Value::I8(v) => i64::from(*v),
        Value::U16(v) => i64::from(*v),
        Value::I16(v) => i64::from(*v),
        Value::U32(v) => i64::from(*v),
        Value::I32(v) => i64::from(*v),
        Value::U64(v) => i64::try_from(*v).ok()?,
        Value::I64(v) => *v,
        _ => return None,
    })
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

/// Names of blocks in GGUF and at Hugging Face.
const BLOCK_NAMES: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_up", "mlp.gate_up_proj"),
];

fn hf_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let mut parts = name.strip_prefix("blk.")?.splitn(3, '.');
    let (layer, block, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (_, ours) = BLOCK_NAMES.iter().find(|(theirs, _)| *theirs == block)?;
    Some(format!("model.layers.{layer}.{ours}.{kind}"))
}

fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (block, kind) = rest.rsplit_once('.')?;
    let (theirs, _) = BLOCK_NAMES.iter().find(|(_, ours)| *ours == block)?;
    Some(format!("blk.{layer}.{theirs}.{kind}"))
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Pre-tokenizer, `ignore_merges` and normaliser for a value of `tokenizer.ggml.pre`.
fn pre_tokenizer(kind: &str) -> Option<(serde_json::Value, bool, serde_json::Value)> {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, bytes]})
    };
    let none = serde_json::Value::Null;
    Some(match kind {
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let whole =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, whole]}), false, none)
        }
        "default" | "gpt-2" | "gpt2" => (split(GPT2), false, none),
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA3), true, none),
        "dbrx" | "phi-4" => (split(LLAMA3), false, none),
        "qwen2" | "deepseek-r1-qwen" => (split(QWEN2), false, json!({"type": "NFC"})),
        "tekken" => (split(TEKKEN), true, none),
        "gpt-4o" => (split(GPT4O), false, none),
        _ => return None,
    })
}

/// SentencePiece's scores as BPE merges: a piece may be made from any two pieces, better scores first.
fn merges_from_scores(tokens: &[String], scores: &[f64], ids: &HashMap<&str, usize>) -> Vec<String> {
    let mut merges: Vec<(f64, usize, usize, String)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, l, r, format!("{left} {right}")));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    merges.into_iter().map(|m| m.3).collect()
}

/// What goes into a GGUF file beside its tensors.
pub struct GgufHeader<'a> {
    /// Shown by tools.
    pub name: &'a str,
    /// The decoder; llama only.
    pub config: &'a DecoderConfig,
    /// A byte-level tokenizer of SmolLM's kind.
    pub tokenizer: &'a Tokenizer,
    /// Source of the chat template.
    pub chat_template: Option<&'a str>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
}

/// Writes a llama-architecture decoder as GGUF: matrices quantised to `kind` (rows that do not fit its blocks to
/// Q8_0, then F32), norms in f32. The file appears whole, by rename.
///
/// # Errors
/// If the architecture is another one, a tensor is missing, or the disk is full.
pub fn write(
    path: &Path,
    header: &GgufHeader<'_>,
    weights: &dyn WeightSource,
    kind: GgmlDType,
) -> Result<(), ModelError> {
    let c = header.config;
    if c.architecture != Architecture::Llama || c.rope.scaling != RopeScaling::None {
        return Err(ModelError::Architecture { found: format!("{:?} for writing GGUF", c.architecture) });
    }
    let tokenizer: serde_json::Value = serde_json::from_str(&header.tokenizer.to_json()?)
        .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
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
                types.push(Value::I32(if header.tokenizer.is_special(id) { 3 } else { 1 }));
                tokens.push(token);
            }
            None => {
                types.push(Value::I32(5));
                tokens.push(format!("[unused{id}]"));
            }
        }
    }
    let u32_of = |n: usize| Value::U32(n as u32);
    let mut metadata: Vec<(&str, Value)> = vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String(header.name.into())),
        ("general.alignment", Value::U32(32)),
        ("llama.block_count", u32_of(c.num_layers)),
        ("llama.context_length", u32_of(c.max_position_embeddings)),
        ("llama.embedding_length", u32_of(c.hidden_size)),
        ("llama.feed_forward_length", u32_of(c.intermediate_size)),
        ("llama.attention.head_count", u32_of(c.num_heads)),
        ("llama.attention.head_count_kv", u32_of(c.num_kv_heads)),
        ("llama.attention.key_length", u32_of(c.head_dim)),
        ("llama.attention.value_length", u32_of(c.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(c.rms_norm_eps as f32)),
        ("llama.rope.freq_base", Value::F32(c.rope.theta as f32)),
        ("llama.rope.dimension_count", u32_of(c.rope.rotary_dim)),
        ("llama.vocab_size", u32_of(c.vocab_size)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", strings(merges)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    if let Some(id) = header.bos {
        metadata.push(("tokenizer.ggml.bos_token_id", Value::U32(id)));
    }
    if let Some(id) = header.eos {
        metadata.push(("tokenizer.ggml.eos_token_id", Value::U32(id)));
    }
    if let Some(template) = header.chat_template {
        metadata.push(("tokenizer.chat_template", Value::String(template.into())));
    }
    let mut tensors = Vec::new();
    for name in weights.names() {
        let Some(stored) = gguf_name(&name) else { continue };
        if c.tie_word_embeddings && name == "lm_head.weight" {
            continue;
        }
        let mut tensor = weights.tensor(&name)?.to_dtype(candle_core::DType::F32)?;
        if name.contains("q_proj") {
            tensor = rotate_halves(&tensor, c.num_heads, false)?;
        } else if name.contains("k_proj") {
            tensor = rotate_halves(&tensor, c.num_kv_heads, false)?;
        }
        let width = tensor.dims().last().copied().unwrap_or(0);
        let dtype = if tensor.rank() < 2 {
            GgmlDType::F32
        } else if width % kind.block_size() == 0 {
            kind
        } else if width % GgmlDType::Q8_0.block_size() == 0 {
            GgmlDType::Q8_0
        } else {
            GgmlDType::F32
        };
        tensors.push((stored, QTensor::quantize(&tensor, dtype)?));
    }
    let mut bytes = Cursor::new(Vec::new());
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut bytes, &metadata, &tensors)?;
    let temporary = path.with_extension("partial");
    std::fs::write(&temporary, bytes.into_inner())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| ModelError::Io { path: path.into(), source })
}
