//! What is typed after `cycle train`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, formats, text_or_json};

/// `cycle train`.
#[derive(Debug, Clone, Subcommand)]
pub enum TrainCommand {
    /// Supervised fine-tuning, of all parameters or of an adapter
    Sft(TrainArgs),
    /// A reward model: scores or vectors over answers
    Reward(TrainArgs),
    /// Preferences between answers: DPO, SimPO and the rest of `cycle train objectives`
    Preference(TrainArgs),
    /// The table of preference objectives
    Objectives {
        /// text, json or md
        #[arg(long, value_parser = formats(&["text", "json", "md"]), default_value = "text")]
        format: Format,
    },
    /// The built-in recipes, or the text of one
    Recipes {
        /// Print this one
        name: Option<String>,
        /// text or json
        #[arg(long, value_parser = text_or_json(), default_value = "text")]
        format: Format,
    },
}

/// Who trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// This program.
    #[default]
    Local,
    /// Hugging Face TRL.
    Trl,
    /// OpenRLHF.
    Openrlhf,
}

/// How GPUs share weights and moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Share {
    /// Each GPU holds all.
    None,
    /// DeepSpeed: gradients and moments are spread.
    Zero2,
    /// DeepSpeed: weights too.
    Zero3,
    /// PyTorch's own: weights too.
    Fsdp,
}

/// One training.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The recipe, a TOML file
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    pub config: Option<PathBuf>,
    /// A built-in recipe (`cycle train recipes` lists them)
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,
    /// Go on from the newest whole checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Change a value: optimizer.learning_rate=1e-4
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The output folder instead of the recipe's
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// auto (the recipe's), f32 or bf16
    #[arg(long)]
    pub dtype: Option<String>,
    /// The seed instead of the recipe's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Say what would be done, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Who trains: this program, or another one that data and configuration are handed to
    #[arg(long, value_enum, default_value = "local")]
    pub engine: Engine,
    /// TRL, OpenRLHF: the Python whose environment has it (else the one on PATH)
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// TRL, OpenRLHF: GPUs of each machine; TRL trains on the CPU without
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Option<u32>,
    /// TRL, OpenRLHF: machines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub machines: Option<u32>,
    /// TRL: the first machine; OpenRLHF: the Ray dashboard
    #[arg(long, value_name = "HOST:PORT")]
    pub main: Option<String>,
    /// TRL, OpenRLHF: how GPUs share weights and moments
    #[arg(long, value_enum)]
    pub sharding: Option<Share>,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}
