//! One row in flight: where it stands in its script, and what it does with the next logits.

use std::collections::BTreeMap;
use std::sync::Arc;

use models::{Model, ModelError, SequenceId, Tokenizer};

use crate::engine::RowError;
use crate::grammar::{Mask, Vocabulary};
use crate::random::Random;
use crate::request::{Chosen, Finish, Part, PartOutput, Plan, Row, RowOutput};
use crate::sampler;

/// A choice that waits for its options to be scored.
pub(crate) struct PendingChoice {
    pub(crate) name: String,
    pub(crate) options: Vec<(String, Vec<u32>)>,
}

pub(crate) enum Need {
    /// The tokens in `pending` must be run, then logits are wanted.
    Logits,
    /// The options must be scored from the present position.
    Choice,
    /// Nothing more.
    Done,
}

struct Free {
    name: String,
    stop: Vec<String>,
    max_tokens: usize,
    min_tokens: usize,
    mask: Option<Mask>,
    /// Index into `ids` where the part begins.
    start: usize,
}

pub(crate) struct Active {
    pub(crate) row: Row,
    pub(crate) sequence: SequenceId,
    /// Everything that is or will be in the cache.
    pub(crate) ids: Vec<u32>,
    /// How many of `ids` the cache holds.
    pub(crate) cached: usize,
    pub(crate) reused: usize,
    pub(crate) choice: Option<PendingChoice>,
    /// Logits at the present position, kept while a choice is scored.
    pub(crate) logits: Vec<f32>,
    parts: std::vec::IntoIter<Part>,
    free: Option<Free>,
    script: bool,
    ignore_eos: bool,
    random: Random,
    outputs: BTreeMap<String, PartOutput>,
    logprobs: Vec<f64>,
    generated: usize,
    finish: Finish,
    /// Tokens that the rest of the script needs whatever happens.
    reserve: usize,
    text: String,
}

impl Active {
    pub(crate) fn new(row: Row, sequence: SequenceId, model: &Model) -> Result<Self, RowError> {
        let reserve = Self::reserve(&row, model)?;
        let (parts, script, ignore_eos) = match &row.plan {
            Plan::Script(script) => (script.parts.clone(), true, false),
            Plan::Text { max_tokens, stop, grammar, ignore_eos } => {
                let free = Part::Free {
                    name: String::new(),
                    stop: stop.clone(),
                    max_tokens: *max_tokens,
                    min_tokens: 0,
                    grammar: grammar.clone(),
                };
                (vec![free], false, *ignore_eos)
            }
        };
        Ok(Self {
            ids: row.prompt.clone(),
            random: Random::new(row.seed),
            row,
            sequence,
            cached: 0,
            reused: 0,
            choice: None,
            logits: Vec::new(),
            parts: parts.into_iter(),
            free: None,
            script,
            ignore_eos,
            outputs: BTreeMap::new(),
            logprobs: Vec::new(),
            generated: 0,
            finish: Finish::Stop,
            reserve,
            text: String::new(),
        })
    }

    /// Tokens that must find room after the prompt whatever is drawn.
    pub(crate) fn reserve(row: &Row, model: &Model) -> Result<usize, RowError> {
        match &row.plan {
            Plan::Text { .. } => Ok(1),
            Plan::Script(script) => {
                script.parts.iter().try_fold(0, |sum, p| Ok(sum + fixed_tokens(p, model)?))
            }
        }
    }

    /// True when all of its ids have been run and the logits after them are here.
    pub(crate) fn is_ready(&self) -> bool {
        self.cached == self.ids.len() && !self.logits.is_empty()
    }

    /// Tokens of the sequence, with the longest option of a choice that is to be scored.
    pub(crate) fn length_to_come(&self) -> usize {
        let longest = self.choice.iter().flat_map(|c| &c.options).map(|o| o.1.len()).max();
        self.ids.len() + longest.unwrap_or(0)
    }

    pub(crate) fn generated(&self) -> usize {
        self.generated
    }

    /// Goes on to the next part that needs the model.
    pub(crate) fn next_part(
        &mut self,
        model: &Model,
        vocabulary: &mut dyn FnMut() -> Result<Arc<Vocabulary>, String>,
    ) -> Result<Need, RowError> {
        let fail = |e: String| RowError::Grammar(e);
        while let Some(part) = self.parts.next() {
            self.reserve -= fixed_tokens(&part, model)?.min(self.reserve);
            let free_follows = matches!(self.parts.as_slice().first(), Some(Part::Free { .. }));
            match part {
                Part::Literal(text) => {
                    let ids = if free_follows {
                        encode_before_text(&model.tokenizer, &text)
                    } else {
                        encode_in_place(&model.tokenizer, &text)
                    };
                    self.ids.extend(ids.map_err(|e| fail(e.to_string()))?);
                    self.text.push_str(&text);
                }
                Part::Choice { name, options, terminator } => {
                    let options = options
                        .into_iter()
                        .map(|o| {
                            let ids = encode_in_place(&model.tokenizer, &format!("{o}{terminator}"));
                            ids.map(|ids| (o, ids)).map_err(|e| fail(e.to_string()))
                        })
                        .collect::<Result<Vec<_>, _>>()?;
                    if options.iter().any(|(_, ids)| ids.is_empty()) {
                        return Err(RowError::Grammar(format!("the choice {name} has an empty option")));
                    }
                    self.choice = Some(PendingChoice { name, options });
                    return Ok(Need::Choice);
                }
                Part::Free { name, stop, max_tokens, min_tokens, grammar } => {
                    if max_tokens == 0 {
                        self.finish = Finish::Length;
                        self.outputs.insert(
                            name,
                            PartOutput { text: String::new(), chosen: None, finish: Finish::Length },
                        );
                        continue;
                    }
                    let mask = match grammar {
                        Some(g) => Some(vocabulary().and_then(|v| v.matcher(&g)).map_err(fail)?),
                        None => None,
                    };
                    let start = self.ids.len();
                    self.free = Some(Free { name, stop, max_tokens, min_tokens, mask, start });
                    return Ok(Need::Logits);
                }
            }
        }
        Ok(Need::Done)
    }

    /// Draws one token of the present free part; `true` when the part has ended.
    pub(crate) fn draw(
        &mut self,
        mut logits: Vec<f32>,
        model: &Model,
        controls: &[u32],
    ) -> Result<bool, RowError> {
        let Some(mut free) = self.free.take() else { return Ok(true) };
        let count = self.ids.len() - free.start;
        let raw = if self.row.logprobs { logits.clone() } else { Vec::new() };
        let sampling = &self.row.sampling;
        // In a script only what was written in this part counts as repetition: the paper above may be quoted.
        let seen = if self.script { &self.ids[free.start..] } else { &self.ids[..] };
        sampler::repetition_penalty(&mut logits, seen.iter().copied(), sampling.repetition_penalty);
        sampler::forbid_repeated_ngrams(&mut logits, &self.ids[free.start..], sampling.no_repeat_ngram);
        let early = count < free.min_tokens;
        let mut forbid = |id: u32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        };
        if early {
            model.eos.iter().copied().for_each(&mut forbid);
        }
        if self.script {
            // A form holds no turn marks; plain text is left as the model has it.
            controls.iter().copied().for_each(&mut forbid);
        }
        if let Some(mask) = &mut free.mask {
            mask.apply(&mut logits).map_err(RowError::Grammar)?;
        }
        // Forbidden tokens are at −∞; +∞ and NaN come from weights beyond their type's range.
        if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(RowError::NotFinite);
        }
        let id = loop {
            if logits.iter().all(|l| *l == f32::NEG_INFINITY) {
                // Nothing is allowed any more (an n-gram rule inside a narrow grammar): the part ends here.
                self.end_part(free, model, Finish::Stop, None)?;
                return Ok(true);
            }
            let id = sampler::draw(&sampler::distribution(&logits, &self.row.sampling), &mut self.random);
            if count + 1 >= free.min_tokens {
                break id;
            }
            // Before the least length no token may complete a stop string; another is drawn in its place.
            self.ids.push(id);
            let stops = self.find_stop(&free, model)?.is_some();
            self.ids.pop();
            if !stops {
                break id;
            }
            logits[id as usize] = f32::NEG_INFINITY;
        };
        let is_end = |id: u32| model.eos.contains(&id);
        if is_end(id) && !self.ignore_eos {
            self.end_part(free, model, Finish::Eos, None)?;
            return Ok(true);
        }
        if self.row.logprobs {
            self.logprobs.push(sampler::logprob(&raw, id));
        }
        self.ids.push(id);
        self.generated += 1;
        let complete = match &mut free.mask {
            Some(mask) => {
                mask.accept(id).map_err(RowError::Grammar)?;
                mask.is_complete()
            }
            None => false,
        };
        if let Some(cut) = self.find_stop(&free, model)? {
            self.end_part(free, model, Finish::Stop, Some(cut))?;
            return Ok(true);
        }
        if complete {
            self.end_part(free, model, Finish::Stop, None)?;
            return Ok(true);
        }
        if count + 1 >= free.max_tokens || self.ids.len() + self.reserve + 1 >= model.context() {
            self.end_part(free, model, Finish::Length, None)?;
            return Ok(true);
        }
        self.free = Some(free);
        Ok(false)
    }

    /// The text of the part up to the first stop string, if there is one.
    fn find_stop(&self, free: &Free, model: &Model) -> Result<Option<String>, RowError> {
        if free.stop.is_empty() {
            return Ok(None);
        }
        let ids = &self.ids[free.start..];
        let longest = free.stop.iter().map(String::len).max().unwrap_or(0);
        // A token stands for at least one byte: a stop that ends now lies in the last `longest` tokens (and a few for
        // characters that span tokens).
        let tail = &ids[ids.len().saturating_sub(longest + 8)..];
        let decode =
            |ids: &[u32]| model.tokenizer.decode(ids, true).map_err(|e| RowError::Grammar(e.to_string()));
        let tail = decode(tail)?;
        if !free.stop.iter().any(|s| !s.is_empty() && tail.contains(s.as_str())) {
            return Ok(None);
        }
        let text = decode(ids)?;
        let at = free.stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
        Ok(at.map(|at| text[..at].to_string()))
    }

    /// Closes a part; with `cut`, the ids after that text are taken back.
    fn end_part(
        &mut self,
        free: Free,
        model: &Model,
        finish: Finish,
        cut: Option<String>,
    ) -> Result<(), RowError> {
        let fail = |e: models::ModelError| RowError::Grammar(e.to_string());
        let text = match cut {
            None => model.tokenizer.decode(&self.ids[free.start..], true).map_err(fail)?,
            Some(text) => {
                let all = self.ids.split_off(free.start);
                let mut keep = all.len();
                let mut kept = String::new();
                while keep > 0 {
                    kept = model.tokenizer.decode(&all[..keep], true).map_err(fail)?;
                    if text.starts_with(&kept) {
                        break;
                    }
                    keep -= 1;
                    kept.clear();
                }
                self.ids.extend_from_slice(&all[..keep]);
                // What the cache holds of the tokens taken back is not what will stand in their place.
                self.cached = self.cached.min(self.ids.len());
                if self.row.logprobs {
                    let drawn = self.logprobs.len() - (all.len() - keep);
                    self.logprobs.truncate(drawn);
                }
                if self.script && kept.len() < text.len() {
                    self.ids.extend(encode_in_place(&model.tokenizer, &text[kept.len()..]).map_err(fail)?);
                }
                text
            }
        };
        self.text.push_str(&text);
        self.finish = finish;
        self.outputs.insert(free.name, PartOutput { text, chosen: None, finish });
        Ok(())
    }

    /// Takes the scored options of the pending choice; returns the index of the one drawn.
    pub(crate) fn choose(&mut self, scores: &[f64]) -> Result<usize, RowError> {
        let Some(choice) = self.choice.take().filter(|_| scores.iter().all(|s| !s.is_nan())) else {
            return Err(RowError::NotFinite);
        };
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mass = total * largest.exp();
        let temperature = self.row.sampling.temperature;
        let drawn = if temperature <= 0.0 {
            scores.iter().position(|s| *s == largest).unwrap_or(0)
        } else {
            let heated: Vec<f64> = scores.iter().map(|s| ((s - largest) / temperature).exp()).collect();
            let sum: f64 = heated.iter().sum();
            let list: Vec<(u32, f64)> = heated.iter().enumerate().map(|(i, w)| (i as u32, w / sum)).collect();
            sampler::draw(&list, &mut self.random) as usize
        };
        let (value, ids) = choice.options[drawn].clone();
        let distribution =
            choice.options.iter().zip(&weights).map(|((o, _), w)| (o.clone(), w / total)).collect();
        self.ids.extend_from_slice(&ids);
        self.generated += 1;
        self.finish = Finish::Stop;
        self.text.push_str(&value);
        let chosen = Some(Chosen { value: value.clone(), distribution, mass });
        self.outputs.insert(choice.name, PartOutput { text: value, chosen, finish: Finish::Stop });
        Ok(drawn)
    }

    pub(crate) fn output(self, model: &Model) -> Result<RowOutput, RowError> {
        let tokens = self.ids[self.row.prompt.len()..].to_vec();
        let text = if self.script {
            model.tokenizer.decode(&tokens, true).map_err(|e| RowError::Grammar(e.to_string()))?
        } else {
            self.text
        };
        let mut parts = self.outputs;
        parts.remove("");
        Ok(RowOutput {
            tokens,
            text,
            logprobs: self.logprobs,
            parts,
            finish: if self.script { Finish::Stop } else { self.finish },
            prompt_tokens: self.row.prompt.len(),
            reused: self.reused,
            generated: self.generated,
        })
    }
}

/// Tokens that a part takes at the least (a choice: at the most).
fn fixed_tokens(part: &Part, model: &Model) -> Result<usize, RowError> {
    let count = |text: &str| {
        encode_in_place(&model.tokenizer, text).map(|i| i.len()).map_err(|e| RowError::Grammar(e.to_string()))
    };
    match part {
        Part::Literal(text) => count(text),
        Part::Choice { options, terminator, .. } => {
            options.iter().map(|o| count(&format!("{o}{terminator}"))).try_fold(0, |most, n| Ok(most.max(n?)))
        }
        Part::Free { .. } => Ok(1),
    }
}

/// Ids of a text that stands inside another. SentencePiece-like tokenizers begin every text with a space of their own;
/// behind a control character they do not.
pub(crate) fn encode_in_place(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
    const ANCHOR: &str = "\u{1}";
    let alone = tokenizer.encode(text)?;
    let adds_space = tokenizer
        .encode("x")?
        .first()
        .and_then(|&id| tokenizer.bytes(id))
        .is_some_and(|b| b.first() == Some(&b' '));
    if !adds_space {
        return Ok(alone);
    }
    let anchor = tokenizer.encode(ANCHOR)?;
    let behind = tokenizer.encode(&format!("{ANCHOR}{text}"))?;
    Ok(behind.strip_prefix(anchor.as_slice()).map_or(alone, <[u32]>::to_vec))
}

/// Ids of a literal that free text follows, cut as they would be before a word: some tokenizers join two line breaks at
/// the end of a text but not before a letter, and a model knows only the latter.
fn encode_before_text(tokenizer: &models::Tokenizer, text: &str) -> Result<Vec<u32>, models::ModelError> {
    let plain = encode_in_place(tokenizer, text)?;
    if !text.ends_with('\n') {
        return Ok(plain);
    }
    let word = encode_in_place(tokenizer, "A")?;
    let mut longer = encode_in_place(tokenizer, &format!("{text}A"))?;
    if longer.len() > word.len() && longer.ends_with(&word) {
        longer.truncate(longer.len() - word.len());
        return Ok(longer);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_adds_nothing_to_the_text_before_it() {
        let shared = std::env::var("CYCLE_SHARED")
            .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
        let folder = std::path::Path::new(&shared).join("goldens/infer/tokenizers");
        if !folder.exists() {
            // Past the harness, which keeps the output of a test that passes to itself.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("skipped: the goldens in shared/ are not here\n"),
            );
            return;
        }
        for name in [
            "bytebpe_llama3",
            "bytebpe_phi4",
            "bytebpe_qwen",
            "bytebpe_tekken",
            "spbpe_legacy",
            "spbpe_metaspace",
        ] {
            let tokenizer = Tokenizer::from_file(&folder.join(name).join("tokenizer.json")).unwrap();
            for (before, text) in
                [("A paper.", "\n## Rating\n"), ("Rating: ", "10\n"), ("the", "ory holds"), ("é", " ü")]
            {
                let mut ids = tokenizer.encode(before).unwrap();
                ids.extend(encode_in_place(&tokenizer, text).unwrap());
                assert_eq!(tokenizer.decode(&ids, true).unwrap(), format!("{before}{text}"), "{name}");
            }
        }
    }
}
