//! Numeric operations that candle lacks, each with its backward.
//!
//! For inference on the CPU: [`PackedWeight`] (matrix products) and [`paged_attention`], whose results for a row do not
//! depend on its batch, on chunks, threads or the instruction set. For training: [`Projection`] (a linear map with its LoRA
//! branch, over a [`Weight`] that is frozen, quantised or moving), [`FlashAttention`], [`Head`], and for both [`rms_norm`],
//! [`rope`] and [`swiglu`]. Forward and backward are functions of tensors, without a graph; on other devices the same functions
//! compose candle's own operations. Sums are f32; products of a training can take bf16 operands. This is the only crate of
//! the workspace where `unsafe` is allowed, each block with its reason.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod composed;
mod element;
mod elementwise;
mod flash;
mod gemm;
mod loss;
mod mmap;
mod pack;
mod paged;
mod projection;
mod simd;
mod tensor;
mod weight;

pub use element::has_bf16_products;
pub use elementwise::{
    RotaryTable, rms_norm, rms_norm_backward, rope, rope_backward, swiglu, swiglu_backward,
};
pub use flash::{Attended, AttentionSegment, FlashAttention};
pub use loss::{Head, HeadGradient, TokenGradient, TokenLogProbs, largest, log_sum_exp};
pub use mmap::{Mmap, mmap};
pub use pack::{PackedWeight, WeightType};
pub use paged::{BLOCK, KvBlock, KvShape, PagedSegment, paged_attention};
pub use projection::{LoraFactors, Projection, ProjectionGradient, Wanted};
pub use simd::Level;
pub use weight::{Arithmetic, BlockFormat, Weight};

use simd::{LANES, Lanes, dispatch};

dispatch! {
    /// Replaces `x` by softmax(scale · x) and returns log Σ exp(scale · x). An empty slice gives −∞.
    pub fn softmax_in_place = softmax_body(x: &mut [f32], scale: f32) -> f32
}

/// SAFETY: lane arithmetic on a padded buffer of sixteen.
#[inline(always)]
unsafe fn softmax_body<L: Lanes>(x: &mut [f32], scale: f32) -> f32 {
    let largest = largest(x);
    if x.is_empty() {
        return f32::NEG_INFINITY;
    }
    // SAFETY: whole vectors are inside the slice, the tail goes through a buffer.
    unsafe {
        let (s, shift) = (L::splat(scale), L::splat(-largest * scale));
        let mut total = L::splat(0.0);
        let whole = x.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let e = simd::exp::<L>(L::fma(L::load(x.as_ptr().add(i)), s, shift));
            L::store(x.as_mut_ptr().add(i), e);
            total = L::add(total, e);
        }
        let mut sum = simd::sum::<L>(total);
        if whole < x.len() {
            let mut tail = [f32::NEG_INFINITY; LANES];
            let n = x.len() - whole;
            tail[..n].copy_from_slice(&x[whole..]);
            let e = simd::exp::<L>(L::fma(L::load(tail.as_ptr()), s, shift));
            L::store(tail.as_mut_ptr(), e);
            x[whole..].copy_from_slice(&tail[..n]);
            sum += tail[..n].iter().sum::<f32>();
        }
        let inverse = 1.0 / sum;
        x.iter_mut().for_each(|p| *p *= inverse);
        largest * scale + sum.ln()
    }
}
