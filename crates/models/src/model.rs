//! A checkpoint made ready: decoder, tokenizer, chat template and what ends a text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::adapter::{Adapted, PlainLora};
use crate::chat::{ChatTemplate, FALLBACK_TEMPLATE, TemplateTokens};
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, DecoderOptions};
use crate::error::ModelError;
use crate::gguf::{Bytes, Gguf};
use crate::hash::{sha256_of_bytes, sha256_of_files};
use crate::hf_config;
use crate::tokenizer::Tokenizer;
use crate::trainable::{TrainableDecoder, TrainableOptions};
use crate::weights::{SafetensorsFolder, WeightSource, read};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// Where a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// A Hugging Face folder or a `.gguf` file.
    pub path: PathBuf,
    /// A PEFT adapter to merge.
    pub adapter: Option<PathBuf>,
}

impl ModelSource {
    /// What a user types: a path, or `PATH+ADAPTER_DIR`. A path that exists as it stands may hold a `+` itself.
    pub fn parse(text: &str) -> Self {
        let whole = PathBuf::from(text);
        match text.rsplit_once('+') {
            Some((path, adapter)) if !whole.exists() && !path.is_empty() && !adapter.is_empty() => {
                Self { path: path.into(), adapter: Some(adapter.into()) }
            }
            _ => Self { path: whole, adapter: None },
        }
    }

    /// True for a file (GGUF), false for a folder.
    pub(crate) fn is_gguf(&self) -> Result<bool, ModelError> {
        let meta = std::fs::metadata(&self.path);
        meta.map(|m| m.is_file()).map_err(|source| ModelError::Io { path: self.path.clone(), source })
    }

    /// The weight files, in the order of their names, and the adapter's.
    ///
    /// # Errors
    /// If there are none, or one that an index names is missing.
    pub fn files(&self) -> Result<Vec<PathBuf>, ModelError> {
        let mut files =
            if self.is_gguf()? { vec![self.path.clone()] } else { SafetensorsFolder::files(&self.path)? };
        files.extend(self.adapter.iter().map(|folder| folder.join("adapter_model.safetensors")));
        Ok(files)
    }

    /// SHA-256 (hex) of the weight files and the adapter: what a loaded [`Model`] of this source is called.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn sha256(&self) -> Result<String, ModelError> {
        sha256_of_files(&self.files()?)
    }

    /// SHA-256 (hex) of all that decides what the model computes: the hash of the weights (as [`Self::sha256`] and
    /// [`Model::sha256`] give it), and what the files beside them say of the decoder and of the adapter's factor.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn fingerprint(&self, weights: &str) -> Result<String, ModelError> {
        let adapter = self.adapter.as_deref().map(PlainLora::read).transpose()?;
        let said = format!("{weights}\n{:?}\n{:?}", config_of(self)?, adapter.map(|a| a.settings));
        Ok(sha256_of_bytes(said.as_bytes()))
    }

    /// Opens the weights by their Hugging Face names, the adapter merged as they are read.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the adapter belongs to another base.
    pub fn weights(&self) -> Result<Box<dyn WeightSource>, ModelError> {
        if self.is_gguf()? {
            adapted(Gguf::open(&self.path)?, self)
        } else {
            adapted(SafetensorsFolder::open(&self.path)?, self)
        }
    }
}

/// How to load it.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: Device,
    /// How weights are kept; `None` takes f32 on the CPU and bf16 elsewhere.
    pub dtype: Option<DType>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: None }
    }
}

/// A loaded model: a [`Decoder`] to run, or a [`TrainableDecoder`].
pub struct Model<D = Decoder> {
    /// The decoder.
    pub decoder: D,
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
pub(crate) struct Parts {
    pub(crate) config: DecoderConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat: Option<String>,
    pub(crate) tokens: TemplateTokens,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
}

impl Parts {
    fn model<D>(self, decoder: D, sha256: String, path: &Path) -> Result<Model<D>, ModelError> {
        let chat_is_fallback = self.chat.is_none();
        let source = self.chat.as_deref().unwrap_or(FALLBACK_TEMPLATE);
        let chat = ChatTemplate::new(source, self.tokens)
            .map_err(|e| ModelError::invalid(path, format!("chat template: {e}")))?;
        Ok(Model {
            decoder,
            tokenizer: self.tokenizer,
            chat,
            chat_is_fallback,
            eos: self.eos,
            bos: self.bos,
            sha256,
        })
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        if self.tokenizer.size() > self.config.vocab_size {
            return Err(ModelError::Vocabulary {
                tokenizer: self.tokenizer.size(),
                embedding: self.config.vocab_size,
            });
        }
        Ok(())
    }
}

impl Model<TrainableDecoder> {
    /// Loads a folder or a GGUF file for training.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn load_trainable(source: &ModelSource, options: TrainableOptions) -> Result<Self, ModelError> {
        let hash = sha256_of_files(&source.files()?)?;
        let (parts, weights) = if source.is_gguf()? {
            let gguf = Gguf::open(&source.path)?;
            (gguf_parts(&gguf)?, adapted(gguf, source)?)
        } else {
            (folder_parts(&source.path)?, source.weights()?)
        };
        parts.check()?;
        let decoder = TrainableDecoder::load(&parts.config, &*weights, options)?;
        parts.model(decoder, hash, &source.path)
    }

    /// Longest sequence in tokens.
    pub fn context(&self) -> usize {
        self.decoder.config().max_position_embeddings
    }
}

impl Model {
    /// Loads a folder or a GGUF file.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> Result<Self, ModelError> {
        let hash = sha256_of_files(&source.files()?)?;
        if source.is_gguf()? {
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
    pub fn from_gguf_bytes(
        name: &str,
        bytes: &'static [u8],
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let path = Path::new(name);
        let data: Bytes = Arc::new(bytes);
        let gguf = Gguf::from_bytes(path, data)?;
        let hash = sha256_of_bytes(bytes);
        Self::build(gguf_parts(&gguf)?, &gguf, options, hash, path)
    }

    fn build(
        parts: Parts,
        weights: &dyn WeightSource,
        options: &LoadOptions,
        sha256: String,
        path: &Path,
    ) -> Result<Self, ModelError> {
        parts.check()?;
        let dtype = options.dtype.unwrap_or(if options.device.is_cpu() { DType::F32 } else { DType::BF16 });
        let decoder_options = DecoderOptions { device: options.device.clone(), dtype };
        let decoder = Decoder::load(&parts.config, weights, &decoder_options)?;
        parts.model(decoder, sha256, path)
    }

    /// Longest sequence in tokens.
    pub fn context(&self) -> usize {
        self.decoder.config().max_position_embeddings
    }

    /// Weights of the decoder.
    pub fn parameters(&self) -> u64 {
        crate::inventory::parameters(self.decoder.config())
    }
}

impl<D> Model<D> {
    /// Ids of plain text, with the one beginning-of-sequence token that the model wants, if it wants one.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode_plain(text)
    }

    /// Ids of a rendered chat prompt: never more than the one BOS that the template wrote.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, ModelError> {
        if self.chat_is_fallback {
            // Our own template writes none; the tokenizer adds it where the model wants one.
            return self.encode_plain(rendered);
        }
        self.tokenizer.encode(rendered)
    }
}

/// The decoder that a checkpoint describes, without its weights.
///
/// # Errors
/// If its description cannot be read.
pub fn config_of(source: &ModelSource) -> Result<DecoderConfig, ModelError> {
    if source.is_gguf()? {
        return Gguf::open(&source.path)?.config();
    }
    let path = source.path.join("config.json");
    hf_config::parse(&json(&path)?, &path)
}

/// The tensors of a checkpoint by their Hugging Face names, none read yet; an adapter is merged as they are.
///
/// # Errors
/// If a file cannot be read.
pub fn open_weights(source: &ModelSource) -> Result<Box<dyn WeightSource>, ModelError> {
    if source.is_gguf()? {
        return adapted(Gguf::open(&source.path)?, source);
    }
    adapted(SafetensorsFolder::open(&source.path)?, source)
}

/// All tensors of a checkpoint by their Hugging Face names, an adapter merged.
///
/// # Errors
/// If a file cannot be read.
pub fn tensors_of(source: &ModelSource) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let weights = source.weights()?;
    weights.names().into_iter().map(|name| weights.tensor(&name).map(|t| (name, t))).collect()
}

pub(crate) fn adapted<W: WeightSource + 'static>(
    weights: W,
    source: &ModelSource,
) -> Result<Box<dyn WeightSource>, ModelError> {
    Ok(match &source.adapter {
        Some(adapter) => Box::new(Adapted::open(weights, adapter)?),
        None => Box::new(weights),
    })
}

pub(crate) fn gguf_parts(gguf: &Gguf) -> Result<Parts, ModelError> {
    let config = gguf.config()?;
    let tokenizer =
        if gguf.has_tokenizer() { gguf.tokenizer()? } else { Tokenizer::of_ids(config.vocab_size)? };
    let (bos, mut eos, add_bos) = gguf.special_ids();
    // Whatever the file calls its end: these marks end a turn, and a model that writes one has finished.
    for mark in ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>"] {
        let id = tokenizer.id(mark).filter(|&id| tokenizer.is_special(id) && !eos.contains(&id));
        eos.extend(id);
    }
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
    Ok(Parts { config, chat: gguf.chat_template().map(str::to_string), tokenizer, tokens, bos, eos })
}

fn json(path: &Path) -> Result<Value, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|e| ModelError::invalid(path, e))
}

pub(crate) fn folder_parts(folder: &Path) -> Result<Parts, ModelError> {
    let path = folder.join("config.json");
    let value = json(&path)?;
    let config = hf_config::parse(&value, &path)?;
    let file = folder.join("tokenizer.json");
    let tokenizer =
        if file.exists() { Tokenizer::from_file(&file)? } else { Tokenizer::of_ids(config.vocab_size)? };
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
