//! Some columns of a part in another file.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DatasetError;
use crate::gather;
use crate::parquet::{Column, Writer};
use crate::stats::manifest;
use crate::write::columns;

/// Into what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// JSON lines.
    Jsonl,
    /// Parquet.
    Parquet,
    /// CSV; lists and objects as JSON.
    Csv,
}

/// Writes chosen columns (all, if none are named) of a part; returns the number of rows. The file appears by rename.
///
/// # Errors
/// If there is no such set, part or column, or the file cannot be written.
pub fn export(
    folder: &Path,
    part: &str,
    wanted: &[String],
    format: ExportFormat,
    out: &Path,
) -> Result<usize, DatasetError> {
    let manifest = manifest(folder)?;
    let all = columns(manifest.spec.kind);
    let known = || all.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    for name in wanted {
        if !all.iter().any(|(n, _)| n == name) {
            return Err(DatasetError::input(
                folder,
                format!("no column is called `{name}`; there are {}", known()),
            ));
        }
    }
    if manifest.splits.get(part).is_none_or(|n| *n == 0) {
        let parts: Vec<&str> =
            manifest.splits.iter().filter(|(_, n)| **n > 0).map(|(p, _)| p.as_str()).collect();
        return Err(DatasetError::input(
            folder,
            format!("no rows are in a part `{part}`; there are {}", parts.join(", ")),
        ));
    }
    let chosen: Vec<(&'static str, Column)> =
        all.into_iter().filter(|(n, _)| wanted.is_empty() || wanted.iter().any(|w| w == n)).collect();
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(DatasetError::write(parent))?;
    }
    let partial = out.with_file_name(format!(".{}.partial-{}", gather::name(out), std::process::id()));
    let written = copy(folder, part, &chosen, format, &partial);
    let moved =
        written.and_then(|n| std::fs::rename(&partial, out).map(|()| n).map_err(DatasetError::write(out)));
    if moved.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    moved
}

fn copy(
    folder: &Path,
    part: &str,
    chosen: &[(&'static str, Column)],
    format: ExportFormat,
    out: &Path,
) -> Result<usize, DatasetError> {
    let file = folder.join("jsonl").join(format!("{part}.jsonl"));
    let mut rows = 0;
    let mut each = |f: &mut dyn FnMut(&Value, usize) -> Result<(), DatasetError>| {
        gather::lines(&file, |number, line| {
            let bad = || DatasetError::input(&file, format!("line {number} is no row"));
            let line = line.ok_or_else(bad)?;
            rows += 1;
            f(&serde_json::from_slice(line).map_err(|_| bad())?, line.len())
        })
    };
    match format {
        ExportFormat::Parquet => {
            let mut writer = Writer::new(out, chosen.to_vec())?;
            each(&mut |row, bytes| writer.add(row, bytes))?;
            writer.done()?;
        }
        ExportFormat::Jsonl => {
            let mut writer =
                std::io::BufWriter::new(std::fs::File::create(out).map_err(DatasetError::write(out))?);
            each(&mut |row, _| {
                let some: Map<String, Value> =
                    chosen.iter().map(|(n, _)| ((*n).into(), row[*n].clone())).collect();
                writeln!(writer, "{}", Value::Object(some)).map_err(DatasetError::write(out))
            })?;
            writer.flush().map_err(DatasetError::write(out))?;
        }
        ExportFormat::Csv => {
            let bad =
                |e: csv::Error| DatasetError::Write { path: out.into(), source: std::io::Error::other(e) };
            let mut writer = csv::Writer::from_path(out).map_err(bad)?;
            writer.write_record(chosen.iter().map(|(n, _)| *n)).map_err(bad)?;
            each(&mut |row, _| {
                let cell = |v: &Value| match v {
                    Value::Null => String::new(),
                    Value::String(s) => s.clone(),
                    other => other.to_string(),
                };
                writer.write_record(chosen.iter().map(|(n, _)| cell(&row[*n]))).map_err(bad)
            })?;
            writer.flush().map_err(DatasetError::write(out))?;
        }
    }
    Ok(rows)
}
