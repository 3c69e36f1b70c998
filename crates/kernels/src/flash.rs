//! Causal attention for training, by blocks: never a `tokens × tokens` matrix, in either direction
//! (arXiv 2205.14135, 2307.08691).
//!
//! A tile of 64 queries meets blocks of 256 keys. Scores are kept transposed, `[keys, queries]`: maxima, exponentials and
//! masks then run along vectors of queries, and no block has to be turned for the next product. Sums over tiles are taken
//! in a fixed order, so that results do not depend on the number of threads.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::composed;
use crate::element::{Element, padded};
use crate::pack::PANEL;
use crate::simd::{self, LANES, Lanes, dispatch};
use crate::tensor::{from_vec, with_f32};
use crate::weight::Arithmetic;

/// Queries of a tile.
const TILE: usize = 64;
/// Keys of a block.
const BLOCK: usize = 256;
/// Score of a key that may not be seen: its exponential vanishes, whatever is subtracted.
const HIDDEN: f32 = -1e37;
/// Where running maxima start: above any scaled hidden score, so that a block without a visible key adds nothing.
const LOWEST: f32 = -1e30;

/// Rows of one sequence in a packed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionSegment {
    /// The sequence's own rows.
    pub rows: Range<usize>,
    /// Rows of a sequence that it continues (a prompt shared by several answers), all visible.
    pub prefix: Range<usize>,
}

impl AttentionSegment {
    fn keys(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }

    /// Packed rows of the keys, in the order of their positions.
    fn key_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.prefix.clone().chain(self.rows.clone())
    }
}

/// Who may look at whom.
#[derive(Debug, Clone)]
pub struct FlashAttention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Key j is visible to query i iff i − w < j ≤ i.
    pub window: Option<usize>,
    /// The sequences.
    pub segments: Arc<Vec<AttentionSegment>>,
    /// Number type of the products.
    pub arithmetic: Arithmetic,
}

/// Result of a forward pass.
pub struct Attended {
    /// `[tokens, heads · head_dim]`.
    pub out: Tensor,
    /// log Σ exp(scores), `[tokens, heads]`; empty on other devices.
    pub log_sums: Vec<f32>,
}

/// One key head of one segment, as left operands.
struct Side<E> {
    /// `[keys, padded(dim)]`.
    rows: Vec<E>,
    /// `[dim, padded(keys)]`.
    turned: Vec<E>,
}

/// A piece of work: a segment, a query head, the tiles `first, first + step, …`.
struct Task {
    segment: usize,
    head: usize,
    first: usize,
    step: usize,
}

#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: each task writes only rows of its own tiles and columns of its own head; the buffer outlives the loop.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl FlashAttention {
    /// `q`: `[tokens, heads · head_dim]`, `k`, `v`: `[tokens, kv_heads · head_dim]`, rotated. Scores are scaled by
    /// 1/√head_dim.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended> {
        if !q.device().is_cpu() {
            return Ok(Attended { out: self.composed(q, k, v)?, log_sums: Vec::new() });
        }
        match self.arithmetic {
            Arithmetic::F32 => self.forward_in::<f32>(q, k, v),
            Arithmetic::Bf16 => self.forward_in::<bf16>(q, k, v),
        }
    }

    /// Gradients for q, k and v from that of the result.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        done: &Attended,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        if !q.device().is_cpu() {
            let made = composed::backward(&[q, k, v], grad, |t| self.composed(&t[0], &t[1], &t[2]))?;
            return made.try_into().map_err(|_| candle_core::Error::Msg("three gradients".into()));
        }
        match self.arithmetic {
            Arithmetic::F32 => self.backward_in::<f32>(q, k, v, done, grad),
            Arithmetic::Bf16 => self.backward_in::<bf16>(q, k, v, done, grad),
        }
    }

    /// The same out of candle's own operations: for other devices, and the reference in tests. Queries go in tiles here
    /// too.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn composed(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        const ROWS: usize = 512;
        let group = self.heads / self.kv_heads;
        let mut parts = Vec::new();
        for s in self.segments.iter() {
            let (n, before) = (s.keys(), s.prefix.len());
            let gather = |t: &Tensor| -> Result<Tensor> {
                let own = t.narrow(0, s.rows.start, s.rows.len())?;
                let all = if before == 0 {
                    own
                } else {
                    Tensor::cat(&[t.narrow(0, s.prefix.start, before)?, own], 0)?
                };
                let t = all.reshape((n, self.kv_heads, self.head_dim))?.transpose(0, 1)?.contiguous()?;
                let (h, n, d) = t.dims3()?;
                t.unsqueeze(1)?.broadcast_as((h, group, n, d))?.contiguous()?.reshape((h * group, n, d))
            };
            let (k, v) = (gather(k)?, gather(v)?);
            for from in (0..s.rows.len()).step_by(ROWS) {
                let rows = ROWS.min(s.rows.len() - from);
                let first = before + from;
                let q = q
                    .narrow(0, s.rows.start + from, rows)?
                    .reshape((rows, self.heads, self.head_dim))?
                    .transpose(0, 1)?
                    .contiguous()?;
                let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (self.head_dim as f64).sqrt())?;
                let mask: Vec<f32> = (0..rows)
                    .flat_map(|i| (0..n).map(move |j| if self.visible(first + i, j) { 0.0 } else { -1e30 }))
                    .collect();
                let mask = Tensor::from_vec(mask, (1, rows, n), q.device())?.to_dtype(q.dtype())?;
                let scores = scores.broadcast_add(&mask)?;
                let shifted = scores.broadcast_sub(&scores.max_keepdim(2)?.detach())?.exp()?;
                let p = shifted.broadcast_div(&shifted.sum_keepdim(2)?)?;
                let out = p.matmul(&v)?.transpose(0, 1)?.contiguous()?;
                parts.push(out.reshape((rows, self.heads * self.head_dim))?);
            }
        }
        Tensor::cat(&parts, 0)
    }

    fn visible(&self, i: usize, j: usize) -> bool {
        j <= i && self.window.is_none_or(|w| i < j + w)
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let (wide, narrow) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let tokens = self.segments.iter().map(|s| s.rows.end).max().unwrap_or(0);
        if q.dims() != [tokens, wide] || k.dims() != [tokens, narrow] || v.dims() != [tokens, narrow] {
            candle_core::bail!(
                "attention: {:?}, {:?}, {:?} for {tokens} tokens",
                q.dims(),
                k.dims(),
                v.dims()
            );
        }
        Ok(())
    }

    fn sides<E: Element>(&self, x: &[f32]) -> Vec<Side<E>> {
        let (dim, narrow) = (self.head_dim, self.kv_heads * self.head_dim);
        let all: Vec<(&AttentionSegment, usize)> =
            self.segments.iter().flat_map(|s| (0..self.kv_heads).map(move |h| (s, h))).collect();
        all.par_iter()
            .map(|&(s, head)| {
                let n = s.keys();
                let (wide, long) = (padded::<E>(dim), padded::<E>(n));
                let mut rows = vec![E::default(); n * wide];
                let mut turned = vec![E::default(); dim * long];
                for (i, (row, at)) in rows.chunks_exact_mut(wide).zip(s.key_rows()).enumerate() {
                    E::convert(&x[at * narrow + head * dim..][..dim], row);
                    for (d, &value) in row[..dim].iter().enumerate() {
                        turned[d * long + i] = value;
                    }
                }
                Side { rows, turned }
            })
            .collect()
    }

    fn tasks(&self, splits: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        for segment in 0..self.segments.len() {
            for head in 0..self.heads {
                for first in 0..splits.min(self.segments[segment].rows.len().div_ceil(TILE)) {
                    tasks.push(Task { segment, head, first, step: splits });
                }
            }
        }
        tasks
    }

    /// Blocks of keys that the tile of queries `from..to` (positions in the segment's keys) sees.
    fn blocks(&self, from: usize, to: usize) -> impl Iterator<Item = Range<usize>> {
        let low = self.window.map_or(0, |w| (from + 1).saturating_sub(w)) / BLOCK * BLOCK;
        (low..to).step_by(BLOCK).map(move |k| k..(k + BLOCK).min(to))
    }

    /// Hides what the queries from position `first` on may not see in a block of scores `[keys, TILE]`.
    fn mask(&self, scores: &mut [f32], keys: &Range<usize>, first: usize) {
        let whole = keys.end <= first + 1 && self.window.is_none_or(|w| first + TILE <= keys.start + w);
        if whole {
            return;
        }
        for (row, key) in scores.chunks_exact_mut(TILE).zip(keys.clone()) {
            row[..key.saturating_sub(first).min(TILE)].fill(HIDDEN);
            if let Some(w) = self.window {
                row[(key + w).saturating_sub(first).min(TILE)..].fill(HIDDEN);
            }
        }
    }

    fn forward_in<E: Element>(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended> {
        self.check(q, k, v)?;
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        let keys = with_f32(&k, |k| Ok(self.sides::<E>(k)))?;
        let values = with_f32(&v, |v| Ok(self.sides::<E>(v)))?;
        let tokens = q.dim(0)?;
        let mut out = vec![0f32; q.elem_count()];
        let mut log_sums = vec![0f32; tokens * self.heads];
        let (target, sums) = (Target(out.as_mut_ptr()), Target(log_sums.as_mut_ptr()));
        with_f32(&q, |q| {
            self.tasks(8).par_iter().with_max_len(1).for_each(|task| {
                self.forward_task(task, q, &keys, &values, target, sums);
            });
            Ok(())
        })?;
        Ok(Attended { out: from_vec(out, q.shape())?, log_sums })
    }

    fn forward_task<E: Element>(
        &self,
        task: &Task,
        q: &[f32],
        keys: &[Side<E>],
        values: &[Side<E>],
        out: Target,
        sums: Target,
    ) {
        let (dim, wide) = (self.head_dim, self.heads * self.head_dim);
        let segment = &self.segments[task.segment];
        let side = task.segment * self.kv_heads + task.head / (self.heads / self.kv_heads);
        let (keys, values) = (&keys[side], &values[side]);
        let (depth, long) = (padded::<E>(dim), padded::<E>(segment.keys()));
        let scale = 1.0 / (dim as f32).sqrt();
        let mut queries = vec![E::default(); 2 * depth * PANEL];
        let mut scores = vec![0f32; BLOCK * TILE];
        let mut weights = vec![E::default(); 2 * BLOCK * PANEL];
        let mut result = vec![0f32; dim * TILE];
        for from in (task.first..segment.rows.len().div_ceil(TILE)).step_by(task.step).map(|t| t * TILE) {
            let n = TILE.min(segment.rows.len() - from);
            let first = segment.prefix.len() + from;
            let base = (segment.rows.start + from) * wide + task.head * dim;
            panels_of_columns(&q[base..], wide, dim, n, &mut queries);
            let (mut largest, mut total) = ([LOWEST; TILE], [0f32; TILE]);
            result.fill(0.0);
            for block in self.blocks(first, first + n) {
                let rows = block.len();
                let scores = &mut scores[..rows * TILE];
                scores.fill(0.0);
                let left = &keys.rows[block.start * depth..];
                multiply(rows, depth, TILE, left, depth, &queries, depth * PANEL, scores, TILE);
                self.mask(scores, &block, first);
                let mut factor = [0f32; TILE];
                soften(scores, scale, &mut largest, &mut total, &mut factor);
                for row in result.chunks_exact_mut(TILE) {
                    row.iter_mut().zip(&factor).for_each(|(r, f)| *r *= f);
                }
                panels_of_rows(scores, TILE, rows, TILE, &mut weights, BLOCK * PANEL);
                let steps = padded::<E>(rows);
                let left = &values.turned[block.start..];
                multiply(dim, steps, TILE, left, long, &weights, BLOCK * PANEL, &mut result, TILE);
            }
            for j in 0..n {
                let row = segment.rows.start + from + j;
                // SAFETY: this task's own rows and head.
                unsafe {
                    *sums.0.add(row * self.heads + task.head) = largest[j] + total[j].ln();
                    for d in 0..dim {
                        *out.0.add(row * wide + task.head * dim + d) = result[d * TILE + j] / total[j];
                    }
                }
            }
        }
    }

    fn backward_in<E: Element>(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        done: &Attended,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        self.check(q, k, v)?;
        let (q, k, v, grad) = (q.contiguous()?, k.contiguous()?, v.contiguous()?, grad.contiguous()?);
        let out = done.out.contiguous()?;
        let keys = with_f32(&k, |k| Ok(self.sides::<E>(k)))?;
        let values = with_f32(&v, |v| Ok(self.sides::<E>(v)))?;
        let mut dq = vec![0f32; q.elem_count()];
        let target = Target(dq.as_mut_ptr());
        // A number of pieces that depends on the shape alone: each has sums of its own.
        let splits = (16 / (self.heads * self.segments.len()).max(1)).clamp(1, 4);
        let tasks = self.tasks(splits);
        let done: Vec<[Vec<f32>; 2]> = with_f32(&q, |q| {
            with_f32(&out, |out| {
                with_f32(&grad, |g| {
                    Ok(tasks
                        .par_iter()
                        .with_max_len(1)
                        .map(|t| self.backward_task(t, q, &keys, &values, (out, &done.log_sums), g, target))
                        .collect())
                })
            })
        })?;
        let (mut dk, mut dv) = (vec![0f32; k.elem_count()], vec![0f32; v.elem_count()]);
        let (narrow, dim) = (self.kv_heads * self.head_dim, self.head_dim);
        let width = dim.div_ceil(PANEL) * PANEL;
        for (task, [keys, values]) in tasks.iter().zip(&done) {
            let segment = &self.segments[task.segment];
            let head = task.head / (self.heads / self.kv_heads);
            for (i, at) in segment.key_rows().enumerate() {
                let to = at * narrow + head * dim..at * narrow + (head + 1) * dim;
                dk[to.clone()].iter_mut().zip(&keys[i * width..]).for_each(|(a, b)| *a += b);
                dv[to].iter_mut().zip(&values[i * width..]).for_each(|(a, b)| *a += b);
            }
        }
        Ok([from_vec(dq, q.shape())?, from_vec(dk, k.shape())?, from_vec(dv, v.shape())?])
    }

    /// dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − rowsum(dO∘O))/√d, dQ = dS·K, dK = dSᵀ·Q. Returns the task's share of dK and
    /// dV, `[keys, dim in whole panels]`.
    #[allow(clippy::too_many_arguments)]
    fn backward_task<E: Element>(
        &self,
        task: &Task,
        q: &[f32],
        keys: &[Side<E>],
        values: &[Side<E>],
        (out, log_sums): (&[f32], &[f32]),
        grad: &[f32],
        target: Target,
    ) -> [Vec<f32>; 2] {
        let (dim, wide) = (self.head_dim, self.heads * self.head_dim);
        let segment = &self.segments[task.segment];
        let side = task.segment * self.kv_heads + task.head / (self.heads / self.kv_heads);
        let (keys, values) = (&keys[side], &values[side]);
        let (depth, long) = (padded::<E>(dim), padded::<E>(segment.keys()));
        let width = dim.div_ceil(PANEL) * PANEL;
        let scale = 1.0 / (dim as f32).sqrt();
        let (mut dk, mut dv) = (vec![0f32; segment.keys() * width], vec![0f32; segment.keys() * width]);
        let mut queries = vec![E::default(); 2 * depth * PANEL];
        let mut grads = vec![E::default(); 2 * depth * PANEL];
        let mut query_rows = vec![E::default(); TILE * width];
        let mut grad_rows = vec![E::default(); TILE * width];
        let (mut p, mut ds) = (vec![0f32; BLOCK * TILE], vec![0f32; BLOCK * TILE]);
        let mut left = vec![E::default(); BLOCK * TILE];
        let mut right = vec![E::default(); 2 * BLOCK * PANEL];
        let mut dq = vec![0f32; dim * TILE];
        for from in (task.first..segment.rows.len().div_ceil(TILE)).step_by(task.step).map(|t| t * TILE) {
            let n = TILE.min(segment.rows.len() - from);
            let first = segment.prefix.len() + from;
            let row = segment.rows.start + from;
            let base = row * wide + task.head * dim;
            panels_of_columns(&q[base..], wide, dim, n, &mut queries);
            panels_of_columns(&grad[base..], wide, dim, n, &mut grads);
            panels_of_rows(&q[base..], wide, n, dim, &mut query_rows, TILE * PANEL);
            panels_of_rows(&grad[base..], wide, n, dim, &mut grad_rows, TILE * PANEL);
            let (mut shift, mut dots) = ([0f32; TILE], [0f32; TILE]);
            for j in 0..n {
                shift[j] = log_sums[(row + j) * self.heads + task.head];
                let span = base + j * wide..base + j * wide + dim;
                dots[j] = out[span.clone()].iter().zip(&grad[span]).map(|(a, b)| a * b).sum();
            }
            dq.fill(0.0);
            let steps = padded::<E>(n);
            for block in self.blocks(first, first + n) {
                let rows = block.len();
                let (p, ds) = (&mut p[..rows * TILE], &mut ds[..rows * TILE]);
                p.fill(0.0);
                ds.fill(0.0);
                multiply(
                    rows,
                    depth,
                    TILE,
                    &keys.rows[block.start * depth..],
                    depth,
                    &queries,
                    depth * PANEL,
                    p,
                    TILE,
                );
                self.mask(p, &block, first);
                multiply(
                    rows,
                    depth,
                    TILE,
                    &values.rows[block.start * depth..],
                    depth,
                    &grads,
                    depth * PANEL,
                    ds,
                    TILE,
                );
                differentiate(p, ds, scale, &shift, &dots, n);
                let part = block.start * width..block.end * width;
                E::convert(p, &mut left);
                multiply(
                    rows,
                    steps,
                    width,
                    &left,
                    TILE,
                    &grad_rows,
                    TILE * PANEL,
                    &mut dv[part.clone()],
                    width,
                );
                E::convert(ds, &mut left);
                multiply(rows, steps, width, &left, TILE, &query_rows, TILE * PANEL, &mut dk[part], width);
                panels_of_rows(ds, TILE, rows, TILE, &mut right, BLOCK * PANEL);
                let turned = &keys.turned[block.start..];
                multiply(dim, padded::<E>(rows), TILE, turned, long, &right, BLOCK * PANEL, &mut dq, TILE);
            }
            for j in 0..n {
                for d in 0..dim {
                    // SAFETY: this task's own rows and head.
                    unsafe { *target.0.add(base + j * wide + d) = dq[d * TILE + j] };
                }
            }
        }
        [dk, dv]
    }
}

/// `n ≤ 64` rows of width `depth` as two panels of their transpose `[depth, 64]`; the rest is zero.
fn panels_of_columns<E: Element>(x: &[f32], stride: usize, depth: usize, n: usize, panels: &mut [E]) {
    let size = padded::<E>(depth) * PANEL;
    for (p, panel) in panels.chunks_exact_mut(size).enumerate() {
        let columns = n.saturating_sub(p * PANEL).min(PANEL);
        if columns == 0 {
            panel.fill(E::default());
        } else {
            E::pack_columns(&x[p * PANEL * stride..], stride, depth, columns, panel);
        }
    }
}

/// A row-major `[depth, columns]` matrix as panels, `size` elements from one to the next.
fn panels_of_rows<E: Element>(
    x: &[f32],
    stride: usize,
    depth: usize,
    columns: usize,
    panels: &mut [E],
    size: usize,
) {
    for p in 0..columns.div_ceil(PANEL) {
        let panel = &mut panels[p * size..];
        let panel = &mut panel[..padded::<E>(depth) * PANEL];
        E::pack_rows(&x[p * PANEL..], stride, depth, PANEL.min(columns - p * PANEL), panel);
    }
}

/// `c += left · panels` on one thread; `columns` is a multiple of 32.
#[allow(clippy::too_many_arguments)]
fn multiply<E: Element>(
    rows: usize,
    depth: usize,
    columns: usize,
    left: &[E],
    lda: usize,
    panels: &[E],
    size: usize,
    c: &mut [f32],
    ldc: usize,
) {
    if rows == 0 || depth == 0 {
        return;
    }
    assert!(left.len() >= (rows - 1) * lda + depth, "left operand too short");
    assert!(panels.len() >= (columns / PANEL - 1) * size + depth * PANEL, "right operand too short");
    assert!(c.len() >= (rows - 1) * ldc + columns, "result too short");
    let mut row = 0;
    while row < rows {
        let m = E::tile_rows().min(rows - row);
        for p in 0..columns / PANEL {
            // SAFETY: inside the operands by the assertions above.
            unsafe {
                let a = left.as_ptr().add(row * lda);
                let c = c.as_mut_ptr().add(row * ldc + p * PANEL);
                E::tile(m, depth, a, lda, panels.as_ptr().add(p * size), c, ldc);
            }
        }
        row += m;
    }
}

dispatch! {
    /// One step of the running softmax over a block `[keys, 64]` of scores: replaces them by exp(scale·s − largest) and
    /// corrects `largest` and `total`; `factor` is what earlier sums must be multiplied by.
    fn soften = soften_body(
        scores: &mut [f32], scale: f32, largest: &mut [f32; TILE], total: &mut [f32; TILE], factor: &mut [f32; TILE],
    )
}

/// SAFETY: `scores` is whole rows of 64.
#[inline(always)]
unsafe fn soften_body<L: Lanes>(
    scores: &mut [f32],
    scale: f32,
    largest: &mut [f32; TILE],
    total: &mut [f32; TILE],
    factor: &mut [f32; TILE],
) {
    let rows = scores.len() / TILE;
    for c in (0..TILE).step_by(LANES) {
        // SAFETY: sixteen elements from column c of each row.
        unsafe {
            let s = L::splat(scale);
            let old = L::load(largest.as_ptr().add(c));
            let mut most = L::splat(f32::MIN);
            for r in 0..rows {
                most = L::max(most, L::load(scores.as_ptr().add(r * TILE + c)));
            }
            let most = L::max(L::mul(most, s), old);
            let minus = L::mul(most, L::splat(-1.0));
            let f = simd::exp::<L>(L::add(old, minus));
            let mut sum = L::mul(L::load(total.as_ptr().add(c)), f);
            for r in 0..rows {
                let at = scores.as_mut_ptr().add(r * TILE + c);
                let e = simd::exp::<L>(L::fma(L::load(at), s, minus));
                L::store(at, e);
                sum = L::add(sum, e);
            }
            L::store(largest.as_mut_ptr().add(c), most);
            L::store(total.as_mut_ptr().add(c), sum);
            L::store(factor.as_mut_ptr().add(c), f);
        }
    }
}

dispatch! {
    /// `p` becomes exp(scale·p − shift), `ds` becomes p·(ds − dots)·scale; columns from `n` on become zero.
    fn differentiate = differentiate_body(
        p: &mut [f32], ds: &mut [f32], scale: f32, shift: &[f32; TILE], dots: &[f32; TILE], n: usize,
    )
}

/// SAFETY: `p` and `ds` are whole rows of 64.
#[inline(always)]
unsafe fn differentiate_body<L: Lanes>(
    p: &mut [f32],
    ds: &mut [f32],
    scale: f32,
    shift: &[f32; TILE],
    dots: &[f32; TILE],
    n: usize,
) {
    let rows = p.len() / TILE;
    for c in (0..TILE).step_by(LANES) {
        // SAFETY: sixteen elements from column c of each row.
        unsafe {
            let s = L::splat(scale);
            let keep: [f32; LANES] = std::array::from_fn(|i| if c + i < n { 1.0 } else { 0.0 });
            let keep = L::load(keep.as_ptr());
            let minus = L::mul(L::load(shift.as_ptr().add(c)), L::splat(-1.0));
            let dot = L::mul(L::load(dots.as_ptr().add(c)), L::splat(-1.0));
            for r in 0..rows {
                let (p, ds) = (p.as_mut_ptr().add(r * TILE + c), ds.as_mut_ptr().add(r * TILE + c));
                let e = L::mul(simd::exp::<L>(L::fma(L::load(p), s, minus)), keep);
                L::store(p, e);
                L::store(ds, L::mul(L::mul(e, L::add(L::load(ds), dot)), s));
            }
        }
    }
}
