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
        if let Some((scheme @ ("builtin" | "small"), name)) = text.split_once(':') {
            if builtin::NAMES.contains(&name) {
                let name = name.to_string();
                return Ok(if scheme == "builtin" { Self::Builtin(name) } else { Self::Small(name) });
            }
            let all: Vec<String> = builtin::NAMES.iter().map(|n| format!("{scheme}:{n}")).collect();
            let hint = hint(text, &all);
            return bad(format!("there is no {text}{hint}; there are {}", all.join(" and ")));
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
                    "{}: no such model{}; give builtin:NAME, a Hugging Face folder, a .gguf file or http://HOST/v1#MODEL",
                    p.display(),
                    hint(&p.to_string_lossy(), &neighbours(p))
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

/// What else could be meant by a path that does not exist: what lies beside it, and the models that ship.
fn neighbours(path: &Path) -> Vec<String> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let beside = entries.map(|e| folder.map_or_else(|| e.file_name().into(), |f| f.join(e.file_name())));
    let mut all: Vec<String> = beside.map(|p: PathBuf| p.to_string_lossy().into_owned()).collect();
    all.extend(builtin::NAMES.iter().flat_map(|n| [format!("builtin:{n}"), format!("small:{n}")]));
    all.sort();
    all
}

/// " (did you mean …?)" where one candidate is near enough, else nothing.
fn hint(text: &str, candidates: &[String]) -> String {
    let likeness = |c: &str| strsim::normalized_damerau_levenshtein(text, c);
    let best = candidates.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.filter(|c| likeness(c) >= 0.7).map(|c| format!(" (did you mean {c}?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<ModelRef>().unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_reference_is_read_and_written_back() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("a+b.gguf");
        std::fs::write(&gguf, "").unwrap();
        let adapter = folder.path().join("adapter");
        std::fs::create_dir(&adapter).unwrap();
        let (gguf, with) = (gguf.display().to_string(), format!("{}+{}", gguf.display(), adapter.display()));
        let checkpoint =
            |adapter: Option<PathBuf>| ModelRef::Checkpoint { path: gguf.clone().into(), adapter };
        for (text, meant) in [
            ("builtin:reviewer", ModelRef::Builtin("reviewer".into())),
            ("small:researcher", ModelRef::Small("researcher".into())),
            (gguf.as_str(), checkpoint(None)),
            (with.as_str(), checkpoint(Some(adapter.clone()))),
            (
                "http://localhost:8000/v1#m/x",
                ModelRef::Server { base: "http://localhost:8000/v1".into(), model: "m/x".into() },
            ),
        ] {
            let read: ModelRef = text.parse().unwrap();
            assert_eq!(read, meant);
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn a_wrong_reference_is_refused_with_the_nearest_right_one() {
        let folder = tempfile::tempdir().unwrap();
        let right = folder.path().join("SmolLM2.gguf");
        std::fs::write(&right, "").unwrap();
        let wrong = refused(&folder.path().join("SmoLLM2.gguf").display().to_string());
        assert!(wrong.contains(&format!("did you mean {}?", right.display())), "{wrong}");
        assert!(refused("builtin:reviwer").contains("did you mean builtin:reviewer?"));
        assert!(refused("buildin:reviewer").contains("did you mean builtin:reviewer?"));
        assert!(refused("small:writer").contains("small:reviewer and small:researcher"));
        assert!(refused("http://localhost/v1").contains("http://localhost/v1#MODEL"));
    }
}
