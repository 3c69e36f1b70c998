//! What a checkpoint says of itself, and all that is wrong with it, without keeping its weights in memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;

use crate::bert::TextEncoder;
use crate::chat::ChatTemplate;
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hash::{sha256_of_bytes, sha256_of_files};
use crate::inventory::{inventory, parameters};
use crate::model::{ModelSource, Parts, adapted, folder_parts, gguf_parts};
use crate::weights::{SafetensorsFolder, WeightSource, read};

/// What `cycle models show` tells about a checkpoint without loading its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The decoder.
    pub config: DecoderConfig,
    /// Weights.
    pub parameters: u64,
    /// Bytes on disk, an adapter included.
    pub file_bytes: u64,
    /// Ids of the tokenizer; `None` if the checkpoint has none.
    pub tokens: Option<usize>,
    /// True if it has a chat template of its own.
    pub chat: bool,
    /// Ids that end a text.
    pub eos: Vec<u32>,
}

/// Bytes a loaded model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Keys and values of one sequence.
    pub cache: u64,
}

impl Description {
    fn new(parts: &Parts, file_bytes: u64) -> Self {
        Self {
            parameters: parameters(&parts.config),
            file_bytes,
            tokens: (!parts.tokenizer.is_missing()).then(|| parts.tokenizer.size()),
            chat: parts.chat.is_some(),
            eos: parts.eos.clone(),
            config: parts.config.clone(),
        }
    }

    /// Memory of the weights kept as `dtype` and of one sequence of `context` tokens (keys and values in f32).
    pub fn memory(&self, dtype: DType, context: usize) -> Memory {
        let c = &self.config;
        let per_token = 2 * 4 * c.num_layers * c.num_kv_heads * c.head_dim;
        Memory {
            weights: self.parameters * dtype.size_in_bytes() as u64,
            cache: per_token as u64 * context.min(c.max_position_embeddings) as u64,
        }
    }
}

/// Reads what a checkpoint says of itself.
///
/// # Errors
/// As [`crate::Model::load`], for everything but the weights' values.
pub fn describe(source: &ModelSource) -> Result<Description, ModelError> {
    let size = |p: &PathBuf| std::fs::metadata(p).map_or(0, |m| m.len());
    let bytes = source.files()?.iter().map(size).sum();
    let parts =
        if source.is_gguf()? { gguf_parts(&Gguf::open(&source.path)?)? } else { folder_parts(&source.path)? };
    Ok(Description::new(&parts, bytes))
}

/// Reads what a GGUF file in memory says of itself.
///
/// # Errors
/// As [`describe`].
pub fn describe_bytes(name: &str, bytes: &'static [u8]) -> Result<Description, ModelError> {
    let gguf = Gguf::from_bytes(Path::new(name), Arc::new(bytes))?;
    Ok(Description::new(&gguf_parts(&gguf)?, bytes.len() as u64))
}

/// The result of [`verify`].
#[derive(Debug, Default)]
pub struct Verification {
    /// Everything that is wrong, the worst first; empty if the checkpoint is whole.
    pub faults: Vec<ModelError>,
    /// What is odd but does no harm.
    pub notes: Vec<String>,
    /// Tensors read.
    pub tensors: usize,
    /// SHA-256 of the weights, if the files can be read.
    pub sha256: Option<String>,
}

/// Checks configuration, tokenizer, template and every value of every tensor, and lists all faults, not only the first.
/// Decoders and text encoders.
pub fn verify(source: &ModelSource) -> Verification {
    let mut report = Verification::default();
    match source.files().and_then(|files| sha256_of_files(&files)) {
        Ok(hash) => report.sha256 = Some(hash),
        Err(e) => {
            report.faults.push(e);
            return report;
        }
    }
    if is_text_encoder(&source.path) {
        match TextEncoder::load(&source.path).and_then(|_| SafetensorsFolder::open(&source.path)) {
            Ok(weights) => report.tensors = weights.names().len(),
            Err(e) => report.faults.push(e),
        }
        return report;
    }
    let opened = source.is_gguf().and_then(|gguf| {
        if gguf {
            let gguf = Gguf::open(&source.path)?;
            Ok((gguf_parts(&gguf)?, adapted(gguf, source)?))
        } else {
            Ok((folder_parts(&source.path)?, adapted(SafetensorsFolder::open(&source.path)?, source)?))
        }
    });
    match opened {
        Ok((parts, weights)) => check(&parts, &weights, &mut report),
        Err(e) => report.faults.push(e),
    }
    report
}

/// As [`verify`], for a GGUF file in memory.
pub fn verify_bytes(name: &str, bytes: &'static [u8]) -> Verification {
    let mut report = Verification { sha256: Some(sha256_of_bytes(bytes)), ..Verification::default() };
    let opened = Gguf::from_bytes(Path::new(name), Arc::new(bytes)).and_then(|g| Ok((gguf_parts(&g)?, g)));
    match opened {
        Ok((parts, weights)) => check(&parts, &weights, &mut report),
        Err(e) => report.faults.push(e),
    }
    report
}

/// True for a folder whose configuration is BERT's.
pub fn is_text_encoder(folder: &Path) -> bool {
    let config = read(&folder.join("config.json")).ok();
    let config: Option<serde_json::Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.is_some_and(|c| c["model_type"] == "bert")
}

fn check(parts: &Parts, weights: &dyn WeightSource, report: &mut Verification) {
    let rows = parts.config.vocab_size;
    if parts.tokenizer.size() > rows {
        report.faults.push(ModelError::Vocabulary { tokenizer: parts.tokenizer.size(), embedding: rows });
    }
    if parts.tokenizer.is_missing() {
        report.notes.push("no tokenizer: prompts can only be given as ids".into());
    }
    match &parts.chat {
        Some(chat) => report.faults.extend(ChatTemplate::new(chat, parts.tokens.clone()).err()),
        None => report.notes.push("no chat template: a ChatML-like one is used".into()),
    }
    if parts.eos.is_empty() {
        report.notes.push("no end-of-sequence token: texts end at their limit of tokens only".into());
    }
    let mut unread: BTreeSet<String> = weights.names().into_iter().collect();
    for (name, expected) in inventory(&parts.config) {
        if !unread.remove(&name) {
            report.faults.push(ModelError::MissingTensor(name));
            continue;
        }
        report.tensors += 1;
        report.faults.extend(check_tensor(weights, &name, &expected).err());
    }
    // Tied heads and rotary tables are often stored though nobody reads them.
    unread.retain(|n| n != "lm_head.weight" && !n.ends_with("rotary_emb.inv_freq"));
    if !unread.is_empty() {
        let first: Vec<&str> = unread.iter().take(3).map(String::as_str).collect();
        report.notes.push(format!("{} tensors are not used ({} …)", unread.len(), first.join(", ")));
    }
}

fn check_tensor(weights: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<(), ModelError> {
    let tensor = weights.tensor(name)?;
    if tensor.dims() != expected {
        let found = tensor.dims().to_vec();
        return Err(ModelError::Shape { name: name.into(), found, expected: expected.to_vec() });
    }
    // NaN and infinity survive a sum.
    if tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
        Ok(())
    } else {
        Err(ModelError::NotFinite(name.into()))
    }
}
