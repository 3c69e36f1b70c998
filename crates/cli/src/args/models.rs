//! What is typed after `cycle models`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Format, ShowArgs, text_or_json};

/// `cycle models`.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// Models in the binary, in ./models and in $CYCLE_HOME/models
    List(ShowArgs),
    /// What a checkpoint is and needs
    Show {
        /// builtin:NAME, a folder or a .gguf file
        model: String,
        /// text or json
        #[arg(long, value_parser = text_or_json(), default_value = "text")]
        format: Format,
    },
    /// Read every tensor and say what is wrong
    Verify {
        /// A folder or a .gguf file, with +ADAPTER_DIR
        model: String,
        /// text or json
        #[arg(long, value_parser = text_or_json(), default_value = "text")]
        format: Format,
    },
    /// Add an adapter to its base: a Hugging Face folder that transformers loads
    Merge {
        /// MODEL+ADAPTER_DIR (a MODEL alone is written as a folder: from GGUF, or in another type)
        model: String,
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// auto (as the base is; f32 from GGUF), f32, bf16 or f16
        #[arg(long)]
        dtype: Option<String>,
        /// Replace what is there
        #[arg(long)]
        force: bool,
    },
    /// Write a GGUF file of quantised weights
    Quantize {
        /// A folder or a .gguf file, with +ADAPTER_DIR
        model: String,
        /// q4_0, q4_1, q5_0, q5_1, q8_0, q2_k … q6_k, f16 or f32
        #[arg(long = "type", value_name = "TYPE")]
        kind: String,
        /// The file
        #[arg(long, value_name = "FILE.gguf")]
        out: PathBuf,
        /// Replace what is there
        #[arg(long)]
        force: bool,
    },
}
