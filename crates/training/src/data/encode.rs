//! From the common forms of rows to token ids.

use std::path::Path;

use models::{ChatTemplate, Tokenizer};
use serde_json::Value;

use super::read::rows;
use super::{AnswerRow, Example, PairRow, Row, RowKind, Rows};
use crate::error::TrainError;
use crate::objectives::{Needs, Targets};
use crate::recipe::{LossOn, Overlong};

/// How rows become ids.
pub struct Reading<'a> {
    /// The model's tokenizer; not needed for rows of ids.
    pub tokenizer: &'a Tokenizer,
    /// The model's template.
    pub chat: &'a ChatTemplate,
    /// The model has none of its own: what stands first in a sequence is then begun as the tokenizer begins a text.
    pub chat_is_fallback: bool,
    /// Ends a plain text.
    pub eos: Option<u32>,
    /// What is wanted.
    pub kind: RowKind,
    /// Which numbers every pair must bring.
    pub needs: Needs,
    /// Which tokens count.
    pub loss_on: LossOn,
    /// Longest row.
    pub max_length: usize,
    /// What happens to longer ones.
    pub overlong: Overlong,
}

impl Reading<'_> {
    /// Reads a JSONL file (`.zst` too) or a folder of them. Text: `messages`, `prompt` and `completion`, `text`, or
    /// `input_ids` and `mask`. Pairs: `prompt`, `chosen` and `rejected` as texts, messages or ids (`prompt_ids`, …).
    /// A pair with `rendered = true` has a prompt that the chat template made: it is a dialogue, not the beginning of a text.
    /// A pair with `rejected_open = true` has a rejected answer that was cut; no end-of-turn token is put behind it.
    /// Answers: `prompt` and `completion` with `label` or `score`.
    ///
    /// # Errors
    /// If the file is missing or a row is none of these; the row is named.
    pub fn file(&self, path: &Path) -> Result<Rows, TrainError> {
        let mut found = Rows::default();
        rows(path, |number, value| {
            let bad = |what: String| TrainError::Data { path: path.into(), row: number, what };
            let mut row = self.whole(number, &value).map_err(bad)?;
            let longest = length(&row);
            let over = longest > self.max_length;
            if over {
                found.overlong += 1;
                match self.overlong {
                    Overlong::Error => {
                        return Err(bad(format!(
                            "{longest} tokens, max_length is {}; set overlong = \"skip\" or \"truncate\"",
                            self.max_length
                        )));
                    }
                    Overlong::Skip => return Ok(()),
                    Overlong::Truncate => self.cut(&mut row),
                }
            }
            if let Some(what) = useless(&row) {
                return Err(match (over, &row) {
                    // Only a cut may come to this; a text that is all prompt is left out, as TRL does.
                    (true, Row::Text(_)) => return Ok(()),
                    (true, Row::Pair(r)) if !r.chosen.is_empty() => bad(format!(
                        "chosen and rejected are the same as far as max_length = {} reaches; raise it, or set \
                         overlong = \"skip\"",
                        self.max_length
                    )),
                    (true, _) => bad(format!(
                        "the prompt alone fills max_length = {}; raise it, or set overlong = \"skip\"",
                        self.max_length
                    )),
                    _ => bad(what.into()),
                });
            }
            found.rows.push(row);
            Ok(())
        })?;
        if found.rows.is_empty() {
            let what = "the file holds no usable row".into();
            return Err(TrainError::Data { path: path.into(), row: 1, what });
        }
        Ok(found)
    }

    /// One row, its end cut where it is too long.
    ///
    /// # Errors
    /// If it is not of the kind that is wanted, or nothing of it is left.
    pub(crate) fn row(&self, number: usize, value: &Value) -> Result<Row, String> {
        let mut row = self.whole(number, value)?;
        self.cut(&mut row);
        useless(&row).map_or(Ok(row), |what| Err(what.into()))
    }

    fn whole(&self, number: usize, value: &Value) -> Result<Row, String> {
        match self.kind {
            RowKind::Text => self.text(number, value),
            RowKind::Pair => self.pair(number, value),
            RowKind::Label | RowKind::Score => self.answer(number, value),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text).map_err(|e| e.to_string())
    }

    /// Ids of a text that begins a sequence, as they are when the model is asked to go on from it: with the one
    /// beginning-of-sequence token that the model wants.
    fn first(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_plain(text).map_err(|e| e.to_string())
    }

    /// Ids of a rendered dialogue: a template of the model's own has written what stands first.
    fn rendered(&self, text: &str) -> Result<Vec<u32>, String> {
        if self.chat_is_fallback { self.first(text) } else { self.encode(text) }
    }

    /// Cuts the end of what is longer than `max_length`.
    fn cut(&self, row: &mut Row) {
        cut(row, self.max_length);
        if let Row::Pair(PairRow { chosen, rejected, texts: Some(texts), .. }) = row {
            // SPO takes phrases out of what is left of an answer.
            for (text, ids) in texts.iter_mut().zip([chosen, rejected]) {
                if ids.last() != self.eos.as_ref() {
                    *text = self.tokenizer.decode(ids, true).unwrap_or_default();
                }
            }
        }
    }

    fn text(&self, row: usize, value: &Value) -> Result<Row, String> {
        let all = self.loss_on == LossOn::All;
        let example = |ids, mask| Ok(Row::Text(Example { row, ids, mask }));
        if let Some(ids) = value.get("input_ids") {
            let ids: Vec<u32> = list(ids, "input_ids")?;
            let mask: Vec<bool> = match value.get("mask").or_else(|| value.get("completion_mask")) {
                Some(mask) if !all => list(mask, "mask")?.into_iter().map(|m| m != 0).collect(),
                _ => vec![true; ids.len()],
            };
            if mask.len() != ids.len() {
                return Err(format!("{} input_ids but a mask of {}", ids.len(), mask.len()));
            }
            return example(ids, mask);
        }
        if let Some(messages) = value.get("messages").and_then(Value::as_array) {
            let (ids, mask) = self.dialogue(messages, all)?;
            return example(ids, mask);
        }
        if let (Some(prompt), Some(completion)) = (value.get("prompt"), value.get("completion")) {
            let (mut ids, answer) = self.continued(prompt, completion, "completion")?;
            let mut mask = vec![all; ids.len()];
            mask.extend(std::iter::repeat_n(true, answer.len()));
            ids.extend(answer);
            return example(ids, mask);
        }
        if let Some(text) = value.get("text").and_then(Value::as_str) {
            let mut ids = self.first(text)?;
            ids.extend(self.eos);
            let mask = vec![true; ids.len()];
            return example(ids, mask);
        }
        Err(missing(value, "messages, prompt with completion, text, or input_ids"))
    }

    fn pair(&self, row: usize, value: &Value) -> Result<Row, String> {
        let get = |name: &str| value.get(name).or_else(|| value.get(format!("{name}_ids").as_str()));
        let (Some(chosen), Some(rejected)) = (get("chosen"), get("rejected")) else {
            return Err(missing(value, "prompt, chosen and rejected"));
        };
        let shared;
        let (prompt, chosen, rejected) = match (get("prompt"), chosen, rejected) {
            (Some(prompt), _, _) => (prompt, chosen.clone(), rejected.clone()),
            (None, Value::Array(a), Value::Array(b)) if a.first().is_some_and(Value::is_object) => {
                // Whole dialogues: what they begin with alike is the prompt.
                let n = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                shared = Value::Array(a[..n].to_vec());
                (&shared, Value::Array(a[n..].to_vec()), Value::Array(b[n..].to_vec()))
            }
            _ => return Err(missing(value, "prompt, chosen and rejected")),
        };
        let texts = match (&chosen, &rejected) {
            (Value::String(a), Value::String(b)) => Some([a.clone(), b.clone()]),
            _ => None,
        };
        let (mut prompt_ids, mut chosen) = self.continued(prompt, &chosen, "chosen")?;
        if let (Some(true), Some(text)) = (value.get("rendered").and_then(Value::as_bool), prompt.as_str()) {
            prompt_ids = self.rendered(text)?;
        }
        let (_, mut rejected) = self.continued(prompt, &rejected, "rejected")?;
        for (name, ids) in [("chosen_open", &mut chosen), ("rejected_open", &mut rejected)] {
            if value.get(name) == Some(&Value::Bool(true)) {
                // It was cut: its last token is no end, and to learn one there would teach to end, or not to.
                ids.pop_if(|last| self.eos == Some(*last));
            }
        }
        let number = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64() {
                Some(n) if n.is_finite() => Ok(Some(n)),
                _ => Err(format!("{name} is {v}, not a number")),
            },
        };
        let targets = Targets {
            score_chosen: number("score_chosen")?,
            score_rejected: number("score_rejected")?,
            p_chosen: number("p_chosen")?,
            p_rejected: number("p_rejected")?,
            margin: number("margin")?,
        };
        targets.check(&self.needs)?;
        let degree = |name: &str| value.get(name).and_then(Value::as_u64).map(|n| n as usize);
        let degrees = degree("degree_chosen").zip(degree("degree_rejected")).map(|(a, b)| [a, b]);
        Ok(Row::Pair(PairRow { row, prompt: prompt_ids, chosen, rejected, targets, texts, degrees }))
    }

    fn answer(&self, row: usize, value: &Value) -> Result<Row, String> {
        let get = |name: &str| value.get(name).or_else(|| value.get(format!("{name}_ids").as_str()));
        let (Some(prompt), Some(completion)) = (get("prompt"), get("completion")) else {
            return Err(missing(value, "prompt and completion"));
        };
        let (prompt, completion) = self.continued(prompt, completion, "completion")?;
        let (mut desirable, mut score) = (true, None);
        if self.kind == RowKind::Label {
            desirable = match value.get("label") {
                Some(Value::Bool(b)) => *b,
                Some(v) if v == 1 || v == 0 => v == 1,
                _ => return Err(missing(value, "label (true or false)")),
            };
        } else {
            let number = value.get("score").and_then(Value::as_f64).filter(|n| n.is_finite());
            score = Some(number.ok_or_else(|| missing(value, "score (a number)"))?);
        }
        Ok(Row::Answer(AnswerRow { row, prompt, completion, desirable, score }))
    }

    /// Ids of a prompt and of what follows it: texts, messages or ids. Tokenised apart, so that no token spans the seam.
    fn continued(&self, prompt: &Value, answer: &Value, name: &str) -> Result<(Vec<u32>, Vec<u32>), String> {
        match (prompt, answer) {
            (Value::String(prompt), Value::String(answer)) => {
                let mut ids = self.encode(answer)?;
                if ids.is_empty() {
                    return Err(format!("{name} is empty"));
                }
                ids.extend(self.eos);
                Ok((self.first(prompt)?, ids))
            }
            (Value::Array(p), Value::Array(a))
                if p.iter().all(Value::is_number) && a.iter().all(Value::is_number) =>
            {
                Ok((list(prompt, "prompt")?, list(answer, name)?))
            }
            (Value::Array(p), Value::Array(a)) if p.iter().chain(a).all(Value::is_object) => {
                if a.is_empty() {
                    return Err(format!("{name} is empty"));
                }
                let whole: Vec<&Value> = p.iter().chain(a).collect();
                let start = self.chat.render(&p, true).map_err(|e| e.to_string())?;
                let text = self.chat.render(&whole, false).map_err(|e| e.to_string())?;
                let rest = text
                    .strip_prefix(&start)
                    .ok_or("the chat template rewrites earlier turns; give texts instead of messages")?;
                let mut ids = self.encode(rest)?;
                // What a template puts after the end of a turn (a line break) is never generated.
                if let Some(end) = self.eos.and_then(|e| ids.iter().rposition(|id| *id == e)) {
                    ids.truncate(end + 1);
                }
                Ok((self.rendered(&start)?, ids))
            }
            _ => Err(format!("prompt and {name} are not both texts, both messages or both ids")),
        }
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
                let mut new = if text.is_empty() { self.rendered(piece)? } else { self.encode(piece)? };
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

/// Tokens of the longest sequence of a row.
fn length(row: &Row) -> usize {
    match row {
        Row::Text(r) => r.ids.len(),
        Row::Pair(r) => r.prompt.len() + r.chosen.len().max(r.rejected.len()),
        Row::Answer(r) => r.prompt.len() + r.completion.len(),
    }
}

/// Cuts the end of what is longer.
fn cut(row: &mut Row, max: usize) {
    match row {
        Row::Text(r) => {
            r.ids.truncate(max);
            r.mask.truncate(max);
        }
        Row::Pair(r) => {
            let left = max.saturating_sub(r.prompt.len());
            r.chosen.truncate(left);
            r.rejected.truncate(left);
        }
        Row::Answer(r) => r.completion.truncate(max.saturating_sub(r.prompt.len())),
    }
}

/// Why nothing can be learned from a row.
fn useless(row: &Row) -> Option<&'static str> {
    match row {
        Row::Text(r) if !r.mask.iter().skip(1).any(|m| *m) => {
            Some("no token of this row counts for the loss")
        }
        Row::Pair(r) if r.prompt.is_empty() => Some("the prompt is empty"),
        Row::Pair(r) if r.chosen.is_empty() => Some("chosen is empty"),
        Row::Pair(r) if r.rejected.is_empty() => Some("rejected is empty"),
        Row::Pair(r) if r.chosen == r.rejected => {
            Some("chosen and rejected are the same; there is nothing to prefer")
        }
        Row::Answer(r) if r.prompt.is_empty() => Some("the prompt is empty"),
        Row::Answer(r) if r.completion.is_empty() => Some("completion is empty"),
        _ => None,
    }
}

/// Says what a row lacks and what it has.
fn missing(value: &Value, wanted: &str) -> String {
    let keys: Vec<&str> =
        value.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default();
    format!("needs {wanted}; it has {}", if keys.is_empty() { "no columns".into() } else { keys.join(", ") })
}

fn list(value: &Value, name: &str) -> Result<Vec<u32>, String> {
    value
        .as_array()
        .ok_or_else(|| format!("{name} is no list"))?
        .iter()
        .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("{name} holds {v}")))
        .collect()
}
