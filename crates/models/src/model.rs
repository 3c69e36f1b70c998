//! A checkpoint made ready: decoder, tokenizer, chat template and what ends a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::adapter::Adapted;
use crate::chat::{ChatTemplate, FALLBACK_TEMPLATE, TemplateTokens};
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, DecoderOptions};
use crate::error::ModelError;
use crate::gguf::{Bytes, Gguf};
use crate::hf_config;
use crate::tokenizer::Tokenizer;
use crate::weights::{SafetensorsFolder, WeightSource, read};

/// Where a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// A Hugging Face folder or a `.gguf` file.
    pub path: PathBuf,
    /// A PEFT adapter to merge.
    pub adapter: Option<PathBuf>,
}

/// How to load it.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: Device,
    /// How weights are kept; `None` takes f32 on the CPU and bf16 elsewhere.
    pub dtype: Option<DType>,
    /// Weights become variables.
    pub trainable: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: None, trainable: false }
    }
}

/// A loaded model.
pub struct Model {
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, or the fallback.
    pub chat: ChatTemplate,
    /// True if the checkpoint had no template of its own.
    pub chat_is_fallback: bool,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// SHA-256 (hex) of the weight files and the adapter.
    pub sha256: String,
}

/// Everything but the weights.
struct Parts {
    config: DecoderConfig,
    tokenizer: Tokenizer,
    chat: Option<String>,
    tokens: TemplateTokens,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Model {
    /// Loads a folder or a GGUF file.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> Result<Self, ModelError> {
        let hash = sha256_of(source)?;
        if is_gguf(&source.path) {
            let gguf = Gguf::open(&source.path)?;
            return Self::build(gguf_parts(&gguf)?, &adapted(gguf, source)?, options, hash, &source.path);
        }
        let parts = folder_parts(&source.path)?;
        let weights = adapted(SafetensorsFolder::open(&source.path)?, source)?;
        Self::build(parts, &weights, options, hash, &source.path)
    }

    /// Loads a GGUF file that is part of the binary.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_gguf_bytes(name: &str, bytes: &'static [u8], options: &LoadOptions) -> Result<Self, ModelError> {
        let path = Path::new(name);
        let data: Bytes = Arc::new(bytes);
        let gguf = Gguf::from_bytes(path, data)?;
        let hash = hex(&Sha256::digest(bytes));
        Self::build(gguf_parts(&gguf)?, &gguf, options, hash, path)
    }

    fn build(
        parts: Parts,
        weights: &dyn WeightSource,
        options: &LoadOptions,
        sha256: String,
        path: &Path,
    ) -> Result<Self, ModelError> {
        if parts.tokenizer.size() > parts.config.vocab_size {
            return Err(ModelError::Vocabulary {
                tokenizer: parts.tokenizer.size(),
                embedding: parts.config.vocab_size,
            });
        }
        let dtype = options.dtype.unwrap_or(if options.device.is_cpu() { DType::F32 } else { DType::BF16 });
        let decoder_options =
            DecoderOptions { device: options.device.clone(), dtype, trainable: options.trainable };
        let decoder = Decoder::load(&parts.config, weights, &decoder_options)?;
        let chat_is_fallback = parts.chat.is_none();
        let source = parts.chat.as_deref().unwrap_or(FALLBACK_TEMPLATE);
        let chat = ChatTemplate::new(source, parts.tokens)
            .map_err(|e| ModelError::invalid(path, format!("chat template: {e}")))?;
        Ok(Self {
            decoder,
            tokenizer: parts.tokenizer,
            chat,
            chat_is_fallback,
            eos: parts.eos,
            bos: parts.bos,
            sha256,
        })
    }

    /// Longest sequence in tokens.
    pub fn context(&self) -> usize {
        self.decoder.config().max_position_embeddings
    }

    /// Ids of plain text, with the one beginning-of-sequence token that the model wants, if it wants one.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let bare = self.tokenizer.encode(text)?;
        match self.bos {
            // The text brought its own.
            Some(bos) if bare.first() == Some(&bos) => Ok(bare),
            _ => self.tokenizer.encode_with_special(text),
        }
    }

    /// Ids of a rendered chat prompt: never more than the one BOS that the template wrote.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode(rendered)
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

fn adapted<W: WeightSource + 'static>(
    weights: W,
    source: &ModelSource,
) -> Result<Box<dyn WeightSource>, ModelError> {
    Ok(match &source.adapter {
        Some(adapter) => Box::new(Adapted::open(weights, adapter)?),
        None => Box::new(weights),
    })
}

impl WeightSource for Box<dyn WeightSource> {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }
    fn tensor(&self, name: &str) -> Result<candle_core::Tensor, ModelError> {
        (**self).tensor(name)
    }
}

fn gguf_parts(gguf: &Gguf) -> Result<Parts, ModelError> {
    let tokenizer = gguf.tokenizer()?;
    let (bos, eos, add_bos) = gguf.special_ids();
    let spelled = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let tokens = TemplateTokens {
        bos_token: spelled(bos),
        eos_token: spelled(eos.first().copied()),
        ..TemplateTokens::default()
    };
    let tokenizer = match (add_bos, bos, spelled(bos)) {
        (true, Some(id), Some(token)) => tokenizer.with_bos(id, &token)?,
        _ => tokenizer,
    };
    Ok(Parts {
        config: gguf.config()?,
        chat: gguf.chat_template().map(str::to_string),
        tokenizer,
        tokens,
        bos,
        eos,
    })
}

fn json(path: &Path) -> Result<Value, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|e| ModelError::invalid(path, e))
}

fn folder_parts(folder: &Path) -> Result<Parts, ModelError> {
    let path = folder.join("config.json");
    let value = json(&path)?;
    let config = hf_config::parse(&value, &path)?;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
    let optional = |name: &str| -> Result<Value, ModelError> {
        let path = folder.join(name);
        if path.exists() { json(&path) } else { Ok(Value::Null) }
    };
    let (about, generation) = (optional("tokenizer_config.json")?, optional("generation_config.json")?);
    let text = |key: &str| -> Option<String> {
        about[key].as_str().or_else(|| about[key]["content"].as_str()).map(str::to_string)
    };
    let tokens = TemplateTokens {
        bos_token: text("bos_token"),
        eos_token: text("eos_token"),
        pad_token: text("pad_token"),
        unk_token: text("unk_token"),
    };
    let ids = |v: &Value| -> Vec<u32> {
        match v {
            Value::Array(list) => list.iter().filter_map(Value::as_u64).map(|n| n as u32).collect(),
            other => other.as_u64().map(|n| n as u32).into_iter().collect(),
        }
    };
    // All that any file calls an end of text ends it: generation_config.json is not always the complete one.
    let mut eos = ids(&generation["eos_token_id"]);
    eos.extend(ids(&value["eos_token_id"]));
    eos.extend(tokens.eos_token.as_deref().and_then(|t| tokenizer.id(t)));
    let mut seen = std::collections::BTreeSet::new();
    eos.retain(|id| seen.insert(*id));
    let bos = ids(&value["bos_token_id"])
        .first()
        .copied()
        .or_else(|| tokens.bos_token.as_deref().and_then(|t| tokenizer.id(t)));
    let separate = folder.join("chat_template.jinja");
    let chat = if separate.exists() {
        Some(String::from_utf8_lossy(&read(&separate)?).into_owned())
    } else {
        match &about["chat_template"] {
            Value::String(source) => Some(source.clone()),
            Value::Array(named) => named
                .iter()
                .find(|t| t["name"] == "default")
                .and_then(|t| t["template"].as_str())
                .map(str::to_string),
            _ => None,
        }
    };
    Ok(Parts { config, tokenizer, chat, tokens, bos, eos })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hash of the weight files, in the order of their names, and of the adapter.
fn sha256_of(source: &ModelSource) -> Result<String, ModelError> {
    let mut files = if is_gguf(&source.path) {
        vec![source.path.clone()]
    } else {
        SafetensorsFolder::files(&source.path)?
    };
    if let Some(adapter) = &source.adapter {
        files.push(adapter.join("adapter_model.safetensors"));
    }
    let mut hasher = Sha256::new();
    for path in files {
        let map = kernels::mmap(&path).map_err(|source| ModelError::Io { path, source })?;
        hasher.update(&*map);
    }
    Ok(hex(&hasher.finalize()))
}

/// What `cycle models show` tells about a checkpoint without loading its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The decoder.
    pub config: DecoderConfig,
    /// Weights.
    pub parameters: u64,
    /// Bytes on disk.
    pub file_bytes: u64,
    /// Tokens of the tokenizer.
    pub tokens: usize,
    /// True if it has a chat template of its own.
    pub chat: bool,
}

impl Description {
    /// Bytes of weights in memory at so many bytes a weight, and of the cache for a whole context of one sequence.
    pub fn memory(&self, bytes_per_weight: u64) -> (u64, u64) {
        let c = &self.config;
        let cache = 2 * 4 * c.num_layers * c.num_kv_heads * c.head_dim * c.max_position_embeddings;
        (self.parameters * bytes_per_weight, cache as u64)
    }
}

/// Reads what a checkpoint says of itself.
///
/// # Errors
/// As [`Model::load`], for everything but the weights' values.
pub fn describe(path: &Path) -> Result<Description, ModelError> {
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let (parts, file_bytes) = if is_gguf(path) {
        (gguf_parts(&Gguf::open(path)?)?, size(path))
    } else {
        let files = SafetensorsFolder::files(path)?;
        (folder_parts(path)?, files.iter().map(|f| size(f)).sum())
    };
    let c = &parts.config;
    let (q, kv) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
    let block = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size + 2);
    let tables = if c.tie_word_embeddings { 1 } else { 2 };
    let parameters = (c.num_layers * block + tables * c.vocab_size * c.hidden_size + c.hidden_size) as u64;
    let tokens = parts.tokenizer.size();
    Ok(Description { chat: parts.chat.is_some(), tokens, parameters, file_bytes, config: parts.config })
}

/// Everything that is wrong with a checkpoint: all tensors are read, not only the first bad one.
pub fn verify(source: &ModelSource) -> Vec<ModelError> {
    let mut faults = Vec::new();
    let parts = if is_gguf(&source.path) {
        Gguf::open(&source.path).and_then(|g| Ok((gguf_parts(&g)?, adapted(g, source)?)))
    } else {
        folder_parts(&source.path)
            .and_then(|p| Ok((p, adapted(SafetensorsFolder::open(&source.path)?, source)?)))
    };
    let (parts, weights) = match parts {
        Ok(found) => found,
        Err(e) => return vec![e],
    };
    if parts.tokenizer.size() > parts.config.vocab_size {
        faults.push(ModelError::Vocabulary {
            tokenizer: parts.tokenizer.size(),
            embedding: parts.config.vocab_size,
        });
    }
    if let Some(chat) = &parts.chat {
        if let Err(e) = ChatTemplate::new(chat, parts.tokens.clone()) {
            faults.push(e);
        }
    }
    for name in weights.names() {
        let finite = weights.tensor(&name).and_then(|t| {
            let total = t.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
            if total.is_finite() { Ok(()) } else { Err(ModelError::NotFinite(name.clone())) }
        });
        faults.extend(finite.err());
    }
    if faults.is_empty() {
        let options = DecoderOptions { device: Device::Cpu, dtype: DType::BF16, trainable: false };
        faults.extend(Decoder::load(&parts.config, &weights, &options).err());
    }
    faults
}
