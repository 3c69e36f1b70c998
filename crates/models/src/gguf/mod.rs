//! GGUF files: configuration, tensors, tokenizer and template from one file; and writing one.

mod names;
mod vocabulary;
mod write;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use kernels::BlockFormat;

use crate::config::{Architecture, DecoderConfig, MOST_LAYERS, Rope, RopeScaling};
use crate::error::ModelError;
use crate::weights::WeightSource;
use names::hf_name;

pub use write::{GgufHeader, Written, write, write_mixed};

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
        let end = end_of_tensors(&content)
            .ok_or_else(|| ModelError::invalid(path, "has a tensor of impossible size"))?;
        if end > data.len() as u64 {
            return Err(ModelError::invalid(
                path,
                format!("is truncated: {} bytes of {end}; fetch it again", data.len()),
            ));
        }
        let architecture = content.metadata.get("general.architecture").and_then(|v| v.to_string().ok());
        let fused = architecture.is_some_and(|a| a == "phi3");
        let names =
            content.tensor_infos.keys().filter_map(|n| Some((hf_name(n, fused)?, n.clone()))).collect();
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
        let head_dim = self.count(&key("attention.key_length")).unwrap_or(hidden_size / num_heads);
        let num_layers = need("block_count")?;
        if num_layers > MOST_LAYERS {
            return Err(ModelError::invalid(&self.path, format!("{num_layers} layers")));
        }
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
        let config = DecoderConfig {
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
        };
        match config.nonsense() {
            Some(what) => Err(ModelError::invalid(&self.path, what)),
            None => Ok(config),
        }
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
            Some(other) => {
                Err(ModelError::invalid(&self.path, format!("rope scaling {other:?} is not supported")))
            }
        }
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

    fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        let stored = self.names.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        let info = self.content.tensor_infos.get(stored);
        Ok(info.ok_or_else(|| ModelError::MissingTensor(name.to_string()))?.shape.dims().to_vec())
    }

    /// Whatever is stored, it is read as f32.
    fn dtype(&self, _name: &str) -> Result<DType, ModelError> {
        Ok(DType::F32)
    }

    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        let info = self.content.tensor_infos.get(self.names.get(name)?)?;
        let &[_, columns] = info.shape.dims() else { return None };
        let format = match info.ggml_dtype {
            GgmlDType::Q8_0 => BlockFormat::Q8_0,
            GgmlDType::Q4_0 => BlockFormat::Q4_0,
            GgmlDType::Q4_1 => BlockFormat::Q4_1,
            _ => return None,
        };
        (columns % BlockFormat::LENGTH == 0).then_some(format)
    }

    fn blocks(&self, name: &str) -> Result<Option<(BlockFormat, Vec<u8>)>, ModelError> {
        let stored = self.names.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        let (Some(info), Some(format)) = (self.content.tensor_infos.get(stored), self.block_format(name)) else {
            return Ok(None);
        };
        let &[rows, columns] = info.shape.dims() else { return Ok(None) };
        let first = (self.content.tensor_data_offset + info.offset) as usize;
        let length = rows * columns / BlockFormat::LENGTH * format.bytes();
        let bytes = (*self.bytes).as_ref().get(first..first + length).map(<[u8]>::to_vec);
        let bytes = bytes.ok_or_else(|| ModelError::invalid(&self.path, format!("{name} is cut off")))?;
        let heads = match self.heads {
            Some((heads, _)) if name.contains("q_proj") => heads,
            Some((_, heads)) if name.contains("k_proj") => heads,
            _ => return Ok(Some((format, bytes))),
        };
        // The same order of rows as in `tensor`: whole rows move.
        let (row, half) = (bytes.len() / rows, rows / heads / 2);
        let mut turned = Vec::with_capacity(bytes.len());
        for (head, side, i) in
            (0..heads).flat_map(|h| (0..2).flat_map(move |s| (0..half).map(move |i| (h, s, i))))
        {
            let from = ((head * half + i) * 2 + side) * row;
            turned.extend_from_slice(&bytes[from..from + row]);
        }
        Ok(Some((format, turned)))
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

/// Where the last tensor ends; `None` if that is beyond what a file can hold.
fn end_of_tensors(content: &Content) -> Option<u64> {
    content.tensor_infos.values().try_fold(0u64, |end, info| {
        let elements = info.shape.dims().iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
        let (block, size) = (info.ggml_dtype.block_size() as u64, info.ggml_dtype.type_size() as u64);
        let bytes = (elements / block).checked_mul(size)?;
        Some(end.max(content.tensor_data_offset.checked_add(info.offset)?.checked_add(bytes)?))
    })
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
