//! Causal attention over a cache of blocks, for decoding and scoring on the CPU.
//!
//! Keys lie transposed in a block so that sixteen keys fill a vector; scores of a tile of query rows are kept as
//! `[rows, keys]`, never `[queries, keys]` of the whole prompt. Sums run over keys in the order of their absolute
//! positions, masked keys add an exact zero, so that a query's result does not depend on how the prompt was chunked.

use std::ops::Range;
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
    let most = (12 / group).max(1);
    // As many rows read what they share together as leave every thread some work; each has scores of its own.
    let share = segments.len() * shape.kv_heads / (2 * rayon::current_num_threads());
    let together = if window.is_none() { share.clamp(1, TOGETHER) } else { 1 };
    let parts = parts(segments, most, together);
    let tasks: Vec<(&Part, usize)> =
        parts.iter().flat_map(|p| (0..shape.kv_heads).map(move |head| (p, head))).collect();
    let sink = Sink(out.as_mut_ptr());
    tasks.par_iter().for_each_init(Scratch::default, |scratch, &(part, head)| {
        let members = &segments[part.segments.clone()];
        let tile = Tile { queries, heads, group, shape, layer, window, members, part, head, sink };
        attend(&tile, scratch);
    });
    out
}

/// Most sequences that read what they share together.
const TOGETHER: usize = 16;

/// Rows that are computed together: some of one segment, or the single rows of neighbours that begin with the same blocks.
struct Part {
    segments: Range<usize>,
    /// Within each of them.
    rows: Range<usize>,
    /// Leading blocks that are the same memory: they are read once for all. What decoding costs is this reading.
    shared: usize,
}

/// Parts of at most `most` rows of one segment, or of at most `together` segments.
fn parts(segments: &[PagedSegment<'_>], most: usize, together: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut s = 0;
    while s < segments.len() {
        let first = &segments[s];
        if first.rows != 1 {
            for from in (0..first.rows).step_by(most) {
                parts.push(Part { segments: s..s + 1, rows: from..first.rows.min(from + most), shared: 0 });
            }
            s += 1;
            continue;
        }
        // Blocks that are full: a row sees all of their positions.
        let (mut end, mut shared) = (s + 1, first.position / BLOCK);
        while end < segments.len() && end - s < together && segments[end].rows == 1 {
            let next = &segments[end];
            let same = first.blocks.iter().zip(next.blocks).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
            let common = same.min(shared).min(next.position / BLOCK);
            // One more reader of fewer blocks must not cost more than it saves.
            let members = end - s;
            if common == 0 || common * members < shared * (members - 1) {
                break;
            }
            (end, shared) = (end + 1, common);
        }
        if end == s + 1 {
            shared = 0;
        }
        parts.push(Part { segments: s..end, rows: 0..1, shared });
        s = end;
    }
    parts
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
    members: &'a [PagedSegment<'a>],
    part: &'a Part,
    head: usize,
    sink: Sink,
}

impl Tile<'_> {
    /// Rows of the tile that belong to a member: its positions, the heads of the group side by side.
    fn rows(&self, member: usize) -> Range<usize> {
        let each = self.part.rows.len() * self.group;
        member * each..(member + 1) * each
    }

    /// Blocks that a member's rows see.
    fn blocks(&self, member: usize) -> Range<usize> {
        let first = self.members[member].position + self.part.rows.start;
        let last = first + self.part.rows.len() - 1;
        self.window.map_or(0, |w| (first + 1).saturating_sub(w) / BLOCK)..last / BLOCK + 1
    }

    /// Block by block, which rows read it: the shared ones all of them, then each member its own.
    fn readings(&self) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let all = 0..self.rows(self.members.len() - 1).end;
        let shared = (0..self.part.shared).map(move |block| (0, block, all.clone()));
        let own = (0..self.members.len()).flat_map(move |member| {
            let blocks = self.blocks(member);
            (blocks.start.max(self.part.shared)..blocks.end)
                .map(move |block| (member, block, self.rows(member)))
        });
        shared.chain(own)
    }
}

dispatch! { fn attend = attend_body(tile: &Tile<'_>, scratch: &mut Scratch) }

/// SAFETY: the segments' blocks cover all positions up to their last rows; blocks have the layout of [`KvBlock`].
#[inline(always)]
unsafe fn attend_body<L: Lanes>(tile: &Tile<'_>, scratch: &mut Scratch) {
    let (shape, dim, padded) = (tile.shape, tile.shape.head_dim, tile.shape.padded());
    let count = tile.part.rows.len();
    let rows = tile.members.len() * count * tile.group;
    // Several members have no window, so that all of them begin with block 0.
    let start_block = tile.blocks(0).start;
    let base = start_block * BLOCK;
    let ends = (0..tile.members.len()).map(|m| tile.blocks(m).end);
    let stride = (ends.max().unwrap_or(0) - start_block) * BLOCK;

    // Query rows of the tile, position by position, the heads of the group side by side; scaled once here.
    let scale = 1.0 / (dim as f32).sqrt();
    let token = |member: usize, i: usize| tile.members[member].first_row + tile.part.rows.start + i;
    scratch.queries.clear();
    for member in 0..tile.members.len() {
        for i in 0..count {
            let from = (token(member, i) * tile.heads + tile.head * tile.group) * dim;
            scratch.queries.extend(tile.queries[from..][..tile.group * dim].iter().map(|q| q * scale));
        }
    }
    scratch.scores.clear();
    scratch.scores.resize(rows * stride, 0.0);
    scratch.sums.clear();
    scratch.sums.resize(rows * padded, 0.0);

    let load = |p: *const f32| {
        // SAFETY: `rows_times_panel` hands out pointers inside its panel.
        unsafe { L::load(p) }
    };
    for (member, block, readers) in tile.readings() {
        let data = &tile.members[member].blocks[block].data;
        let keys = &data[KvBlock::keys(shape, tile.layer, tile.head)..][..dim * BLOCK];
        for panel in (0..BLOCK).step_by(PANEL) {
            let mut row = readers.start;
            while row < readers.end {
                let m = L::ROWS.min(readers.end - row);
                // SAFETY: the tile's rows, the block's keys and the scores are inside their buffers.
                unsafe {
                    let a = scratch.queries.as_ptr().add(row * dim);
                    let at = row * stride + (block - start_block) * BLOCK + panel;
                    let c = scratch.scores.as_mut_ptr().add(at);
                    let b = keys.as_ptr().add(panel);
                    rows_times_panel::<L, f32>(m, a, dim, b, BLOCK, dim, c, stride, load);
                }
                row += m;
            }
        }
    }

    let mut inverse = vec![0f32; rows];
    for member in 0..tile.members.len() {
        let first = tile.members[member].position + tile.part.rows.start;
        let span = tile.blocks(member).len() * BLOCK;
        for (i, row) in tile.rows(member).enumerate() {
            let position = first + i / tile.group;
            let low = tile.window.map_or(0, |w| (position + 1).saturating_sub(w)).max(base) - base;
            let high = position + 1 - base;
            let scores = &mut scratch.scores[row * stride..][..span];
            // SAFETY: offsets are multiples of sixteen below `span`, which is a multiple of 64.
            inverse[row] = 1.0 / unsafe { softmax_numerators::<L>(scores, low, high) };
        }
    }

    for (member, block, readers) in tile.readings() {
        let data = &tile.members[member].blocks[block].data;
        let values = &data[KvBlock::values(shape, tile.layer, tile.head)..][..BLOCK * padded];
        // Slots beyond the last query hold zeros or stale values; they are left out rather than multiplied by zero.
        let last = tile.members[member].position + tile.part.rows.end - 1;
        let depth = BLOCK.min(last + 1 - block * BLOCK);
        for panel in (0..padded).step_by(PANEL) {
            let mut row = readers.start;
            while row < readers.end {
                let m = L::ROWS.min(readers.end - row);
                // SAFETY: the tile's scores, the block's values and the sums are inside their buffers.
                unsafe {
                    let a = scratch.scores.as_ptr().add(row * stride + (block - start_block) * BLOCK);
                    let c = scratch.sums.as_mut_ptr().add(row * padded + panel);
                    let b = values.as_ptr().add(panel);
                    rows_times_panel::<L, f32>(m, a, stride, b, padded, depth, c, padded, load);
                }
                row += m;
            }
        }
    }

    for member in 0..tile.members.len() {
        for (i, row) in tile.rows(member).enumerate() {
            let head = tile.head * tile.group + i % tile.group;
            let at = (token(member, i / tile.group) * tile.heads + head) * dim;
            for d in 0..dim {
                // SAFETY: this tile's own rows and heads of the output.
                unsafe { *tile.sink.0.add(at + d) = scratch.sums[row * padded + d] * inverse[row] };
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_share_blocks_get_the_same_bits_as_rows_with_copies_of_them() {
        let shape = KvShape { layers: 2, kv_heads: 3, head_dim: 40 };
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut block = || {
            let mut block = KvBlock::new(&shape);
            block.data.iter_mut().for_each(|x| *x = random());
            Arc::new(block)
        };
        let common = [block(), block(), block()];
        // How many of the common blocks, where its row stands, rows: a group of five, one that shares less, a prompt.
        let rows = [
            (2, 140, 1),
            (2, 300, 1),
            (2, 128, 1),
            (3, 200, 1),
            (2, 191, 1),
            (1, 70, 1),
            (0, 90, 1),
            (2, 130, 7),
        ];
        let sequences: Vec<Vec<Arc<KvBlock>>> = rows
            .iter()
            .map(|&(shared, position, n)| {
                let own = (position + n - 1) / BLOCK + 1 - shared;
                common[..shared].iter().cloned().chain((0..own).map(|_| block())).collect()
            })
            .collect();
        let copies: Vec<Vec<Arc<KvBlock>>> =
            sequences.iter().map(|s| s.iter().map(|b| Arc::new(KvBlock::clone(b))).collect()).collect();
        let heads = 6;
        let tokens: usize = rows.iter().map(|r| r.2).sum();
        let queries: Vec<f32> = (0..tokens * heads * shape.head_dim).map(|_| random()).collect();
        let run = |sequences: &[Vec<Arc<KvBlock>>], together: usize| {
            let mut first_row = 0;
            let segments: Vec<PagedSegment<'_>> = sequences
                .iter()
                .zip(rows)
                .map(|(blocks, (_, position, n))| {
                    first_row += n;
                    PagedSegment { blocks, first_row: first_row - n, rows: n, position }
                })
                .collect();
            let shared = parts(&segments, 6, together).iter().map(|p| p.shared).max().unwrap_or(0);
            let window = (together == 1).then_some(50);
            // One thread: there, as many as may read together do.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            (pool.install(|| paged_attention(&queries, heads, &shape, 1, window, &segments)), shared)
        };
        for (together, expected) in [(6, 2), (3, 2), (1, 0)] {
            let ((shared, read_once), (copied, never)) = (run(&sequences, together), run(&copies, together));
            assert_eq!((read_once, never), (expected, 0));
            assert!(shared.iter().any(|x| *x != 0.0) && shared == copied, "{together} together");
        }
    }
}
