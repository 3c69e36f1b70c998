//! Pairs as rows that any trainer reads.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::config::Method;
use crate::error::ImproveError;
use crate::ledger::{self, Kind, Ledger};
use crate::rows::{Pair, Sample};

/// The rows of an iteration: `prompt`, `chosen` and `rejected` with the scores that GPO and DNO learn, or `prompt` and
/// `completion` of each prompt's best sample for supervised training. `shape` gets the messages that the model was asked and
/// returns them, or a text; the answers have the same form. `chosen_open` and `rejected_open` mark
/// answers that have no end.
///
/// # Errors
/// If a row is not there, or a prompt cannot be made.
pub fn rows(
    ledger: &dyn Ledger,
    iteration: usize,
    method: Method,
    shape: &dyn Fn(Value) -> Result<Value, ImproveError>,
) -> Result<Vec<Value>, ImproveError> {
    let pairs = ledger::read::<Pair>(ledger, Kind::Pair, iteration)?;
    let mut samples: BTreeMap<usize, BTreeMap<String, Sample>> = BTreeMap::new();
    let mut prompts: BTreeMap<usize, BTreeMap<String, Value>> = BTreeMap::new();
    let mut out = Vec::with_capacity(pairs.len());
    let mut won: BTreeSet<String> = BTreeSet::new();
    for (id, pair) in &pairs {
        let from = pair.replayed_from.unwrap_or(iteration);
        if let std::collections::btree_map::Entry::Vacant(entry) = samples.entry(from) {
            entry.insert(ledger::read::<Sample>(ledger, Kind::Sample, from)?);
            prompts.insert(from, ledger::read::<Value>(ledger, Kind::Prompt, from)?);
        }
        let find = |key: &str| -> Result<&Sample, ImproveError> {
            let found = samples.get(&from).and_then(|s| s.get(key)).filter(|s| s.text.is_some());
            found.ok_or_else(|| {
                ImproveError::Ledger(format!("pair {id} names the sample {key}, which has no text"))
            })
        };
        let (chosen, rejected) = (find(&pair.chosen)?, find(&pair.rejected)?);
        let asked = prompts.get(&from).and_then(|p| p.get(&pair.prompt)).cloned();
        let asked = shape(asked.ok_or_else(|| ImproveError::Ledger(format!("pair {id} has no prompt")))?)?;
        let answer = |s: &Sample, open: bool| -> Value {
            let text = s.text.as_deref().unwrap_or_default();
            let text = s.cut_at.filter(|_| open).and_then(|at| text.get(..at)).unwrap_or(text);
            if asked.is_string() { json!(text) } else { json!([{"role": "assistant", "content": text}]) }
        };
        if method == Method::Sft {
            if won.insert(pair.chosen.clone()) {
                out.push(json!({"prompt": asked, "completion": answer(chosen, false)}));
            }
            continue;
        }
        let rendered = asked.is_string();
        out.push(json!({
            "prompt": asked, "chosen": answer(chosen, false), "rejected": answer(rejected, pair.open),
            "score_chosen": pair.score_chosen, "score_rejected": pair.score_rejected,
            "p_chosen": pair.p_chosen, "p_rejected": pair.p_rejected,
            "difference": pair.difference, "iteration": from, "id": id,
            "chosen_open": pair.without_end, "rejected_open": pair.open || pair.without_end,
        }));
        if let Some(row) = out.last_mut().filter(|_| rendered) {
            row["rendered"] = json!(true);
        }
    }
    Ok(out)
}
