//! What is in force: command line, then `CYCLE_*`, then `./cycle.toml`, then the user's file, then defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure};

/// Keys of a configuration file; the variable is `CYCLE_` and the name in capitals.
const KEYS: [(&str, &str); 11] = [
    ("store", ""),
    ("model", ""),
    ("form", "iclr2025"),
    ("reviewers", "4"),
    ("mode", "standard"),
    ("jobs", "1"),
    ("device", "auto"),
    ("dtype", "auto"),
    ("threads", ""),
    ("seed", "0"),
    ("offline", "false"),
];

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// As text; empty where nothing is set.
    pub text: String,
    /// `default`, a file, a variable, or `command line`.
    pub origin: String,
}

/// All values in force.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    /// `$CYCLE_HOME`, or the platform's data directory.
    pub home: PathBuf,
}

/// The data directory by the platform's rules.
fn home() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("CYCLE_HOME")
        .or_else(|| set("XDG_DATA_HOME").map(|d| d.join("cycle")))
        .or_else(|| {
            let home = set("HOME")?;
            Some(if cfg!(target_os = "macos") {
                home.join("Library/Application Support/cycle")
            } else {
                home.join(".local/share/cycle")
            })
        })
        .unwrap_or_else(|| PathBuf::from(".cycle"))
}

fn user_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config"))).map(|d| d.join("cycle/config.toml"))
}

impl Settings {
    /// Reads files and variables.
    ///
    /// # Errors
    /// If a file is no TOML or holds an unknown key; the nearest name is offered.
    pub fn load() -> Result<Self, Failure> {
        let mut values: BTreeMap<&'static str, Value> =
            KEYS.into_iter().map(|(k, v)| (k, Value { text: v.into(), origin: "default".into() })).collect();
        for path in user_file().into_iter().chain([PathBuf::from("cycle.toml")]) {
            if path.exists() {
                read(&path, &mut values)?;
            }
        }
        for (key, _) in KEYS {
            let name = format!("CYCLE_{}", key.to_uppercase());
            if let Ok(text) = std::env::var(&name) {
                if !text.is_empty() {
                    values.insert(key, Value { text, origin: name });
                }
            }
        }
        Ok(Self { values, home: home() })
    }

    /// Puts a value from the command line over the rest.
    pub fn set(&mut self, key: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.values.insert(key, Value { text: value.to_string(), origin: "command line".into() });
        }
    }

    /// A value as text; `None` where nothing is set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|v| v.text.as_str()).filter(|t| !t.is_empty())
    }

    /// A value as a number.
    ///
    /// # Errors
    /// If it is none; the message says where it comes from.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        match (self.get(key), self.values.get(key)) {
            (Some(text), Some(value)) => text.parse().map(Some).map_err(|_| {
                Failure::new(
                    Code::Usage,
                    format!("{key} = {text:?} (from {}): a number is needed", value.origin),
                )
            }),
            _ => Ok(None),
        }
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|t| t == "true" || t == "1")
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.get("store").map_or_else(|| self.home.join("cycle.db"), PathBuf::from)
    }

    /// All values, by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.values.iter().map(|(k, v)| (*k, v))
    }
}

fn read(path: &Path, values: &mut BTreeMap<&'static str, Value>) -> Result<(), Failure> {
    let bad = |what: String| Failure::new(Code::Model, format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(e.message().to_string()))?;
    for (key, value) in table {
        let Some((known, _)) = KEYS.into_iter().find(|(k, _)| *k == key) else {
            let near = KEYS.into_iter().map(|(k, _)| k).min_by_key(|k| strsim::damerau_levenshtein(k, &key));
            return Err(bad(format!("unknown key {key:?}; did you mean {}?", near.unwrap_or_default())));
        };
        let text = match value {
            toml::Value::String(s) => s,
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            other => return Err(bad(format!("{key} = {other}: a text, number or true/false is needed"))),
        };
        values.insert(known, Value { text, origin: path.display().to_string() });
    }
    Ok(())
}
