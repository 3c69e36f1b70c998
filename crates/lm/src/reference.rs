//! What the user types after `--model`, and how it becomes a model.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::types::LmError;

/// A model as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// `builtin:NAME`: part of the binary.
    Builtin(String),
    /// `small:NAME`: an adapter of ours on SmolLM2-135M-Instruct.
    Small(String),
    /// A Hugging Face folder or a `.gguf` file, either with `+ADAPTER_DIR`.
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// The adapter.
        adapter: Option<PathBuf>,
    },
    /// `http(s)://HOST/v1#MODEL`.
    Server {
        /// Up to and with `/v1`.
        base: String,
        /// The name after `#`.
        model: String,
    },
}

impl FromStr for ModelRef {
    type Err = LmError;

    fn from_str(text: &str) -> Result<Self, LmError> {
        let bad = |what: String| Err(LmError::Model(what));
        if let Some(name) = text.strip_prefix("builtin:") {
            return if builtin::NAMES.contains(&name) {
                Ok(Self::Builtin(name.into()))
            } else {
                bad(format!("there is no builtin:{name}; there are builtin:{}", builtin::NAMES.join(", builtin:")))
            };
        }
        if let Some(name) = text.strip_prefix("small:") {
            return Ok(Self::Small(name.into()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return match text.split_once('#') {
                Some((base, model)) if !model.is_empty() => {
                    Ok(Self::Server { base: base.trim_end_matches('/').into(), model: model.into() })
                }
                _ => bad(format!("{text}: which model of the server? write {text}#MODEL")),
            };
        }
        let whole = Path::new(text);
        let (path, adapter) = match text.rsplit_once('+') {
            // A folder may have a plus in its name.
            Some((base, adapter)) if !whole.exists() => (PathBuf::from(base), Some(PathBuf::from(adapter))),
            _ => (whole.to_path_buf(), None),
        };
        for p in [Some(&path), adapter.as_ref()].into_iter().flatten() {
            if !p.exists() {
                return bad(format!(
                    "{}: no such model; give builtin:NAME, a Hugging Face folder, a .gguf file or http://HOST/v1#MODEL",
                    p.display()
                ));
            }
        }
        Ok(Self::Checkpoint { path, adapter })
    }
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::Small(name) => write!(f, "small:{name}"),
            Self::Checkpoint { path, adapter: None } => write!(f, "{}", path.display()),
            Self::Checkpoint { path, adapter: Some(a) } => write!(f, "{}+{}", path.display(), a.display()),
            Self::Server { base, model } => write!(f, "{base}#{model}"),
        }
    }
}
