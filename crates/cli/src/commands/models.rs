//! `cycle models`: what there is, what it needs, what is wrong with it.

mod write;

use std::path::PathBuf;

use candle_core::DType;
use lm::ModelRef;
use models::{Description, ModelSource, describe, describe_bytes, verify, verify_bytes};
use serde_json::json;

use crate::args::{Format, ModelsCommand};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// Runs the command.
///
/// # Errors
/// If a checkpoint cannot be read.
pub fn run(context: &Context, command: &ModelsCommand) -> Result<Outcome, Failure> {
    match command {
        ModelsCommand::List(args) => list(context, args.format),
        ModelsCommand::Show { model, format } => show(context, model, *format),
        ModelsCommand::Verify { model, format } => check(context, model, *format),
        ModelsCommand::Merge { model, out, dtype, force } => {
            write::merge(context, model, out, dtype.as_deref(), *force)
        }
        ModelsCommand::Quantize { model, kind, out, force } => {
            write::quantize(context, model, kind, out, *force)
        }
    }
}

/// Models in the binary and in the usual folders.
pub fn found(context: &Context) -> Vec<(String, Option<Description>)> {
    let mut rows: Vec<(String, Option<Description>)> = builtin::NAMES
        .into_iter()
        .map(|n| {
            let name = format!("builtin:{n}");
            let description = builtin::shipped(n).and_then(|s| describe_bytes(&name, s.weights).ok());
            (name, description)
        })
        .collect();
    for folder in [PathBuf::from("models"), context.settings.home.join("models")] {
        let mut inside: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        inside.sort();
        for path in inside {
            if path.extension().is_some_and(|e| e == "gguf") || path.join("config.json").exists() {
                let source = ModelSource { path: path.clone(), adapter: None };
                rows.push((path.display().to_string(), describe(&source).ok()));
            }
        }
    }
    rows
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn list(context: &Context, format: Format) -> Result<Outcome, Failure> {
    let rows = found(context);
    if format == Format::Json {
        let list: Vec<_> = rows
            .iter()
            .map(|(name, d)| {
                json!({"ref": name, "usable": d.is_some(), "parameters": d.as_ref().map(|d| d.parameters),
                    "context": d.as_ref().map(|d| d.config.max_position_embeddings)})
            })
            .collect();
        emit(&json!({"schema": "cycle.models/1", "models": list}).to_string(), None)?;
        return Ok(Outcome::Done);
    }
    let mut table: Vec<Vec<String>> = Vec::new();
    for (name, d) in rows {
        match d {
            Some(d) => {
                let m = d.memory(DType::F32, d.config.max_position_embeddings);
                table.push(vec![
                    name,
                    format!("{:.1} M", d.parameters as f64 / 1e6),
                    d.config.max_position_embeddings.to_string(),
                    gigabytes(m.weights + m.cache),
                ]);
            }
            None => {
                table.push(vec![name, "not usable here".into(), "–".into(), "–".into()]);
            }
        }
    }
    emit(&columns(&["model", "parameters", "context", "memory"], &table), None)?;
    Ok(Outcome::Done)
}

/// The files of `small:NAME`.
fn small(context: &Context, name: &str) -> Result<ModelSource, Failure> {
    Ok(lm::small(name, context.open_options()?.models_dir.as_deref())?)
}

fn show(context: &Context, model: &str, format: Format) -> Result<Outcome, Failure> {
    let (d, card) = match model.strip_prefix("builtin:") {
        Some(name) => {
            // A name that is none is refused with the nearest one.
            model.parse::<ModelRef>()?;
            let shipped = builtin::shipped(name)
                .ok_or_else(|| Failure::new(Code::Model, format!("this build has no builtin:{name}")))?;
            (describe_bytes(model, shipped.weights)?, Some(shipped.card))
        }
        None => match model.parse::<ModelRef>()? {
            ModelRef::Checkpoint { path, adapter } => (describe(&ModelSource { path, adapter })?, None),
            ModelRef::Small(name) => {
                (describe(&small(context, &name)?)?, builtin::adapter(&name).map(|a| a.card))
            }
            other => {
                return Err(Failure::new(
                    Code::Usage,
                    format!("{other} is no folder or file that can be shown"),
                ));
            }
        },
    };
    let c = &d.config;
    let (full, half) =
        (d.memory(DType::F32, c.max_position_embeddings), d.memory(DType::BF16, c.max_position_embeddings));
    if format == Format::Json {
        let document = json!({"schema": "cycle.model/1", "ref": model, "config": c, "parameters": d.parameters,
            "file_bytes": d.file_bytes, "tokens": d.tokens, "chat_template": d.chat, "eos": d.eos,
            "memory": {"weights_f32": full.weights, "weights_bf16": half.weights, "cache_whole_context": full.cache}});
        emit(&document.to_string(), None)?;
        return Ok(Outcome::Done);
    }
    let mut out = format!(
        "{model}\n  {:?}, {} layers, hidden {}, {} heads / {} key heads of {}, vocabulary {}\n  {:.1} M parameters, {} on disk, \
         context {}\n  memory: weights {} in f32, {} in bf16; cache {} for a whole context\n  chat template: {}\n",
        c.architecture,
        c.num_layers,
        c.hidden_size,
        c.num_heads,
        c.num_kv_heads,
        c.head_dim,
        c.vocab_size,
        d.parameters as f64 / 1e6,
        gigabytes(d.file_bytes),
        c.max_position_embeddings,
        gigabytes(full.weights),
        gigabytes(half.weights),
        gigabytes(full.cache),
        if d.chat { "its own" } else { "none; a plain one is used" }
    );
    if let Some(card) = card {
        out += &format!("\n{card}");
    }
    emit(&out, None)?;
    Ok(Outcome::Done)
}

fn check(context: &Context, model: &str, format: Format) -> Result<Outcome, Failure> {
    let verification = match model.parse::<ModelRef>()? {
        ModelRef::Checkpoint { path, .. } if !path.exists() => {
            return Err(Failure::new(Code::Input, format!("{}: no such file or folder", path.display())));
        }
        ModelRef::Checkpoint { path, adapter } => verify(&ModelSource { path, adapter }),
        ModelRef::Builtin(name) => match builtin::shipped(&name) {
            Some(shipped) => verify_bytes(model, shipped.weights),
            None => return Err(Failure::new(Code::Model, format!("this build has no builtin:{name}"))),
        },
        ModelRef::Small(name) => verify(&small(context, &name)?),
        other => {
            return Err(Failure::new(
                Code::Usage,
                format!("{other} is no folder or file that can be verified"),
            ));
        }
    };
    let outcome = if verification.faults.is_empty() { Outcome::Done } else { Outcome::Look };
    // A store that cannot be used is no fault of the model.
    let parents = match (&verification.sha256, context.store()) {
        (Some(hash), Ok(store)) => store.parents(hash).unwrap_or_default(),
        _ => Vec::new(),
    };
    if format == Format::Json {
        let faults: Vec<String> = verification.faults.iter().map(ToString::to_string).collect();
        let document = json!({"schema": "cycle.verification/1", "ref": model, "tensors": verification.tensors,
            "sha256": verification.sha256, "faults": faults, "notes": verification.notes, "parents": parents});
        emit(&document.to_string(), None)?;
        return Ok(outcome);
    }
    for note in &verification.notes {
        emit(&format!("note: {note}"), None)?;
    }
    if verification.faults.is_empty() {
        let hash = verification.sha256.unwrap_or_default();
        emit(&format!("{model}: {} tensors, all sound; sha256 {hash}", verification.tensors), None)?;
    }
    for l in parents {
        let by = l.run.map_or(String::new(), |run| format!(", run {run}"));
        emit(&format!("{} {} (sha256 {}{by})", l.relation, l.parent_reference, l.parent), None)?;
    }
    for fault in &verification.faults {
        emit(&fault.to_string(), None)?;
    }
    Ok(outcome)
}
