//! Between candle's tensors and slices.

use candle_core::{CpuStorage, Device, Result, Shape, Storage, Tensor};

/// Calls `f` with the elements of a contiguous f32 tensor on the CPU.
pub(crate) fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a contiguous tensor is needed");
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => f(&v[start..end]),
        _ => candle_core::bail!("an f32 tensor on the CPU is needed"),
    }
}

/// The elements of one operand inside a candle operation.
pub(crate) fn operand<'a>(storage: &'a CpuStorage, layout: &candle_core::Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a contiguous tensor is needed");
    };
    match storage {
        CpuStorage::F32(v) => Ok(&v[start..end]),
        _ => candle_core::bail!("an f32 tensor is needed"),
    }
}

/// A tensor on the CPU that takes over the vector.
pub(crate) fn from_vec(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::from_vec(data, shape, &Device::Cpu)
}
