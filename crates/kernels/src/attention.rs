//! Differentiable causal attention over packed segments, for training and for scoring without a cache.
//!
//! Works on tiles of 64 queries: scores are `[64, keys]`, recomputed in the backward pass, never `[tokens, tokens]`.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::pack::{PANEL, multiply_add, transpose};
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
                t.narrow(0, segment.start, n)?
                    .reshape((n, heads, self.head_dim))?
                    .transpose(0, 1)?
                    .contiguous()
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

    /// Probabilities of query rows `from..from+n` of a head, `[n, pad(from + n)]`; `keys` is `[head_dim, stride]`.
    fn probabilities(&self, q: &[f32], keys: &[f32], stride: usize, from: usize, n: usize) -> Vec<f32> {
        let (dim, to) = (self.head_dim, from + n);
        let width = pad(to);
        let mut scores = vec![0f32; n * width];
        multiply_add(n, dim, width, q, self.heads * dim, keys, stride, &mut scores, width);
        let scale = 1.0 / (dim as f32).sqrt();
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            let i = from + i;
            let low = self.window.map_or(0, |w| (i + 1).saturating_sub(w));
            crate::softmax_in_place(&mut row[low..=i], scale);
            row[..low].fill(0.0);
            row[i + 1..].fill(0.0);
        }
        scores
    }

    /// Rows `segment` of one head's columns out of `[tokens, heads · head_dim]`: transposed to `[head_dim, pad(n)]`, and as
    /// they are, `[n, pad(head_dim)]`.
    fn head_of(&self, x: &[f32], heads: usize, head: usize, s: &Range<usize>) -> (Vec<f32>, Vec<f32>) {
        let (dim, n) = (self.head_dim, s.len());
        let (stride, width) = (pad(n), pad(dim));
        let (mut columns, mut rows) = (vec![0f32; dim * stride], vec![0f32; n * width]);
        for i in 0..n {
            let row = &x[(s.start + i) * heads * dim + head * dim..][..dim];
            rows[i * width..][..dim].copy_from_slice(row);
            for (d, &v) in row.iter().enumerate() {
                columns[d * stride + i] = v;
            }
        }
        (columns, rows)
    }
}

/// Up to whole panels.
fn pad(n: usize) -> usize {
    n.div_ceil(PANEL) * PANEL
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
            candle_core::bail!(
                "attention: {:?}, {:?}, {:?} for {tokens} tokens",
                lq.dims(),
                lk.dims(),
                lv.dims()
            );
        }
        let (q, k, v) = (operand(q, lq)?, operand(k, lk)?, operand(v, lv)?);
        let tasks: Vec<(&Range<usize>, usize)> =
            self.segments.iter().flat_map(|s| (0..self.kv_heads).map(move |h| (s, h))).collect();
        let group = self.heads / self.kv_heads;
        let done: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(s, kv)| {
                let (keys, _) = self.head_of(k, self.kv_heads, kv, s);
                let (_, values) = self.head_of(v, self.kv_heads, kv, s);
                let (stride, width) = (pad(s.len()), pad(dim));
                let mut out = vec![0f32; s.len() * group * width];
                for from in (0..s.len()).step_by(TILE) {
                    let n = TILE.min(s.len() - from);
                    for inner in 0..group {
                        let q = &q[(s.start + from) * wide + (kv * group + inner) * dim..];
                        let p = self.probabilities(q, &keys, stride, from, n);
                        let out = &mut out[(from * group + inner) * width..];
                        multiply_add(
                            n,
                            from + n,
                            width,
                            &p,
                            pad(from + n),
                            &values,
                            width,
                            out,
                            group * width,
                        );
                    }
                }
                out
            })
            .collect();
        let mut out = vec![0f32; q.len()];
        for (&(s, kv), part) in tasks.iter().zip(done) {
            for (i, row) in part.chunks_exact(pad(dim)).enumerate() {
                let at = (s.start + i / group) * wide + (kv * group + i % group) * dim;
                out[at..at + dim].copy_from_slice(&row[..dim]);
            }
        }
        Ok((CpuStorage::F32(out), lq.shape().clone()))
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
        let width = pad(dim);
        let done: Vec<[Vec<f32>; 3]> = tasks
            .par_iter()
            .map(|&(s, kv)| {
                let n = s.len();
                let stride = pad(n);
                let (mut dq, mut dk, mut dv) =
                    (vec![0f32; n * group * width], vec![0f32; stride * width], vec![0f32; stride * width]);
                let (keys, key_rows) = self.head_of(k, self.kv_heads, kv, s);
                let (values, _) = self.head_of(v, self.kv_heads, kv, s);
                for inner in 0..group {
                    let head = kv * group + inner;
                    let (_, query_rows) = self.head_of(q, self.heads, head, s);
                    let (_, grad_rows) = self.head_of(grad, self.heads, head, s);
                    for from in (0..n).step_by(TILE) {
                        let rows = TILE.min(n - from);
                        let to = pad(from + rows);
                        let at = (s.start + from) * wide + head * dim;
                        let mut ds = self.probabilities(&q[at..], &keys, stride, from, rows);
                        let own = &grad_rows[from * width..];
                        let turned = transpose(&ds, rows, to);
                        multiply_add(to, rows, width, &turned, rows, own, width, &mut dv, width);
                        let mut dp = vec![0f32; rows * to];
                        multiply_add(rows, dim, to, own, width, &values, stride, &mut dp, to);
                        for (p, dp) in ds.chunks_exact_mut(to).zip(dp.chunks_exact(to)) {
                            let dot: f32 = p.iter().zip(dp).map(|(a, b)| a * b).sum();
                            for (p, dp) in p.iter_mut().zip(dp) {
                                *p *= (dp - dot) * scale;
                            }
                        }
                        let out = &mut dq[(from * group + inner) * width..];
                        multiply_add(rows, from + rows, width, &ds, to, &key_rows, width, out, group * width);
                        let turned = transpose(&ds, rows, to);
                        let own = &query_rows[from * width..];
                        multiply_add(to, rows, width, &turned, rows, own, width, &mut dk, width);
                    }
                }
                [dq, dk, dv]
            })
            .collect();
        let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
        for ((s, kv), [q_part, k_part, v_part]) in tasks.into_iter().zip(done) {
            for i in 0..s.len() {
                let row = s.start + i;
                for inner in 0..group {
                    dq[row * wide + (kv * group + inner) * dim..][..dim]
                        .copy_from_slice(&q_part[(i * group + inner) * width..][..dim]);
                }
                dk[row * narrow + kv * dim..][..dim].copy_from_slice(&k_part[i * width..][..dim]);
                dv[row * narrow + kv * dim..][..dim].copy_from_slice(&v_part[i * width..][..dim]);
            }
        }
        (dq, dk, dv)
    }
}
