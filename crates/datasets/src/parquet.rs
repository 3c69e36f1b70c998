//! Rows as parquet without arrow: JSON values cut into columns with repetition and definition levels (Melnik et al.,
//! "Dremel", VLDB 2010, section 4). The schema is a value, so that reviews, tables and dialogues are written alike.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use crate::error::DatasetError;

/// What a column holds. Everything may be null.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Flag,
    /// A list.
    List(Box<Column>),
    /// Named columns.
    Struct(Vec<(&'static str, Column)>),
}

impl Column {
    /// A list of these.
    pub fn list(of: Column) -> Self {
        Self::List(Box::new(of))
    }

    fn schema(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let leaf =
            |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let made = match self {
            Self::Text => leaf(Physical::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .with_converted_type(ConvertedType::UTF8)
                .build()?,
            Self::Integer => leaf(Physical::INT64).build()?,
            Self::Number => leaf(Physical::DOUBLE).build()?,
            Self::Flag => leaf(Physical::BOOLEAN).build()?,
            Self::List(of) => {
                let repeated = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![of.schema("element")?])
                    .build()?;
                Type::group_type_builder(name)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_logical_type(Some(LogicalType::List))
                    .with_converted_type(ConvertedType::LIST)
                    .with_fields(vec![Arc::new(repeated)])
                    .build()?
            }
            Self::Struct(columns) => {
                let fields: Result<Vec<TypePtr>, _> = columns.iter().map(|(n, c)| c.schema(n)).collect();
                Type::group_type_builder(name)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_fields(fields?)
                    .build()?
            }
        };
        Ok(Arc::new(made))
    }

    fn leaves(&self) -> usize {
        match self {
            Self::List(of) => of.leaves(),
            Self::Struct(columns) => columns.iter().map(|(_, c)| c.leaves()).sum(),
            _ => 1,
        }
    }
}

enum Values {
    Text(Vec<ByteArray>),
    Integer(Vec<i64>),
    Number(Vec<f64>),
    Flag(Vec<bool>),
}

struct Leaf {
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

fn leaves(column: &Column, out: &mut Vec<Leaf>) {
    let values = match column {
        Column::Text => Values::Text(Vec::new()),
        Column::Integer => Values::Integer(Vec::new()),
        Column::Number => Values::Number(Vec::new()),
        Column::Flag => Values::Flag(Vec::new()),
        Column::List(of) => return leaves(of, out),
        Column::Struct(columns) => return columns.iter().for_each(|(_, c)| leaves(c, out)),
    };
    out.push(Leaf { values, definition: Vec::new(), repetition: Vec::new() });
}

/// Puts a value into its leaves. `repetition` is the level at which this value repeats, `depth` the number of lists
/// around it, `definition` how much of the path to it is there.
fn shred(column: &Column, value: &Value, repetition: i16, depth: i16, definition: i16, out: &mut [Leaf]) {
    let null = |out: &mut [Leaf]| {
        for leaf in out {
            leaf.definition.push(definition);
            leaf.repetition.push(repetition);
        }
    };
    match (column, value) {
        (Column::List(of), Value::Array(items)) => {
            if items.is_empty() {
                // The list is there (one level more), an element is not.
                for leaf in out {
                    leaf.definition.push(definition + 1);
                    leaf.repetition.push(repetition);
                }
                return;
            }
            for (i, item) in items.iter().enumerate() {
                let level = if i == 0 { repetition } else { depth + 1 };
                shred(of, item, level, depth + 1, definition + 2, out);
            }
        }
        (Column::Struct(columns), Value::Object(fields)) => {
            let mut at = 0;
            for (name, column) in columns {
                let n = column.leaves();
                let value = fields.get(*name).unwrap_or(&Value::Null);
                shred(column, value, repetition, depth, definition + 1, &mut out[at..at + n]);
                at += n;
            }
        }
        (Column::List(_) | Column::Struct(_), _) => null(out),
        (_, value) => {
            let Some(leaf) = out.first_mut() else { return };
            let is_there = match (&mut leaf.values, value) {
                (Values::Text(v), Value::String(s)) => {
                    v.push(ByteArray::from(s.as_bytes().to_vec()));
                    true
                }
                (Values::Integer(v), Value::Number(n)) => n.as_i64().map(|n| v.push(n)).is_some(),
                (Values::Flag(v), Value::Bool(b)) => {
                    v.push(*b);
                    true
                }
                (Values::Number(v), Value::Number(n)) => n.as_f64().map(|n| v.push(n)).is_some(),
                _ => false,
            };
            leaf.definition.push(definition + i16::from(is_there));
            leaf.repetition.push(repetition);
        }
    }
}

/// Bytes of text after which a group of rows is written: bounds memory, whatever the number of rows.
const GROUP: usize = 16 << 20;

/// A parquet file that rows are added to.
pub struct Writer {
    path: PathBuf,
    columns: Vec<(&'static str, Column)>,
    file: SerializedFileWriter<BufWriter<File>>,
    pending: Vec<Leaf>,
    bytes: usize,
}

impl Writer {
    /// An empty file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(path: &Path, columns: Vec<(&'static str, Column)>) -> Result<Self, DatasetError> {
        let file = File::create(path).map_err(DatasetError::write(path))?;
        let bad = |e: ParquetError| DatasetError::input(path, e);
        let fields: Result<Vec<TypePtr>, _> = columns.iter().map(|(n, c)| c.schema(n)).collect();
        let schema =
            Type::group_type_builder("row").with_fields(fields.map_err(bad)?).build().map_err(bad)?;
        let level = ZstdLevel::try_new(3).map_err(bad)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            // The same rows give the same bytes, whatever the version of the library says of itself.
            .set_created_by("cycle".into())
            .build();
        let file = SerializedFileWriter::new(BufWriter::new(file), Arc::new(schema), Arc::new(properties))
            .map_err(bad)?;
        let mut writer = Self { path: path.into(), columns, file, pending: Vec::new(), bytes: 0 };
        writer.pending = writer.empty();
        Ok(writer)
    }

    fn empty(&self) -> Vec<Leaf> {
        let mut out = Vec::new();
        for (_, column) in &self.columns {
            leaves(column, &mut out);
        }
        out
    }

    /// Adds a row; `bytes` is about its size.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add(&mut self, row: &Value, bytes: usize) -> Result<(), DatasetError> {
        let mut at = 0;
        for (name, column) in &self.columns {
            let n = column.leaves();
            shred(column, row.get(*name).unwrap_or(&Value::Null), 0, 0, 0, &mut self.pending[at..at + n]);
            at += n;
        }
        self.bytes += bytes;
        if self.bytes >= GROUP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DatasetError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending = self.empty();
        self.bytes = 0;
        let path = self.path.clone();
        let bad =
            |e: ParquetError| DatasetError::Write { path: path.clone(), source: std::io::Error::other(e) };
        let mut group = self.file.next_row_group().map_err(bad)?;
        for leaf in pending {
            let Some(mut column) = group.next_column().map_err(bad)? else { break };
            let (d, r) = (Some(&leaf.definition[..]), Some(&leaf.repetition[..]));
            match &leaf.values {
                Values::Text(v) => column.typed::<ByteArrayType>().write_batch(v, d, r),
                Values::Integer(v) => column.typed::<Int64Type>().write_batch(v, d, r),
                Values::Number(v) => column.typed::<DoubleType>().write_batch(v, d, r),
                Values::Flag(v) => column.typed::<BoolType>().write_batch(v, d, r),
            }
            .map_err(bad)?;
            column.close().map_err(bad)?;
        }
        group.close().map_err(bad)?;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn done(mut self) -> Result<(), DatasetError> {
        self.flush()?;
        let path = self.path.clone();
        let bad =
            |e: ParquetError| DatasetError::Write { path: path.clone(), source: std::io::Error::other(e) };
        let inner = self.file.into_inner().map_err(bad)?;
        inner.into_inner().map_err(|e| DatasetError::Write { path: path.clone(), source: e.into_error() })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::file::reader::SerializedFileReader;
    use ::parquet::record::reader::RowIter;
    use serde_json::json;

    #[test]
    fn nested_rows_come_back_as_they_were_nulls_and_empty_lists_included() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let review = Column::Struct(vec![("rating", Column::Number), ("text", Column::Text)]);
        let columns = vec![
            ("id", Column::Text),
            ("year", Column::Integer),
            ("reviews", Column::list(review)),
            ("rows", Column::list(Column::list(Column::Text))),
        ];
        let rows = [
            json!({"id": "a", "year": 2024, "reviews": [{"rating": 8.0, "text": "fine"}, {"rating": null, "text": "no number"}], "rows": [["a", "b"], ["c"]]}),
            json!({"id": "b", "year": null, "reviews": [], "rows": [[], ["d"]]}),
            json!({"id": "c", "year": 1, "reviews": null, "rows": null}),
        ];
        let mut writer = Writer::new(&path, columns).unwrap();
        rows.iter().for_each(|r| writer.add(r, 100).unwrap());
        writer.done().unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let found: Vec<String> =
            RowIter::from_file_into(Box::new(reader)).map(|r| r.unwrap().to_string()).collect();
        assert_eq!(
            found,
            [
                r#"{id: "a", year: 2024, reviews: [{rating: 8.0, text: "fine"}, {rating: null, text: "no number"}], rows: [["a", "b"], ["c"]]}"#,
                r#"{id: "b", year: null, reviews: [], rows: [[], ["d"]]}"#,
                r#"{id: "c", year: 1, reviews: null, rows: null}"#,
            ]
        );
    }
}
