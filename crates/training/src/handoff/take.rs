//! What an engine leaves, brought to where `cycle train` puts its own: `final/` and `metrics.jsonl`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{HandoffError, Job, Method, Plan, events};
use crate::recipe::RewardObjective;

/// What was taken back.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// `final/`: a Hugging Face folder or a PEFT adapter.
    pub weights: PathBuf,
    /// Steps in `metrics.jsonl`.
    pub steps: usize,
}

/// Copies weights, configuration and tokenizer into `final/`, and writes the losses as `metrics.jsonl`.
///
/// # Errors
/// If the engine left no weights, or a file cannot be written.
pub fn take_back(job: &Job, plan: &Plan) -> Result<Taken, HandoffError> {
    let from = job.trained();
    let names = files(&from)?;
    if !names.iter().any(|n| n.ends_with(".safetensors") || n == "adapter_model.bin") {
        return Err(HandoffError::unsupported(
            format!("{}: no weights there", from.display()),
            format!("{} has not come to its end; its log is handoff/log.txt", plan.engine),
        ));
    }
    let (weights, partial) = (job.out.join("final"), job.out.join(".final.partial"));
    // Left by an earlier try.
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).map_err(HandoffError::io(&partial))?;
    for name in names.iter().filter(|n| belongs(n)) {
        fs::copy(from.join(name), partial.join(name)).map_err(HandoffError::io(from.join(name)))?;
    }
    if job.method == Method::Reward {
        // The engines' reward models are scalars of Bradley and Terry's loss.
        let objective = RewardObjective {
            center_rewards_coefficient: job.loss.center_rewards_coefficient.unwrap_or(0.0),
            ..RewardObjective::default()
        };
        let path = partial.join("reward.json");
        let text = json!({"schema": "cycle.reward/1", "objective": objective}).to_string();
        fs::write(&path, text).map_err(HandoffError::io(&path))?;
    }
    if weights.exists() {
        fs::remove_dir_all(&weights).map_err(HandoffError::io(&weights))?;
    }
    fs::rename(&partial, &weights).map_err(HandoffError::io(&weights))?;
    let lines = match plan.engine {
        "TRL" => history(job)?,
        _ => events::losses(&plan.folder.join("events"))?,
    };
    let path = job.out.join("metrics.jsonl");
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    fs::write(&path, text).map_err(HandoffError::io(&path))?;
    Ok(Taken { weights, steps: lines.iter().filter(|l| l.get("loss").is_some()).count() })
}

fn files(folder: &Path) -> Result<Vec<String>, HandoffError> {
    let entries = fs::read_dir(folder).map_err(HandoffError::io(folder))?;
    let plain = entries.flatten().filter(|e| e.path().is_file());
    Ok(plain.filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// Weights, configurations, tokenizers; no pickles, no cards.
fn belongs(name: &str) -> bool {
    let ends = [".safetensors", ".json", ".jinja", ".model", ".txt"].iter().any(|e| name.ends_with(e));
    ends && !["trainer_state.json", "all_results.json"].contains(&name) || name == "adapter_model.bin"
}

/// The lines of TRL's newest `checkpoint-N/trainer_state.json`, in the words of `metrics.jsonl`.
fn history(job: &Job) -> Result<Vec<Value>, HandoffError> {
    let Some(newest) = job.newest_checkpoint() else { return Ok(vec![]) };
    let path = newest.join("trainer_state.json");
    let bytes = fs::read(&path).map_err(HandoffError::io(&path))?;
    let bad =
        |e: serde_json::Error| HandoffError::Row { path: path.clone(), row: e.line(), what: e.to_string() };
    let state: Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let mut before = 0.0;
    Ok(state["log_history"].as_array().into_iter().flatten().filter_map(|e| line(e, &mut before)).collect())
}

/// A line of the history; what the trainer sums up at its end is none.
fn line(entry: &Value, before: &mut f64) -> Option<Value> {
    let entry = entry.as_object()?;
    let mut out = Map::new();
    out.insert("step".into(), entry.get("step")?.clone());
    if entry.contains_key("train_runtime") {
        return None;
    }
    for (key, value) in entry {
        match key.as_str() {
            "step" => {}
            "learning_rate" => {
                out.insert("lr".into(), value.clone());
            }
            // TRL counts from the start, we per step.
            "num_tokens" => {
                let count = value.as_f64().unwrap_or(*before);
                out.insert("tokens".into(), json!((count - *before).max(0.0) as u64));
                *before = count;
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Some(Value::Object(out))
}
