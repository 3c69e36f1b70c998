//! `cycle papers|reviews|runs`: the store.

use std::path::Path;

use review::Review;
use serde_json::{Value, json};
use store::Item;

use crate::args::{Format, StoredCommand};
use crate::commands::{Outcome, review as reviewing};
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// Rows as a table or one JSON document.
pub(super) fn list(schema: &str, rows: &[Value], names: &[&str], format: Format) -> Result<Outcome, Failure> {
    if format == Format::Json {
        emit(&json!({"schema": schema, "rows": rows}).to_string(), None)?;
        return Ok(Outcome::Done);
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            names
                .iter()
                .map(|c| match &row[*c] {
                    Value::Null => "–".to_string(),
                    Value::String(s) => s.chars().take(60).collect(),
                    Value::Number(n) => {
                        n.as_f64().filter(|f| f.fract() != 0.0).map_or(n.to_string(), |f| format!("{f:.2}"))
                    }
                    other => other.to_string(),
                })
                .collect()
        })
        .collect();
    emit(&columns(names, &table), None)?;
    Ok(Outcome::Done)
}

pub(super) fn values<T: serde::Serialize>(rows: &[T]) -> Vec<Value> {
    rows.iter().filter_map(|r| serde_json::to_value(r).ok()).collect()
}

pub(super) fn lines(rows: &[Value], out: Option<&Path>) -> Result<Outcome, Failure> {
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    emit(&text, out)?;
    Ok(Outcome::Done)
}

/// Papers and runs have no page of their own.
pub(super) fn text_or_json(format: Format, kind: &str) -> Result<(), Failure> {
    match format {
        Format::Text | Format::Json => Ok(()),
        Format::Md | Format::Html => {
            Err(Failure::new(Code::Usage, format!("{kind} are shown as text or json, not as md or html")))
        }
    }
}

fn wrong(id: &str, kind: &str) -> Failure {
    Failure::new(Code::Usage, format!("{id} is no {kind}"))
}

/// Runs `cycle papers`.
///
/// # Errors
/// If the store cannot be used or the id names nothing.
pub fn papers(context: &Context, command: &StoredCommand) -> Result<Outcome, Failure> {
    let store = context.store()?;
    match command {
        StoredCommand::List(args) => list(
            "cycle.papers/1",
            &values(&store.papers()?),
            &["id", "title", "versions", "reviews", "created_at"],
            args.format,
        ),
        StoredCommand::Show { id, format, out } => {
            text_or_json(*format, "papers")?;
            let Item::Paper { paper, versions, document } = store.show(id)? else {
                return Err(wrong(id, "paper"));
            };
            let text = if *format == Format::Json {
                json!({"schema": "cycle.paper_record/1", "paper": paper, "versions": versions, "document": document}).to_string()
            } else {
                let mut text =
                    format!("{} {}\n", paper.id, paper.title.as_deref().unwrap_or("(no title found)"));
                for v in versions {
                    text += &format!("  {} {} {}\n", &v.sha256[..12.min(v.sha256.len())], v.source, v.path);
                }
                text
            };
            emit(&text, out.as_deref())?;
            Ok(Outcome::Done)
        }
        StoredCommand::Export { out } => {
            let mut rows = Vec::new();
            for paper in store.papers()? {
                if let Item::Paper { paper, versions, document } = store.show(&paper.id)? {
                    rows.push(json!({"schema": "cycle.paper_record/1", "paper": paper, "versions": versions, "document": document}));
                }
            }
            lines(&rows, out.as_deref())
        }
    }
}

/// Runs `cycle reviews`.
///
/// # Errors
/// If the store cannot be used or the id names nothing.
pub fn reviews(context: &Context, command: &StoredCommand) -> Result<Outcome, Failure> {
    let store = context.store()?;
    match command {
        StoredCommand::List(args) => list(
            "cycle.reviews/1",
            &values(&store.reviews()?),
            &["id", "title", "form", "model", "rating", "status", "created_at"],
            args.format,
        ),
        StoredCommand::Show { id, format, out } => {
            let Item::Review(stored) = store.show(id)? else { return Err(wrong(id, "review")) };
            let json = stored.outcome.map_err(|reason| {
                Failure::new(Code::Look, format!("{}: this review failed: {reason}", stored.id))
            })?;
            if *format == Format::Json {
                emit(&json, out.as_deref())?;
                return Ok(Outcome::Done);
            }
            let review: Review = serde_json::from_str(&json).map_err(|e| Failure::new(Code::Model, e))?;
            let form = review.filled_form()?;
            emit(&reviewing::show(&review, &form, *format)?, out.as_deref())?;
            Ok(Outcome::Done)
        }
        StoredCommand::Export { out } => {
            let mut rows = Vec::new();
            for row in store.reviews()? {
                if let Item::Review(stored) = store.show(&row.id)? {
                    match stored.outcome {
                        Ok(json) => rows.extend(serde_json::from_str::<Value>(&json).ok()),
                        Err(reason) => {
                            rows.push(
                                json!({"schema": "cycle.failed_review/1", "id": row.id, "status": "failed",
                                "reason": reason}),
                            );
                        }
                    }
                }
            }
            lines(&rows, out.as_deref())
        }
    }
}

/// Runs `cycle runs`.
///
/// # Errors
/// If the store cannot be used or the id names nothing.
pub fn runs(context: &Context, command: &StoredCommand) -> Result<Outcome, Failure> {
    let store = context.store()?;
    let whole = |id: &str| -> Result<Value, Failure> {
        let Item::Run { run, config, stages } = store.show(id)? else { return Err(wrong(id, "run")) };
        let stages: Vec<Value> = stages.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
        Ok(json!({"schema": "cycle.run/1", "run": run, "config": config, "stages": stages}))
    };
    match command {
        StoredCommand::List(args) => list(
            "cycle.runs/1",
            &values(&store.runs()?),
            &["id", "kind", "status", "stages", "created_at", "finished_at"],
            args.format,
        ),
        StoredCommand::Show { id, format, out } => {
            text_or_json(*format, "runs")?;
            let value = whole(id)?;
            let text = if *format == Format::Json {
                value.to_string()
            } else {
                serde_json::to_string_pretty(&value).map_err(|e| Failure::new(Code::Model, e))?
            };
            emit(&text, out.as_deref())?;
            Ok(Outcome::Done)
        }
        StoredCommand::Export { out } => {
            let rows = store.runs()?.iter().map(|r| whole(&r.id)).collect::<Result<Vec<_>, _>>()?;
            lines(&rows, out.as_deref())
        }
    }
}
