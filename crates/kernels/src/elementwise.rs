//! RMS norm, rotary embedding and SwiGLU: candle operations with their backward.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::simd::{self, LANES, Lanes, dispatch};
use crate::tensor::{from_vec, operand, with_f32};

/// Root-mean-square norm over the last dimension: `x / sqrt(mean(x²) + eps) · weight` (arXiv 1910.07467).
///
/// `x`: `[.., width]`, `weight`: `[width]`; f32. Differentiable in both.
///
/// # Errors
/// If the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
        return x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight);
    }
    x.contiguous()?.apply_op2(weight, RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

dispatch! { fn norm_rows = norm_rows_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) }

/// SAFETY: `x` and `out` are whole rows of `weight.len()`.
#[inline(always)]
unsafe fn norm_rows_body<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let whole = width / LANES * LANES;
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        // SAFETY: offsets below `whole` leave sixteen elements.
        unsafe {
            let mut squares = L::splat(0.0);
            for i in (0..whole).step_by(LANES) {
                let v = L::load(x.as_ptr().add(i));
                squares = L::fma(v, v, squares);
            }
            let mut total = simd::sum::<L>(squares);
            for &v in &x[whole..] {
                total = v.mul_add(v, total);
            }
            let scale = 1.0 / (total / width as f32 + eps).sqrt();
            let s = L::splat(scale);
            for i in (0..whole).step_by(LANES) {
                let v = L::mul(L::load(x.as_ptr().add(i)), s);
                L::store(out.as_mut_ptr().add(i), L::mul(v, L::load(weight.as_ptr().add(i))));
            }
            for i in whole..width {
                out[i] = x[i] * scale * weight[i];
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "cycle-rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (operand(x, lx)?, operand(w, lw)?);
        if w.is_empty() || lx.dims().last() != Some(&w.len()) {
            candle_core::bail!("rms_norm: {:?} by a weight of width {}", lx.dims(), w.len());
        }
        let mut out = vec![0f32; x.len()];
        let rows = 16 * w.len();
        x.par_chunks(rows).zip(out.par_chunks_mut(rows)).for_each(|(x, out)| norm_rows(x, w, self.eps, out));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, grad) = (x.contiguous()?, grad.contiguous()?);
        let width = w.elem_count();
        let (dx, dw) = with_f32(&x, |x| {
            with_f32(w, |w| {
                with_f32(&grad, |g| {
                    let mut dx = vec![0f32; x.len()];
                    // One partial sum per fixed group of rows, added in order: the same for any number of threads.
                    let rows = 64 * width;
                    let partial: Vec<Vec<f32>> = dx
                        .par_chunks_mut(rows)
                        .zip(x.par_chunks(rows).zip(g.par_chunks(rows)))
                        .map(|(dx, (x, g))| norm_backward(x, w, g, self.eps, dx))
                        .collect();
                    let mut dw = vec![0f32; width];
                    for p in partial {
                        dw.iter_mut().zip(p).for_each(|(a, b)| *a += b);
                    }
                    Ok((dx, dw))
                })
            })
        })?;
        Ok((Some(from_vec(dx, x.shape())?), Some(from_vec(dw, w.shape())?)))
    }
}

dispatch! { fn norm_backward = norm_backward_body(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32]) -> Vec<f32> }

/// With s = 1/sqrt(mean(x²)+eps): dx = s·(w·g) − x·s³/n·Σ x·w·g, dw = Σ_rows g·x·s.
///
/// SAFETY: safe code; `unsafe` only for the dispatcher's sake.
#[inline(always)]
unsafe fn norm_backward_body<L: Lanes>(
    x: &[f32],
    w: &[f32],
    g: &[f32],
    eps: f32,
    dx: &mut [f32],
) -> Vec<f32> {
    let width = w.len();
    let mut dw = vec![0f32; width];
    for ((x, g), dx) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let squares: f32 = lane_sum(width, |i| x[i] * x[i]);
        let s = 1.0 / (squares / width as f32 + eps).sqrt();
        let dot: f32 = lane_sum(width, |i| x[i] * w[i] * g[i]);
        let c = s * s * s / width as f32 * dot;
        for i in 0..width {
            dx[i] = s * w[i] * g[i] - x[i] * c;
            dw[i] += g[i] * x[i] * s;
        }
    }
    dw
}

/// Sum of `f(0..n)` in sixteen interleaved partial sums, so that the compiler can use vectors.
#[inline(always)]
fn lane_sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
    }
    lanes.iter().sum::<f32>() + (whole..n).map(f).sum::<f32>()
}

/// cos and sin for the positions of a batch, `[tokens, rotary_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    half: usize,
}

impl RotaryTable {
    /// One row per token: its inverse frequencies (`half` of them) and its position. `scale` multiplies cos and sin
    /// (longrope's attention factor; 1 elsewhere).
    ///
    /// Angles are f32 products, as in the references: at position 8,000 a product in f64 would differ from theirs by
    /// up to 5e-4.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a [f32], usize)>, half: usize, scale: f64) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (inv_freq, position) in rows {
            debug_assert_eq!(inv_freq.len(), half);
            for f in inv_freq {
                let angle = f64::from(position as f32 * f);
                cos.push((angle.cos() * scale) as f32);
                sin.push((angle.sin() * scale) as f32);
            }
        }
        Self { cos: Arc::new(cos), sin: Arc::new(sin), half }
    }
}

/// Rotary embedding (arXiv 2104.09864), half-split: the first `2·half` dimensions of every head turn, the rest stay.
///
/// `x`: `[tokens, heads · head_dim]`, f32; the table has a row per token. Differentiable.
///
/// # Errors
/// If the shapes do not fit.
pub fn rope(x: &Tensor, table: &RotaryTable, head_dim: usize) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return rope_composed(x, table, head_dim);
    }
    x.contiguous()?.apply_op1(Rope { table: table.clone(), head_dim, inverse: false })
}

/// The same out of candle's own operations, for other devices.
fn rope_composed(x: &Tensor, table: &RotaryTable, head_dim: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let half = table.half;
    let tensor = |v: &Arc<Vec<f32>>| Tensor::from_slice(v, (tokens, 1, half), x.device());
    let (cos, sin) = (tensor(&table.cos)?, tensor(&table.sin)?);
    let x = x.reshape((tokens, width / head_dim, head_dim))?;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let mut parts = vec![first, second];
    if 2 * half < head_dim {
        parts.push(x.narrow(2, 2 * half, head_dim - 2 * half)?);
    }
    Tensor::cat(&parts, 2)?.reshape((tokens, width))
}

dispatch! { fn turn_heads = turn_heads_body(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) }

/// SAFETY: safe code; `unsafe` only for the dispatcher's sake.
#[inline(always)]
unsafe fn turn_heads_body<L: Lanes>(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    for head in row.chunks_exact_mut(head_dim) {
        let (a, b) = head[..2 * half].split_at_mut(half);
        for ((a, b), (&cos, &sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
            let (x, y, s) = (*a, *b, sign * sin);
            *a = x * cos - y * s;
            *b = y * cos + x * s;
        }
    }
}

struct Rope {
    table: RotaryTable,
    head_dim: usize,
    inverse: bool,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "cycle-rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let half = self.table.half;
        if self.table.cos.len() != tokens * half || 2 * half > self.head_dim || width % self.head_dim != 0 {
            candle_core::bail!(
                "rope: [{tokens}, {width}] does not fit a table of {} angles",
                self.table.cos.len()
            );
        }
        let mut out = operand(x, layout)?.to_vec();
        out.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
            let (cos, sin) = (&self.table.cos[t * half..][..half], &self.table.sin[t * half..][..half]);
            turn_heads(row, self.head_dim, cos, sin, if self.inverse { -1.0 } else { 1.0 });
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // A rotation's transpose is the rotation back.
        let back = Rope { table: self.table.clone(), head_dim: self.head_dim, inverse: !self.inverse };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// `silu(gate) · up`, elementwise (arXiv 2002.05202); f32, same shapes. Differentiable in both.
///
/// # Errors
/// If the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return gate.silu()? * up;
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

dispatch! { fn swiglu_forward = swiglu_forward_body(gate: &[f32], up: &[f32], out: &mut [f32]) }
dispatch! { fn sigmoid_of = sigmoid_body(x: &[f32], out: &mut [f32]) }

/// g·σ(g)·u. A function rather than a closure: closures do not get the instruction set of what they stand in.
///
/// SAFETY: lane arithmetic; the caller vouches for the instruction set.
#[inline(always)]
unsafe fn silu_times<L: Lanes>(g: L::V, u: L::V) -> L::V {
    // SAFETY: as above.
    unsafe {
        let e = simd::exp::<L>(L::mul(g, L::splat(-1.0)));
        L::mul(L::div(g, L::add(L::splat(1.0), e)), u)
    }
}

/// SAFETY: equal lengths.
#[inline(always)]
unsafe fn swiglu_forward_body<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: the tail goes through a padded buffer of sixteen.
    unsafe {
        let whole = gate.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let y = silu_times::<L>(L::load(gate.as_ptr().add(i)), L::load(up.as_ptr().add(i)));
            L::store(out.as_mut_ptr().add(i), y);
        }
        if whole < gate.len() {
            let (mut g, mut u) = ([0f32; LANES], [0f32; LANES]);
            g[..gate.len() - whole].copy_from_slice(&gate[whole..]);
            u[..up.len() - whole].copy_from_slice(&up[whole..]);
            let mut y = [0f32; LANES];
            L::store(y.as_mut_ptr(), silu_times::<L>(L::load(g.as_ptr()), L::load(u.as_ptr())));
            let tail = out.len() - whole;
            out[whole..].copy_from_slice(&y[..tail]);
        }
    }
}

/// SAFETY: equal lengths.
#[inline(always)]
unsafe fn sigmoid_body<L: Lanes>(x: &[f32], out: &mut [f32]) {
    // SAFETY: the tail goes through a padded buffer of sixteen.
    unsafe {
        let one = L::splat(1.0);
        for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let mut v = [0f32; LANES];
            v[..x.len()].copy_from_slice(x);
            let e = simd::exp::<L>(L::mul(L::load(v.as_ptr()), L::splat(-1.0)));
            L::store(v.as_mut_ptr(), L::div(one, L::add(one, e)));
            out.copy_from_slice(&v[..out.len()]);
        }
    }
}

dispatch! {
    fn swiglu_backward_rows = swiglu_backward_body(g: &[f32], u: &[f32], grad: &[f32], dg: &mut [f32], du: &mut [f32])
}

/// `dg` comes in as σ(g).
///
/// SAFETY: safe code; `unsafe` only for the dispatcher's sake.
#[inline(always)]
unsafe fn swiglu_backward_body<L: Lanes>(g: &[f32], u: &[f32], grad: &[f32], dg: &mut [f32], du: &mut [f32]) {
    for ((dg, du), ((&g, &u), &grad)) in dg.iter_mut().zip(du).zip(g.iter().zip(u).zip(grad)) {
        let s = *dg;
        *du = grad * g * s;
        *dg = grad * u * s * (1.0 + g * (1.0 - s));
    }
}

const CHUNK: usize = 1 << 14;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "cycle-swiglu"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, u) = (operand(g, lg)?, operand(u, lu)?);
        if g.len() != u.len() {
            candle_core::bail!("swiglu: {:?} by {:?}", lg.dims(), lu.dims());
        }
        let mut out = vec![0f32; g.len()];
        out.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK)))
            .for_each(|(out, (g, u))| swiglu_forward(g, u, out));
        Ok((CpuStorage::F32(out), lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dg, du) = with_f32(gate, |g| {
            with_f32(up, |u| {
                with_f32(&grad, |grad| {
                    let (mut dg, mut du) = (vec![0f32; g.len()], vec![0f32; g.len()]);
                    dg.par_chunks_mut(CHUNK)
                        .zip(du.par_chunks_mut(CHUNK))
                        .zip(g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK).zip(grad.par_chunks(CHUNK))))
                        .for_each(|((dg, du), (g, (u, grad)))| {
                            sigmoid_of(g, dg); // dg holds σ(g) for the moment
                            swiglu_backward_rows(g, u, grad, dg, du);
                        });
                    Ok((dg, du))
                })
            })
        })?;
        Ok((Some(from_vec(dg, gate.shape())?), Some(from_vec(du, up.shape())?)))
    }
}

fn both((a, b): (Option<Tensor>, Option<Tensor>)) -> Result<(Tensor, Tensor)> {
    match (a, b) {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => candle_core::bail!("an operation without its gradients"),
    }
}

fn pair(made: Vec<Tensor>) -> Result<(Tensor, Tensor)> {
    let mut made = made.into_iter();
    both((made.next(), made.next()))
}

/// Gradients of [`rms_norm`] for `x` and `weight`.
///
/// # Errors
/// If the shapes do not fit.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, grad: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    if !x.device().is_cpu() {
        return pair(composed::backward(&[x, weight], grad, |t| rms_norm(&t[0], &t[1], eps))?);
    }
    both(RmsNorm { eps: eps as f32 }.bwd(x, weight, x, grad)?)
}

/// Gradient of [`rope`] for `x`: the rotation back.
///
/// # Errors
/// If the shapes do not fit.
pub fn rope_backward(grad: &Tensor, table: &RotaryTable, head_dim: usize) -> Result<Tensor> {
    if !grad.device().is_cpu() {
        let back = table.sin.iter().map(|s| -s).collect();
        return rope_composed(grad, &RotaryTable { sin: Arc::new(back), ..table.clone() }, head_dim);
    }
    grad.contiguous()?.apply_op1_no_bwd(&Rope { table: table.clone(), head_dim, inverse: true })
}

/// Gradients of [`swiglu`] for `gate` and `up`.
///
/// # Errors
/// If the shapes differ.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    if !gate.device().is_cpu() {
        return pair(composed::backward(&[gate, up], grad, |t| swiglu(&t[0], &t[1]))?);
    }
    both(SwiGlu.bwd(gate, up, gate, grad)?)
}
