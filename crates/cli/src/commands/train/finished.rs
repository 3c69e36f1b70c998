//! What a training began with and what came out of it, as rows of the store.

use std::path::Path;

use models::ModelSource;
use serde_json::{Value, json};
use store::{Lineage, Store};
use training::Recipe;

use crate::args::Format;
use crate::commands::Outcome;
use crate::failure::{Code, Failure};
use crate::output::emit;

/// What a training began with, by hashes.
pub struct Origin {
    model: String,
    reference: Option<String>,
    train: String,
    eval: Option<String>,
    stage: Value,
}

impl Origin {
    /// Hashes model and rows.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn of(recipe: &Recipe) -> Result<Self, Failure> {
        let model = ModelSource::parse(&recipe.model).sha256()?;
        let other = recipe.reference_model.as_deref();
        let reference = other.map(|r| ModelSource::parse(r).sha256()).transpose()?;
        let train = training::data_sha256(&recipe.data.train)?;
        let eval = recipe.data.eval.as_deref().map(training::data_sha256).transpose()?;
        let stage = json!({
            "model": {"ref": recipe.model, "sha256": model},
            "reference_model": other.map(|r| json!({"ref": r, "sha256": reference})),
            "data": {"train": {"path": recipe.data.train, "sha256": train},
                "eval": recipe.data.eval.as_ref().map(|path| json!({"path": path, "sha256": eval}))},
        });
        Ok(Self { model, reference, train, eval, stage })
    }

    /// As a stage of the run.
    pub fn stage(&self) -> &Value {
        &self.stage
    }
}

/// Stores the finished model with its parents; `cycle.training/1`.
///
/// # Errors
/// If the weights cannot be read or the store cannot be written.
pub fn record(
    store: &Store,
    run: &str,
    recipe: &Recipe,
    origin: &Origin,
    folder: &Path,
) -> Result<Value, Failure> {
    let start = ModelSource::parse(&recipe.model);
    let adapter = recipe.lora.is_some();
    // An adapter is named as it is used: with its base before it.
    let (source, reference) = match (&start.adapter, adapter) {
        (None, true) => (
            ModelSource { path: start.path.clone(), adapter: Some(folder.into()) },
            format!("{}+{}", recipe.model, folder.display()),
        ),
        _ => (ModelSource { path: folder.into(), adapter: None }, folder.display().to_string()),
    };
    let sha256 = match (&start.adapter, adapter) {
        (Some(_), true) => models::sha256_of_files(&[folder.join("adapter_model.safetensors")])?,
        _ => source.sha256()?,
    };
    let parent = |id: &str, reference: &str, relation: &str| Lineage {
        parent: id.into(),
        parent_reference: reference.into(),
        relation: relation.into(),
        run: Some(run.into()),
    };
    let mut parents = vec![parent(&origin.model, &recipe.model, "trained from")];
    if let (Some(hash), Some(name)) = (&origin.reference, &recipe.reference_model) {
        parents.push(parent(hash, name, "held to"));
    }
    store.put_model(&sha256, &reference, &parents)?;
    let last = std::fs::read_to_string(recipe.out.join("metrics.jsonl")).unwrap_or_default();
    let line = |key: &str| {
        let lines = last.lines().rev().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.into_iter().find(|v| v.get(key).is_some())
    };
    let document = json!({"schema": "cycle.training/1", "run": run, "path": folder, "ref": reference, "sha256": sha256,
        "parent": {"ref": recipe.model, "sha256": origin.model},
        "data": {"train": origin.train, "eval": origin.eval},
        "metrics": line("loss"), "held_out": line("eval_loss")});
    store.put_stage(run, "final", &document.to_string())?;
    Ok(document)
}

/// Ends the run's row as it went, and prints the folder (or the document) that came out of it.
///
/// # Errors
/// That of the training; if the store cannot be written.
pub fn close(
    store: &Store,
    run: &str,
    recipe: &Recipe,
    recorded: Result<Value, Failure>,
    format: Format,
) -> Result<Outcome, Failure> {
    match recorded {
        Ok(document) => {
            store.end_run(run, "done", None)?;
            let text = match format {
                Format::Json => document.to_string(),
                _ => recipe.out.join("final").display().to_string(),
            };
            emit(&text, None)?;
            Ok(Outcome::Done)
        }
        Err(failure) => {
            let status = if failure.code == Code::Interrupted { "interrupted" } else { "failed" };
            // A disk that is too full for this row is what the failure says already.
            let _ = store.end_run(run, status, Some(&failure.what));
            Err(failure)
        }
    }
}
