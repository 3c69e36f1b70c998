//! One wave of rows: all of them take a step in one forward pass, and those that finish leave.

use std::collections::BTreeMap;

use candle_core::Tensor;
use models::{Segment, SequenceId, Step};

use crate::engine::{Engine, EngineError, Observer, RowError, State};
use crate::prefix::Kept;
use crate::request::RowOutput;
use crate::row::{Active, Need};
use crate::sampler;

/// One wave of rows.
pub(crate) struct Batch<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) state: &'a mut State,
    pub(crate) active: Vec<(usize, Active)>,
    pub(crate) results: &'a mut [Option<Result<RowOutput, RowError>>],
    pub(crate) observer: &'a mut dyn Observer,
    /// Prompt tokens computed or found, of so many in the call.
    pub(crate) done: usize,
    pub(crate) total: usize,
    /// Tokens drawn by rows that have left.
    pub(crate) finished: usize,
    /// The wave is one row: its whole cache is kept for the next call, which often goes on from it.
    pub(crate) alone: bool,
    /// The observer has asked for an end; it is not asked again.
    pub(crate) stopped: bool,
}

/// The score of one option and the fork that holds its tokens but the last (none for a single token).
type Scored = (f64, Option<SequenceId>);

impl Batch<'_> {
    pub(crate) fn stopped(&mut self) -> bool {
        self.stopped = self.stopped || self.observer.cancelled();
        self.stopped
    }

    /// Advances all rows until none is left.
    pub(crate) fn finish(&mut self) -> Result<(), EngineError> {
        for (index, mut row) in std::mem::take(&mut self.active) {
            match self.advance(&mut row) {
                Ok(Need::Done) => self.close(index, row, None),
                Ok(_) => self.active.push((index, row)),
                Err(e) => self.close(index, row, Some(e)),
            }
        }
        while !self.active.is_empty() {
            if self.stopped() {
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

    fn advance(&self, row: &mut Active) -> Result<Need, RowError> {
        row.next_part(self.engine.model(), &mut || self.engine.vocabulary())
    }

    fn close(&mut self, index: usize, row: Active, error: Option<RowError>) {
        self.finished += row.generated();
        if self.alone && error.is_none() {
            let len = row.cached.min(self.state.cache.len(row.sequence));
            self.state.cache.truncate(row.sequence, len);
            self.keep(Kept { ids: row.ids[..len].to_vec(), sequence: row.sequence });
        } else {
            self.state.cache.release(row.sequence);
        }
        self.results[index] = Some(match error {
            Some(e) => Err(e),
            None => row.output(self.engine.model()),
        });
    }

    /// One forward pass: every row runs what it has not yet run, up to a chunk; rows that have caught up draw or choose.
    fn step(&mut self) -> Result<(), EngineError> {
        self.forward()?;
        let mut scored = self.score_choices()?;
        for (n, (index, mut row)) in std::mem::take(&mut self.active).into_iter().enumerate() {
            if !row.is_ready() {
                self.active.push((index, row));
                continue;
            }
            let outcome = match scored.remove(&n) {
                Some(options) => self.choose(&mut row, options),
                None => {
                    let logits = std::mem::take(&mut row.logits);
                    row.draw(logits, self.engine.model(), self.engine.controls())
                }
            };
            let outcome = match outcome {
                Ok(true) => self.advance(&mut row).map(|need| matches!(need, Need::Done)),
                Ok(false) => Ok(false),
                Err(e) => Err(e),
            };
            match outcome {
                Ok(false) => {
                    // A part that ended without a new token left its last position without logits: run it again.
                    if row.ids.len() == row.cached && row.logits.is_empty() {
                        row.cached = row.cached.saturating_sub(1);
                    }
                    self.active.push((index, row));
                }
                Ok(true) => self.close(index, row, None),
                Err(e) => self.close(index, row, Some(e)),
            }
        }
        Ok(())
    }

    /// Runs what rows have not yet run; rows that catch up get their logits.
    fn forward(&mut self) -> Result<(), EngineError> {
        let decoder = &self.engine.model().decoder;
        let mut segments: Vec<Segment> = Vec::new();
        let mut caught_up = Vec::new();
        let mut tokens = 0;
        let mut budget = self.engine.options().chunk.max(self.active.len());
        let before = self.done;
        for (n, (_, row)) in self.active.iter_mut().enumerate() {
            let regime = decoder.rope_regime(row.length_to_come());
            if regime != self.state.cache.regime(row.sequence) {
                // longrope: beyond the border all keys are turned differently, so the sequence is computed anew.
                self.state.cache.release(row.sequence);
                row.sequence = self.state.cache.create(regime);
                row.cached = 0;
            }
            self.state.cache.truncate(row.sequence, row.cached);
            let left = row.ids.len() - row.cached;
            // Nothing is left where a choice follows another: its logits are still at hand.
            if left == 0 || (budget == 0 && left > 1) {
                continue;
            }
            let take = left.min(budget.max(1));
            budget = budget.saturating_sub(take);
            segments.push(Segment {
                sequence: row.sequence,
                tokens: row.ids[row.cached..row.cached + take].to_vec(),
            });
            tokens += take;
            self.done += row.row.prompt.len().saturating_sub(row.cached).min(take);
            row.cached += take;
            if row.cached == row.ids.len() {
                caught_up.push((n, tokens - 1));
            } else {
                row.logits.clear();
            }
        }
        if segments.is_empty() {
            return Ok(());
        }
        let hidden = decoder.forward(&Step { segments }, &mut self.state.cache)?;
        if self.done > before && self.done <= self.total {
            self.observer.prefill(self.done, self.total);
        }
        let logits = self.logits_at(&hidden, &caught_up.iter().map(|c| c.1).collect::<Vec<_>>())?;
        for ((n, _), row_logits) in caught_up.iter().zip(logits) {
            self.active[*n].1.logits = row_logits;
        }
        Ok(())
    }

    fn logits_at(&self, hidden: &Tensor, rows: &[usize]) -> Result<Vec<Vec<f32>>, EngineError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let index: Vec<u32> = rows.iter().map(|&r| r as u32).collect();
        let picked = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?;
        Ok(self.engine.model().decoder.logits(&picked)?.to_vec2()?)
    }

    /// Log-probability of every option of every row that stands at a choice, by place in `active`; all options of all
    /// rows are one forward pass over forks of the rows' caches.
    fn score_choices(&mut self) -> Result<BTreeMap<usize, Vec<Scored>>, EngineError> {
        let mut scored = BTreeMap::new();
        let mut segments = Vec::new();
        let mut jobs = Vec::new();
        let mut at = 0;
        for (n, (_, row)) in self.active.iter().enumerate() {
            let Some(choice) = row.choice.as_ref().filter(|_| row.is_ready()) else { continue };
            let mut options = Vec::new();
            for (o, (_, ids)) in choice.options.iter().enumerate() {
                let first = sampler::logprob(&row.logits, ids[0]);
                let fork = if ids.len() > 1 { self.state.cache.fork(row.sequence, row.cached) } else { None };
                if let Some(sequence) = fork {
                    let tokens = ids[..ids.len() - 1].to_vec();
                    jobs.push((n, o, at, ids[1..].to_vec()));
                    at += tokens.len();
                    segments.push(Segment { sequence, tokens });
                }
                options.push((first, fork));
            }
            scored.insert(n, options);
        }
        if segments.is_empty() {
            return Ok(scored);
        }
        let hidden = self.engine.model().decoder.forward(&Step { segments }, &mut self.state.cache)?;
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

    /// Draws an option; the row goes on in that option's fork, which already holds all of it but the last token.
    fn choose(&mut self, row: &mut Active, options: Vec<Scored>) -> Result<bool, RowError> {
        let drawn = row.choose(&options.iter().map(|o| o.0).collect::<Vec<_>>());
        for (i, (_, fork)) in options.into_iter().enumerate() {
            let Some(fork) = fork else { continue };
            if drawn == Ok(i) {
                self.state.cache.release(row.sequence);
                row.sequence = fork;
                row.cached = self.state.cache.len(fork);
            } else {
                self.state.cache.release(fork);
            }
        }
        row.logits.clear();
        drawn.map(|_| true)
    }
}
