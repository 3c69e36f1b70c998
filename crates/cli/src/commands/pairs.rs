//! `cycle pairs`: what loops learned from.

use serde_json::{Value, json};
use store::{PairRow, StoreError};

use super::stored::{lines, list, text_or_json, values};
use crate::args::{Format, StoredCommand};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::emit;

/// Runs the command.
///
/// # Errors
/// If the store cannot be used or the id names nothing.
pub fn run(context: &Context, command: &StoredCommand) -> Result<Outcome, Failure> {
    let pairs = context.store()?.pairs()?;
    match command {
        StoredCommand::List(args) => list(
            "cycle.pairs/1",
            &values(&pairs),
            &["id", "run", "iteration", "difference", "chosen"],
            args.format,
        ),
        StoredCommand::Show { id, format, out } => {
            text_or_json(*format, "pairs")?;
            let found = one(&pairs, id)?;
            let text = if *format == Format::Json {
                row(found)?.to_string()
            } else {
                format!(
                    "{} of loop {}, iteration {}, difference {:.3}\n\n== chosen\n\n{}\n\n== rejected\n\n{}\n",
                    found.id, found.run, found.iteration, found.difference, found.chosen, found.rejected
                )
            };
            emit(&text, out.as_deref())?;
            Ok(Outcome::Done)
        }
        StoredCommand::Export { out } => {
            let rows = pairs.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            match out {
                Some(path) if path.extension().is_some_and(|e| e == "parquet") => {
                    datasets::write_pairs(path, &rows)?;
                    Ok(Outcome::Done)
                }
                _ => lines(&rows, out.as_deref()),
            }
        }
    }
}

/// The one pair whose id begins so. The same pair may stand in several iterations, replayed.
fn one<'a>(pairs: &'a [PairRow], prefix: &str) -> Result<&'a PairRow, Failure> {
    let mut found: Vec<&PairRow> = pairs.iter().filter(|p| p.id.starts_with(prefix)).collect();
    found.dedup_by_key(|p| &p.id);
    match found[..] {
        [pair] => Ok(pair),
        [] => Err(StoreError::NotFound(prefix.into()).into()),
        _ => Err(StoreError::Ambiguous {
            prefix: prefix.into(),
            matches: found.iter().take(10).map(|p| p.id.clone()).collect(),
        }
        .into()),
    }
}

/// As trainers read it: `prompt`, `chosen` and `rejected` as messages.
fn row(pair: &PairRow) -> Result<Value, Failure> {
    let prompt: Value = serde_json::from_str(&pair.prompt).map_err(|e| Failure::new(Code::Model, e))?;
    let answer = |text: &str| json!([{"role": "assistant", "content": text}]);
    Ok(json!({"prompt": prompt, "chosen": answer(&pair.chosen), "rejected": answer(&pair.rejected),
        "chosen_open": pair.chosen_open, "rejected_open": pair.rejected_open, "difference": pair.difference, "id": pair.id,
        "loop": pair.run, "iteration": pair.iteration, "policy": pair.policy}))
}
