//! Sequences side by side without padding; answers can share a prompt.

use std::ops::Range;
use std::sync::Arc;

use kernels::AttentionSegment;

/// Rows of one forward pass.
#[derive(Debug, Clone, Default)]
pub struct PackedBatch {
    /// Token ids, all sequences after one another.
    pub ids: Vec<u32>,
    pub(crate) segments: Arc<Vec<AttentionSegment>>,
    /// Total length that decides a segment's rotary frequencies.
    pub(crate) lengths: Vec<usize>,
}

impl PackedBatch {
    /// Adds a whole sequence; returns its rows.
    pub fn push(&mut self, ids: &[u32]) -> Range<usize> {
        self.add(ids, 0..0, ids.len())
    }

    /// Adds a prompt that answers will continue; `total` is the length of the longest whole sequence.
    pub fn push_prompt(&mut self, ids: &[u32], total: usize) -> Range<usize> {
        self.add(ids, 0..0, total)
    }

    /// Adds an answer after a prompt's rows; returns its own rows.
    pub fn push_answer(&mut self, prompt: Range<usize>, ids: &[u32]) -> Range<usize> {
        let total = prompt.len() + ids.len();
        self.add(ids, prompt, total)
    }

    fn add(&mut self, ids: &[u32], prefix: Range<usize>, total: usize) -> Range<usize> {
        let rows = self.ids.len()..self.ids.len() + ids.len();
        if ids.is_empty() {
            return rows;
        }
        self.ids.extend_from_slice(ids);
        Arc::make_mut(&mut self.segments).push(AttentionSegment { rows: rows.clone(), prefix });
        self.lengths.push(total);
        rows
    }

    /// Tokens computed.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
