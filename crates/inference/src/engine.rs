//! The engine: many rows, one forward pass a step.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::Tensor;
use models::{KvCache, Model, Segment, Step};

use crate::batch::Batch;
use crate::grammar::Vocabulary;
use crate::prefix::{Kept, common_prefix};
use crate::request::{Part, Plan, Row, RowOutput};
use crate::row::Active;
use crate::sampler;

/// Why one row failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RowError {
    /// It does not fit the context.
    #[error("{prompt} tokens are needed, the model reads {context}")]
    TooLong {
        /// Tokens of the prompt and of what must follow.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Its keys and values alone are more than may be held.
    #[error("the cache of {tokens} tokens takes {need} bytes, {limit} may be used; shorten the prompt")]
    Memory {
        /// Tokens of the prompt and of what must follow.
        tokens: usize,
        /// Bytes they take.
        need: usize,
        /// Bytes that may be used.
        limit: usize,
    },
    /// A grammar or script cannot be run.
    #[error("{0}")]
    Grammar(String),
    /// The model computed NaN.
    #[error("the model computed NaN; `cycle models verify` tells whether its weights are damaged")]
    NotFinite,
    /// The caller stopped it.
    #[error("interrupted")]
    Interrupted,
}

/// What concerns the whole batch.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A tensor operation failed.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
    /// An id is outside the vocabulary, or there is none.
    #[error("{0}")]
    Prompt(String),
}

/// How the engine works; nothing here changes a result.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Tokens of one prefill step.
    pub chunk: usize,
    /// Bytes that keys and values of the rows in flight may take; more rows wait. `None`: no bound.
    pub cache_bytes: Option<usize>,
    /// Rows share a prefix of at least so many tokens.
    pub least_shared: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { chunk: 512, cache_bytes: None, least_shared: 16 }
    }
}

/// Told about work between steps.
pub trait Observer {
    /// Prompt tokens computed, of so many.
    fn prefill(&mut self, _done: usize, _total: usize) {}
    /// Tokens drawn by all rows together.
    fn decode(&mut self, _generated: usize) {}
    /// True ends the batch after this step.
    fn cancelled(&mut self) -> bool {
        false
    }
}

impl Observer for () {}

pub(crate) struct State {
    pub(crate) cache: KvCache,
    /// The longest prefix of the last call, for the next one.
    pub(crate) kept: Option<Kept>,
}

/// A model and the cache of its sequences.
pub struct Engine {
    model: Arc<Model>,
    options: EngineOptions,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, String>>,
    /// Turn marks and the like: special tokens that end nothing.
    controls: Vec<u32>,
    state: Mutex<State>,
}

impl Engine {
    /// An engine over a loaded model.
    pub fn new(model: Arc<Model>, options: EngineOptions) -> Self {
        let state = Mutex::new(State { cache: model.decoder.cache(), kept: None });
        let controls = (0..model.decoder.config().vocab_size as u32)
            .filter(|id| model.tokenizer.is_special(*id) && !model.eos.contains(id))
            .collect();
        Self { model, options, vocabulary: OnceLock::new(), controls, state }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(crate) fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub(crate) fn controls(&self) -> &[u32] {
        &self.controls
    }

    /// The vocabulary for grammars, built when the first grammar comes and kept.
    pub(crate) fn vocabulary(&self) -> Result<Arc<Vocabulary>, String> {
        self.vocabulary
            .get_or_init(|| {
                let size = self.model.decoder.config().vocab_size;
                let Some(&eos) = self.model.eos.first() else {
                    return Err("the model names no end-of-sequence token".into());
                };
                Vocabulary::new(&self.model.tokenizer, size, eos).map(Arc::new)
            })
            .clone()
    }

    /// Runs rows to their end. Results stand in the order of the rows.
    ///
    /// # Errors
    /// The outer error is for what no row survives; a row that does not fit fails alone.
    pub fn run(
        &self,
        rows: Vec<Row>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Result<RowOutput, RowError>>, EngineError> {
        let vocabulary = self.model.decoder.config().vocab_size;
        for row in &rows {
            if row.prompt.is_empty() {
                return Err(EngineError::Prompt("a prompt needs at least one token".into()));
            }
            if let Some(id) = row.prompt.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(EngineError::Prompt(format!(
                    "token {id} is outside the vocabulary of {vocabulary}"
                )));
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.run_in_waves(rows, observer, &mut state);
        if done.is_err() {
            // Sequences of a failed step may hold anything.
            *state = State { cache: self.model.decoder.cache(), kept: None };
        }
        done
    }

    fn run_in_waves(
        &self,
        rows: Vec<Row>,
        observer: &mut dyn Observer,
        state: &mut State,
    ) -> Result<Vec<Result<RowOutput, RowError>>, EngineError> {
        let mut results: Vec<Option<Result<RowOutput, RowError>>> = rows.iter().map(|_| None).collect();
        let mut waiting = std::collections::VecDeque::new();
        for (index, row) in rows.into_iter().enumerate() {
            match self.fits(&row, state) {
                Ok(()) => waiting.push_back((index, row)),
                Err(e) => results[index] = Some(Err(e)),
            }
        }
        let total = waiting.iter().map(|(_, r)| r.prompt.len()).sum();
        let (mut done, mut finished, mut stopped) = (0, 0, false);
        while !waiting.is_empty() && !stopped {
            let mut wave: Vec<(usize, Row)> = Vec::new();
            let mut bytes = 0;
            while let Some((_, row)) = waiting.front() {
                let need = self.bytes_beside(row, &wave, state);
                if !wave.is_empty() && self.options.cache_bytes.is_some_and(|limit| bytes + need > limit) {
                    break;
                }
                bytes += need;
                wave.extend(waiting.pop_front());
            }
            let alone = wave.len() == 1;
            let (active, results) = (Vec::new(), results.as_mut_slice());
            let mut batch = Batch {
                engine: self,
                state,
                active,
                results,
                observer,
                done,
                total,
                finished,
                alone,
                stopped,
            };
            batch.start(wave)?;
            batch.finish()?;
            (done, finished, stopped) = (batch.done, batch.finished, batch.stopped);
        }
        Ok(results.into_iter().map(|r| r.unwrap_or(Err(RowError::Interrupted))).collect())
    }

    /// Refuses a row that cannot end well, before anything is computed for it.
    fn fits(&self, row: &Row, state: &State) -> Result<(), RowError> {
        let tokens = row.prompt.len() + Active::reserve(row, &self.model)? + 1;
        let context = self.model.context();
        if tokens > context {
            return Err(RowError::TooLong { prompt: tokens, context });
        }
        let need = state.cache.bytes_for(tokens);
        match self.options.cache_bytes {
            Some(limit) if need > limit => Err(RowError::Memory { tokens, need, limit }),
            _ => Ok(()),
        }
    }

    /// Bytes that a row may come to need in a wave, beside what it shares with the rows there.
    fn bytes_beside(&self, row: &Row, wave: &[(usize, Row)], state: &State) -> usize {
        let all = (row.prompt.len() + row.longest()).min(self.model.context());
        let shared = wave.iter().map(|(_, r)| common_prefix(&r.prompt, &row.prompt)).max().unwrap_or(0);
        let shared =
            if shared < self.options.least_shared { 0 } else { shared / kernels::BLOCK * kernels::BLOCK };
        state.cache.bytes_for(all) - state.cache.bytes_for(shared.min(all))
    }

    /// Log-probability of every token from place `from` on given those before it (`None` for those before, and for the
    /// first), in natural logarithms, and the raw logits after the asked positions.
    ///
    /// # Errors
    /// If an id is outside the vocabulary or the sequence longer than the context.
    pub fn logprobs(&self, ids: &[u32], from: usize, positions: &[usize]) -> Result<Scored, EngineError> {
        let model = &self.model;
        let context = model.context();
        if ids.is_empty() || ids.len() > context {
            return Err(EngineError::Prompt(format!("{} tokens; the model reads 1 to {context}", ids.len())));
        }
        let mut cache = model.decoder.cache();
        let sequence = cache.create(model.decoder.rope_regime(ids.len()));
        let mut logprobs = vec![None; from.clamp(1, ids.len())];
        let wanted = |position: usize| position + 1 >= from || positions.contains(&position);
        let mut logits = std::collections::BTreeMap::new();
        let mut at = 0;
        for chunk in ids.chunks(self.options.chunk.max(1)) {
            let step = Step { segments: vec![Segment { sequence, tokens: chunk.to_vec() }] };
            let hidden = model.decoder.forward(&step, &mut cache)?;
            let wanted: Vec<usize> = (0..chunk.len()).filter(|i| wanted(at + i)).collect();
            // The head in pieces: 64 rows of a large vocabulary are tens of megabytes.
            for piece in wanted.chunks(64) {
                let rows: Vec<u32> = piece.iter().map(|&i| i as u32).collect();
                let hidden = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
                let values: Vec<Vec<f32>> = model.decoder.logits(&hidden)?.to_vec2()?;
                for (i, row) in piece.iter().zip(values) {
                    let position = at + i;
                    if let Some(&next) = ids.get(position + 1).filter(|_| position + 1 >= from.max(1)) {
                        logprobs.push(Some(sampler::logprob(&row, next)));
                    }
                    if positions.contains(&position) {
                        logits.insert(position, row);
                    }
                }
            }
            at += chunk.len();
        }
        Ok(Scored { logprobs, logits })
    }
}

/// What [`Engine::logprobs`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One per token; the first has none.
    pub logprobs: Vec<Option<f64>>,
    /// Raw logits after the asked positions.
    pub logits: std::collections::BTreeMap<usize, Vec<f32>>,
}

impl Scored {
    /// exp(−mean log-probability); `None` for a single token.
    pub fn perplexity(&self) -> Option<f64> {
        let known: Vec<f64> = self.logprobs.iter().flatten().copied().collect();
        if known.is_empty() { None } else { Some((-known.iter().sum::<f64>() / known.len() as f64).exp()) }
    }
}

impl Row {
    /// Tokens that may follow the prompt, roughly; for the bound on memory.
    fn longest(&self) -> usize {
        match &self.plan {
            Plan::Text { max_tokens, .. } => *max_tokens,
            Plan::Script(script) => script
                .parts
                .iter()
                .map(|p| match p {
                    Part::Literal(text) => text.len() / 2 + 1,
                    Part::Choice { .. } => 8,
                    Part::Free { max_tokens, .. } => *max_tokens,
                })
                .sum(),
        }
    }
}
