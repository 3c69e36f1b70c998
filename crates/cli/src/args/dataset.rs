//! What is typed after `cycle dataset`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, ModelArgs, formats, text_or_json};

/// `cycle dataset`.
#[derive(Debug, Clone, Subcommand)]
pub enum DatasetCommand {
    /// Build a set from the services or from records on disk
    Build(Box<BuildArgs>),
    /// What is in a set: counts and scores by year, lengths, licences; plots with --out
    Stats(StatsArgs),
    /// Check a set: hashes, rows, parts, scales, numbers
    Verify(VerifyArgs),
    /// Write some columns of a part to another file
    Export(ExportArgs),
    /// Papers that a set shares with others
    Leakage(LeakageArgs),
    /// The specifications that ship, or the text of one
    Specs {
        /// Print this one
        name: Option<String>,
    },
}

/// `cycle dataset build`.
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// review-5k, research-14k, iclr-reviews, latex-papers or a .toml file
    pub spec: String,
    /// The set's folder
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Recorded or downloaded records instead of the network
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// At most so many papers
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Say what the network would be asked (requests, days at the published limits, disk), and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Build although nothing has changed
    #[arg(long)]
    pub force: bool,
    /// More papers to keep out: a file or folder of rows with ids or titles (may be given several times)
    #[arg(long, value_name = "PATH")]
    pub keep_out: Vec<PathBuf>,
    /// The model that writes outlines (research sets), and how it draws.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Your mail or web address, told to the services [default: $CYCLE_CONTACT]
    #[arg(long, value_name = "ADDRESS", env = "CYCLE_CONTACT")]
    pub contact: Option<String>,
    /// Another address for a service (may be given several times): arxiv=http://127.0.0.1:8000
    #[arg(long, value_name = "SERVICE=URL")]
    pub base: Vec<String>,
    /// List the venues again, for papers that were added or withdrawn since; what is known of the others stays
    #[arg(long, conflicts_with = "from")]
    pub refresh: bool,
    /// A proxy [default: that of the environment]
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Requests that this run may make
    #[arg(long, value_name = "N")]
    pub budget: Option<u64>,
    /// A service that asks for a longer wait ends the run; the same command goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,
    /// First pause before a request is repeated, in milliseconds; doubled each time
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub pause: u64,
    /// Submissions of a page
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub page: u16,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}

/// `cycle dataset stats`.
#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    /// The set's folder
    pub set: PathBuf,
    /// text, md or json
    #[arg(long, value_parser = formats(&["text", "md", "json"]), default_value = "text")]
    pub format: Format,
    /// A folder for stats.md, stats.json and plots (SVG)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `cycle dataset verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The set's folder
    pub set: PathBuf,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// JSON lines.
    Jsonl,
    /// Parquet.
    Parquet,
    /// CSV.
    Csv,
}

/// `cycle dataset export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The set's folder
    pub set: PathBuf,
    /// The part: train or test
    #[arg(long, default_value = "train", value_name = "PART")]
    pub split: String,
    /// Columns, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub columns: Vec<String>,
    /// The kind of file
    #[arg(long, value_enum, default_value = "jsonl")]
    pub to: ExportTo,
    /// The file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `cycle dataset leakage`.
#[derive(Debug, Clone, Args)]
pub struct LeakageArgs {
    /// The set's folder
    pub set: PathBuf,
    /// A file, folder or set of rows [default: every other set in the store] (may be given several times)
    #[arg(long, value_name = "PATH")]
    pub against: Vec<PathBuf>,
    /// Similarity (0 to 1) from which on two texts are one paper
    #[arg(long, default_value_t = 0.7)]
    pub similarity: f64,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}
