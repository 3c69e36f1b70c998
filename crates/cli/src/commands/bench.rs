//! `cycle bench`: the claims this program builds on, as experiments of minutes.

use std::path::PathBuf;

use serde_json::json;
use training::miniatures::{ALL, Miniature, Options};

use crate::args::{BenchArgs, Format};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};
use crate::progress::{Loudness, say};

/// Runs the command.
///
/// # Errors
/// If there is no such experiment, a training fails or the folder cannot be written.
pub fn run(context: &Context, args: &BenchArgs) -> Result<Outcome, Failure> {
    if args.name == "list" {
        return list(args.format);
    }
    let found = ALL.iter().find(|m| m.name == args.name).ok_or_else(|| unknown(&args.name))?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("cycle-bench").join(found.name));
    let mut options = Options::new(&out);
    options.seeds = args.seeds as usize;
    options.small = args.small;
    let loudness = context.loudness;
    let report = found.run(&options, &|line: &str| {
        if loudness != Loudness::Quiet {
            say(line);
        }
    })?;
    match args.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&report).map_err(|e| Failure::new(Code::Model, e))?;
            emit(&text, None)?;
        }
        _ => {
            let files = ["report.json", "plot.svg"].map(|f| out.join(f).display().to_string());
            emit(&format!("{}{}", report.text(), files.join("\n")), None)?;
        }
    }
    Ok(if report.holds() { Outcome::Done } else { Outcome::Look })
}

fn list(format: Format) -> Result<Outcome, Failure> {
    if let Format::Json = format {
        let all: Vec<_> =
            ALL.iter().map(|m| json!({"name": m.name, "shows": m.shows, "source": m.source})).collect();
        emit(&json!(all).to_string(), None)?;
        return Ok(Outcome::Done);
    }
    let row = |m: &Miniature| vec![m.name.to_string(), m.shows.to_string(), m.source.to_string()];
    emit(&columns(&["NAME", "SHOWS", "SOURCE"], &ALL.iter().map(row).collect::<Vec<_>>()), None)?;
    Ok(Outcome::Done)
}

fn unknown(name: &str) -> Failure {
    let near = ALL.iter().map(|m| (strsim::damerau_levenshtein(name, m.name), m.name)).min();
    let advice = match near {
        Some((distance, near)) if distance <= 3 => format!("did you mean {near}?"),
        _ => format!("there are {}", ALL.map(|m| m.name).join(", ")),
    };
    Failure::new(Code::Usage, format!("no experiment is called {name:?}")).advise(advice)
}
