//! Causal attention over a cache of blocks, for decoding and scoring on the CPU.
//!
//! Keys lie transposed in a block so that sixteen keys fill a vector; scores of a tile of query rows are kept as
//! `[rows, keys]`, never `[queries, keys]` of the whole prompt. Sums run over keys in the order of their absolute
//! positions, masked keys add an exact zero, so that a query's result does not depend on how the prompt was chunked.

use std::sync::Arc;

use rayon::prelude::*;

use crate::pack::{PANEL, rows_times_panel};
use crate::simd::{self, LANES, Lanes, dispatch};

/// Positions of one block.
pub const BLOCK: usize = 64;

/// What a cache block of a model looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks of the model.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Head width rounded up to whole panels; the rest stays zero.
    fn padded(&self) -> usize {
        self.head_dim.div_ceil(PANEL) * PANEL
    }

    fn layer_floats(&self) -> usize {
        self.kv_heads * (self.head_dim + self.padded()) * BLOCK
    }

    /// Bytes of one block, all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.layer_floats() * size_of::<f32>()
    }
}

/// Keys and values of [`BLOCK`] consecutive positions of one sequence, all layers.
///
/// Per layer and head: keys `[head_dim, 64]`, then values `[64, padded head_dim]`.
#[derive(Debug, Clone)]
pub struct KvBlock {
    data: Vec<f32>,
}

impl KvBlock {
    /// An empty block.
    pub fn new(shape: &KvShape) -> Self {
        Self { data: vec![0.0; shape.layers * shape.layer_floats()] }
    }

    fn keys(shape: &KvShape, layer: usize, head: usize) -> usize {
        layer * shape.layer_floats() + head * (shape.head_dim + shape.padded()) * BLOCK
    }

    fn values(shape: &KvShape, layer: usize, head: usize) -> usize {
        Self::keys(shape, layer, head) + shape.head_dim * BLOCK
    }

    /// Stores key and value (`[kv_heads · head_dim]` each) at `slot` of this block.
    pub fn write(&mut self, shape: &KvShape, layer: usize, slot: usize, key: &[f32], value: &[f32]) {
        for head in 0..shape.kv_heads {
            let k = Self::keys(shape, layer, head);
            let v = Self::values(shape, layer, head) + slot * shape.padded();
            for d in 0..shape.head_dim {
                self.data[k + d * BLOCK + slot] = key[head * shape.head_dim + d];
                self.data[v + d] = value[head * shape.head_dim + d];
            }
        }
    }
}

/// The rows of one sequence within a step.
pub struct PagedSegment<'a> {
    /// Its blocks, the new positions included.
    pub blocks: &'a [Arc<KvBlock>],
    /// First row of the step that belongs to it.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of its first row.
    pub position: usize,
}

/// Attention of all rows of a step against their sequences' caches.
///
/// `queries`: `[tokens, heads · head_dim]` after rotation; returns the same shape. Key j is visible to query i iff
/// j ≤ i and, with a window w, j > i − w. Scores are scaled by 1/√head_dim.
pub fn paged_attention(
    queries: &[f32],
    heads: usize,
    shape: &KvShape,
    layer: usize,
    window: Option<usize>,
    segments: &[PagedSegment<'_>],
) -> Vec<f32> {
    let mut out = vec![0f32; queries.len()];
    let group = heads / shape.kv_heads;
    let per_tile = (12 / group).max(1);
    let mut tasks = Vec::new();
    for (s, segment) in segments.iter().enumerate() {
        for from in (0..segment.rows).step_by(per_tile) {
            for head in 0..shape.kv_heads {
                tasks.push((s, from, per_tile.min(segment.rows - from), head));
            }
        }
    }
    let sink = Sink(out.as_mut_ptr());
    tasks.par_iter().for_each_init(Scratch::default, |scratch, &(s, from, count, head)| {
        let tile = Tile {
            queries,
            heads,
            group,
            shape,
            layer,
            window,
            segment: &segments[s],
            from,
            count,
            head,
            sink,
        };
        attend(&tile, scratch);
    });
    out
}

#[derive(Clone, Copy)]
struct Sink(*mut f32);
// SAFETY: every task writes the rows and heads of its own tile only; the buffer outlives the parallel loop.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

struct Tile<'a> {
    queries: &'a [f32],
    heads: usize,
    group: usize,
    shape: &'a KvShape,
    layer: usize,
    window: Option<usize>,
    segment: &'a PagedSegment<'a>,
    from: usize,
    count: usize,
    head: usize,
    sink: Sink,
}

dispatch! { fn attend = attend_body(tile: &Tile<'_>, scratch: &mut Scratch) }

/// SAFETY: the segment's blocks cover all positions up to its last row; blocks have the layout of [`KvBlock`].
#[inline(always)]
unsafe fn attend_body<L: Lanes>(tile: &Tile<'_>, scratch: &mut Scratch) {
    let (shape, dim, padded) = (tile.shape, tile.shape.head_dim, tile.shape.padded());
    let rows = tile.count * tile.group;
    let first = tile.segment.position + tile.from;
    let last = first + tile.count - 1;
    let start_block = tile.window.map_or(0, |w| (first + 1).saturating_sub(w) / BLOCK);
    let end_block = last / BLOCK + 1;
    let span = (end_block - start_block) * BLOCK;

    // Query rows of the tile, position by position, the heads of the group side by side; scaled once here.
    let scale = 1.0 / (dim as f32).sqrt();
    scratch.queries.clear();
    for i in 0..tile.count {
        let row = (tile.segment.first_row + tile.from + i) * tile.heads * dim;
        let heads = tile.head * tile.group * dim;
        scratch.queries.extend(tile.queries[row + heads..][..tile.group * dim].iter().map(|q| q * scale));
    }
    scratch.scores.clear();
    scratch.scores.resize(rows * span, 0.0);
    scratch.sums.clear();
    scratch.sums.resize(rows * padded, 0.0);

    let load = |p: *const f32| {
        // SAFETY: `rows_times_panel` hands out pointers inside its panel.
        unsafe { L::load(p) }
    };
    for (i, block) in tile.segment.blocks[start_block..end_block].iter().enumerate() {
        let keys = &block.data[KvBlock::keys(shape, tile.layer, tile.head)..][..dim * BLOCK];
        for panel in (0..BLOCK).step_by(PANEL) {
            let mut row = 0;
            while row < rows {
                let m = L::ROWS.min(rows - row);
                // SAFETY: the tile's rows, the block's keys and the scores are inside their buffers.
                unsafe {
                    let a = scratch.queries.as_ptr().add(row * dim);
                    let c = scratch.scores.as_mut_ptr().add(row * span + i * BLOCK + panel);
                    rows_times_panel::<L, f32>(
                        m,
                        a,
                        dim,
                        keys.as_ptr().add(panel),
                        BLOCK,
                        dim,
                        c,
                        span,
                        load,
                    );
                }
                row += m;
            }
        }
    }

    let mut inverse = vec![0f32; rows];
    for row in 0..rows {
        let position = first + row / tile.group;
        let base = start_block * BLOCK;
        let low = tile.window.map_or(0, |w| (position + 1).saturating_sub(w)).max(base) - base;
        let high = position + 1 - base;
        let scores = &mut scratch.scores[row * span..][..span];
        // SAFETY: offsets are multiples of sixteen below `span`, which is a multiple of 64.
        inverse[row] = 1.0 / unsafe { softmax_numerators::<L>(scores, low, high) };
    }

    for (i, block) in tile.segment.blocks[start_block..end_block].iter().enumerate() {
        let values = &block.data[KvBlock::values(shape, tile.layer, tile.head)..][..BLOCK * padded];
        // Slots beyond the last query hold zeros or stale values; they are left out rather than multiplied by zero.
        let depth = BLOCK.min(last + 1 - (start_block + i) * BLOCK);
        for panel in (0..padded).step_by(PANEL) {
            let mut row = 0;
            while row < rows {
                let m = L::ROWS.min(rows - row);
                // SAFETY: the tile's scores, the block's values and the sums are inside their buffers.
                unsafe {
                    let a = scratch.scores.as_ptr().add(row * span + i * BLOCK);
                    let c = scratch.sums.as_mut_ptr().add(row * padded + panel);
                    rows_times_panel::<L, f32>(
                        m,
                        a,
                        span,
                        values.as_ptr().add(panel),
                        padded,
                        depth,
                        c,
                        padded,
                        load,
                    );
                }
                row += m;
            }
        }
    }

    for row in 0..rows {
        let token = tile.segment.first_row + tile.from + row / tile.group;
        let at = (token * tile.heads + tile.head * tile.group + row % tile.group) * dim;
        for d in 0..dim {
            // SAFETY: this tile's own rows and heads of the output.
            unsafe { *tile.sink.0.add(at + d) = scratch.sums[row * padded + d] * inverse[row] };
        }
    }
}

/// Replaces scores by exp(score − max) inside `low..high` and by zero elsewhere; returns their sum.
///
/// SAFETY: the length is a multiple of sixteen.
#[inline(always)]
unsafe fn softmax_numerators<L: Lanes>(scores: &mut [f32], low: usize, high: usize) -> f32 {
    let largest = scores[low..high].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores[..low].fill(f32::NEG_INFINITY);
    scores[high..].fill(f32::NEG_INFINITY);
    // SAFETY: by the contract.
    unsafe {
        let shift = L::splat(-largest);
        let mut total = L::splat(0.0);
        for i in (low / LANES * LANES..high.div_ceil(LANES) * LANES).step_by(LANES) {
            let e = simd::exp::<L>(L::add(L::load(scores.as_ptr().add(i)), shift));
            L::store(scores.as_mut_ptr().add(i), e);
            // Masked lanes are set to exact zeros before they are added.
            if i < low || i + LANES > high {
                for lane in 0..LANES {
                    if i + lane < low || i + lane >= high {
                        scores[i + lane] = 0.0;
                    }
                }
            }
            total = L::add(total, L::load(scores.as_ptr().add(i)));
        }
        scores[..low / LANES * LANES].fill(0.0);
        scores[high.div_ceil(LANES) * LANES..].fill(0.0);
        simd::sum::<L>(total)
    }
}
