//! Rows of a training file as token ids with a mask of what counts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use models::{ChatTemplate, Tokenizer};
use serde_json::Value;

use crate::error::TrainError;
use crate::recipe::{LossOn, Overlong};

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Its line in the file, from 1.
    pub row: usize,
    /// Token ids.
    pub ids: Vec<u32>,
    /// True where a token is learned.
    pub mask: Vec<bool>,
}

/// All rows of a file and what was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    /// The rows that are used.
    pub rows: Vec<Example>,
    /// Rows longer than the limit, left out or cut.
    pub overlong: usize,
}

/// How rows become ids.
pub struct Reading<'a> {
    /// The model's tokenizer; not needed for rows of ids.
    pub tokenizer: &'a Tokenizer,
    /// The model's template.
    pub chat: &'a ChatTemplate,
    /// Ends a plain text.
    pub eos: Option<u32>,
    /// Which tokens count.
    pub loss_on: LossOn,
    /// Longest row.
    pub max_length: usize,
    /// What happens to longer ones.
    pub overlong: Overlong,
}

impl Reading<'_> {
    /// Reads a JSONL file (`.zst` too): rows with `messages`, `prompt` and `completion`, `text`, or `input_ids` and
    /// `mask`.
    ///
    /// # Errors
    /// If the file is missing or a row is none of these; the row is named.
    pub fn file(&self, path: &Path) -> Result<Examples, TrainError> {
        let file = File::open(path).map_err(TrainError::io(path))?;
        let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "zst") {
            Box::new(zstd::Decoder::new(file).map_err(TrainError::io(path))?)
        } else {
            Box::new(file)
        };
        let mut examples = Examples::default();
        for (i, line) in BufReader::new(reader).split(b'\n').enumerate() {
            let line = line.map_err(TrainError::io(path))?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let bad = |what: String| TrainError::Data { path: path.into(), row: i + 1, what };
            let value: Value = serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))?;
            let (mut ids, mut mask) = self.row(&value).map_err(bad)?;
            if ids.len() > self.max_length {
                examples.overlong += 1;
                match self.overlong {
                    Overlong::Error => {
                        return Err(bad(format!(
                            "{} tokens, max_length is {}; set overlong = \"skip\" or \"truncate\"",
                            ids.len(),
                            self.max_length
                        )));
                    }
                    Overlong::Skip => continue,
                    Overlong::Truncate => {
                        ids.truncate(self.max_length);
                        mask.truncate(self.max_length);
                    }
                }
            }
            if !mask.iter().skip(1).any(|m| *m) {
                // Nothing of it would be learned: only a cut row may come to this.
                if examples.overlong == 0 {
                    return Err(bad("no token of this row counts for the loss".into()));
                }
                continue;
            }
            examples.rows.push(Example { row: i + 1, ids, mask });
        }
        if examples.rows.is_empty() {
            return Err(TrainError::Data {
                path: path.into(),
                row: 1,
                what: "the file holds no usable row".into(),
            });
        }
        Ok(examples)
    }

    fn row(&self, value: &Value) -> Result<(Vec<u32>, Vec<bool>), String> {
        let all = self.loss_on == LossOn::All;
        let encode = |text: &str| self.tokenizer.encode(text).map_err(|e| e.to_string());
        if let Some(ids) = value.get("input_ids") {
            let ids: Vec<u32> = list(ids, "input_ids")?;
            let mask: Vec<bool> = match value.get("mask") {
                Some(mask) if !all => list(mask, "mask")?.into_iter().map(|m| m != 0).collect(),
                _ => vec![true; ids.len()],
            };
            if mask.len() != ids.len() {
                return Err(format!("{} input_ids but a mask of {}", ids.len(), mask.len()));
            }
            return Ok((ids, mask));
        }
        if let Some(messages) = value.get("messages").and_then(Value::as_array) {
            return self.dialogue(messages, all);
        }
        if let (Some(prompt), Some(completion)) =
            (value.get("prompt").and_then(Value::as_str), value.get("completion").and_then(Value::as_str))
        {
            let mut ids = encode(prompt)?;
            let mut mask = vec![all; ids.len()];
            let answer = encode(completion)?;
            mask.extend(std::iter::repeat_n(true, answer.len() + usize::from(self.eos.is_some())));
            ids.extend(answer);
            ids.extend(self.eos);
            return Ok((ids, mask));
        }
        if let Some(text) = value.get("text").and_then(Value::as_str) {
            let mut ids = encode(text)?;
            ids.extend(self.eos);
            let mask = vec![true; ids.len()];
            return Ok((ids, mask));
        }
        Err("has none of messages, prompt with completion, text, input_ids".into())
    }

    /// Every assistant turn counts, its end-of-turn token included.
    fn dialogue(&self, messages: &[Value], all: bool) -> Result<(Vec<u32>, Vec<bool>), String> {
        let render =
            |n: usize, open: bool| self.chat.render(&&messages[..n], open).map_err(|e| e.to_string());
        let (mut text, mut ids, mut mask) = (String::new(), Vec::new(), Vec::new());
        for (i, message) in messages.iter().enumerate() {
            let assistant = message["role"] == "assistant";
            if message["content"].as_str().is_none() {
                return Err(format!("message {} has no content", i + 1));
            }
            if !assistant {
                continue;
            }
            for (upto, counts) in [(render(i, true)?, all), (render(i + 1, false)?, true)] {
                let Some(piece) = upto.strip_prefix(&text) else {
                    return Err(
                        "the chat template rewrites earlier turns; give prompt and completion instead".into(),
                    );
                };
                let mut new = self.tokenizer.encode(piece).map_err(|e| e.to_string())?;
                // What a template puts after the end of a turn (a line break) is never generated.
                let end = if counts && assistant && !all {
                    self.eos.and_then(|e| new.iter().rposition(|id| *id == e)).map_or(new.len(), |p| p + 1)
                } else {
                    new.len()
                };
                mask.extend((0..new.len()).map(|k| counts && k < end));
                ids.append(&mut new);
                text = upto;
            }
        }
        Ok((ids, mask))
    }
}

fn list(value: &Value, name: &str) -> Result<Vec<u32>, String> {
    value
        .as_array()
        .ok_or_else(|| format!("{name} is no list"))?
        .iter()
        .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("{name} holds {v}")))
        .collect()
}

/// The order of an epoch: a Fisher–Yates shuffle that is a function of seed and epoch.
pub fn order(rows: usize, shuffle: bool, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    if shuffle {
        let mut state = seed ^ (epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        for i in (1..rows).rev() {
            order.swap(i, (next() % (i as u64 + 1)) as usize);
        }
    }
    order
}
