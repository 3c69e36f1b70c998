//! `cycle dataset verify` and `leakage`.

use std::path::{Path, PathBuf};

use datasets::NamedSet;

use super::RUN;
use crate::args::{Format, LeakageArgs, VerifyArgs};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// Checks a set.
///
/// # Errors
/// If it is none.
pub fn verify(args: &VerifyArgs) -> Result<Outcome, Failure> {
    let faults = datasets::verify(&args.set)?;
    let text = if args.format == Format::Json {
        serde_json::json!({ "schema": "cycle.dataset-verify/1", "faults": faults }).to_string()
    } else if faults.is_empty() {
        format!("{}: nothing is wrong", args.set.display())
    } else {
        let lines = faults.iter().map(|f| format!("{}: {}", f.place, f.what));
        lines.chain([format!("{} faults", faults.len())]).collect::<Vec<_>>().join("\n")
    };
    emit(&text, None)?;
    Ok(if faults.is_empty() { Outcome::Done } else { Outcome::Look })
}

/// Holds a set against files, or against every other set in the store.
///
/// # Errors
/// If one of them cannot be read.
pub fn leakage(context: &Context, args: &LeakageArgs) -> Result<Outcome, Failure> {
    let others = if args.against.is_empty() { stored(context, &args.set)? } else { args.against.clone() };
    if others.is_empty() {
        return Err(Failure::new(Code::Usage, "no other set is in the store")
            .advise("--against PATH names a file or folder"));
    }
    let mut sets = Vec::new();
    for path in &others {
        sets.push(NamedSet::load(&path.display().to_string(), path)?);
    }
    let report = datasets::leakage(&args.set, &sets, args.similarity)?;
    if args.format == Format::Json {
        let mut value = serde_json::to_value(&report).map_err(|e| Failure::new(Code::Input, e))?;
        value["schema"] = "cycle.dataset-leakage/1".into();
        emit(&value.to_string(), None)?;
    } else {
        let mut text = format!("{} papers of {}\n", report.papers, args.set.display());
        for (name, n) in &report.against {
            let shared = report.leaks.iter().filter(|l| l.other_set == *name).count();
            text += &format!("  {name}: {n} papers, {shared} in both\n");
        }
        let row = |l: &datasets::Leak| {
            let same = serde_json::to_value(l.same).unwrap_or_default();
            let same = same.as_str().unwrap_or_default().replace('_', " ");
            vec![
                l.id.clone(),
                l.split.clone(),
                same,
                format!("{:.2}", l.similarity),
                l.other_id.clone(),
                l.title.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = report.leaks.iter().take(50).map(row).collect();
        if !rows.is_empty() {
            text += &columns(&["paper", "part", "the same", "", "as", "title"], &rows);
        }
        if report.leaks.len() > rows.len() {
            text += &format!("\n{} more with --format json", report.leaks.len() - rows.len());
        }
        emit(&text, None)?;
    }
    Ok(if report.leaks.is_empty() { Outcome::Done } else { Outcome::Look })
}

/// Folders of the other sets that were built here and still exist.
fn stored(context: &Context, set: &Path) -> Result<Vec<PathBuf>, Failure> {
    let store = context.store()?;
    let own = std::fs::canonicalize(set).unwrap_or_else(|_| set.into());
    let mut out = Vec::new();
    for run in store.runs()?.into_iter().filter(|r| r.kind == RUN) {
        for (_, value) in store.stages(&run.id)?.into_iter().filter(|(n, _)| n == "set") {
            let Some(path) = value["path"].as_str().map(PathBuf::from) else { continue };
            let is_empty = value["rows"].as_u64() == Some(0);
            if path == own || is_empty {
                continue;
            }
            if path.join("manifest.json").is_file() {
                out.push(path);
            } else {
                context
                    .note(&format!("{}: the set is not there any more and was not compared", path.display()));
            }
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}
