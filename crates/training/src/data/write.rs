//! Pairs as a parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::error::TrainError;

/// `prompt`, `chosen` and `rejected` are lists of messages, as `datasets.load_dataset` and TRL read them.
const SCHEMA: &str = "
message pairs {
  required group prompt (LIST) { repeated group list { required group element {
    required binary role (UTF8); required binary content (UTF8); } } }
  required group chosen (LIST) { repeated group list { required group element {
    required binary role (UTF8); required binary content (UTF8); } } }
  required group rejected (LIST) { repeated group list { required group element {
    required binary role (UTF8); required binary content (UTF8); } } }
  required double difference;
  required binary id (UTF8);
  required binary loop (UTF8);
  required int64 iteration;
  required binary policy (UTF8);
}";

/// Rows in one group.
const GROUP: usize = 1000;

/// Writes pairs (`prompt`, `chosen` and `rejected` as messages; `difference`, `id`, `loop`, `iteration`, `policy`) by
/// rename.
///
/// # Errors
/// If the file cannot be written.
pub fn write_pairs(path: &Path, rows: &[Value]) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
    let partial = folder.join(format!(".{name}.partial"));
    let file = File::create(&partial).map_err(TrainError::io(&partial))?;
    let written = pairs(file, rows);
    let failed = |e: ParquetError| TrainError::io(path)(std::io::Error::other(e.to_string()));
    written.map_err(failed)?;
    std::fs::rename(&partial, path).map_err(TrainError::io(path))
}

fn pairs(file: File, rows: &[Value]) -> Result<(), ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    for rows in rows.chunks(GROUP) {
        let mut group = writer.next_row_group()?;
        for column in ["prompt", "chosen", "rejected"] {
            for field in ["role", "content"] {
                messages(&mut group, rows, column, field)?;
            }
        }
        numbers(&mut group, rows, "difference")?;
        texts(&mut group, rows, "id")?;
        texts(&mut group, rows, "loop")?;
        let iterations: Vec<i64> = rows.iter().map(|r| r["iteration"].as_i64().unwrap_or_default()).collect();
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int64Type>().write_batch(&iterations, None, None)?;
            column.close()?;
        }
        texts(&mut group, rows, "policy")?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

type Group<'a> = SerializedRowGroupWriter<'a, File>;

/// A field of the messages of every row: a message begins a row (repetition 0) or goes on with it (1).
fn messages(group: &mut Group<'_>, rows: &[Value], column: &str, field: &str) -> Result<(), ParquetError> {
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let list = row[column].as_array().map_or(&[][..], Vec::as_slice);
        if list.is_empty() {
            defined.push(0);
            repeated.push(0);
        }
        for (i, message) in list.iter().enumerate() {
            values.push(ByteArray::from(message[field].as_str().unwrap_or_default()));
            defined.push(1);
            repeated.push(i16::from(i > 0));
        }
    }
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&values, Some(&defined), Some(&repeated))?;
        column.close()?;
    }
    Ok(())
}

fn texts(group: &mut Group<'_>, rows: &[Value], name: &str) -> Result<(), ParquetError> {
    let values: Vec<ByteArray> =
        rows.iter().map(|r| ByteArray::from(r[name].as_str().unwrap_or_default())).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
        column.close()?;
    }
    Ok(())
}

fn numbers(group: &mut Group<'_>, rows: &[Value], name: &str) -> Result<(), ParquetError> {
    let values: Vec<f64> = rows.iter().map(|r| r[name].as_f64().unwrap_or(f64::NAN)).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<DoubleType>().write_batch(&values, None, None)?;
        column.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_written_as_parquet_are_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/pairs.parquet");
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let row = |n: usize| {
            json!({"prompt": [message("system", "s"), message("user", &format!("ü {n}"))],
                "chosen": [message("assistant", "good\n")], "rejected": [message("assistant", "bad")],
                "difference": 0.25, "id": format!("d{n}"), "loop": "x1", "iteration": 2, "policy": "p"})
        };
        let rows: Vec<Value> = (0..1003).map(row).collect();
        write_pairs(&path, &rows).unwrap();
        let mut back = Vec::new();
        super::super::parquet::rows(&path, &mut 0, &mut |_, row| {
            back.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(back, rows);
    }
}
