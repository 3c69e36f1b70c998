//! The fused head: log-probabilities of given tokens and their gradients, a few rows of logits at a time.
//!
//! Forward and backward go over chunks of rows; neither `tokens × vocabulary` logits nor their gradient ever exist.

use candle_core::{D, DType, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::composed;
use crate::element::{Element, left};
use crate::gemm::{Rows, Term, gemm, product};
use crate::pack::transpose;
use crate::simd::{self, LANES, Lanes, dispatch};
use crate::tensor::{from_vec, with_f32};
use crate::weight::{Arithmetic, Backward, Forward, Weight};

/// Bytes of logits held at once.
const LOGITS: usize = 48 << 20;

/// What the head says of one token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenLogProbs {
    /// log p(target).
    pub target: f32,
    /// Mean over the vocabulary of log p(v): label smoothing needs it. 0 unless asked for.
    pub mean: f32,
    /// log Σ_v p(v)²: WPO needs it. 0 unless asked for.
    pub square_sum: f32,
    /// Index of the most probable token is the target.
    pub hit: bool,
}

/// Gradient with respect to one token's [`TokenLogProbs`]; the square sum has none (WPO detaches it).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenGradient {
    /// For `target`.
    pub target: f32,
    /// For `mean`.
    pub mean: f32,
}

/// Hidden states and the tokens that they predict.
pub struct Head<'a> {
    /// `[vocabulary, hidden]`.
    pub weight: &'a Weight,
    /// Number type of the products.
    pub arithmetic: Arithmetic,
    /// Also computes [`TokenLogProbs::mean`] and [`TokenLogProbs::square_sum`].
    pub statistics: bool,
}

/// What a pass with gradients gives.
pub struct HeadGradient {
    /// Of every row.
    pub tokens: Vec<TokenLogProbs>,
    /// `[rows, hidden]`.
    pub hidden: Tensor,
}

impl Head<'_> {
    /// Log-probabilities of `targets` given the rows of `hidden` (`[rows, hidden]`, f32).
    ///
    /// # Errors
    /// If the shapes do not fit or a target lies outside the vocabulary.
    pub fn forward(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<TokenLogProbs>> {
        self.check(hidden, targets)?;
        let mut out = Vec::with_capacity(targets.len());
        let mut logits = Vec::new();
        for (from, rows) in self.chunks(targets.len()) {
            let part = hidden.narrow(0, from, rows)?;
            let (tokens, _) = self.chunk(&part, &targets[from..from + rows], None, &mut None, &mut logits)?;
            out.extend(tokens);
        }
        Ok(out)
    }

    /// The same with the gradient for `hidden`, given `gradient(row, log-probs of that row)`. Where `weight` is given, the
    /// weight's gradient is added to it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn backward(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        gradient: &(dyn Fn(usize, &TokenLogProbs) -> TokenGradient + Sync),
        mut weight: Option<&mut Vec<f32>>,
    ) -> Result<HeadGradient> {
        self.check(hidden, targets)?;
        let mut tokens = Vec::with_capacity(targets.len());
        let mut parts = Vec::new();
        let mut logits = Vec::new();
        for (from, rows) in self.chunks(targets.len()) {
            let part = hidden.narrow(0, from, rows)?;
            let shifted = |row: usize, t: &TokenLogProbs| gradient(from + row, t);
            let (found, dh) =
                self.chunk(&part, &targets[from..from + rows], Some(&shifted), &mut weight, &mut logits)?;
            tokens.extend(found);
            parts.extend(dh);
        }
        let hidden = if parts.is_empty() { hidden.zeros_like()? } else { Tensor::cat(&parts, 0)? };
        Ok(HeadGradient { tokens, hidden })
    }

    /// Rows of logits that are held at once.
    pub fn rows_at_once(vocabulary: usize) -> usize {
        (LOGITS / 4 / vocabulary.max(1)).clamp(12, 480) / 12 * 12
    }

    fn chunks(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let height = Self::rows_at_once(self.weight.outputs());
        (0..rows).step_by(height).map(move |from| (from, height.min(rows - from)))
    }

    fn check(&self, hidden: &Tensor, targets: &[u32]) -> Result<()> {
        let vocabulary = self.weight.outputs();
        if hidden.dims() != [targets.len(), self.weight.inputs()] {
            candle_core::bail!("head: {:?} for {} targets", hidden.dims(), targets.len());
        }
        match targets.iter().find(|&&t| t as usize >= vocabulary) {
            Some(t) => candle_core::bail!("token {t} is outside the vocabulary of {vocabulary}"),
            None => Ok(()),
        }
    }

    fn chunk(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        gradient: Option<&(dyn Fn(usize, &TokenLogProbs) -> TokenGradient + Sync)>,
        weight: &mut Option<&mut Vec<f32>>,
        logits: &mut Vec<f32>,
    ) -> Result<(Vec<TokenLogProbs>, Option<Tensor>)> {
        if self.weight.elsewhere().is_some() {
            return self.composed(hidden, targets, gradient, weight);
        }
        match self.arithmetic {
            Arithmetic::F32 => self.chunk_in::<f32>(hidden, targets, gradient, weight, logits),
            Arithmetic::Bf16 => self.chunk_in::<bf16>(hidden, targets, gradient, weight, logits),
        }
    }

    fn chunk_in<E: Element>(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        gradient: Option<&(dyn Fn(usize, &TokenLogProbs) -> TokenGradient + Sync)>,
        weight: &mut Option<&mut Vec<f32>>,
        logits: &mut Vec<f32>,
    ) -> Result<(Vec<TokenLogProbs>, Option<Tensor>)> {
        let (rows, width) = hidden.dims2()?;
        let vocabulary = self.weight.outputs();
        let hidden = hidden.contiguous()?;
        with_f32(&hidden, |h| {
            let left_h = left::<E>(h, rows, width);
            logits.resize(rows * vocabulary, 0.0);
            let forward = Forward(self.weight);
            gemm(rows, vocabulary, &[Term { left: &left_h, depth: width, right: &forward }], logits);
            let tokens: Vec<TokenLogProbs> = logits
                .par_chunks_exact_mut(vocabulary)
                .enumerate()
                .map(|(i, row)| {
                    let target = targets[i] as usize;
                    let (found, log_sum) = read(row, target, self.statistics);
                    if let Some(gradient) = gradient {
                        let g = gradient(i, &found);
                        // d/dz of g₁·log p(t) + g₂·mean log p = g₁·(onehot − p) + g₂·(1/V − p).
                        slope(row, log_sum, g.target + g.mean, g.mean / vocabulary as f32);
                        row[target] += g.target;
                    }
                    found
                })
                .collect();
            if gradient.is_none() {
                return Ok((tokens, None));
            }
            if let Some(sum) = weight {
                let right = Rows { data: h, columns: width };
                let turned = transpose(logits, rows, vocabulary);
                let part = product::<E>(&turned, vocabulary, rows, &right, width);
                sum.par_iter_mut().zip(part).for_each(|(a, b)| *a += b);
            }
            let left_d = left::<E>(logits, rows, vocabulary);
            let mut dh = vec![0f32; rows * width];
            let backward = Backward(self.weight);
            gemm(rows, width, &[Term { left: &left_d, depth: vocabulary, right: &backward }], &mut dh);
            Ok((tokens, Some(from_vec(dh, (rows, width))?)))
        })
    }

    /// The same out of candle's own operations, for other devices.
    fn composed(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        gradient: Option<&(dyn Fn(usize, &TokenLogProbs) -> TokenGradient + Sync)>,
        weight: &mut Option<&mut Vec<f32>>,
    ) -> Result<(Vec<TokenLogProbs>, Option<Tensor>)> {
        let Some(w) = self.weight.elsewhere() else {
            candle_core::bail!("a packed weight cannot be composed")
        };
        let rows = targets.len();
        let ids = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
        // [rows, 2]: log p(target) and the mean over the vocabulary.
        let both = |h: &Tensor, w: &Tensor| -> Result<Tensor> {
            let logits = h.to_dtype(w.dtype())?.matmul(&w.t()?)?.to_dtype(DType::F32)?;
            let log_p = candle_log_softmax(&logits)?;
            let mean = (log_p.sum_keepdim(1)? / self.weight.outputs() as f64)?;
            Tensor::cat(&[log_p.gather(&ids, 1)?, mean], 1)
        };
        let values = both(hidden, w)?.to_vec2::<f32>()?;
        let logits = hidden.to_dtype(w.dtype())?.matmul(&w.t()?)?.to_dtype(DType::F32)?;
        let log_p = candle_log_softmax(&logits)?;
        let best = log_p.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let squares = if self.statistics {
            (&log_p * 2.0)?.exp()?.sum(1)?.log()?.to_vec1::<f32>()?
        } else {
            vec![0.0; rows]
        };
        let tokens: Vec<TokenLogProbs> = (0..rows)
            .map(|i| TokenLogProbs {
                target: values[i][0],
                mean: if self.statistics { values[i][1] } else { 0.0 },
                square_sum: squares[i],
                hit: best[i] == targets[i],
            })
            .collect();
        let Some(gradient) = gradient else { return Ok((tokens, None)) };
        let up: Vec<f32> = tokens
            .iter()
            .enumerate()
            .flat_map(|(i, t)| {
                let g = gradient(i, t);
                [g.target, g.mean]
            })
            .collect();
        let up = Tensor::from_vec(up, (rows, 2), hidden.device())?;
        let mut made = composed::backward(&[hidden, w], &up, |t| both(&t[0], &t[1]))?;
        let (dw, dh) = (made.pop(), made.pop());
        if let (Some(sum), Some(dw)) = (weight, dw) {
            let part = dw.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            sum.iter_mut().zip(part).for_each(|(a, b)| *a += b);
        }
        Ok((tokens, dh))
    }
}

fn candle_log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// What is asked of a row of logits, and their log Σ exp.
fn read(row: &[f32], target: usize, statistics: bool) -> (TokenLogProbs, f32) {
    let largest = largest(row);
    let log_sum = largest + exp_sum(row, largest, 1.0).ln();
    let mut found = TokenLogProbs {
        target: row[target] - log_sum,
        hit: row[target] >= largest,
        ..TokenLogProbs::default()
    };
    if statistics {
        let total: f64 = row.iter().map(|&z| f64::from(z)).sum();
        found.mean = (total / row.len() as f64 - f64::from(log_sum)) as f32;
        // Σ p² = Σ exp(2·(z − log Σ exp)).
        found.square_sum = 2.0 * (largest - log_sum) + exp_sum(row, largest, 2.0).ln();
    }
    (found, log_sum)
}

/// log Σ exp(x), with sums of sums in f64: a vocabulary is long. −∞ for an empty slice, NaN if there is one in it.
pub fn log_sum_exp(x: &[f32]) -> f64 {
    const RUN: usize = 4096;
    // Neither the maximum nor the exponential would tell.
    let has_nan = |run: &[f32]| run.iter().fold(false, |found, v| found | v.is_nan());
    if x.chunks(RUN).any(has_nan) {
        return f64::NAN;
    }
    let shift = largest(x);
    let sum: f64 = x.chunks(RUN).map(|run| f64::from(exp_sum(run, shift, 1.0))).sum();
    f64::from(shift) + sum.ln()
}

dispatch! {
    /// The largest; −∞ for an empty slice.
    pub fn largest = largest_body(x: &[f32]) -> f32
}
dispatch! {
    /// Σ exp(scale·(x − shift)).
    fn exp_sum = exp_sum_body(x: &[f32], shift: f32, scale: f32) -> f32
}
dispatch! {
    /// Replaces logits by each − both·exp(x − log_sum).
    fn slope = slope_body(x: &mut [f32], log_sum: f32, both: f32, each: f32)
}

/// SAFETY: safe code but for whole vectors inside the slice. NaN counts as nothing.
#[inline(always)]
unsafe fn largest_body<L: Lanes>(x: &[f32]) -> f32 {
    let whole = x.len() / LANES * LANES;
    // SAFETY: whole vectors are inside the slice.
    unsafe {
        let mut most = L::splat(f32::NEG_INFINITY);
        for i in (0..whole).step_by(LANES) {
            most = L::max(L::load(x.as_ptr().add(i)), most);
        }
        let mut lanes = [0f32; LANES];
        L::store(lanes.as_mut_ptr(), most);
        lanes.iter().chain(&x[whole..]).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// SAFETY: as above; the tail goes through a buffer.
#[inline(always)]
unsafe fn exp_sum_body<L: Lanes>(x: &[f32], shift: f32, scale: f32) -> f32 {
    let whole = x.len() / LANES * LANES;
    // SAFETY: whole vectors are inside the slice.
    unsafe {
        let (s, minus) = (L::splat(scale), L::splat(-shift * scale));
        let mut total = L::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            total = L::add(total, simd::exp::<L>(L::fma(L::load(x.as_ptr().add(i)), s, minus)));
        }
        let mut sum = simd::sum::<L>(total);
        if whole < x.len() {
            let mut tail = [f32::NEG_INFINITY; LANES];
            tail[..x.len() - whole].copy_from_slice(&x[whole..]);
            let e = simd::exp::<L>(L::fma(L::load(tail.as_ptr()), s, minus));
            L::store(tail.as_mut_ptr(), e);
            sum += tail[..x.len() - whole].iter().sum::<f32>();
        }
        sum
    }
}

/// SAFETY: as above.
#[inline(always)]
unsafe fn slope_body<L: Lanes>(x: &mut [f32], log_sum: f32, both: f32, each: f32) {
    let whole = x.len() / LANES * LANES;
    // SAFETY: whole vectors are inside the slice, the tail goes through a buffer.
    unsafe {
        let (minus, factor, constant) = (L::splat(-log_sum), L::splat(-both), L::splat(each));
        for i in (0..whole).step_by(LANES) {
            let at = x.as_mut_ptr().add(i);
            let p = simd::exp::<L>(L::add(L::load(at), minus));
            L::store(at, L::fma(p, factor, constant));
        }
        if whole < x.len() {
            let n = x.len() - whole;
            let mut tail = [f32::NEG_INFINITY; LANES];
            tail[..n].copy_from_slice(&x[whole..]);
            let p = simd::exp::<L>(L::add(L::load(tail.as_ptr()), minus));
            L::store(tail.as_mut_ptr(), L::fma(p, factor, constant));
            x[whole..].copy_from_slice(&tail[..n]);
        }
    }
}
