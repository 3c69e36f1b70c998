//! What rows begin with in common is computed once.
//!
//! Rows are sorted by their prompts; a run of neighbours that agree on enough tokens computes those once and forks the
//! cache, and so on within the run. The longest prefix of a call stays for the next one.

use models::{RopeRegime, Segment, SequenceId, Step};

use crate::batch::Batch;
use crate::engine::EngineError;
use crate::request::Row;
use crate::row::Active;

/// Ids whose keys and values stay in the cache between calls.
pub(crate) struct Kept {
    pub(crate) ids: Vec<u32>,
    pub(crate) sequence: SequenceId,
}

/// A row that waits: its place in the call, itself, the rotary frequencies its length asks for.
type Waiting = (usize, Row, RopeRegime);

/// Tokens that both begin with.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Batch<'_> {
    /// Computes shared prefixes once and gives every row its sequence.
    pub(crate) fn start(&mut self, wave: Vec<(usize, Row)>) -> Result<(), EngineError> {
        let decoder = &self.engine.model().decoder;
        let mut wave: Vec<Waiting> = wave
            .into_iter()
            .map(|(index, row)| {
                let regime = decoder.rope_regime(row.prompt.len());
                (index, row, regime)
            })
            .collect();
        wave.sort_by(|a, b| (a.2 as u8, &a.1.prompt, a.0).cmp(&(b.2 as u8, &b.1.prompt, b.0)));
        let mut longest: Option<Kept> = None;
        for group in wave.chunk_by(|a, b| a.2 == b.2) {
            self.share(group, 0, None, &mut longest)?;
        }
        self.active.sort_by_key(|(i, _)| *i);
        if let Some(kept) = longest {
            self.keep(kept);
        }
        Ok(())
    }

    /// Puts a prefix in the place of the one kept so far.
    pub(crate) fn keep(&mut self, kept: Kept) {
        if let Some(old) = self.state.kept.replace(kept) {
            self.state.cache.release(old.sequence);
        }
    }

    /// `rows` are sorted and agree on their first `depth` tokens, which `parent` holds.
    fn share(
        &mut self,
        rows: &[Waiting],
        depth: usize,
        parent: Option<SequenceId>,
        longest: &mut Option<Kept>,
    ) -> Result<(), EngineError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let regime = first.2;
        // The last token of a row is never shared: its logits are wanted.
        let shortest = rows.iter().map(|r| r.1.prompt.len()).min().unwrap_or(1) - 1;
        let common = common_prefix(&first.1.prompt, &last.1.prompt).min(shortest);
        let single = rows.len() == 1;
        let least = self.engine.options().least_shared;
        if !single && common < depth.saturating_add(least) {
            return self.part(rows, common, depth, parent, longest);
        }
        // A prefix kept from the last call helps a whole group, or a single row.
        let mut depth = depth;
        let mut sequence = parent.and_then(|p| self.state.cache.fork(p, depth));
        if let (None, Some(kept)) = (parent, &self.state.kept) {
            let usable = common_prefix(&kept.ids, &first.1.prompt).min(common);
            if usable >= least && self.state.cache.regime(kept.sequence) == regime {
                sequence = self.state.cache.fork(kept.sequence, usable);
                depth = usable;
            }
        }
        let sequence = sequence.unwrap_or_else(|| self.state.cache.create(regime));
        if single {
            self.open(first, sequence);
            return Ok(());
        }
        self.prefill(sequence, &first.1.prompt[depth..common])?;
        self.part(rows, common, common, Some(sequence), longest)?;
        // The first row of the group paid for the prefix.
        if let Some((_, paying)) = self.active.iter_mut().find(|(i, _)| rows.iter().any(|r| r.0 == *i)) {
            paying.reused = paying.reused.min(depth);
        }
        let better =
            parent.is_none() && !self.stopped && longest.as_ref().is_none_or(|l| l.ids.len() < common);
        let out = if better {
            longest.replace(Kept { ids: first.1.prompt[..common].to_vec(), sequence }).map(|old| old.sequence)
        } else {
            Some(sequence)
        };
        if let Some(out) = out {
            self.state.cache.release(out);
        }
        Ok(())
    }

    /// Splits rows by the token at `at`, where they part; each group starts from the first `depth` tokens of `parent`.
    fn part(
        &mut self,
        rows: &[Waiting],
        at: usize,
        depth: usize,
        parent: Option<SequenceId>,
        longest: &mut Option<Kept>,
    ) -> Result<(), EngineError> {
        for group in rows.chunk_by(|a, b| a.1.prompt.get(at) == b.1.prompt.get(at)) {
            if group.len() < rows.len() {
                self.share(group, depth, parent, longest)?;
                continue;
            }
            // All are the same to their last token but one; each computes its own end.
            for row in group {
                let forked = parent.and_then(|p| self.state.cache.fork(p, depth));
                let sequence = forked.unwrap_or_else(|| self.state.cache.create(row.2));
                self.open(row, sequence);
            }
        }
        Ok(())
    }

    /// A row begins with what `sequence` holds of it.
    fn open(&mut self, (index, row, _): &Waiting, sequence: SequenceId) {
        match Active::new(row.clone(), sequence, self.engine.model()) {
            Ok(mut active) => {
                active.cached = self.state.cache.len(sequence);
                active.reused = active.cached;
                self.done += active.cached;
                self.active.push((*index, active));
            }
            Err(e) => {
                self.state.cache.release(sequence);
                self.results[*index] = Some(Err(e));
            }
        }
    }

    fn prefill(&mut self, sequence: SequenceId, tokens: &[u32]) -> Result<(), EngineError> {
        for chunk in tokens.chunks(self.engine.options().chunk.max(1)) {
            if self.stopped() {
                return Ok(());
            }
            let step = Step { segments: vec![Segment { sequence, tokens: chunk.to_vec() }] };
            self.engine.model().decoder.forward(&step, &mut self.state.cache)?;
            self.done += chunk.len();
            self.observer.prefill(self.done.min(self.total), self.total);
        }
        Ok(())
    }
}
