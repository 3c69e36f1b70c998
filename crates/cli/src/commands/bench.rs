//! `cycle bench`: the claims this program builds on, as experiments of minutes, and studies of whole loops.

use std::path::PathBuf;

use improve::study::Study;
use serde_json::json;
use training::miniatures::{ALL, Miniature, Options};

use crate::args::{BenchArgs, Format};
use crate::commands::{Outcome, study};
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
    if let Some(shipped) = improve::study::ALL.iter().find(|s| s.name == args.name) {
        return study::run(context, args, &Study::parse(shipped.text)?);
    }
    let found = ALL.iter().find(|m| m.name == args.name).ok_or_else(|| unknown(&args.name))?;
    if !args.with.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "--with is for the studies of several loops (`cycle bench list`)",
        ));
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("cycle-bench").join(found.name));
    let mut options = Options::new(&out);
    options.seeds = args.seeds.unwrap_or(5) as usize;
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
    let miniature = |m: &Miniature| [m.name, m.shows, m.source].map(String::from);
    let mut rows: Vec<[String; 3]> = ALL.iter().map(miniature).collect();
    for shipped in improve::study::ALL {
        rows.push([
            shipped.name.into(),
            Study::parse(shipped.text)?.question,
            "arXiv 2411.00816, section 3".into(),
        ]);
    }
    if let Format::Json = format {
        let all: Vec<_> = rows
            .iter()
            .map(|[name, shows, source]| json!({"name": name, "shows": shows, "source": source}))
            .collect();
        emit(&json!(all).to_string(), None)?;
        return Ok(Outcome::Done);
    }
    emit(&columns(&["NAME", "SHOWS", "SOURCE"], &rows.into_iter().map(Vec::from).collect::<Vec<_>>()), None)?;
    Ok(Outcome::Done)
}

fn unknown(name: &str) -> Failure {
    let studies = improve::study::ALL.map(|s| s.name);
    let names: Vec<&str> = ALL.iter().map(|m| m.name).chain(studies).collect();
    let near = names.iter().map(|n| (strsim::damerau_levenshtein(name, n), *n)).min();
    let advice = match near {
        Some((distance, near)) if distance <= 3 => format!("did you mean {near}?"),
        _ => format!("there are {}", names.join(", ")),
    };
    Failure::new(Code::Usage, format!("no experiment is called {name:?}")).advise(advice)
}
