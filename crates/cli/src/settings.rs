//! What is in force: command line, then `CYCLE_*`, then `./cycle.toml`, then the user's file, then defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure};

/// What a value must be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Any text.
    Text,
    /// True or false.
    Flag,
    /// A whole number of at least so much.
    Whole(u64),
    /// A number within these bounds; the first may be left out.
    Number { from: f64, to: f64, open: bool },
    /// One of these.
    OneOf(&'static [&'static str]),
    /// auto, cpu, cuda, cuda:N.
    Device,
}

impl Kind {
    /// What is needed, if `text` is not it.
    fn refuses(self, text: &str) -> Option<String> {
        let number = text.parse::<f64>().ok().filter(|x| x.is_finite());
        match self {
            Self::Text => None,
            Self::Flag => {
                (!["true", "false", "1", "0"].contains(&text)).then(|| "true or false is needed".into())
            }
            Self::Whole(least) => (!text.parse::<u64>().is_ok_and(|n| n >= least))
                .then(|| format!("a whole number of at least {least} is needed")),
            Self::Number { from, to, open } => {
                let fine = number.is_some_and(|x| x <= to && if open { x > from } else { x >= from });
                let above = if open { "above" } else { "at least" };
                let below = if to.is_finite() { format!(" and at most {to}") } else { String::new() };
                (!fine).then(|| format!("a number {above} {from}{below} is needed"))
            }
            Self::OneOf(names) => (!names.contains(&text)).then(|| format!("there are {}", names.join(", "))),
            Self::Device => text.parse::<lm::DeviceChoice>().err(),
        }
    }
}

/// Keys of a configuration file with their defaults; the variable is `CYCLE_` and the name in capitals. Without a
/// default of its own a sampler's value is that of the command.
const KEYS: [(&str, &str, Kind); 15] = [
    ("store", "", Kind::Text),
    ("model", "", Kind::Text),
    ("form", "iclr2025", Kind::Text),
    ("reviewers", "4", Kind::Whole(1)),
    ("mode", "standard", Kind::OneOf(&["fast", "standard", "best"])),
    ("jobs", "1", Kind::Whole(1)),
    ("device", "auto", Kind::Device),
    ("dtype", "auto", Kind::OneOf(&["auto", "f32", "bf16", "f16"])),
    ("threads", "", Kind::Whole(1)),
    ("seed", "0", Kind::Whole(0)),
    ("temperature", "", Kind::Number { from: 0.0, to: f64::INFINITY, open: false }),
    ("top_p", "", Kind::Number { from: 0.0, to: 1.0, open: true }),
    ("top_k", "", Kind::Whole(0)),
    ("min_p", "", Kind::Number { from: 0.0, to: 1.0, open: false }),
    ("offline", "false", Kind::Flag),
];

const COMMAND_LINE: &str = "command line";

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
        let mut values: BTreeMap<&'static str, Value> = KEYS
            .into_iter()
            .map(|(k, v, _)| (k, Value { text: v.into(), origin: "default".into() }))
            .collect();
        for path in user_file().into_iter().chain([PathBuf::from("cycle.toml")]) {
            if path.exists() {
                read(&path, &mut values)?;
            }
        }
        for (key, ..) in KEYS {
            let name = format!("CYCLE_{}", key.to_uppercase());
            if let Ok(text) = std::env::var(&name) {
                if !text.is_empty() {
                    values.insert(key, Value { text, origin: name });
                }
            }
        }
        let settings = Self { values, home: home() };
        for (key, ..) in KEYS {
            settings.checked(key)?;
        }
        Ok(settings)
    }

    /// A value that is what its key needs; `None` where nothing is set.
    ///
    /// # Errors
    /// If it is something else; the message says where it comes from.
    pub fn checked(&self, key: &str) -> Result<Option<&str>, Failure> {
        let (Some(text), Some(value)) = (self.get(key), self.values.get(key)) else { return Ok(None) };
        let kind = KEYS.into_iter().find(|(k, ..)| *k == key).map_or(Kind::Text, |k| k.2);
        match kind.refuses(text) {
            None => Ok(Some(text)),
            Some(needed) if value.origin == COMMAND_LINE => {
                Err(Failure::new(Code::Usage, format!("--{} {text}: {needed}", key.replace('_', "-"))))
            }
            Some(needed) => {
                Err(Failure::new(Code::Model, format!("{}: {key} = {text:?}: {needed}", value.origin)))
            }
        }
    }

    /// Puts a value from the command line over the rest.
    pub fn set(&mut self, key: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.values.insert(key, Value { text: value.to_string(), origin: COMMAND_LINE.into() });
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
        match self.checked(key)? {
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Failure::new(Code::Usage, format!("{key} = {text}: this number is too large"))),
            None => Ok(None),
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
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        bad(format!("{}{}", line.map_or(String::new(), |l| format!("line {l}: ")), e.message()))
    })?;
    for (key, value) in table {
        let Some((known, ..)) = KEYS.into_iter().find(|(k, ..)| *k == key) else {
            let near = KEYS.into_iter().map(|k| k.0).min_by_key(|k| strsim::damerau_levenshtein(k, &key));
            return Err(bad(format!("unknown key {key:?}; did you mean {}?", near.unwrap_or_default())));
        };
        let text = match value {
            toml::Value::String(s) => s,
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(x) => x.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            other => return Err(bad(format!("{key} = {other}: a text, number or true/false is needed"))),
        };
        values.insert(known, Value { text, origin: path.display().to_string() });
    }
    Ok(())
}
