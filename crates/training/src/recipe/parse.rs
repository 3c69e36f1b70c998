//! TOML into typed values, with errors that name the nearest key.

use serde::de::DeserializeOwned;

use crate::error::TrainError;

pub(super) fn bad(what: String) -> TrainError {
    TrainError::Recipe(what)
}

pub(super) fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}

/// A value of this type; an unknown key is refused and the nearest one offered.
pub(super) fn read<T: DeserializeOwned>(value: toml::Value) -> Result<T, TrainError> {
    value.try_into().map_err(|e: toml::de::Error| {
        let message = one_line(&e);
        // "unknown field `x`, expected one of `a`, `b`, …"
        let mut names = message.split('`').skip(1).step_by(2);
        let near = names.next().filter(|_| message.contains("unknown")).and_then(|word| {
            let nearest = names.map(|k| (strsim::damerau_levenshtein(word, k), k)).min();
            // A word that shares no letter with any name was not mistyped: all names are told.
            nearest.filter(|(d, _)| *d <= 4 && *d < word.len())
        });
        match near {
            Some((_, near)) => {
                let first = message.split(", expected").next().unwrap_or(&message);
                bad(format!("{first}; did you mean {near}?"))
            }
            None => bad(message),
        }
    })
}

/// Any configuration as TOML, after changes `key=value` (`a.b=3`): an unknown key is refused and the nearest one offered.
///
/// # Errors
/// If it is no TOML, or a key is unknown, missing or of the wrong type.
pub fn read_toml<T: DeserializeOwned>(text: &str, changes: &[String]) -> Result<T, TrainError> {
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(one_line(&e)))?;
    for change in changes {
        apply(&mut table, change)?;
    }
    read(toml::Value::Table(table))
}

/// One `--set key=value`: a value as TOML, or a word.
pub(super) fn apply(table: &mut toml::Table, change: &str) -> Result<(), TrainError> {
    let (path, value) =
        change.split_once('=').ok_or_else(|| bad(format!("--set {change}: write key=value")))?;
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut at = table;
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().unwrap_or_default();
    for key in keys {
        at = at
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| bad(format!("--set {change}: {key} is no table")))?;
    }
    at.insert(last.into(), value);
    Ok(())
}
