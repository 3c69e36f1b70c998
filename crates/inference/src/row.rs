//! One row in flight: where it stands in its script, and what it does with the next logits.

use std::collections::BTreeMap;

use models::{Model, SequenceId};

use crate::engine::RowError;
use crate::grammar::{Mask, Vocabulary};
use crate::random::Random;
use crate::request::{Part, Sampling, Script};
use crate::sampler;

/// Why a piece of text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model drew an end-of-sequence token.
    Eos,
    /// A stop string, or a grammar or script that is complete.
    Stop,
    /// Its own limit, or the context.
    Length,
}

/// What is asked of the engine for one row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The prompt as ids; at least one.
    pub prompt: Vec<u32>,
    /// What may follow.
    pub plan: Plan,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The row's own seed.
    pub seed: u64,
    /// Keep the log-probability of every drawn token.
    pub logprobs: bool,
}

/// What may follow a prompt.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Text until an end, a stop string or a limit.
    Text {
        /// At most so many tokens.
        max_tokens: usize,
        /// The text ends before any of these.
        stop: Vec<String>,
        /// What it may look like.
        grammar: Option<crate::Grammar>,
        /// An end-of-sequence token is a token like any other.
        ignore_eos: bool,
    },
    /// A form.
    Script(Script),
}

/// The distribution over the options of a choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The option drawn.
    pub value: String,
    /// Options and probabilities at temperature 1; they sum to 1.
    pub distribution: Vec<(String, f64)>,
    /// What the model gave to all options together.
    pub mass: f64,
}

/// What one named part became.
#[derive(Debug, Clone, PartialEq)]
pub struct PartOutput {
    /// Its text.
    pub text: String,
    /// For a choice.
    pub chosen: Option<Chosen>,
    /// Why it ended.
    pub finish: Finish,
}

/// What a row became.
#[derive(Debug, Clone, PartialEq)]
pub struct RowOutput {
    /// Ids after the prompt, literals included; without the end-of-sequence token.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Natural log-probability of each drawn token, where asked for.
    pub logprobs: Vec<f64>,
    /// Named parts of a script.
    pub parts: BTreeMap<String, PartOutput>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, taken from another row or an earlier call.
    pub reused: usize,
    /// Tokens drawn.
    pub generated: usize,
}

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
        let mut reserve = 0;
        for part in &parts {
            reserve += fixed_tokens(part, model)?;
        }
        let context = model.context();
        if row.prompt.len() + reserve + 1 > context {
            return Err(RowError::TooLong { prompt: row.prompt.len() + reserve + 1, context });
        }
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

    /// A row without parts, to stand in for another.
    pub(crate) fn empty(row: Row, sequence: SequenceId) -> Self {
        Self {
            ids: Vec::new(),
            random: Random::new(0),
            row,
            sequence,
            cached: 0,
            reused: 0,
            choice: None,
            logits: Vec::new(),
            parts: Vec::new().into_iter(),
            free: None,
            script: false,
            ignore_eos: false,
            outputs: BTreeMap::new(),
            logprobs: Vec::new(),
            generated: 0,
            finish: Finish::Stop,
            reserve: 0,
            text: String::new(),
        }
    }

    pub(crate) fn generated(&self) -> usize {
        self.generated
    }

    /// Goes on to the next part that needs the model.
    pub(crate) fn next_part(&mut self, model: &Model, vocabulary: &mut dyn FnMut() -> Result<std::sync::Arc<Vocabulary>, String>) -> Result<Need, RowError> {
        let fail = |e: String| RowError::Grammar(e);
        for part in self.parts.by_ref() {
            self.reserve -= fixed_tokens(&part, model)?.min(self.reserve);
            match part {
                Part::Literal(text) => {
                    self.ids.extend(model.tokenizer.encode(&text).map_err(|e| fail(e.to_string()))?);
                    self.text.push_str(&text);
                }
                Part::Choice { name, options, terminator } => {
                    let options = options
                        .into_iter()
                        .map(|o| {
                            let ids = model.tokenizer.encode(&format!("{o}{terminator}"));
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
                        self.outputs
                            .insert(name, PartOutput { text: String::new(), chosen: None, finish: Finish::Length });
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
    pub(crate) fn draw(&mut self, mut logits: Vec<f32>, model: &Model) -> Result<bool, RowError> {
        let Some(mut free) = self.free.take() else { return Ok(true) };
        let count = self.ids.len() - free.start;
        let raw = if self.row.logprobs { logits.clone() } else { Vec::new() };
        let sampling = &self.row.sampling;
        // In a script only what was written in this part counts as repetition: the paper above may be quoted.
        let seen = if self.script { &self.ids[free.start..] } else { &self.ids[..] };
        sampler::repetition_penalty(&mut logits, seen.iter().copied(), sampling.repetition_penalty);
        let ngrams = if self.script { &self.ids[free.start..] } else { &self.ids[..] };
        sampler::forbid_repeated_ngrams(&mut logits, ngrams, sampling.no_repeat_ngram);
        let is_end = |id: u32| model.eos.contains(&id);
        for id in 0..logits.len() as u32 {
            let end = is_end(id) && count < free.min_tokens;
            // A form holds no turn marks; plain text is left as the model has it.
            let control = self.script && model.tokenizer.is_special(id) && !is_end(id);
            if end || control {
                logits[id as usize] = f32::NEG_INFINITY;
            }
        }
        if let Some(mask) = &mut free.mask {
            mask.apply(&mut logits).map_err(RowError::Grammar)?;
        }
        if logits.iter().all(|l| *l == f32::NEG_INFINITY) {
            // Nothing is allowed any more (an n-gram rule inside a narrow grammar): the part ends here.
            self.end_part(free, model, Finish::Stop, None)?;
            return Ok(true);
        }
        if logits.iter().any(|l| l.is_nan()) {
            return Err(RowError::NotFinite);
        }
        let id = sampler::draw(&sampler::distribution(&logits, sampling), &mut self.random);
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
        let decode = |ids: &[u32]| model.tokenizer.decode(ids, true).map_err(|e| RowError::Grammar(e.to_string()));
        if !free.stop.iter().any(|s| !s.is_empty()).then(|| decode(tail)).transpose()?.is_some_and(|t| {
            free.stop.iter().any(|s| !s.is_empty() && t.contains(s.as_str()))
        }) {
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
                if self.row.logprobs {
                    let drawn = self.logprobs.len() - (all.len() - keep);
                    self.logprobs.truncate(drawn);
                }
                if self.script && kept.len() < text.len() {
                    self.ids.extend(model.tokenizer.encode(&text[kept.len()..]).map_err(fail)?);
                }
                text
            }
        };
        self.cached = self.cached.min(self.ids.len());
        self.text.push_str(&text);
        self.finish = finish;
        self.outputs.insert(free.name, PartOutput { text, chosen: None, finish });
        Ok(())
    }

    /// Takes the scored options of the pending choice; returns the index of the one drawn.
    pub(crate) fn choose(&mut self, scores: &[f64]) -> usize {
        let Some(choice) = self.choice.take() else { return 0 };
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
        drawn
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
    let count =
        |text: &str| model.tokenizer.encode(text).map(|i| i.len()).map_err(|e| RowError::Grammar(e.to_string()));
    match part {
        Part::Literal(text) => count(text),
        Part::Choice { options, terminator, .. } => options
            .iter()
            .map(|o| count(&format!("{o}{terminator}")))
            .try_fold(0, |most, n| Ok(most.max(n?))),
        Part::Free { .. } => Ok(1),
    }
}
