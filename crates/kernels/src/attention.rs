//! Differentiable causal attention over packed segments, for training and for scoring without a cache.
//!
//! Works on tiles of 64 queries: scores are `[64, keys]`, recomputed in the backward pass, never `[tokens, tokens]`.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::tensor::{from_vec, operand, with_f32};

/// Query rows of a tile.
const TILE: usize = 64;

/// Who may look at whom in a packed batch.
#[derive(Debug, Clone)]
pub struct PackedAttention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Key j is visible to query i iff i − w < j ≤ i.
    pub window: Option<usize>,
    /// Rows of each segment; attention stays inside one.
    pub segments: Arc<Vec<Range<usize>>>,
}

impl PackedAttention {
    /// `q`: `[tokens, heads · head_dim]`, `k`, `v`: `[tokens, kv_heads · head_dim]`, rotated; returns the shape of `q`.
    /// Scores are scaled by 1/√head_dim. Differentiable in all three.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if !q.device().is_cpu() {
            return self.composed(q, k, v);
        }
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, self.clone())
    }

    /// The same out of candle's own operations; the reference in tests and the path of other devices.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn composed(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let group = self.heads / self.kv_heads;
        let mut parts = Vec::with_capacity(self.segments.len());
        for segment in self.segments.iter() {
            let n = segment.len();
            let split = |t: &Tensor, heads: usize| -> Result<Tensor> {
                t.narrow(0, segment.start, n)?.reshape((n, heads, self.head_dim))?.transpose(0, 1)?.contiguous()
            };
            let widen = |t: Tensor| -> Result<Tensor> {
                let (h, n, d) = t.dims3()?;
                t.unsqueeze(1)?.broadcast_as((h, group, n, d))?.contiguous()?.reshape((h * group, n, d))
            };
            let q = split(q, self.heads)?;
            let (k, v) = (widen(split(k, self.kv_heads)?)?, widen(split(v, self.kv_heads)?)?);
            let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (self.head_dim as f64).sqrt())?;
            let mask: Vec<f32> = (0..n)
                .flat_map(|i| (0..n).map(move |j| if self.visible(i, j) { 0.0 } else { -1e30 }))
                .collect();
            let scores = scores.broadcast_add(&Tensor::from_vec(mask, (1, n, n), q.device())?)?;
            let shifted = scores.broadcast_sub(&scores.max_keepdim(2)?.detach())?.exp()?;
            let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(2)?)?;
            let out = probabilities.matmul(&v)?.transpose(0, 1)?.contiguous()?;
            parts.push(out.reshape((n, self.heads * self.head_dim))?);
        }
        Tensor::cat(&parts, 0)
    }

    fn visible(&self, i: usize, j: usize) -> bool {
        j <= i && self.window.is_none_or(|w| i < j + w)
    }

    /// Probabilities of query rows `from..from+n` of a segment, `[n, to]` with `to = from + n` keys.
    fn probabilities(&self, q: &[f32], k: &[f32], s: &Range<usize>, head: usize, from: usize, n: usize) -> Vec<f32> {
        let (dim, to) = (self.head_dim, from + n);
        let (wide, narrow) = (self.heads * dim, self.kv_heads * dim);
        let q = &q[(s.start + from) * wide + head * dim..];
        let k = &k[s.start * narrow + head / (self.heads / self.kv_heads) * dim..];
        let mut scores = vec![0f32; n * to];
        product((n, to, dim), &mut scores, (to, 1), (q, wide, 1), (k, 1, narrow), false);
        let scale = 1.0 / (dim as f32).sqrt();
        for (i, row) in scores.chunks_exact_mut(to).enumerate() {
            let i = from + i;
            let low = self.window.map_or(0, |w| (i + 1).saturating_sub(w));
            crate::softmax_in_place(&mut row[low..=i], scale);
            row[..low].fill(0.0);
            row[i + 1..].fill(0.0);
        }
        scores
    }
}

/// `c (+)= a · b` for `(m, n, k)`; an operand is data with its row and column stride.
fn product(
    (m, n, k): (usize, usize, usize),
    c: &mut [f32],
    (c_row, c_column): (usize, usize),
    (a, a_row, a_column): (&[f32], usize, usize),
    (b, b_row, b_column): (&[f32], usize, usize),
    add: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let end = |rows: usize, row: usize, columns: usize, column: usize| (rows - 1) * row + (columns - 1) * column;
    assert!(c.len() > end(m, c_row, n, c_column), "output of a product is too short");
    assert!(a.len() > end(m, a_row, k, a_column), "left operand of a product is too short");
    assert!(b.len() > end(k, b_row, n, b_column), "right operand of a product is too short");
    // SAFETY: the three assertions bound every element that the strides reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_column as isize,
            c_row as isize,
            add,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

impl CustomOp3 for PackedAttention {
    fn name(&self) -> &'static str {
        "cycle-packed-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dim = self.head_dim;
        let (wide, narrow) = (self.heads * dim, self.kv_heads * dim);
        let tokens = self.segments.last().map_or(0, |s| s.end);
        if lq.dims() != [tokens, wide] || lk.dims() != [tokens, narrow] || lv.dims() != [tokens, narrow] {
            candle_core::bail!("attention: {:?}, {:?}, {:?} for {tokens} tokens", lq.dims(), lk.dims(), lv.dims());
        }
        let (q, k, v) = (operand(q, lq)?, operand(k, lk)?, operand(v, lv)?);
        let mut tiles = Vec::new();
        for s in self.segments.iter() {
            for from in (0..s.len()).step_by(TILE) {
                tiles.push((s, from, TILE.min(s.len() - from)));
            }
        }
        let rows: Vec<Vec<f32>> = tiles
            .par_iter()
            .map(|&(s, from, n)| {
                let mut out = vec![0f32; n * wide];
                for head in 0..self.heads {
                    let p = self.probabilities(q, k, s, head, from, n);
                    let v = &v[s.start * narrow + head / (self.heads / self.kv_heads) * dim..];
                    let to = from + n;
                    product((n, dim, to), &mut out[head * dim..], (wide, 1), (&p, to, 1), (v, narrow, 1), false);
                }
                out
            })
            .collect();
        Ok((CpuStorage::F32(rows.concat()), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dq, dk, dv) = with_f32(q, |q| {
            with_f32(k, |k| with_f32(v, |v| with_f32(&grad, |g| Ok(self.backward(q, k, v, g)))))
        })?;
        Ok((Some(from_vec(dq, q.shape())?), Some(from_vec(dk, k.shape())?), Some(from_vec(dv, v.shape())?)))
    }
}

impl PackedAttention {
    /// dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P ∘ (dP − rowsum(dP ∘ P)), dQ = dS·K/√d, dK = dSᵀ·Q/√d.
    ///
    /// One task per segment and key head; inside, tiles in order, so that sums do not depend on threads.
    fn backward(&self, q: &[f32], k: &[f32], v: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let dim = self.head_dim;
        let group = self.heads / self.kv_heads;
        let (wide, narrow) = (self.heads * dim, self.kv_heads * dim);
        let scale = 1.0 / (dim as f32).sqrt();
        let tasks: Vec<(&Range<usize>, usize)> =
            self.segments.iter().flat_map(|s| (0..self.kv_heads).map(move |h| (s, h))).collect();
        let done: Vec<[Vec<f32>; 3]> = tasks
            .par_iter()
            .map(|&(s, kv)| {
                let n = s.len();
                let (mut dq, mut dk, mut dv) =
                    (vec![0f32; n * group * dim], vec![0f32; n * dim], vec![0f32; n * dim]);
                let keys = &k[s.start * narrow + kv * dim..];
                let values = &v[s.start * narrow + kv * dim..];
                for from in (0..n).step_by(TILE) {
                    let rows = TILE.min(n - from);
                    let to = from + rows;
                    for inner in 0..group {
                        let head = kv * group + inner;
                        let at = (s.start + from) * wide + head * dim;
                        let mut ds = self.probabilities(q, k, s, head, from, rows);
                        product((to, dim, rows), &mut dv, (dim, 1), (&ds, 1, to), (&grad[at..], wide, 1), true);
                        let mut dp = vec![0f32; rows * to];
                        product((rows, to, dim), &mut dp, (to, 1), (&grad[at..], wide, 1), (values, 1, narrow), false);
                        for (p, dp) in ds.chunks_exact_mut(to).zip(dp.chunks_exact(to)) {
                            let dot: f32 = p.iter().zip(dp).map(|(a, b)| a * b).sum();
                            for (p, dp) in p.iter_mut().zip(dp) {
                                *p *= (dp - dot) * scale;
                            }
                        }
                        let out = &mut dq[(from * group + inner) * dim..];
                        product((rows, dim, to), out, (group * dim, 1), (&ds, to, 1), (keys, narrow, 1), false);
                        product((to, dim, rows), &mut dk, (dim, 1), (&ds, 1, to), (&q[at..], wide, 1), true);
                    }
                }
                [dq, dk, dv]
            })
            .collect();
        let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
        for ((s, kv), [q_part, k_part, v_part]) in tasks.into_iter().zip(done) {
            for i in 0..s.len() {
                let row = s.start + i;
                dq[row * wide + kv * group * dim..][..group * dim]
                    .copy_from_slice(&q_part[i * group * dim..][..group * dim]);
                dk[row * narrow + kv * dim..][..dim].copy_from_slice(&k_part[i * dim..][..dim]);
                dv[row * narrow + kv * dim..][..dim].copy_from_slice(&v_part[i * dim..][..dim]);
            }
        }
        (dq, dk, dv)
    }
}
