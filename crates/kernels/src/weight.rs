//! A weight `[out, in]` as training needs it: multiplied from the right as it stands and transposed.
//!
//! Frozen weights are packed once, for `x · Wᵀ`; the backward product `g · W` turns panels on the way, a few percent of
//! the product's time, so that no second copy is kept. Trained ones are read from their variable at each product.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::element::{Element, padded};
use crate::gemm::Right;
use crate::pack::PANEL;
use crate::tensor::with_f32;

/// Number type of the products of a training. Sums, norms, softmax and the optimiser are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// 24 bits of mantissa.
    F32,
    /// Operands rounded to 8 bits of mantissa, twice as fast where the processor multiplies them.
    Bf16,
}

/// Blocks of 32 weights of a row, as GGUF files hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// Scale (f16), 32 signed bytes.
    Q8_0,
    /// Scale (f16), 32 nibbles less 8.
    Q4_0,
    /// Scale and least value (f16), 32 nibbles.
    Q4_1,
}

impl BlockFormat {
    /// Weights of a block.
    pub const LENGTH: usize = 32;

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    fn read(self, block: &[u8], out: &mut [f32; Self::LENGTH]) {
        let half = |i: usize| f16::from_bits(u16::from_le_bytes([block[i], block[i + 1]])).to_f32();
        let scale = half(0);
        match self {
            Self::Q8_0 => {
                for (o, &q) in out.iter_mut().zip(&block[2..]) {
                    *o = scale * f32::from(q as i8);
                }
            }
            Self::Q4_0 => {
                for (i, &q) in block[2..].iter().enumerate() {
                    out[i] = scale * (f32::from(q & 15) - 8.0);
                    out[i + 16] = scale * (f32::from(q >> 4) - 8.0);
                }
            }
            Self::Q4_1 => {
                let least = half(2);
                for (i, &q) in block[4..].iter().enumerate() {
                    out[i] = scale * f32::from(q & 15) + least;
                    out[i + 16] = scale * f32::from(q >> 4) + least;
                }
            }
        }
    }
}

enum Storage {
    /// Panels of 32 outputs, `[in, 32]` each.
    F32(Vec<f32>),
    /// Panels of 32 outputs, `[in / 2, 32, 2]` each.
    Bf16(Vec<bf16>),
    /// Rows of blocks.
    Blocks(BlockFormat, Vec<u8>),
    /// A variable, f32, on the CPU.
    Moving(Tensor),
    /// On another device.
    Elsewhere(Tensor),
}

/// A weight of a linear map.
#[derive(Clone)]
pub struct Weight {
    outputs: usize,
    inputs: usize,
    storage: Arc<Storage>,
}

impl Weight {
    /// Packs a frozen weight (`[out, in]`, any float type) for its device; `bf16` keeps 2 bytes of each number.
    ///
    /// # Errors
    /// If the tensor has not two dimensions or no float type.
    pub fn frozen(weight: &Tensor, keep: Arithmetic) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if !weight.device().is_cpu() {
            let dtype = if keep == Arithmetic::Bf16 { DType::BF16 } else { DType::F32 };
            let storage = Arc::new(Storage::Elsewhere(weight.to_dtype(dtype)?));
            return Ok(Self { outputs, inputs, storage });
        }
        let source = weight.to_dtype(DType::F32)?.contiguous()?;
        fn pack<E: Element>(rows: &[f32], outputs: usize, inputs: usize) -> Vec<E> {
            let panel = padded::<E>(inputs) * PANEL;
            let mut data = vec![E::default(); outputs.div_ceil(PANEL) * panel];
            data.par_chunks_mut(panel).enumerate().for_each(|(p, panel)| {
                let columns = PANEL.min(outputs - p * PANEL);
                E::pack_columns(&rows[p * PANEL * inputs..], inputs, inputs, columns, panel);
            });
            data
        }
        let storage = with_f32(&source, |rows| {
            Ok(match keep {
                Arithmetic::F32 => Storage::F32(pack(rows, outputs, inputs)),
                Arithmetic::Bf16 => Storage::Bf16(pack(rows, outputs, inputs)),
            })
        })?;
        Ok(Self { outputs, inputs, storage: Arc::new(storage) })
    }

    /// A weight that candle's own operations multiply, as on other devices: what tests compare the packed ones with.
    ///
    /// # Errors
    /// If the tensor has not two dimensions.
    pub fn unpacked(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self { outputs, inputs, storage: Arc::new(Storage::Elsewhere(weight.clone())) })
    }

    /// A frozen weight as rows of quantised blocks, `[out, in / 32]`.
    ///
    /// # Errors
    /// If the bytes are not those of so many blocks.
    pub fn quantised(outputs: usize, inputs: usize, format: BlockFormat, bytes: Vec<u8>) -> Result<Self> {
        if !inputs.is_multiple_of(BlockFormat::LENGTH)
            || bytes.len() != outputs * inputs / BlockFormat::LENGTH * format.bytes()
        {
            candle_core::bail!("{} bytes are no [{outputs}, {inputs}] of {format:?}", bytes.len());
        }
        let mut block = [0f32; BlockFormat::LENGTH];
        for bytes in bytes.chunks_exact(format.bytes()) {
            format.read(bytes, &mut block);
            if !block[0].is_finite() {
                candle_core::bail!("a block's scale is not finite");
            }
        }
        Ok(Self { outputs, inputs, storage: Arc::new(Storage::Blocks(format, bytes)) })
    }

    /// A weight that moves: the variable's present values count at each product. `[out, in]`, f32.
    ///
    /// # Errors
    /// If the tensor has not two dimensions.
    pub fn moving(variable: &Tensor) -> Result<Self> {
        let (outputs, inputs) = variable.dims2()?;
        let storage = if variable.device().is_cpu() {
            Storage::Moving(variable.clone())
        } else {
            Storage::Elsewhere(variable.clone())
        };
        Ok(Self { outputs, inputs, storage: Arc::new(storage) })
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &*self.storage {
            Storage::F32(v) => v.len() * 4,
            Storage::Bf16(v) => v.len() * 2,
            Storage::Blocks(_, v) => v.len(),
            Storage::Moving(t) | Storage::Elsewhere(t) => t.elem_count() * t.dtype().size_in_bytes(),
        }
    }

    /// The whole weight on another device, where products are composed.
    pub(crate) fn elsewhere(&self) -> Option<&Tensor> {
        match &*self.storage {
            Storage::Elsewhere(t) => Some(t),
            _ => None,
        }
    }

    /// Rows of the weight, `[ids.len(), in]`, f32: an embedding that is also the head.
    ///
    /// # Errors
    /// If an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.outputs) {
            candle_core::bail!("token {id} is outside the vocabulary of {}", self.outputs);
        }
        if let Storage::Moving(t) | Storage::Elsewhere(t) = &*self.storage {
            return t.index_select(&Tensor::new(ids, t.device())?, 0)?.to_dtype(DType::F32);
        }
        let mut out = vec![0f32; ids.len() * self.inputs];
        out.par_chunks_mut(self.inputs).zip(ids).for_each(|(out, &id)| {
            let (p, j) = (id as usize / PANEL, id as usize % PANEL);
            match &*self.storage {
                Storage::F32(v) => {
                    for (k, o) in out.iter_mut().enumerate() {
                        *o = v[(p * self.inputs + k) * PANEL + j];
                    }
                }
                Storage::Bf16(v) => {
                    let panel = &v[p * padded::<bf16>(self.inputs) * PANEL..];
                    for (k, o) in out.iter_mut().enumerate() {
                        *o = panel[(k / 2 * PANEL + j) * 2 + k % 2].to_f32();
                    }
                }
                Storage::Blocks(format, bytes) => self.read_row(*format, bytes, id as usize, 0, out),
                Storage::Moving(_) | Storage::Elsewhere(_) => {}
            }
        });
        crate::tensor::from_vec(out, (ids.len(), self.inputs))
    }

    /// `out.len()` numbers of a row of blocks from column `from` on; whole blocks.
    fn read_row(&self, format: BlockFormat, bytes: &[u8], row: usize, from: usize, out: &mut [f32]) {
        let per_row = self.inputs / BlockFormat::LENGTH;
        let first = (row * per_row + from / BlockFormat::LENGTH) * format.bytes();
        let mut block = [0f32; BlockFormat::LENGTH];
        for (out, bytes) in
            out.chunks_mut(BlockFormat::LENGTH).zip(bytes[first..].chunks_exact(format.bytes()))
        {
            format.read(bytes, &mut block);
            out.copy_from_slice(&block[..out.len()]);
        }
    }

    /// Inputs `span` of output panel `p` as f32 `[inputs of the span, 32]`.
    fn tile(&self, p: usize, span: Range<usize>, out: &mut [f32]) {
        let columns = PANEL.min(self.outputs - p * PANEL);
        match &*self.storage {
            Storage::F32(v) => {
                let at = (p * self.inputs + span.start) * PANEL;
                out[..span.len() * PANEL].copy_from_slice(&v[at..at + span.len() * PANEL]);
            }
            Storage::Bf16(v) => {
                let panel = &v[p * padded::<bf16>(self.inputs) * PANEL..];
                for (k, row) in span.zip(out.chunks_exact_mut(PANEL)) {
                    let pairs = &panel[k / 2 * 2 * PANEL..][..2 * PANEL];
                    for (o, pair) in row.iter_mut().zip(pairs.chunks_exact(2)) {
                        *o = pair[k % 2].to_f32();
                    }
                }
            }
            Storage::Blocks(format, bytes) => {
                out[..span.len() * PANEL].fill(0.0);
                let mut row = [0f32; BlockFormat::LENGTH];
                for j in 0..columns {
                    for from in span.clone().step_by(BlockFormat::LENGTH) {
                        let n = BlockFormat::LENGTH.min(span.end - from);
                        self.read_row(*format, bytes, p * PANEL + j, from, &mut row[..n]);
                        for (k, &x) in row[..n].iter().enumerate() {
                            out[(from - span.start + k) * PANEL + j] = x;
                        }
                    }
                }
            }
            Storage::Moving(_) | Storage::Elsewhere(_) => {}
        }
    }
}

/// `Wᵀ`: `[in, out]`, the right operand of the forward product.
pub(crate) struct Forward<'a>(pub(crate) &'a Weight);
/// `W`: `[out, in]`, the right operand of the backward product.
pub(crate) struct Backward<'a>(pub(crate) &'a Weight);

/// Panels of one element type that lie ready.
fn ready<'a, E: Element>(weight: &'a Weight, p: usize, span: &Range<usize>) -> Option<&'a [E]> {
    use std::any::Any;
    let panel = padded::<E>(weight.inputs) * PANEL;
    let all: &dyn Any = match &*weight.storage {
        Storage::F32(v) => v,
        Storage::Bf16(v) => v,
        _ => return None,
    };
    let all = all.downcast_ref::<Vec<E>>()?;
    Some(&all[p * panel + span.start * PANEL..p * panel + padded::<E>(span.end) * PANEL])
}

impl<E: Element> Right<E> for Forward<'_> {
    fn panel<'s>(&'s self, p: usize, span: Range<usize>, scratch: &'s mut [E]) -> &'s [E] {
        let w = self.0;
        if let Some(panel) = ready::<E>(w, p, &span) {
            return panel;
        }
        let columns = PANEL.min(w.outputs - p * PANEL);
        if let Storage::Moving(t) = &*w.storage {
            let packed = with_f32(t, |rows| {
                let source = &rows[p * PANEL * w.inputs + span.start..];
                E::pack_columns(source, w.inputs, span.len(), columns, scratch);
                Ok(())
            });
            debug_assert!(packed.is_ok(), "a variable is contiguous f32 on the CPU");
            return scratch;
        }
        let mut wide = vec![0f32; span.len() * PANEL];
        w.tile(p, span.clone(), &mut wide);
        E::pack_rows(&wide, PANEL, span.len(), PANEL, scratch);
        scratch
    }

    fn ready(&self) -> bool {
        ready::<E>(self.0, 0, &(0..self.0.inputs.min(1))).is_some()
    }
}

impl<E: Element> Right<E> for Backward<'_> {
    fn panel<'s>(&'s self, p: usize, span: Range<usize>, scratch: &'s mut [E]) -> &'s [E] {
        let w = self.0;
        let columns = PANEL.min(w.inputs - p * PANEL);
        match &*w.storage {
            Storage::Moving(t) => {
                let packed = with_f32(t, |rows| {
                    let source = &rows[span.start * w.inputs + p * PANEL..];
                    E::pack_rows(source, w.inputs, span.len(), columns, scratch);
                    Ok(())
                });
                debug_assert!(packed.is_ok(), "a variable is contiguous f32 on the CPU");
            }
            Storage::Blocks(format, bytes) => {
                // A panel of the transposed weight is one block wide.
                let mut rows = vec![0f32; span.len() * PANEL];
                for (row, o) in rows.chunks_exact_mut(PANEL).zip(span.clone()) {
                    w.read_row(*format, bytes, o, p * PANEL, &mut row[..columns]);
                }
                E::pack_rows(&rows, PANEL, span.len(), PANEL, scratch);
            }
            Storage::Bf16(v) if turn(v, w, p, &span, scratch) => {}
            _ => {
                let mut tile = [0f32; PANEL * PANEL];
                for from in span.clone().step_by(PANEL) {
                    let n = PANEL.min(span.end - from);
                    w.tile(from / PANEL, p * PANEL..p * PANEL + columns, &mut tile);
                    let at = (from - span.start) * PANEL;
                    E::pack_columns(&tile, PANEL, n, columns, &mut scratch[at..]);
                }
            }
        }
        scratch
    }
}

/// bf16 panels turned into bf16 panels: each group of 2 inputs × 2 outputs is four numbers side by side in both layouts,
/// with the middle two exchanged. False if the target type is another.
fn turn<E: Element>(packed: &[bf16], w: &Weight, p: usize, span: &Range<usize>, scratch: &mut [E]) -> bool {
    if std::any::TypeId::of::<E>() != std::any::TypeId::of::<bf16>() {
        return false;
    }
    let panel = padded::<bf16>(w.inputs) * PANEL;
    // SAFETY: E is bf16, checked above.
    let scratch = unsafe { &mut *(std::ptr::from_mut(scratch) as *mut [bf16]) };
    let pairs = PANEL.min(w.inputs - p * PANEL).div_ceil(2);
    if pairs < PANEL / 2 {
        scratch[..padded::<bf16>(span.len()) * PANEL].fill(bf16::ZERO);
    }
    for from in span.clone().step_by(PANEL) {
        let source = &packed[from / PANEL * panel + p * PANEL * PANEL..];
        let target = &mut scratch[(from - span.start) * PANEL..];
        let outputs = PANEL.min(span.end - from).div_ceil(2);
        for k in 0..pairs {
            let row = &source[k * 2 * PANEL..][..2 * PANEL];
            for (o, four) in row.chunks_exact(4).take(outputs).enumerate() {
                let at = &mut target[(o * PANEL + 2 * k) * 2..][..4];
                // SAFETY: both slices hold four numbers of two bytes.
                unsafe {
                    let x = four.as_ptr().cast::<u64>().read_unaligned();
                    let middle = ((x >> 16) & 0xffff_0000) | ((x & 0xffff_0000) << 16);
                    let turned = (x & 0xffff_0000_0000_ffff) | middle;
                    at.as_mut_ptr().cast::<u64>().write_unaligned(turned);
                }
            }
        }
    }
    true
}
