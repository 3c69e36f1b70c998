//! A checkpoint and its adapter as one Hugging Face folder that transformers loads.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use models::{ModelSource, Outline, WeightSource};
use serde_json::{Value, json};

use crate::checkpoint::{copy_companions, whole};
use crate::error::TrainError;
use crate::folder::{Companions, name_dtype};
use crate::tensors::write_tensors;

/// What [`merge`] wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Files that hold them.
    pub files: usize,
}

/// Writes `out` (whole or not at all): weights with the adapter added, in `dtype` or the base's own types, in files of at
/// most `shard` bytes, and the small files that say how to use them. One file's tensors are held at a time.
///
/// # Errors
/// If the source cannot be read, the adapter does not fit, or the disk is full.
pub fn merge(
    source: &ModelSource,
    out: &Path,
    dtype: Option<DType>,
    shard: u64,
) -> Result<Merged, TrainError> {
    let outline = Outline::of(source)?;
    let weights = source.weights()?;
    let shards = shards(&*weights, dtype, shard)?;
    let bytes = shards.iter().map(|s| s.bytes).sum();
    whole(out, |folder| {
        let mut map = BTreeMap::new();
        for (i, part) in shards.iter().enumerate() {
            let file = match shards.len() {
                1 => "model.safetensors".to_string(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let mut tensors: HashMap<String, Tensor> = HashMap::new();
            for (name, kind) in &part.tensors {
                let tensor = weights.tensor(name)?;
                if !tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                    return Err(models::ModelError::NotFinite(name.clone()).into());
                }
                tensors.insert(name.clone(), tensor.to_dtype(*kind)?);
                map.insert(name.clone(), file.clone());
            }
            write_tensors(&folder.join(file), &tensors)?;
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": bytes}, "weight_map": map});
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        companions(source, &outline, folder)?;
        let first = shards.iter().flat_map(|s| &s.tensors).map(|t| t.1).next();
        name_dtype(folder, first.unwrap_or(DType::F32))
    })?;
    Ok(Merged { tensors: shards.iter().map(|s| s.tensors.len()).sum(), bytes, files: shards.len() })
}

/// Tensors of one file.
#[derive(Default)]
struct Shard {
    tensors: Vec<(String, DType)>,
    bytes: u64,
}

fn shards(weights: &dyn WeightSource, dtype: Option<DType>, most: u64) -> Result<Vec<Shard>, TrainError> {
    let mut shards = vec![Shard::default()];
    for name in weights.names() {
        let kind = match dtype {
            Some(dtype) => dtype,
            None => weights.dtype(&name)?,
        };
        let elements: usize = weights.shape(&name)?.iter().product();
        let bytes = (elements * kind.size_in_bytes()) as u64;
        if shards.last().is_some_and(|s| s.bytes > 0 && s.bytes + bytes > most) {
            shards.push(Shard::default());
        }
        if let Some(shard) = shards.last_mut() {
            shard.tensors.push((name, kind));
            shard.bytes += bytes;
        }
    }
    Ok(shards)
}

/// The small files: the base's own, or made from what a GGUF file says. A reward model's head is described by its adapter.
fn companions(source: &ModelSource, outline: &Outline, folder: &Path) -> Result<(), TrainError> {
    if source.path.is_dir() {
        copy_companions(&source.path, folder)?;
    } else {
        Companions {
            config: &outline.config,
            tokenizer: &outline.tokenizer,
            chat_template: outline.chat.source(),
            bos: outline.bos,
            eos: &outline.eos,
        }
        .write(folder)?;
    }
    for from in source.adapter.iter().chain([&source.path]).map(|f| f.join("reward.json")) {
        if from.exists() {
            fs::copy(&from, folder.join("reward.json")).map_err(TrainError::io(&from))?;
            break;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), TrainError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| TrainError::Recipe(e.to_string()))?;
    fs::write(path, text).map_err(TrainError::io(path))
}
