//! What is typed after `cycle loop`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Format, formats, text_or_json};

/// `cycle loop`.
#[derive(Debug, Clone, Subcommand)]
pub enum LoopCommand {
    /// Begin a loop: sample, score, pair, train, judge, again
    Run(LoopArgs),
    /// Go on with a loop that was stopped
    Resume(LoopArgs),
    /// Where a loop is
    Status(LoopArgs),
    /// What a loop did, as a page
    Report {
        /// Which loop.
        #[command(flatten)]
        which: WhichLoop,
        /// html, json or text
        #[arg(long, value_parser = formats(&["text", "json", "html"]), default_value = "html")]
        format: Format,
        /// The file [default: report.html in the loop's folder; - prints]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// The built-in loops, or the text of one
    Recipes {
        /// Print this one
        name: Option<String>,
        /// text or json
        #[arg(long, value_parser = text_or_json(), default_value = "text")]
        format: Format,
    },
}

/// Which loop.
#[derive(Debug, Clone, Args)]
pub struct WhichLoop {
    /// The loop, a TOML file
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    pub config: Option<PathBuf>,
    /// A built-in loop: micro, mini, small or 8b
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,
    /// Change a value: pairs.margin=0.2
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The loop's folder instead of the file's
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The seed instead of the file's
    #[arg(long)]
    pub seed: Option<u64>,
}

/// A loop and how its state is shown.
#[derive(Debug, Clone, Args)]
pub struct LoopArgs {
    /// Which loop.
    #[command(flatten)]
    pub which: WhichLoop,
    /// text or json
    #[arg(long, value_parser = text_or_json(), default_value = "text")]
    pub format: Format,
}
