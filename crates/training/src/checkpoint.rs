//! Checkpoints: whole or absent. A folder is filled under another name, synced and renamed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use models::{Decoder, Model};
use serde::{Deserialize, Serialize};

use crate::adamw::{AdamW, Moments};
use crate::error::TrainError;
use crate::folder::Companions;

/// Where a training stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Rows of the data consumed, over all epochs.
    pub(crate) consumed: usize,
}

/// Writes `tensors` in the layout that Python's loaders read.
pub(crate) fn write_tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| {
        let source = match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other.to_string()),
        };
        TrainError::Io { path: path.into(), source }
    })
}

fn variables(decoder: &Decoder) -> HashMap<String, Tensor> {
    decoder.variables().iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect()
}

/// Fills a folder through `fill` and puts it in place at once.
fn whole(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
    let partial = folder.with_extension("partial");
    let io = |p: &Path| TrainError::io(p.to_path_buf());
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io(&partial))?;
    }
    fs::create_dir_all(&partial).map_err(io(&partial))?;
    if let Err(e) = fill(&partial) {
        // What cannot be finished does not keep the room.
        let _ = fs::remove_dir_all(&partial);
        return Err(e);
    }
    for entry in fs::read_dir(&partial).map_err(io(&partial))? {
        let path = entry.map_err(io(&partial))?.path();
        fs::File::open(&path).and_then(|f| f.sync_all()).map_err(io(&path))?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(io(folder))?;
    }
    fs::rename(&partial, folder).map_err(io(folder))
}

pub(crate) fn save(
    out: &Path,
    decoder: &Decoder,
    adamw: &AdamW,
    position: Position,
    keep: usize,
) -> Result<(), TrainError> {
    let folder = out.join(format!("checkpoint-{}", position.step));
    whole(&folder, |folder| {
        write_tensors(&folder.join("model.safetensors"), &variables(decoder))?;
        let mut state = HashMap::new();
        for (name, moments) in &adamw.moments {
            let n = moments.first.len();
            state.insert(format!("first.{name}"), Tensor::from_slice(&moments.first, n, &Device::Cpu)?);
            state.insert(format!("second.{name}"), Tensor::from_slice(&moments.second, n, &Device::Cpu)?);
        }
        write_tensors(&folder.join("optimizer.safetensors"), &state)?;
        let path = folder.join("position.json");
        let text = serde_json::to_string(&position).unwrap_or_default();
        fs::write(&path, text).map_err(TrainError::io(&path))
    })?;
    for old in list(out).into_iter().rev().skip(keep.max(1)) {
        fs::remove_dir_all(&old.1).map_err(TrainError::io(&old.1))?;
    }
    Ok(())
}

/// Whole checkpoints, oldest first.
pub(crate) fn list(out: &Path) -> Vec<(usize, PathBuf)> {
    let mut found: Vec<(usize, PathBuf)> = fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let step = e.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            e.path().join("position.json").exists().then(|| (step, e.path()))
        })
        .collect();
    found.sort();
    found
}

/// Restores weights, moments and position.
pub(crate) fn restore(folder: &Path, decoder: &Decoder) -> Result<(AdamW, Position), TrainError> {
    let load = |name: &str| {
        candle_core::safetensors::load(folder.join(name), &Device::Cpu).map_err(|e| {
            let why = e.to_string().lines().next().unwrap_or_default().to_string();
            TrainError::Recipe(format!(
                "{}: {name} cannot be read ({why}); delete this checkpoint to go on from the one before",
                folder.display()
            ))
        })
    };
    let tensors = load("model.safetensors")?;
    for (name, variable) in decoder.variables() {
        let tensor = tensors.get(name).ok_or_else(|| {
            TrainError::Recipe(format!("{}: has no {name}; another model?", folder.display()))
        })?;
        variable.set(&tensor.to_device(variable.device())?)?;
    }
    let mut adamw = AdamW::default();
    for (name, tensor) in candle_core::safetensors::load(folder.join("optimizer.safetensors"), &Device::Cpu)?
    {
        let Some((which, name)) = name.split_once('.') else { continue };
        let moments = adamw.moments.entry(name.to_string()).or_insert_with(Moments::default);
        let values = tensor.to_vec1::<f32>()?;
        if which == "first" {
            moments.first = values;
        } else {
            moments.second = values;
        }
    }
    let path = folder.join("position.json");
    let text = fs::read(&path).map_err(TrainError::io(&path))?;
    let position: Position =
        serde_json::from_slice(&text).map_err(|e| TrainError::Recipe(format!("{}: {e}", path.display())))?;
    adamw.step = position.step;
    Ok((adamw, position))
}

/// Files of a checkpoint folder that say how to use it, copied to what comes out of it.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Writes `final/`: a Hugging Face folder with the weights as they are now and the small files of `start`; those are
/// made anew where it was a GGUF file.
pub(crate) fn finish(out: &Path, start: &Path, model: &Model) -> Result<PathBuf, TrainError> {
    let folder = out.join("final");
    whole(&folder, |folder| {
        write_tensors(&folder.join("model.safetensors"), &variables(&model.decoder))?;
        if !start.is_dir() {
            return Companions::of(model).write(folder);
        }
        for name in COMPANIONS {
            let from = start.join(name);
            if from.exists() {
                fs::copy(&from, folder.join(name)).map_err(TrainError::io(&from))?;
            }
        }
        Ok(())
    })?;
    Ok(folder)
}
