//! From a [`ModelRef`] to something that answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use models::{LoadOptions, Model, ModelSource};

use crate::device::{DeviceChoice, device};
use crate::local::Local;
use crate::reference::ModelRef;
use crate::server::{Server, ServerOptions};
use crate::types::{LanguageModel, LmError};

/// How a model is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How weights are kept; `None` chooses.
    pub dtype: Option<DType>,
    /// Refuse servers.
    pub offline: bool,
    /// Folder in which `small:*` finds SmolLM2's file and its adapters.
    pub models_dir: Option<PathBuf>,
}

/// File name of SmolLM2-135M-Instruct as its package holds it.
pub const SMOLLM2_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Opens any model.
///
/// # Errors
/// If the checkpoint cannot be used, or a server was named under `--offline`.
pub fn open(reference: &ModelRef, options: &OpenOptions) -> Result<Box<dyn LanguageModel>, LmError> {
    if let ModelRef::Server { base, model } = reference {
        if options.offline {
            return Err(LmError::Offline(reference.to_string()));
        }
        return Ok(Box::new(Server::new(base, model, ServerOptions::default())?));
    }
    Ok(Box::new(open_local(reference, options)?))
}

/// Opens a model of this machine.
///
/// # Errors
/// As [`open`]; a server is no model of this machine.
pub fn open_local(reference: &ModelRef, options: &OpenOptions) -> Result<Local, LmError> {
    let (device, _) = device(options.device)?;
    let load = LoadOptions { device, dtype: options.dtype };
    // Every message says where: those about a tensor know no file.
    let unusable = |e: models::ModelError| {
        let (what, place) = (e.to_string(), reference.to_string());
        let is_placed = what.contains(place.split('+').next().unwrap_or_default());
        LmError::Model(if is_placed { what } else { format!("{place}: {what}") })
    };
    let model = match reference {
        ModelRef::Builtin(name) => {
            let Some(shipped) = builtin::shipped(name) else {
                return Err(LmError::Model(format!(
                    "this build has no weights for builtin:{name}; name another model with --model"
                )));
            };
            Model::from_gguf_bytes(&reference.to_string(), shipped.weights, &load).map_err(unusable)?
        }
        ModelRef::Small(name) => {
            let source = small(name, options.models_dir.as_deref())?;
            Model::load(&source, &load).map_err(unusable)?
        }
        ModelRef::Checkpoint { path, adapter } => {
            let source = ModelSource { path: path.clone(), adapter: adapter.clone() };
            Model::load(&source, &load).map_err(unusable)?
        }
        ModelRef::Server { .. } => {
            return Err(LmError::Model(format!(
                "{reference} is a server; this needs a model of this machine"
            )));
        }
    };
    let builtin = matches!(reference, ModelRef::Builtin(_));
    Ok(Local::new(Arc::new(model), reference.to_string(), builtin))
}

fn small(name: &str, folder: Option<&Path>) -> Result<ModelSource, LmError> {
    let candidates: Vec<PathBuf> =
        folder.into_iter().map(Path::to_path_buf).chain([PathBuf::from("models")]).collect();
    let Some(path) = candidates.iter().map(|f| f.join(SMOLLM2_FILE)).find(|p| p.exists()) else {
        return Err(LmError::Model(format!(
            "small:{name} needs {SMOLLM2_FILE}; README has the two lines that fetch it into ./models"
        )));
    };
    let adapter = path.with_file_name(format!("small-{name}"));
    if !adapter.exists() {
        return Err(LmError::Model(format!(
            "small:{name} has no adapter yet ({}); use the base: --model {}",
            adapter.display(),
            path.display()
        )));
    }
    Ok(ModelSource { path, adapter: Some(adapter) })
}
