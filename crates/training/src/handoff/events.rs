//! Scalars of TensorBoard's event files, which is all that OpenRLHF writes of its losses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::HandoffError;

/// `train/…` of every step below a folder, in the words of `metrics.jsonl`. No folder, no lines.
pub(super) fn losses(folder: &Path) -> Result<Vec<Value>, HandoffError> {
    let mut steps: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    let mut found = Vec::new();
    below(folder, &mut found);
    found.sort();
    for path in found {
        let bytes = fs::read(&path).map_err(HandoffError::io(&path))?;
        for (step, tag, value) in records(&bytes).filter_map(event).flatten() {
            let Some(name) = tag.strip_prefix("train/") else { continue };
            let name = match name {
                "loss_mean" => "loss",
                // Of the last micro-batch alone.
                "loss" | "gpt_loss" => "micro_batch_loss",
                other => other,
            };
            steps.entry(step).or_default().insert(name.into(), json!(value));
        }
    }
    Ok(steps
        .into_iter()
        .map(|(step, mut line)| {
            line.insert("step".into(), json!(step));
            Value::Object(line)
        })
        .collect())
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.is_dir() {
            below(&path, found);
        } else if path.file_name().is_some_and(|n| n.to_string_lossy().contains("tfevents")) {
            found.push(path);
        }
    }
}

/// Length (8 bytes), its checksum (4), the record, its checksum (4); a cut last one is left out.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let end = usize::try_from(length).ok()?.checked_add(12)?;
        let record = bytes.get(12..end)?;
        bytes = bytes.get(end + 4..).unwrap_or_default();
        Some(record)
    })
}

/// `Event`: 2 = step, 5 = summary; `Summary`: 1 = value; `Value`: 1 = tag, 2 = the number.
fn event(record: &[u8]) -> Option<Vec<(u64, String, f64)>> {
    let (mut step, mut out) = (0, Vec::new());
    for (number, field) in fields(record) {
        match (number, field) {
            (2, Field::Number(n)) => step = n,
            (5, Field::Bytes(summary)) => {
                for (number, field) in fields(summary) {
                    if let (1, Field::Bytes(value)) = (number, field) {
                        out.extend(scalar(value));
                    }
                }
            }
            _ => {}
        }
    }
    (!out.is_empty()).then(|| out.into_iter().map(|(tag, value)| (step, tag, value)).collect())
}

fn scalar(value: &[u8]) -> Option<(String, f64)> {
    let (mut tag, mut number) = (None, None);
    for field in fields(value) {
        match field {
            (1, Field::Bytes(text)) => tag = Some(String::from_utf8_lossy(text).into_owned()),
            (2, Field::Bytes(float)) => number = float.try_into().ok().map(f32::from_le_bytes),
            _ => {}
        }
    }
    Some((tag?, f64::from(number?)))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protocol buffer; ends where it is damaged.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = varint(&mut bytes)?;
        let mut take = |n: usize| {
            let (head, tail) = bytes.split_at_checked(n)?;
            bytes = tail;
            Some(Field::Bytes(head))
        };
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => take(8)?,
            2 => {
                let n = varint(&mut bytes)?;
                let (head, tail) = bytes.split_at_checked(usize::try_from(n).ok()?)?;
                bytes = tail;
                Field::Bytes(head)
            }
            5 => take(4)?,
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut out = 0;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first()?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first < 0x80 {
            return Some(out);
        }
    }
    None
}
