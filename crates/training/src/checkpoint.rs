//! Checkpoints: whole or absent. A folder is filled under another name, synced and renamed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor, Var};
use models::{AdapterFiles, ModelSource, TrainableDecoder};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::adamw::{AdamW, Moments};
use crate::error::TrainError;
use crate::folder::{Companions, name_dtype};
use crate::network::{Network, Reference};
use crate::objectives::State;
use crate::recipe::{Kind, Recipe};
use crate::tensors::{each_tensor, write_tensors, write_values};

/// Where a training stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Rows of the data consumed, over all epochs.
    pub(crate) consumed: usize,
    /// What the objective remembers (BCO's running shift).
    #[serde(default)]
    pub(crate) state: State,
    /// Hashes of the model and the rows that this training began with.
    #[serde(default)]
    pub(crate) model_sha256: String,
    /// See [`Self::model_sha256`].
    #[serde(default)]
    pub(crate) data_sha256: String,
    /// What else decides the numbers: settings of the recipe by their names, fingerprints of model and reference.
    #[serde(default)]
    pub(crate) made_with: BTreeMap<String, String>,
}

/// Settings that a training may change on the way: paths, whose files have hashes, and what leaves the numbers alone. A
/// training may be made longer; the schedule is then that of the new length.
const FREE: [&str; 13] = [
    "out",
    "model",
    "reference_model",
    "recompute",
    "data.train",
    "data.eval",
    "lora.init",
    "save.every",
    "save.keep",
    "optimizer.max_steps",
    "optimizer.num_train_epochs",
    // How the rows of a step fall into micro-batches changes no number; how many there are does, and is noted below.
    "optimizer.batch_size",
    "optimizer.gradient_accumulation_steps",
];

/// Settings that may change on the way, which a note says: a loss that left the numbers wants a lower rate, some trainings
/// a second stage.
const NOTED: [&str; 2] = ["optimizer.learning_rate", "objective.loss_on"];

/// The settings of a recipe by their dotted names.
pub(crate) fn settings(recipe: &Recipe) -> Result<BTreeMap<String, String>, TrainError> {
    fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, into);
            }),
            other => drop(into.insert(prefix.into(), other.to_string())),
        }
    }
    let table = toml::Value::try_from(recipe).map_err(|e| TrainError::Recipe(e.to_string()))?;
    let mut all = BTreeMap::new();
    flatten("", &table, &mut all);
    all.retain(|name, _| !FREE.contains(&name.as_str()));
    let o = &recipe.optimizer;
    all.insert("rows of a step".into(), (o.batch_size * o.gradient_accumulation_steps).to_string());
    Ok(all)
}

impl Position {
    /// Refuses to go on from a checkpoint that began with another model or other rows: its adapter or its place in the
    /// rows would mean nothing. Checkpoints that say nothing of it are older.
    pub(crate) fn belongs(&self, start: &Self, folder: &Path) -> Result<Vec<String>, TrainError> {
        for (what, then, now) in [
            ("model", &self.model_sha256, &start.model_sha256),
            ("training file", &self.data_sha256, &start.data_sha256),
        ] {
            if !then.is_empty() && then != now {
                let short = |hash: &str| hash.chars().take(12).collect::<String>();
                return Err(TrainError::Recipe(format!(
                    "{}: was made with another {what} (sha256 {}, now {}); give the one it began with, or another --out",
                    folder.display(),
                    short(then),
                    short(now)
                )));
            }
        }
        let mut notes = Vec::new();
        if self.made_with.is_empty() {
            return Ok(notes);
        }
        let absent = "not set".to_string();
        for name in self.made_with.keys().chain(start.made_with.keys()) {
            let of = |position: &Self| position.made_with.get(name).unwrap_or(&absent).clone();
            let (then, now) = (of(self), of(start));
            if then != now && NOTED.contains(&name.as_str()) {
                let note = format!("{name} is {now} from here on, it was {then}");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            } else if then != now {
                let short = |text: String| text.chars().take(40).collect::<String>();
                return Err(TrainError::Recipe(format!(
                    "{}: was made with {name} = {}, now it is {}; give what it began with, or another --out",
                    folder.display(),
                    short(then),
                    short(now)
                )));
            }
        }
        Ok(notes)
    }
}

fn variables(decoder: &TrainableDecoder) -> HashMap<String, Tensor> {
    decoder.variables().iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect()
}

/// `FOLDER.ending`, whatever dots the folder's own name has.
pub(crate) fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    folder.with_file_name(name)
}

/// Removes a folder so that no half of it is ever found under its name.
pub(crate) fn discard(folder: &Path) -> Result<(), TrainError> {
    let old = beside(folder, ".old");
    if old.exists() {
        fs::remove_dir_all(&old).map_err(TrainError::io(&old))?;
    }
    fs::rename(folder, &old).map_err(TrainError::io(folder))?;
    fs::remove_dir_all(&old).map_err(TrainError::io(&old))
}

/// Fills a folder through `fill` and puts it in place at once.
pub(crate) fn whole(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (partial, old) = (beside(folder, ".partial"), beside(folder, ".old"));
    let io = |p: &Path| TrainError::io(p.to_path_buf());
    // What a kill left behind.
    for left in [&partial, &old] {
        if left.exists() {
            fs::remove_dir_all(left).map_err(io(left))?;
        }
    }
    fs::create_dir_all(&partial).map_err(io(&partial))?;
    if let Err(e) = fill(&partial) {
        // What cannot be finished does not keep the room.
        let _ = fs::remove_dir_all(&partial);
        return Err(e);
    }
    for entry in fs::read_dir(&partial).map_err(io(&partial))? {
        let path = entry.map_err(io(&partial))?.path();
        if path.is_file() {
            fs::File::open(&path).and_then(|f| f.sync_all()).map_err(io(&path))?;
        }
    }
    let replaces = folder.exists();
    if replaces {
        fs::rename(folder, &old).map_err(io(folder))?;
    }
    fs::rename(&partial, folder).map_err(io(folder))?;
    // The new name reaches the disk with its folder; systems that cannot sync one have nothing to say.
    if let Some(parent) = folder.parent() {
        let _ = fs::File::open(parent).and_then(|f| f.sync_all());
    }
    if replaces { fs::remove_dir_all(&old).map_err(io(&old)) } else { Ok(()) }
}

pub(crate) fn save(
    out: &Path,
    network: &Network,
    adamw: &AdamW,
    position: &Position,
    keep: usize,
) -> Result<(), TrainError> {
    let folder = out.join(format!("checkpoint-{}", position.step));
    whole(&folder, |folder| {
        write_tensors(&folder.join("model.safetensors"), &variables(network.decoder()))?;
        if let Reference::Own(reference) = &network.reference {
            if reference.moves() {
                write_tensors(&folder.join("reference.safetensors"), &variables(reference))?;
            }
        }
        let lists = adamw.moments.iter().flat_map(|(name, m)| {
            [(format!("first.{name}"), m.first.as_slice()), (format!("second.{name}"), m.second.as_slice())]
        });
        write_values(&folder.join("optimizer.safetensors"), lists)?;
        let path = folder.join("position.json");
        let text = serde_json::to_string(&position).unwrap_or_default();
        fs::write(&path, text).map_err(TrainError::io(&path))
    })?;
    for old in list(out).into_iter().rev().skip(keep.max(1)) {
        discard(&old.1)?;
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

/// Restores weights, moments and position; `start` is what a new training would begin with.
pub(crate) fn restore(
    folder: &Path,
    network: &Network,
    start: Position,
) -> Result<(AdamW, Position, Vec<String>), TrainError> {
    let bad = |name: &str, why: &str| {
        TrainError::Recipe(format!(
            "{}: {name} cannot be read ({why}); delete this checkpoint to go on from the one before",
            folder.display()
        ))
    };
    let path = folder.join("position.json");
    let text = fs::read(&path).map_err(TrainError::io(&path))?;
    let position: Position =
        serde_json::from_slice(&text).map_err(|e| bad("position.json", &e.to_string()))?;
    let notes = position.belongs(&start, folder)?;
    let position =
        Position { state: position.state, step: position.step, consumed: position.consumed, ..start };
    let set = |decoder: &TrainableDecoder, name: &str| {
        let mut missing: BTreeMap<&String, &Var> = decoder.variables().iter().collect();
        let path = folder.join(name);
        each_tensor(
            &path,
            |why| bad(name, why),
            |name, tensor| {
                let name = name.to_string();
                if missing.get(&name).is_some_and(|v| v.dims() == tensor.dims()) {
                    if let Some(variable) = missing.remove(&name) {
                        variable.set(&tensor.to_device(variable.device())?)?;
                    }
                }
                Ok(())
            },
        )?;
        match missing.keys().next() {
            None => Ok(()),
            Some(name) => Err(TrainError::Recipe(format!(
                "{}: has no {name} of this shape; another model?",
                folder.display()
            ))),
        }
    };
    set(network.decoder(), "model.safetensors")?;
    if let Reference::Own(reference) = &network.reference {
        if reference.moves() {
            set(reference, "reference.safetensors")?;
        }
    }
    let mut adamw = AdamW::default();
    let optimizer = "optimizer.safetensors";
    each_tensor(
        &folder.join(optimizer),
        |why| bad(optimizer, why),
        |name, tensor| {
            let Some((which, name)) = name.split_once('.') else { return Ok(()) };
            let moments = adamw.moments.entry(name.to_string()).or_insert_with(Moments::default);
            let values = tensor.to_vec1::<f32>()?;
            if which == "first" {
                moments.first = values;
            } else {
                moments.second = values;
            }
            Ok(())
        },
    )?;
    for (name, moments) in &adamw.moments {
        let length = network.decoder().variables().get(name).map_or(0, |v| v.elem_count());
        if moments.first.len() != length || moments.second.len() != length {
            let why = format!(
                "{name} has moments of {} and {} numbers, not {length}",
                moments.first.len(),
                moments.second.len()
            );
            return Err(bad(optimizer, &why));
        }
    }
    adamw.step = position.step;
    Ok((adamw, position, notes))
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

/// Writes `final/` from the weights as they are now: a Hugging Face folder with the small files of `start` (made anew where
/// that was a GGUF file), or a PEFT adapter. A reward model's head goes with it.
pub(crate) fn finish(out: &Path, recipe: &Recipe, network: &Network) -> Result<PathBuf, TrainError> {
    let folder = out.join("final");
    let start = ModelSource::parse(&recipe.model);
    let reward = recipe.kind == Kind::Reward;
    whole(&folder, |folder| {
        let mut tensors = variables(network.decoder());
        tensors.retain(|name, _| !name.starts_with("degree_head"));
        let write = |name: &str, value: &serde_json::Value| {
            let path = folder.join(name);
            let text = serde_json::to_string_pretty(value).map_err(|e| TrainError::Recipe(e.to_string()))?;
            fs::write(&path, text).map_err(TrainError::io(&path))
        };
        if reward {
            write("reward.json", &json!({"schema": "cycle.reward/1", "objective": recipe.objective}))?;
        }
        if let Some(lora) = network.decoder().lora() {
            let is_head = |n: &&String| !n.contains(".lora_");
            let heads: Vec<String> = tensors.keys().filter(is_head).cloned().collect();
            for name in &heads {
                if let Some(tensor) = tensors.remove(name) {
                    tensors.insert(format!("base_model.model.{name}"), tensor);
                }
            }
            write_tensors(&folder.join("adapter_model.safetensors"), &tensors)?;
            let modules: Vec<&str> = heads.iter().filter_map(|n| n.strip_suffix(".weight")).collect();
            if let Some(base) = &network.base {
                base.write(folder)?;
            }
            let task = if reward { "SEQ_CLS" } else { "CAUSAL_LM" };
            return write("adapter_config.json", &AdapterFiles::config(lora, &recipe.model, task, &modules));
        }
        if !network.decoder().moves() {
            // Only a head moved: the folder still holds the whole model.
            for (name, tensor) in models::tensors_of(&start)? {
                tensors.entry(name).or_insert(tensor);
            }
        }
        write_tensors(&folder.join("model.safetensors"), &tensors)?;
        if start.path.is_dir() {
            copy_companions(&start.path, folder)?;
        } else {
            Companions::of(&network.model).write(folder)?;
        }
        name_dtype(folder, tensors.get("model.embed_tokens.weight").map_or(DType::F32, Tensor::dtype))
    })?;
    Ok(folder)
}

/// Copies the small files of a Hugging Face folder.
pub(crate) fn copy_companions(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in COMPANIONS {
        let file = from.join(name);
        if file.exists() {
            fs::copy(&file, to.join(name)).map_err(TrainError::io(&file))?;
        }
    }
    Ok(())
}
