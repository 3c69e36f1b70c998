//! Pairs of a loop as a parquet file, in the columns that `datasets.load_dataset` and TRL read.

use std::path::Path;

use serde_json::Value;

use crate::error::DatasetError;
use crate::gather;
use crate::parquet::{Column, Writer};
use crate::write::turns;

/// Writes pairs (`prompt`, `chosen` and `rejected` as messages; `chosen_open`,
/// `rejected_open`, `difference`, `id`, `loop`, `iteration`, `policy`) by rename.
///
/// # Errors
/// If the file cannot be written.
pub fn write_pairs(path: &Path, rows: &[Value]) -> Result<(), DatasetError> {
    let columns = vec![
        ("prompt", turns()),
        ("chosen", turns()),
        ("rejected", turns()),
        ("chosen_open", Column::Flag),
        ("rejected_open", Column::Flag),
        ("difference", Column::Number),
        ("id", Column::Text),
        ("loop", Column::Text),
        ("iteration", Column::Integer),
        ("policy", Column::Text),
    ];
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(DatasetError::write(folder))?;
    }
    let partial = path.with_file_name(format!(".{}.partial-{}", gather::name(path), std::process::id()));
    let mut writer = Writer::new(&partial, columns)?;
    for row in rows {
        writer.add(row, row.to_string().len())?;
    }
    writer.done()?;
    std::fs::rename(&partial, path).map_err(DatasetError::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::file::reader::SerializedFileReader;
    use ::parquet::record::reader::RowIter;
    use serde_json::json;

    #[test]
    fn pairs_come_back_as_messages_and_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/pairs.parquet");
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let row = |n: usize| {
            json!({"prompt": [message("system", "s"), message("user", &format!("ü {n}"))],
                "chosen": [message("assistant", "good")], "rejected": [message("assistant", "bad")],
                "chosen_open": false, "rejected_open": n.is_multiple_of(2), "difference": 0.25, "id": format!("d{n}"), "loop": "x1", "iteration": 2, "policy": "p"})
        };
        let rows: Vec<Value> = (0..1003).map(row).collect();
        write_pairs(&path, &rows).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let back: Vec<String> =
            RowIter::from_file_into(Box::new(reader)).map(|r| r.unwrap().to_string()).collect();
        assert_eq!(back.len(), rows.len());
        assert_eq!(
            back[1002],
            r#"{prompt: [{role: "system", content: "s"}, {role: "user", content: "ü 1002"}], chosen: [{role: "assistant", content: "good"}], rejected: [{role: "assistant", content: "bad"}], chosen_open: false, rejected_open: true, difference: 0.25, id: "d1002", loop: "x1", iteration: 2, policy: "p"}"#
        );
    }
}
