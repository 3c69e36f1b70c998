//! `cycle dataset`: sets built again from the services or from records, and what is to be said of them.

mod build;
mod checks;
mod report;

use datasets::{DatasetError, SHIPPED, Spec, shipped};

use crate::args::DatasetCommand;
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// The kind of a set's run in the store.
const RUN: &str = "dataset";

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Self {
        let code = match &error {
            DatasetError::Spec { .. } => Code::Model,
            DatasetError::Input { .. } => Code::Input,
            DatasetError::Write { path, source } => return Self::writing(path, source),
            DatasetError::Source(e) => match e.exit_code() {
                2 => Code::Usage,
                5 => Code::Resources,
                130 => Code::Interrupted,
                _ => Code::Remote,
            },
            DatasetError::Locked { .. } => {
                return Self::new(Code::Resources, error).advise("wait for it, or name another --out");
            }
            DatasetError::Interrupted => Code::Interrupted,
            DatasetError::Model(_) => {
                let DatasetError::Model(e) = error else {
                    return Self::new(Code::Model, "the extractor failed");
                };
                return e.into();
            }
        };
        Self::new(code, error)
    }
}

/// Runs the command.
///
/// # Errors
/// If the specification, the records, the set or a service cannot be used.
pub fn run(context: &mut Context, command: &mut DatasetCommand) -> Result<Outcome, Failure> {
    match command {
        DatasetCommand::Build(args) => {
            context.fill(&mut args.model)?;
            context.apply(&args.model);
            build::run(context, args)
        }
        DatasetCommand::Stats(args) => report::stats(args),
        DatasetCommand::Verify(args) => checks::verify(args),
        DatasetCommand::Export(args) => report::export(context, args),
        DatasetCommand::Leakage(args) => checks::leakage(context, args),
        DatasetCommand::Specs { name } => specs(name.as_deref()),
    }
}

/// A file by its ending, else a name.
fn spec(words: &str) -> Result<Spec, Failure> {
    let is_file = words.ends_with(".toml");
    Ok(if is_file { Spec::load(std::path::Path::new(words))? } else { shipped(words)? })
}

fn specs(name: Option<&str>) -> Result<Outcome, Failure> {
    if let Some(name) = name {
        let known = shipped(name)?;
        let text = SHIPPED.iter().find(|(n, _)| *n == known.name).map_or("", |s| s.1);
        emit(text, None)?;
        return Ok(Outcome::Done);
    }
    let mut rows = Vec::new();
    for (name, _) in SHIPPED {
        let spec = shipped(name)?;
        rows.push(vec![name.to_string(), spec.venue.len().to_string(), spec.description]);
    }
    emit(&columns(&["name", "venues", "what it is"], &rows), None)?;
    Ok(Outcome::Done)
}
