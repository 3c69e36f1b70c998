//! `cycle dataset stats` and `export`.

use datasets::ExportFormat;

use crate::args::{ExportArgs, ExportTo, Format, StatsArgs};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{emit, write};

/// Tables, and plots beside them.
///
/// # Errors
/// If the set cannot be read or the folder not be written.
pub fn stats(args: &StatsArgs) -> Result<Outcome, Failure> {
    let found = datasets::stats(&args.set)?;
    let mut value = serde_json::to_value(&found).map_err(|e| Failure::new(Code::Input, e))?;
    value["schema"] = "cycle.dataset-stats/1".into();
    if let Some(folder) = &args.out {
        write(&folder.join("stats.md"), found.markdown().as_bytes())?;
        write(&folder.join("stats.json"), (value.to_string() + "\n").as_bytes())?;
        for (name, svg) in found.plots() {
            write(&folder.join(name), svg.as_bytes())?;
        }
    }
    let text = if args.format == Format::Json { value.to_string() } else { found.markdown() };
    emit(&text, None)?;
    Ok(Outcome::Done)
}

/// Columns of a part.
///
/// # Errors
/// If there is no such set, part or column.
pub fn export(context: &Context, args: &ExportArgs) -> Result<Outcome, Failure> {
    let format = match args.to {
        ExportTo::Jsonl => ExportFormat::Jsonl,
        ExportTo::Parquet => ExportFormat::Parquet,
        ExportTo::Csv => ExportFormat::Csv,
    };
    let rows = datasets::export(&args.set, &args.split, &args.columns, format, &args.out)?;
    context.note(&format!("{rows} rows in {}", args.out.display()));
    Ok(Outcome::Done)
}
