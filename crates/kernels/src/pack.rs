//! Weights packed for the processor's vector unit, and the matrix product over them.
//!
//! Every output element is one chain of fused multiply-adds over k in one lane: its bits do not depend on the number
//! of rows, on the tile a row falls into, on threads or on the instruction set.

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::simd::{LANES, Lanes, dispatch};
use crate::tensor::{from_vec, with_f32};

/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 2 * LANES;
/// Depth of a block of k: a panel of it (256 KiB) stays in the second-level cache while all rows pass.
const DEPTH: usize = 2048;

/// How packed weights are kept. Arithmetic is f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 4 bytes.
    F32,
    /// 2 bytes, 8 bits of mantissa.
    Bf16,
    /// 2 bytes, 11 bits of mantissa.
    F16,
}

#[derive(Debug)]
enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
}

/// A weight `[out, in]` stored as panels of 32 outputs, each panel `[in, 32]`.
#[derive(Debug)]
pub struct PackedWeight {
    inputs: usize,
    outputs: usize,
    storage: Storage,
}

impl PackedWeight {
    /// Packs `weight` (`[out, in]`, any float type, on the CPU).
    ///
    /// # Errors
    /// If the tensor has not two dimensions or no float type.
    pub fn pack(weight: &Tensor, kind: WeightType) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let source = weight.to_dtype(DType::F32)?.contiguous()?;
        with_f32(&source, |rows| {
            let panels = outputs.div_ceil(PANEL);
            fn fill<T: Copy + Default + Send>(
                rows: &[f32],
                (outputs, inputs): (usize, usize),
                panels: usize,
                convert: impl Fn(f32) -> T + Sync,
            ) -> Vec<T> {
                let mut data = vec![T::default(); panels * inputs * PANEL];
                data.par_chunks_mut(inputs * PANEL).enumerate().for_each(|(p, panel)| {
                    for lane in 0..PANEL.min(outputs - p * PANEL) {
                        let row = &rows[(p * PANEL + lane) * inputs..][..inputs];
                        for (k, &x) in row.iter().enumerate() {
                            panel[k * PANEL + lane] = convert(x);
                        }
                    }
                });
                data
            }
            let shape = (outputs, inputs);
            let storage = match kind {
                WeightType::F32 => Storage::F32(fill(rows, shape, panels, |x| x)),
                WeightType::Bf16 => Storage::Bf16(fill(rows, shape, panels, |x| bf16::from_f32(x).to_bits())),
                WeightType::F16 => Storage::F16(fill(rows, shape, panels, |x| f16::from_f32(x).to_bits())),
            };
            Ok(Self { inputs, outputs, storage })
        })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(v) => v.len() * 4,
            Storage::Bf16(v) | Storage::F16(v) => v.len() * 2,
        }
    }

    fn at(&self, output: usize, input: usize) -> f32 {
        let i = (output / PANEL * self.inputs + input) * PANEL + output % PANEL;
        match &self.storage {
            Storage::F32(v) => v[i],
            Storage::Bf16(v) => bf16::from_bits(v[i]).to_f32(),
            Storage::F16(v) => f16::from_bits(v[i]).to_f32(),
        }
    }

    /// Rows of the weight, `[ids.len(), in]`: the embedding of a model whose head is its embedding.
    ///
    /// # Errors
    /// If an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            if id as usize >= self.outputs {
                candle_core::bail!("token {id} is outside the vocabulary of {}", self.outputs);
            }
            out.extend((0..self.inputs).map(|k| self.at(id as usize, k)));
        }
        from_vec(out, (ids.len(), self.inputs))
    }

    /// `x · weightᵀ (+ bias)`: `[rows, in]` → `[rows, out]`, f32 on the CPU.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        if inputs != self.inputs {
            candle_core::bail!("linear: input of width {inputs} for a weight of width {}", self.inputs);
        }
        let x = x.contiguous()?;
        let out = with_f32(&x, |x| {
            let mut out = vec![0f32; rows * self.outputs];
            match bias {
                None => self.product(x, rows, None, &mut out),
                Some(b) => with_f32(&b.contiguous()?, |b| {
                    self.product(x, rows, Some(b), &mut out);
                    Ok(())
                })?,
            }
            Ok(out)
        })?;
        from_vec(out, (rows, self.outputs))
    }

    fn product(&self, x: &[f32], rows: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        let target = Target { data: out.as_mut_ptr(), stride: self.outputs };
        (0..self.outputs.div_ceil(PANEL)).into_par_iter().for_each(|p| {
            let columns = PANEL.min(self.outputs - p * PANEL);
            let span = p * self.inputs * PANEL..(p + 1) * self.inputs * PANEL;
            let bias = bias.map(|b| &b[p * PANEL..p * PANEL + columns]);
            let job = PanelJob { x, rows, depth: self.inputs, target, first: p * PANEL, columns, bias };
            match &self.storage {
                Storage::F32(v) => panel_f32(&v[span], &job),
                Storage::Bf16(v) => panel_bf16(&v[span], &job),
                Storage::F16(v) => panel_f16(&v[span], &job),
            }
        });
    }
}

/// Where a panel's results go: disjoint columns of one matrix.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    stride: usize,
}
// SAFETY: each task writes only its own panel's columns; the buffer outlives the parallel loop.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

struct PanelJob<'a> {
    x: &'a [f32],
    rows: usize,
    depth: usize,
    target: Target,
    first: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
}

dispatch! { fn panel_f32 = panel_f32_body(panel: &[f32], job: &PanelJob<'_>) }
dispatch! { fn panel_bf16 = panel_bf16_body(panel: &[u16], job: &PanelJob<'_>) }
dispatch! { fn panel_f16 = panel_f16_body(panel: &[u16], job: &PanelJob<'_>) }

#[inline(always)]
unsafe fn panel_f32_body<L: Lanes>(panel: &[f32], job: &PanelJob<'_>) {
    // SAFETY: as `run_panel`.
    unsafe { run_panel::<L, f32>(panel, job, |p| L::load(p)) }
}
#[inline(always)]
unsafe fn panel_bf16_body<L: Lanes>(panel: &[u16], job: &PanelJob<'_>) {
    // SAFETY: as `run_panel`.
    unsafe { run_panel::<L, u16>(panel, job, |p| L::load_bf16(p)) }
}
#[inline(always)]
unsafe fn panel_f16_body<L: Lanes>(panel: &[u16], job: &PanelJob<'_>) {
    // SAFETY: as `run_panel`.
    unsafe { run_panel::<L, u16>(panel, job, |p| L::load_f16(p)) }
}

/// All rows against one panel, block of k by block of k; sums continue from block to block in a scratch of f32, which
/// changes nothing (they are f32 in registers too).
///
/// SAFETY: `panel` is `[depth, 32]`, `x` is `[rows, depth]`, the target's columns `first..first+columns` belong to this call.
#[inline(always)]
unsafe fn run_panel<L: Lanes, T>(panel: &[T], job: &PanelJob<'_>, load: impl Fn(*const T) -> L::V + Copy) {
    debug_assert_eq!(panel.len(), job.depth * PANEL);
    debug_assert_eq!(job.x.len(), job.rows * job.depth);
    let mut sums = vec![0f32; job.rows * PANEL];
    let mut from = 0;
    while from < job.depth {
        let depth = DEPTH.min(job.depth - from);
        let mut row = 0;
        while row < job.rows {
            let m = L::ROWS.min(job.rows - row);
            // SAFETY: rows row..row+m and depths from..from+depth are inside the matrices.
            unsafe {
                let a = job.x.as_ptr().add(row * job.depth + from);
                let b = panel.as_ptr().add(from * PANEL);
                let c = sums.as_mut_ptr().add(row * PANEL);
                rows_times_panel::<L, T>(m, a, job.depth, b, PANEL, depth, c, PANEL, load);
            }
            row += m;
        }
        from += depth;
    }
    for row in 0..job.rows {
        for column in 0..job.columns {
            let mut value = sums[row * PANEL + column];
            if let Some(bias) = job.bias {
                value += bias[column];
            }
            // SAFETY: inside the target, in this call's own columns.
            unsafe { *job.target.data.add(row * job.target.stride + job.first + column) = value };
        }
    }
}

/// `c += a · b` for `m` rows (at most 12) and 32 columns.
///
/// SAFETY: `a` is `[m, depth]` with row stride `lda`, `b` is `[depth, 32]` with row stride `ldb`, `c` is `[m, 32]` with
/// row stride `ldc`.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(crate) unsafe fn rows_times_panel<L: Lanes, T>(
    m: usize,
    a: *const f32,
    lda: usize,
    b: *const T,
    ldb: usize,
    depth: usize,
    c: *mut f32,
    ldc: usize,
    load: impl Fn(*const T) -> L::V + Copy,
) {
    macro_rules! sizes {
        ($($m:literal)*) => {
            match m {
                // SAFETY: by this function's contract.
                $($m => unsafe { tile::<L, T, $m>(a, lda, b, ldb, depth, c, ldc, load) },)*
                _ => unreachable!("a tile has 1 to 12 rows"),
            }
        };
    }
    sizes!(1 2 3 4 5 6 7 8 9 10 11 12)
}

#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn tile<L: Lanes, T, const M: usize>(
    a: *const f32,
    lda: usize,
    b: *const T,
    ldb: usize,
    depth: usize,
    c: *mut f32,
    ldc: usize,
    load: impl Fn(*const T) -> L::V + Copy,
) {
    // SAFETY: by the contract of `rows_times_panel`.
    unsafe {
        let mut low: [L::V; M] = std::array::from_fn(|i| L::load(c.add(i * ldc)));
        let mut high: [L::V; M] = std::array::from_fn(|i| L::load(c.add(i * ldc + LANES)));
        for k in 0..depth {
            let b0 = load(b.add(k * ldb));
            let b1 = load(b.add(k * ldb + LANES));
            for i in 0..M {
                let x = L::splat(*a.add(i * lda + k));
                low[i] = L::fma(x, b0, low[i]);
                high[i] = L::fma(x, b1, high[i]);
            }
        }
        for i in 0..M {
            L::store(c.add(i * ldc), low[i]);
            L::store(c.add(i * ldc + LANES), high[i]);
        }
    }
}

/// Row-major `[rows, columns]` to `[columns, rows]`, by tiles that stay in the cache.
pub(crate) fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0f32; rows * columns];
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(block, out)| {
        let from = block * TILE;
        let width = TILE.min(columns - from);
        for row in (0..rows).step_by(TILE) {
            for r in row..(row + TILE).min(rows) {
                for c in 0..width {
                    out[c * rows + r] = matrix[r * columns + from + c];
                }
            }
        }
    });
    out
}
