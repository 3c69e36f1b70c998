//! The engine: many rows, one forward pass a step.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::Tensor;
use models::{KvCache, Model, RopeRegime, Segment, SequenceId, Step};

use crate::grammar::Vocabulary;
use crate::row::{Active, Need, Row, RowOutput};
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

struct Kept {
    ids: Vec<u32>,
    sequence: SequenceId,
}

struct State {
    cache: KvCache,
    /// The longest prefix of the last call, for the next one.
    kept: Option<Kept>,
}

/// A model and the cache of its sequences.
pub struct Engine {
    model: Arc<Model>,
    options: EngineOptions,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, String>>,
    state: Mutex<State>,
}

impl Engine {
    /// An engine over a loaded model.
    pub fn new(model: Arc<Model>, options: EngineOptions) -> Self {
        let cache = model.decoder.cache();
        Self { model, options, vocabulary: OnceLock::new(), state: Mutex::new(State { cache, kept: None }) }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, String> {
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
                return Err(EngineError::Prompt(format!("token {id} is outside the vocabulary of {vocabulary}")));
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut results: Vec<Option<Result<RowOutput, RowError>>> = rows.iter().map(|_| None).collect();
        let mut waiting: std::collections::VecDeque<(usize, Row)> = rows.into_iter().enumerate().collect();
        let total: usize = waiting.iter().map(|(_, r)| r.prompt.len()).sum();
        let mut done = 0;
        while !waiting.is_empty() {
            let mut wave = Vec::new();
            let mut bytes = 0;
            while let Some((_, row)) = waiting.front() {
                let need = state.cache.bytes_for(row.prompt.len() + row.longest());
                if !wave.is_empty() && self.options.cache_bytes.is_some_and(|limit| bytes + need > limit) {
                    break;
                }
                bytes += need;
                wave.extend(waiting.pop_front());
            }
            let mut batch = Batch {
                engine: self,
                state: &mut state,
                active: Vec::new(),
                results: &mut results,
                observer,
                done,
                total,
                finished: 0,
            };
            batch.start(wave)?;
            batch.finish()?;
            done = batch.done;
        }
        Ok(results.into_iter().map(|r| r.unwrap_or(Err(RowError::Interrupted))).collect())
    }

    /// Log-probability of every token given those before it (`None` for the first), in natural logarithms, and the
    /// raw logits after the asked positions.
    ///
    /// # Errors
    /// If an id is outside the vocabulary or the sequence longer than the context.
    pub fn logprobs(&self, ids: &[u32], positions: &[usize]) -> Result<Scored, EngineError> {
        let model = &self.model;
        let context = model.context();
        if ids.is_empty() || ids.len() > context {
            return Err(EngineError::Prompt(format!("{} tokens; the model reads 1 to {context}", ids.len())));
        }
        let mut cache = model.decoder.cache();
        let sequence = cache.create(model.decoder.rope_regime(ids.len()));
        let mut logprobs = vec![None];
        let mut logits = std::collections::BTreeMap::new();
        let mut at = 0;
        for chunk in ids.chunks(self.options.chunk) {
            let step = Step { segments: vec![Segment { sequence, tokens: chunk.to_vec() }] };
            let hidden = model.decoder.forward(&step, &mut cache)?;
            // The head in pieces: 64 rows of a large vocabulary are tens of megabytes.
            for from in (0..chunk.len()).step_by(64) {
                let rows = 64.min(chunk.len() - from);
                let values: Vec<Vec<f32>> = model.decoder.logits(&hidden.narrow(0, from, rows)?)?.to_vec2()?;
                for (i, row) in values.into_iter().enumerate() {
                    let position = at + from + i;
                    if let Some(&next) = ids.get(position + 1) {
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
            crate::row::Plan::Text { max_tokens, .. } => *max_tokens,
            crate::row::Plan::Script(script) => script
                .parts
                .iter()
                .map(|p| match p {
                    crate::Part::Literal(text) => text.len() / 2 + 1,
                    crate::Part::Choice { .. } => 8,
                    crate::Part::Free { max_tokens, .. } => *max_tokens,
                })
                .sum(),
        }
    }
}

/// One wave of rows.
struct Batch<'a> {
    engine: &'a Engine,
    state: &'a mut State,
    active: Vec<(usize, Active)>,
    results: &'a mut [Option<Result<RowOutput, RowError>>],
    observer: &'a mut dyn Observer,
    done: usize,
    total: usize,
    finished: usize,
}

impl Batch<'_> {
    /// Computes shared prefixes once and gives every row its sequence.
    fn start(&mut self, wave: Vec<(usize, Row)>) -> Result<(), EngineError> {
        let decoder = &self.engine.model.decoder;
        let mut wave: Vec<(usize, Row, RopeRegime)> = wave
            .into_iter()
            .map(|(i, r)| {
                let regime = decoder.rope_regime(r.prompt.len());
                (i, r, regime)
            })
            .collect();
        wave.sort_by(|a, b| (a.2 as u8, &a.1.prompt, a.0).cmp(&(b.2 as u8, &b.1.prompt, b.0)));
        let mut longest: Option<Kept> = None;
        let mut rest = wave.as_slice();
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|r| r.2 == first.2).count();
            let (group, others) = rest.split_at(count);
            self.share(group, 0, None, first.2, &mut longest)?;
            rest = others;
        }
        if let Some(old) = self.state.kept.take() {
            self.state.cache.release(old.sequence);
        }
        self.state.kept = longest;
        self.active.sort_by_key(|(i, _)| *i);
        Ok(())
    }

    /// `rows` are sorted and agree on their first `depth` tokens, which `parent` holds.
    fn share(
        &mut self,
        rows: &[(usize, Row, RopeRegime)],
        depth: usize,
        parent: Option<SequenceId>,
        regime: RopeRegime,
        longest: &mut Option<Kept>,
    ) -> Result<(), EngineError> {
        let least = self.engine.options.least_shared;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        // The last token of a row is never shared: its logits are wanted.
        let shortest = rows.iter().map(|r| r.1.prompt.len()).min().unwrap_or(1) - 1;
        let common = common_prefix(&first.1.prompt, &last.1.prompt).min(shortest);
        let single = rows.len() == 1;
        if !single && common < depth + least {
            // They part soon: by their next token.
            if common == depth {
                let mut rest = rows;
                while let Some(r) = rest.first() {
                    let token = r.1.prompt.get(depth);
                    let count = rest.iter().take_while(|o| o.1.prompt.get(depth) == token).count();
                    let (group, others) = rest.split_at(count);
                    if group.len() == rows.len() {
                        // All are the same to their last token but one; each computes its own end.
                        for row in group {
                            self.open(row, depth, parent, regime)?;
                        }
                    } else {
                        self.share(group, depth, parent, regime, longest)?;
                    }
                    rest = others;
                }
                return Ok(());
            }
            for group in rows.chunk_by(|a, b| a.1.prompt.get(common) == b.1.prompt.get(common)) {
                if group.len() == rows.len() {
                    for row in group {
                        self.open(row, depth, parent, regime)?;
                    }
                } else {
                    self.share(group, depth, parent, regime, longest)?;
                }
            }
            return Ok(());
        }
        // A prefix kept from the last call helps a whole group, or a single row.
        let mut depth = depth;
        let mut sequence = parent.and_then(|p| self.state.cache.fork(p, depth));
        if parent.is_none() {
            if let Some(kept) = &self.state.kept {
                let usable = common_prefix(&kept.ids, &first.1.prompt).min(common.min(shortest));
                if usable >= least && self.state.cache.regime(kept.sequence) == regime {
                    sequence = self.state.cache.fork(kept.sequence, usable);
                    depth = usable;
                }
            }
        }
        if single {
            return self.open_at(&rows[0], depth, sequence, regime);
        }
        let sequence = sequence.unwrap_or_else(|| self.state.cache.create(regime));
        let reused_here = depth;
        self.prefill(sequence, &first.1.prompt[depth..common])?;
        for group in rows.chunk_by(|a, b| a.1.prompt.get(common) == b.1.prompt.get(common)) {
            if group.len() == rows.len() {
                for row in group {
                    self.open(row, common, Some(sequence), regime)?;
                }
            } else {
                self.share(group, common, Some(sequence), regime, longest)?;
            }
        }
        // The first row of the group paid for the prefix.
        if let Some((_, paying)) = self.active.iter_mut().find(|(i, _)| rows.iter().any(|r| r.0 == *i)) {
            paying.reused = paying.reused.min(reused_here);
        }
        if parent.is_none() && longest.as_ref().is_none_or(|l| l.ids.len() < common) {
            if let Some(old) = longest.take() {
                self.state.cache.release(old.sequence);
            }
            *longest = Some(Kept { ids: first.1.prompt[..common].to_vec(), sequence });
        } else {
            self.state.cache.release(sequence);
        }
        Ok(())
    }

    fn open(
        &mut self,
        row: &(usize, Row, RopeRegime),
        depth: usize,
        parent: Option<SequenceId>,
        regime: RopeRegime,
    ) -> Result<(), EngineError> {
        let sequence = parent.and_then(|p| self.state.cache.fork(p, depth));
        self.open_at(row, depth, sequence, regime)
    }

    fn open_at(
        &mut self,
        (index, row, _): &(usize, Row, RopeRegime),
        depth: usize,
        sequence: Option<SequenceId>,
        regime: RopeRegime,
    ) -> Result<(), EngineError> {
        let cached = if sequence.is_some() { depth } else { 0 };
        let sequence = sequence.unwrap_or_else(|| self.state.cache.create(regime));
        match Active::new(row.clone(), sequence, &self.engine.model) {
            Ok(mut active) => {
                active.cached = cached;
                active.reused = cached;
                self.done += cached;
                self.active.push((*index, active));
            }
            Err(e) => {
                self.state.cache.release(sequence);
                self.results[*index] = Some(Err(e));
            }
        }
        Ok(())
    }

    fn prefill(&mut self, sequence: SequenceId, tokens: &[u32]) -> Result<(), EngineError> {
        for chunk in tokens.chunks(self.engine.options.chunk) {
            if self.observer.cancelled() {
                return Ok(());
            }
            let step = Step { segments: vec![Segment { sequence, tokens: chunk.to_vec() }] };
            self.engine.model.decoder.forward(&step, &mut self.state.cache)?;
            self.done += chunk.len();
            self.observer.prefill(self.done.min(self.total), self.total);
        }
        Ok(())
    }

    /// Advances all rows until none is left.
    fn finish(&mut self) -> Result<(), EngineError> {
        let mut ready = Vec::new();
        for (index, mut row) in std::mem::take(&mut self.active) {
            match self.advance(&mut row) {
                Ok(Need::Done) => self.close(index, row, None),
                Ok(_) => ready.push((index, row)),
                Err(e) => self.close(index, row, Some(e)),
            }
        }
        self.active = ready;
        while !self.active.is_empty() {
            if self.observer.cancelled() {
                for (index, row) in std::mem::take(&mut self.active) {
                    self.close(index, row, Some(RowError::Interrupted));
                }
                break;
            }
            self.step()?;
            let generated: usize = self.active.iter().map(|(_, r)| r.generated()).sum();
            self.observer.decode(self.finished + generated);
        }
        Ok(())
    }

    fn advance(&mut self, row: &mut Active) -> Result<Need, RowError> {
        row.next_part(&self.engine.model, &mut || self.engine.vocabulary())
    }

    fn close(&mut self, index: usize, row: Active, error: Option<RowError>) {
        self.state.cache.release(row.sequence);
        self.finished += row.generated();
        self.results[index] = Some(match error {
            Some(e) => Err(e),
            None => row.output(&self.engine.model),
        });
    }

    /// One forward pass: every row runs what it has not yet run, up to a chunk; rows that have caught up draw or choose.
    fn step(&mut self) -> Result<(), EngineError> {
        let decoder = &self.engine.model.decoder;
        let mut segments = Vec::new();
        let mut caught_up = Vec::new();
        let mut budget = self.engine.options.chunk.max(self.active.len());
        for (n, (_, row)) in self.active.iter_mut().enumerate() {
            if decoder.rope_regime(row.ids.len()) != self.state.cache.regime(row.sequence) {
                // longrope: beyond the border all keys are turned differently, so the sequence is computed anew.
                self.state.cache.release(row.sequence);
                row.sequence = self.state.cache.create(decoder.rope_regime(row.ids.len()));
                row.cached = 0;
            }
            self.state.cache.truncate(row.sequence, row.cached);
            let left = row.ids.len() - row.cached;
            if left == 0 {
                continue; // a choice right after another: its logits are still at hand
            }
            let take = left.min(budget.max(1));
            if budget == 0 && left > 1 {
                continue;
            }
            budget = budget.saturating_sub(take);
            let first = segments.iter().map(|s: &Segment| s.tokens.len()).sum::<usize>();
            segments.push(Segment {
                sequence: row.sequence,
                tokens: row.ids[row.cached..row.cached + take].to_vec(),
            });
            let in_prompt = row.row.prompt.len().saturating_sub(row.cached).min(take);
            self.done += in_prompt;
            row.cached += take;
            if row.cached == row.ids.len() {
                caught_up.push((n, first + take - 1));
            }
        }
        if !segments.is_empty() {
            let hidden = decoder.forward(&Step { segments }, &mut self.state.cache)?;
            if self.done <= self.total {
                self.observer.prefill(self.done, self.total);
            }
            let logits = self.logits_at(&hidden, &caught_up.iter().map(|c| c.1).collect::<Vec<_>>())?;
            for ((n, _), row_logits) in caught_up.iter().zip(logits) {
                self.active[*n].1.logits = row_logits;
            }
        }
        let waiting: Vec<usize> = (0..self.active.len())
            .filter(|&n| {
                let row = &self.active[n].1;
                row.cached == row.ids.len() && !row.logits.is_empty()
            })
            .collect();
        let mut scored = self.score_choices(&waiting)?;
        let mut failed = vec![None; self.active.len()];
        let mut over = vec![false; self.active.len()];
        for n in waiting {
            let stand_in = self.placeholder();
            let mut row = std::mem::replace(&mut self.active[n], stand_in);
            let outcome = if let Some(options) = scored.remove(&n) {
                let drawn = row.1.choose(&options.iter().map(|o| o.0).collect::<Vec<_>>());
                // The chosen fork already holds all but the last token.
                for (i, (_, fork)) in options.into_iter().enumerate() {
                    let Some(fork) = fork else { continue };
                    if i == drawn {
                        self.state.cache.release(row.1.sequence);
                        row.1.sequence = fork;
                        row.1.cached = self.state.cache.len(fork);
                    } else {
                        self.state.cache.release(fork);
                    }
                }
                Ok(true)
            } else {
                let logits = std::mem::take(&mut row.1.logits);
                row.1.draw(logits, &self.engine.model)
            };
            match outcome {
                Ok(false) => {}
                Ok(true) => match self.advance(&mut row.1) {
                    Ok(Need::Done) => over[n] = true,
                    Ok(_) => {
                        if row.1.ids.len() > row.1.cached {
                            row.1.logits.clear();
                        }
                    }
                    Err(e) => failed[n] = Some(e),
                },
                Err(e) => failed[n] = Some(e),
            }
            // A part that ended by a cut or a limit left its last position without logits: run that token again.
            if row.1.ids.len() == row.1.cached && row.1.logits.is_empty() && !over[n] && row.1.cached > 0 {
                row.1.cached -= 1;
            }
            self.active[n] = row;
        }
        for (n, (index, row)) in std::mem::take(&mut self.active).into_iter().enumerate() {
            if over[n] || failed[n].is_some() {
                self.close(index, row, failed[n].take());
            } else {
                self.active.push((index, row));
            }
        }
        Ok(())
    }

    /// An empty row that stands in while the real one is worked on.
    fn placeholder(&mut self) -> (usize, Active) {
        let row = Row {
            prompt: vec![0],
            plan: crate::row::Plan::Script(crate::Script::default()),
            sampling: crate::Sampling::default(),
            seed: 0,
            logprobs: false,
        };
        let sequence = self.state.cache.create(RopeRegime::Short);
        self.state.cache.release(sequence);
        (usize::MAX, Active::empty(row, sequence))
    }

    fn logits_at(&self, hidden: &Tensor, rows: &[usize]) -> Result<Vec<Vec<f32>>, EngineError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let index: Vec<u32> = rows.iter().map(|&r| r as u32).collect();
        let picked = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?;
        Ok(self.engine.model.decoder.logits(&picked)?.to_vec2()?)
    }

    /// Log-probability of every option of every row that stands at a choice, all in one batch of forks. An option's
    /// fork holds its tokens but the last.
    #[allow(clippy::type_complexity)]
    fn score_choices(
        &mut self,
        waiting: &[usize],
    ) -> Result<std::collections::BTreeMap<usize, Vec<(f64, Option<SequenceId>)>>, EngineError> {
        let mut scored = std::collections::BTreeMap::new();
        let mut segments = Vec::new();
        let mut jobs = Vec::new();
        let mut at = 0;
        for &n in waiting {
            let row = &self.active[n].1;
            let Some(choice) = &row.choice else { continue };
            let mut options = Vec::new();
            for (o, (_, ids)) in choice.options.iter().enumerate() {
                let first = sampler::logprob(&row.logits, ids[0]);
                let mut fork = None;
                if ids.len() > 1 {
                    fork = self.state.cache.fork(row.sequence, row.cached);
                    if let Some(sequence) = fork {
                        let tokens = ids[..ids.len() - 1].to_vec();
                        jobs.push((n, o, at, ids[1..].to_vec()));
                        at += tokens.len();
                        segments.push(Segment { sequence, tokens });
                    }
                }
                options.push((first, fork));
            }
            scored.insert(n, options);
        }
        if segments.is_empty() {
            return Ok(scored);
        }
        let hidden = self.engine.model.decoder.forward(&Step { segments }, &mut self.state.cache)?;
        for (n, o, from, targets) in jobs {
            let rows: Vec<usize> = (from..from + targets.len()).collect();
            let logits = self.logits_at(&hidden, &rows)?;
            let rest: f64 = logits.iter().zip(&targets).map(|(l, &t)| sampler::logprob(l, t)).sum();
            if let Some(options) = scored.get_mut(&n) {
                options[o].0 += rest;
            }
        }
        Ok(scored)
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
