//! Keys and values of the sequences in flight.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use kernels::{BLOCK, KvBlock, KvShape};

/// Names a sequence in a [`KvCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// Which set of rotary frequencies a sequence's keys were turned with (longrope has two).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RopeRegime {
    /// Up to the original context, and every model without longrope.
    #[default]
    Short,
    /// Beyond it.
    Long,
}

pub(crate) enum Keys {
    /// Processor: blocks of 64 positions, shared between sequences until one of them writes.
    Blocks(Vec<Arc<KvBlock>>),
    /// Other devices: per layer key and value, `[positions, kv_heads · head_dim]`.
    Tensors(Vec<Option<(Tensor, Tensor)>>),
}

pub(crate) struct Sequence {
    pub(crate) keys: Keys,
    pub(crate) len: usize,
    pub(crate) regime: RopeRegime,
}

/// The cache of a model: it grows by blocks of 64 positions as sequences do, and a forked sequence shares the blocks
/// of its origin until it writes into one.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) sequences: HashMap<SequenceId, Sequence>,
    next: u64,
    on_cpu: bool,
}

impl KvCache {
    pub(crate) fn new(shape: KvShape, on_cpu: bool) -> Self {
        Self { shape, sequences: HashMap::new(), next: 0, on_cpu }
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.insert(id, sequence);
        id
    }

    /// An empty sequence.
    pub fn create(&mut self, regime: RopeRegime) -> SequenceId {
        let keys =
            if self.on_cpu { Keys::Blocks(Vec::new()) } else { Keys::Tensors(vec![None; self.shape.layers]) };
        self.insert(Sequence { keys, len: 0, regime })
    }

    /// A sequence that begins with the first `len` positions of another (all of them if it has fewer); `None` if there
    /// is no such sequence.
    pub fn fork(&mut self, of: SequenceId, len: usize) -> Option<SequenceId> {
        let origin = self.sequences.get(&of)?;
        let len = len.min(origin.len);
        let keys = match &origin.keys {
            Keys::Blocks(blocks) => Keys::Blocks(blocks[..len.div_ceil(BLOCK)].to_vec()),
            Keys::Tensors(layers) => Keys::Tensors(layers.clone()),
        };
        let regime = origin.regime;
        let id = self.insert(Sequence { keys, len: origin.len, regime });
        self.truncate(id, len);
        if let Some(s) = self.sequences.get_mut(&id) {
            s.len = len;
        }
        Some(id)
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if len >= sequence.len {
            return;
        }
        match &mut sequence.keys {
            Keys::Blocks(blocks) => blocks.truncate(len.div_ceil(BLOCK)),
            Keys::Tensors(layers) => {
                for layer in layers.iter_mut() {
                    *layer = match (layer.take(), len) {
                        (Some((k, v)), 1..) => match (k.narrow(0, 0, len), v.narrow(0, 0, len)) {
                            (Ok(k), Ok(v)) => Some((k, v)),
                            _ => None,
                        },
                        _ => None,
                    };
                }
            }
        }
        sequence.len = len;
    }

    /// Forgets a sequence; blocks that others share stay.
    pub fn release(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
    }

    /// Positions stored for a sequence (0 for an unknown one).
    pub fn len(&self, id: SequenceId) -> usize {
        self.sequences.get(&id).map_or(0, |s| s.len)
    }

    /// True if there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The frequencies a sequence was started with.
    pub fn regime(&self, id: SequenceId) -> RopeRegime {
        self.sequences.get(&id).map_or(RopeRegime::Short, |s| s.regime)
    }

    /// Bytes held by blocks, each counted once however many sequences share it.
    pub fn bytes(&self) -> usize {
        let mut seen = std::collections::HashSet::new();
        for sequence in self.sequences.values() {
            if let Keys::Blocks(blocks) = &sequence.keys {
                seen.extend(blocks.iter().map(Arc::as_ptr));
            }
        }
        seen.len() * self.shape.block_bytes()
    }

    /// Bytes that `tokens` positions of one sequence take.
    pub fn bytes_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(BLOCK) * self.shape.block_bytes()
    }

    /// Makes room for `rows` more positions, with blocks of the sequence's own where they will be written.
    pub(crate) fn reserve(&mut self, id: SequenceId, rows: usize) {
        let shape = self.shape;
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if let Keys::Blocks(blocks) = &mut sequence.keys {
            let first = sequence.len / BLOCK;
            blocks.resize_with((sequence.len + rows).div_ceil(BLOCK), || Arc::new(KvBlock::new(&shape)));
            for block in &mut blocks[first..] {
                Arc::make_mut(block);
            }
        }
    }
}
