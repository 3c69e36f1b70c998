//! From a [`ModelRef`] to something that answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use models::{LoadOptions, Model, ModelSource};
use sha2::{Digest, Sha256};

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
    /// Folder in which `small:*` finds SmolLM2's file, and where its adapters are put.
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

/// The files of a model of this machine; one that ships in the binary is written below `place`, once.
///
/// # Errors
/// If there is no such model, it is a server, or the disk is full.
pub fn on_disk(
    reference: &ModelRef,
    place: &Path,
    models_dir: Option<&Path>,
) -> Result<ModelSource, LmError> {
    match reference {
        ModelRef::Checkpoint { path, adapter } => {
            Ok(ModelSource { path: path.clone(), adapter: adapter.clone() })
        }
        ModelRef::Small(name) => small(name, models_dir),
        ModelRef::Server { .. } => {
            Err(LmError::Model(format!("{reference} is a server; this needs a model of this machine")))
        }
        ModelRef::Builtin(name) => {
            let Some(shipped) = builtin::shipped(name) else {
                return Err(LmError::Model(format!("this build has no weights for {reference}")));
            };
            let path = place.join(format!("{name}.gguf"));
            shipped_file(&path, shipped.weights).map_err(|e| {
                LmError::Memory(format!("{reference} cannot be written to {}: {e}", path.display()))
            })?;
            Ok(ModelSource { path, adapter: None })
        }
    }
}

/// Writes a file that ships in the binary, by rename, and the folders above it; one that is there whole is left alone.
///
/// # Errors
/// If the disk is full, or the place may not be written.
pub fn shipped_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let same_length = std::fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64);
    if same_length && std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, path)
}

/// The files of `small:NAME`: SmolLM2's in `folder` or `./models`, with the adapter that ships.
///
/// # Errors
/// If the base is not there.
pub fn small(name: &str, folder: Option<&Path>) -> Result<ModelSource, LmError> {
    let candidates: Vec<PathBuf> =
        folder.into_iter().map(Path::to_path_buf).chain([PathBuf::from("models")]).collect();
    let Some(path) = candidates.iter().map(|f| f.join(SMOLLM2_FILE)).find(|p| p.exists()) else {
        return Err(LmError::Model(format!(
            "small:{name} needs {SMOLLM2_FILE}; README has the two lines that fetch it into ./models"
        )));
    };
    let Some(shipped) = builtin::adapter(name) else {
        return Err(LmError::Model(format!(
            "this build has no adapter for small:{name}; use the base: --model {}",
            path.display()
        )));
    };
    let adapter = placed(name, shipped.files, folder)
        .map_err(|e| LmError::Model(format!("small:{name}: its adapter cannot be written: {e}")))?;
    Ok(ModelSource { path, adapter: Some(adapter) })
}

/// The folder of an adapter that ships: written once beside the models, or where that is not allowed below the system's
/// folder for temporary files. Its name holds a hash, so that a newer program does not meet an older adapter.
fn placed(name: &str, files: &[(&str, &[u8])], beside: Option<&Path>) -> std::io::Result<PathBuf> {
    let mut hasher = Sha256::new();
    files.iter().for_each(|(_, bytes)| hasher.update(bytes));
    let hash: String = hasher.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    let inner = format!("small-{name}-{hash}");
    let write = |place: &Path| -> std::io::Result<PathBuf> {
        let folder = place.join(&inner);
        files.iter().try_for_each(|(file, bytes)| shipped_file(&folder.join(file), bytes))?;
        Ok(folder)
    };
    let temporary = std::env::temp_dir().join("cycle-adapters");
    match beside {
        Some(place) => write(place).or_else(|_| write(&temporary)),
        None => write(&temporary),
    }
}
