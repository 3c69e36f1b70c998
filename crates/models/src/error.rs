//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// A checkpoint that cannot be used; every message says which file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing or cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A shard named by the index is not there.
    #[error("{}: the shard {shard} is missing", path.display())]
    MissingShard {
        /// The folder.
        path: PathBuf,
        /// The file that is not there.
        shard: String,
    },
    /// A tensor is not there.
    #[error("the checkpoint has no tensor {0}")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration says.
    #[error("the tensor {name} has the shape {found:?}, the configuration needs {expected:?}")]
    Shape {
        /// Which tensor.
        name: String,
        /// As stored.
        found: Vec<usize>,
        /// As needed.
        expected: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("the tensor {0} holds NaN or infinite values")]
    NotFinite(String),
    /// The family is not known.
    #[error(
        "the architecture {found:?} is not supported; supported are llama, mistral, qwen2, qwen3 and phi3"
    )]
    Architecture {
        /// What the file says.
        found: String,
    },
    /// Tokenizer and embedding do not fit.
    #[error("the tokenizer has {tokenizer} tokens, the embedding only {embedding} rows")]
    Vocabulary {
        /// Tokens.
        tokenizer: usize,
        /// Rows.
        embedding: usize,
    },
    /// The chat template fails.
    #[error("the chat template: {0}")]
    Template(String),
    /// The tokenizer fails.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// An adapter does not fit its base.
    #[error("the adapter does not fit this model: {0}")]
    Adapter(String),
    /// A tensor operation failed (most often memory).
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn invalid(path: impl Into<PathBuf>, what: impl std::fmt::Display) -> Self {
        Self::Invalid { path: path.into(), what: what.to_string() }
    }
}
