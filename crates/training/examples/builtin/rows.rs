//! Reading and writing JSON lines, and a shuffle that every run repeats.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde_json::Value;

/// Every row of a JSONL file, `.zst` or plain.
pub fn read(path: &Path) -> Result<Vec<Value>, Box<dyn Error>> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "zst") {
        Box::new(zstd::Decoder::new(file)?)
    } else {
        Box::new(file)
    };
    let lines = BufReader::new(reader).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// Writes rows, one a line.
pub fn write(path: &Path, rows: &[Value]) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(File::create(path)?);
    for row in rows {
        writeln!(out, "{row}")?;
    }
    Ok(out.flush()?)
}

/// Puts rows into an order that depends on nothing but their number.
pub fn shuffle<T>(rows: Vec<T>) -> Vec<T> {
    let order = training::order(rows.len(), true, 0, 0);
    let mut slots: Vec<Option<T>> = rows.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| slots[i].take()).collect()
}

/// A dialogue of one question and one answer as a training row.
pub fn dialogue(system: &str, user: &str, assistant: &str) -> Value {
    serde_json::json!({"messages": [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant}]})
}
