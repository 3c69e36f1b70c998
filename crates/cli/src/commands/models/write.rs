//! `cycle models merge` and `quantize`: a checkpoint in another form, whole or not at all, with its parents in the store.

use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use lm::ModelRef;
use models::gguf::{self, GgufHeader};
use models::{ModelSource, Outline};
use store::Lineage;

use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::emit;

/// Largest file of a merged folder, as transformers cuts them.
const SHARD: u64 = 5_000_000_000;

/// Runs `cycle models merge`.
///
/// # Errors
/// If the model cannot be read, the adapter belongs to another base, or the disk is full.
pub fn merge(
    context: &Context,
    model: &str,
    out: &Path,
    dtype: Option<&str>,
    force: bool,
) -> Result<Outcome, Failure> {
    let dtype = match dtype {
        None | Some("auto") => None,
        Some("f32") => Some(DType::F32),
        Some("bf16") => Some(DType::BF16),
        Some("f16") => Some(DType::F16),
        Some(other) => {
            return Err(Failure::new(
                Code::Usage,
                format!("--dtype {other}: there are auto, f32, bf16, f16"),
            ));
        }
    };
    let source = source(context, model)?;
    free(out, force)?;
    refuse_own(&source, out)?;
    let merged = training::merge(&source, out, dtype, SHARD)?;
    let made = ModelSource { path: out.into(), adapter: None };
    remember(context, model, &source, &made, "merged from")?;
    let files = if merged.files == 1 { String::new() } else { format!(" in {} files", merged.files) };
    context.note(&format!("{} tensors, {} bytes{files}", merged.tensors, merged.bytes));
    emit(&out.display().to_string(), None)?;
    Ok(Outcome::Done)
}

const KINDS: [(&str, GgmlDType); 12] = [
    ("q4_0", GgmlDType::Q4_0),
    ("q4_1", GgmlDType::Q4_1),
    ("q5_0", GgmlDType::Q5_0),
    ("q5_1", GgmlDType::Q5_1),
    ("q8_0", GgmlDType::Q8_0),
    ("q2_k", GgmlDType::Q2K),
    ("q3_k", GgmlDType::Q3K),
    ("q4_k", GgmlDType::Q4K),
    ("q5_k", GgmlDType::Q5K),
    ("q6_k", GgmlDType::Q6K),
    ("f16", GgmlDType::F16),
    ("f32", GgmlDType::F32),
];

/// Runs `cycle models quantize`: all matrices of one kind, the embedding (where it is the head too) at least in Q8_0.
///
/// # Errors
/// If the model cannot be read, a GGUF file cannot say what it is, or the disk is full.
pub fn quantize(
    context: &Context,
    model: &str,
    kind: &str,
    out: &Path,
    force: bool,
) -> Result<Outcome, Failure> {
    let wanted = kind.to_lowercase();
    // What llama.cpp calls the mixtures of a kind.
    let wanted = wanted.strip_suffix("_m").or(wanted.strip_suffix("_s")).unwrap_or(&wanted);
    let Some((_, dtype)) = KINDS.into_iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<&str> = KINDS.into_iter().map(|k| k.0).collect();
        return Err(Failure::new(Code::Usage, format!("--type {kind}: there are {}", names.join(", "))));
    };
    let source = source(context, model)?;
    free(out, force)?;
    refuse_own(&source, out)?;
    if let Some(folder) = out.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Failure::writing(folder, &e))?;
    }
    let outline = Outline::of(&source)?;
    let name = source.path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let header = GgufHeader {
        name: &name,
        config: &outline.config,
        tokenizer: &outline.tokenizer,
        chat_template: (!outline.chat_is_fallback).then(|| outline.chat.source()),
        bos: outline.bos,
        eos: outline.eos.first().copied(),
    };
    let tied = outline.config.tie_word_embeddings;
    let coarse = !matches!(dtype, GgmlDType::F16 | GgmlDType::F32);
    let of =
        |name: &str| if coarse && tied && name.contains("embed_tokens") { GgmlDType::Q8_0 } else { dtype };
    let kinds = gguf::write_mixed(out, &header, &*source.weights()?, &of).map_err(writing)?;
    let made = ModelSource { path: out.into(), adapter: None };
    remember(context, model, &source, &made, "quantized from")?;
    let bytes = std::fs::metadata(out).map_or(0, |m| m.len());
    let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} in {kind}")).collect();
    context.note(&format!("{bytes} bytes; tensors: {}", kinds.join(", ")));
    emit(&out.display().to_string(), None)?;
    Ok(Outcome::Done)
}

/// The files of a model of this machine.
fn source(context: &Context, model: &str) -> Result<ModelSource, Failure> {
    let reference: ModelRef = model.parse()?;
    if let ModelRef::Checkpoint { path, adapter } = &reference {
        if let Some(path) = adapter.iter().chain([path]).find(|p| !p.exists()) {
            return Err(Failure::new(Code::Input, format!("{}: no such file or folder", path.display())));
        }
    }
    if let ModelRef::Server { .. } = &reference {
        return Err(Failure::new(Code::Usage, format!("{reference} is a server, no folder or .gguf file")));
    }
    let models = context.open_options()?.models_dir;
    Ok(lm::on_disk(&reference, &context.settings.home.join("builtin"), models.as_deref())?)
}

fn free(out: &Path, force: bool) -> Result<(), Failure> {
    if out.exists() && !force {
        return Err(Failure::new(Code::Usage, format!("{} is there already", out.display()))
            .advise("--force replaces it; or name another --out"));
    }
    Ok(())
}

/// What is read must not be replaced, whatever `--force` says.
fn refuse_own(source: &ModelSource, out: &Path) -> Result<(), Failure> {
    let real = |p: &Path| p.canonicalize().ok();
    let Some(target) = real(out) else { return Ok(()) };
    let inside = |p: &PathBuf| real(p).is_some_and(|p| p.starts_with(&target));
    if inside(&source.path) || source.adapter.as_ref().is_some_and(inside) {
        let what = format!("{} holds what is to be read; name another --out", out.display());
        return Err(Failure::new(Code::Usage, what));
    }
    Ok(())
}

/// A file that could not be written is a matter of room, not of the model.
fn writing(error: models::ModelError) -> Failure {
    match error {
        models::ModelError::Io { path, source } => Failure::io(&path, &source),
        other => other.into(),
    }
}

/// The new model, its base and its adapter as rows of the store.
fn remember(
    context: &Context,
    model: &str,
    source: &ModelSource,
    made: &ModelSource,
    relation: &str,
) -> Result<(), Failure> {
    let lineage = |id: String, name: &str| Lineage {
        parent: id,
        parent_reference: name.into(),
        relation: relation.into(),
        run: None,
    };
    let parents = [lineage(source.sha256()?, model)];
    context.store()?.put_model(&made.sha256()?, &made.path.display().to_string(), &parents)?;
    Ok(())
}
