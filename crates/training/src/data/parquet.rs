//! Rows of a parquet file as the JSON objects that a line of JSONL would be.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::error::TrainError;

/// Calls `f` with every row; `number` counts on over files.
pub(super) fn rows(
    path: &Path,
    number: &mut usize,
    f: &mut impl FnMut(usize, Value) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let bad = |row: usize, e: &ParquetError| {
        let what =
            format!("the parquet file cannot be read ({})", e.to_string().lines().next().unwrap_or_default());
        TrainError::Data { path: path.into(), row, what }
    };
    let file = File::open(path).map_err(TrainError::io(path))?;
    // The reader trusts what a file says of itself, and panics where a damaged one lies.
    let guarded = |row: usize, what: &mut dyn FnMut() -> Result<Option<Row>, ParquetError>| {
        let damaged = |_| ParquetError::General("the file is damaged".into());
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
        read.map_err(damaged).flatten().map_err(|e| bad(row, &e))
    };
    let mut rows: Option<RowIter<'static>> = None;
    guarded(*number + 1, &mut || {
        let reader = SerializedFileReader::new(file.try_clone()?)?;
        rows = Some(RowIter::from_file_into(Box::new(reader)));
        Ok(None)
    })?;
    let Some(mut rows) = rows else { return Ok(()) };
    while let Some(row) = guarded(*number + 1, &mut || rows.next().transpose())? {
        *number += 1;
        f(*number, object(&row))?;
    }
    Ok(())
}

/// Columns that are null are left out, as JSON lines leave them out.
fn object(row: &Row) -> Value {
    let columns = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    Value::Object(columns.map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
}

fn value(field: &Field) -> Value {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => float(x.to_f64()),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) => Value::String(text.clone()),
        // Some writers leave the mark out that says: these bytes are text.
        Field::Bytes(bytes) => Value::String(String::from_utf8_lossy(bytes.data()).into_owned()),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        other => Value::String(other.to_string()),
    }
}
