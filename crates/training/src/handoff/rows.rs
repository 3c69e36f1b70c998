//! Rows in the form an engine reads.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{HandoffError, Job, Method};
use crate::data::{Row, Rows};
use crate::recipe::{LossOn, Overlong};

/// Where rows come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A JSONL file, plain or `.zst`, in any of the forms of a recipe.
    File(&'a Path),
    /// Rows our own reader made ids of: the engine then trains on exactly the tokens that `cycle` would (supervised
    /// fine-tuning by TRL alone).
    Read(&'a Rows),
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub rows: usize,
    /// What they are.
    pub form: Form,
    /// Rows cut or left out here for their length (of rows of ids alone; text is the engine's to cut).
    pub overlong: usize,
}

/// The common forms of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `messages`.
    Messages,
    /// `prompt` and `completion`.
    Completion,
    /// `text`.
    Text,
    /// `input_ids` and `mask`.
    Ids,
    /// `prompt`, `chosen`, `rejected`.
    Pair,
    /// `prompt_ids`, `chosen_ids`, `rejected_ids`.
    PairIds,
    /// `prompt`, `completion`, `label`.
    Labelled,
}

impl Form {
    /// What a row is, by its keys.
    pub fn of(row: &Value) -> Option<Self> {
        let has = |key: &str| row.get(key).is_some();
        Some(match () {
            () if has("input_ids") => Self::Ids,
            () if has("chosen_ids") && has("rejected_ids") => Self::PairIds,
            () if has("chosen") && has("rejected") => Self::Pair,
            () if has("completion") && has("label") => Self::Labelled,
            () if has("prompt") && has("completion") => Self::Completion,
            () if has("messages") => Self::Messages,
            () if has("text") => Self::Text,
            () => return None,
        })
    }

    /// Its keys, for messages.
    pub fn keys(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Completion => "prompt, completion",
            Self::Text => "text",
            Self::Ids => "input_ids",
            Self::Pair => "chosen, rejected",
            Self::PairIds => "chosen_ids, rejected_ids",
            Self::Labelled => "prompt, completion, label",
        }
    }
}

/// Passes every row of a file through `turn` and writes what comes out, one JSON a line.
pub(super) fn write(
    job: &Job,
    source: Source<'_>,
    name: &str,
    turn: &mut dyn FnMut(Form, Value) -> Result<Vec<Value>, String>,
) -> Result<Written, HandoffError> {
    let path = job.data(name);
    let folder = job.data("");
    fs::create_dir_all(&folder).map_err(HandoffError::io(&folder))?;
    let partial = job.data(&format!(".{name}.partial"));
    let mut out = BufWriter::new(File::create(&partial).map_err(HandoffError::io(&partial))?);
    let (mut rows, mut overlong, mut form) = (0, 0, None);
    let mut put = |row: &Value| {
        rows += 1;
        writeln!(out, "{row}").map_err(HandoffError::io(&partial))
    };
    match source {
        Source::Read(examples) => {
            form = Some(Form::Ids);
            overlong = examples.overlong;
            for row in &examples.rows {
                if let Row::Text(e) = row {
                    put(&labelled(&e.ids, &e.mask))?;
                }
            }
        }
        Source::File(from) => {
            for (i, line) in BufReader::new(open(from)?).split(b'\n').enumerate() {
                let line = line.map_err(HandoffError::io(from))?;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let bad = |what: String| HandoffError::Row { path: from.into(), row: i + 1, what };
                let value: Value = serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))?;
                let this = Form::of(&value).ok_or_else(|| {
                    bad("has none of messages, prompt with completion, chosen with rejected, text, ids"
                        .into())
                })?;
                let open = |name: &&&str| value.get(**name) == Some(&Value::Bool(true));
                if let Some(name) = ["chosen_open", "rejected_open"].iter().find(open) {
                    return Err(bad(format!(
                        "has an answer without an end ({name}); other trainers put one behind it"
                    )));
                }
                if *form.get_or_insert(this) != this {
                    return Err(bad("is of another form than the rows before".into()));
                }
                let Some(value) = fitted(job, this, value, &mut overlong).map_err(bad)? else { continue };
                for row in turn(this, value).map_err(bad)? {
                    put(&row)?;
                }
            }
        }
    }
    out.flush().map_err(HandoffError::io(&partial))?;
    drop(out);
    fs::rename(&partial, &path).map_err(HandoffError::io(&path))?;
    match form {
        Some(form) if rows > 0 => Ok(Written { path, rows, form, overlong }),
        _ => Err(HandoffError::Row {
            path: match source {
                Source::File(from) => from.into(),
                Source::Read(_) => path,
            },
            row: 1,
            what: "the file holds no usable row".into(),
        }),
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>, HandoffError> {
    let file = File::open(path).map_err(HandoffError::io(path))?;
    Ok(if path.extension().is_some_and(|e| e == "zst") {
        Box::new(zstd::Decoder::new(file).map_err(HandoffError::io(path))?)
    } else {
        Box::new(file)
    })
}

/// Rows of ids within `max_length`, as the recipe says; rows of text as they are.
fn fitted(job: &Job, form: Form, mut row: Value, overlong: &mut usize) -> Result<Option<Value>, String> {
    let answers: &[&str] = match form {
        Form::Ids => &["input_ids"],
        Form::PairIds => &["chosen_ids", "rejected_ids"],
        _ => return Ok(Some(row)),
    };
    let length = |row: &Value, key: &str| row.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let prompt = length(&row, "prompt_ids");
    let longest = answers.iter().map(|key| prompt + length(&row, key)).max().unwrap_or(0);
    if longest <= job.max_length {
        return Ok(Some(row));
    }
    *overlong += 1;
    match job.overlong {
        Overlong::Error => Err(format!(
            "{longest} tokens, max_length is {}; set overlong = \"skip\" or \"truncate\"",
            job.max_length
        )),
        Overlong::Skip => Ok(None),
        Overlong::Truncate => {
            let room = job.max_length.saturating_sub(prompt);
            for key in answers.iter().chain(&["mask"]) {
                if let Some(list) = row.get_mut(key).and_then(Value::as_array_mut) {
                    list.truncate(room);
                }
            }
            Ok((room > 0).then_some(row))
        }
    }
}

/// A row of ids and `mask` as TRL reads it.
pub(super) fn with_labels(row: &Value, loss_on: LossOn) -> Result<Value, String> {
    let list = |key: &str| -> Result<Option<Vec<u32>>, String> {
        let Some(value) = row.get(key) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|_| format!("{key} is no list of ids"))
    };
    let ids = list("input_ids")?.unwrap_or_default();
    let mask = match list("mask")? {
        Some(mask) if loss_on == LossOn::Completion => mask.into_iter().map(|m| m != 0).collect(),
        _ => vec![true; ids.len()],
    };
    if mask.len() != ids.len() {
        return Err(format!("{} input_ids but a mask of {}", ids.len(), mask.len()));
    }
    if !mask.iter().skip(1).any(|m| *m) {
        return Err("no token of this row counts for the loss".into());
    }
    Ok(labelled(&ids, &mask))
}

fn labelled(ids: &[u32], mask: &[bool]) -> Value {
    let labels: Vec<i64> =
        ids.iter().zip(mask).map(|(id, m)| if *m { i64::from(*id) } else { -100 }).collect();
    json!({"input_ids": ids, "labels": labels})
}

/// Refuses a label that is not hard: the engines' reward models take every chosen answer for the better one.
pub(super) fn hard_label(row: &Value) -> Result<(), String> {
    match row.get("p_chosen").and_then(Value::as_f64) {
        Some(p) if p != 1.0 => {
            Err(format!("has p_chosen = {p}, which the engine would take for 1; --engine local learns it"))
        }
        _ => Ok(()),
    }
}

/// These keys of a row, those it has.
pub(super) fn only(row: &Value, keys: &[&str]) -> Value {
    let kept: Map<String, Value> =
        keys.iter().filter_map(|k| Some(((*k).to_owned(), row.get(k)?.clone()))).collect();
    Value::Object(kept)
}

/// A dialogue whose last turn alone is the assistant's, as prompt and completion.
pub(super) fn last_turn(row: &Value) -> Option<(Vec<Value>, Value)> {
    let messages = row.get("messages")?.as_array()?;
    let (last, before) = messages.split_last()?;
    let assistant = |m: &Value| m["role"] == "assistant";
    (assistant(last) && !before.is_empty() && !before.iter().any(assistant))
        .then(|| (before.to_vec(), last.clone()))
}

/// What a method trains on, for messages.
pub(super) fn wants(method: Method) -> &'static str {
    match method {
        Method::Sft => "messages, prompt with completion, text, or input_ids with mask",
        Method::Reward => {
            "prompt, chosen, rejected (text or messages), or prompt_ids, chosen_ids, rejected_ids"
        }
        Method::Preference => "prompt, chosen, rejected (text or messages)",
    }
}
