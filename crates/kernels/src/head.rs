//! Log-probabilities of given tokens under a head, without ever holding `tokens × vocabulary` numbers.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use rayon::prelude::*;

use crate::pack::{matmul, transpose};
use crate::tensor::{from_vec, operand, with_f32};

/// Rows whose logits are held at once.
const CHUNK: usize = 256;

/// log softmax(hidden · weightᵀ)[target] for every row.
///
/// `hidden`: `[tokens, width]`, `weight`: `[vocabulary, width]`; returns `[tokens]` in natural logarithms.
/// Differentiable in both.
///
/// # Errors
/// If the shapes do not fit or a target lies outside the vocabulary.
pub fn token_logprobs(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let vocabulary = weight.dim(0)?;
    if let Some(t) = targets.iter().find(|&&t| t as usize >= vocabulary) {
        candle_core::bail!("token {t} is outside the vocabulary of {vocabulary}");
    }
    let op = Head { targets: Arc::new(targets.to_vec()) };
    hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

struct Head {
    targets: Arc<Vec<u32>>,
}

impl Head {
    /// Calls `f` with (first row, rows, logits of those rows as probabilities, their log-sum-exp, the target logits).
    fn chunks(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        mut f: impl FnMut(usize, usize, Vec<f32>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (tokens, vocabulary) = (hidden.dim(0)?, weight.dim(0)?);
        for from in (0..tokens).step_by(CHUNK) {
            let rows = CHUNK.min(tokens - from);
            let logits = crate::linear(&hidden.narrow(0, from, rows)?, weight)?;
            let mut p = logits.flatten_all()?.to_vec1::<f32>()?;
            let logprobs: Vec<f32> = p
                .par_chunks_exact_mut(vocabulary)
                .enumerate()
                .map(|(i, row)| {
                    let target = row[self.targets[from + i] as usize];
                    target - crate::softmax_in_place(row, 1.0)
                })
                .collect();
            f(from, rows, p, &logprobs)?;
        }
        Ok(())
    }
}

impl CustomOp2 for Head {
    fn name(&self) -> &'static str {
        "cycle-token-logprobs"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        lh: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = lh.shape().dims2()?;
        let (vocabulary, inputs) = lw.shape().dims2()?;
        if width != inputs || tokens != self.targets.len() {
            candle_core::bail!(
                "token_logprobs: {:?} by {:?} for {} targets",
                lh.dims(),
                lw.dims(),
                self.targets.len()
            );
        }
        let hidden = from_vec(operand(h, lh)?.to_vec(), (tokens, width))?;
        let weight = from_vec(operand(w, lw)?.to_vec(), (vocabulary, width))?;
        let mut out = Vec::with_capacity(tokens);
        self.chunks(&hidden, &weight, |_, _, _, logprobs| {
            out.extend_from_slice(logprobs);
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from(tokens)))
    }

    /// d logits = grad · (onehot − p): both products by chunks of rows.
    fn bwd(
        &self,
        h: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (h, w) = (h.detach(), w.detach());
        let grad = grad.contiguous()?;
        let grad = with_f32(&grad, |g| Ok(g.to_vec()))?;
        let (vocabulary, width) = w.dims2()?;
        let mut dh = Vec::with_capacity(grad.len() * width);
        let mut dw = vec![0f32; vocabulary * width];
        self.chunks(&h, &w, |from, rows, mut p, _| {
            for (i, row) in p.chunks_exact_mut(vocabulary).enumerate() {
                let g = grad[from + i];
                row.iter_mut().for_each(|p| *p *= -g);
                row[self.targets[from + i] as usize] += g;
            }
            let part = with_f32(&w, |w| Ok(matmul(&p, rows, w, vocabulary, width)))?;
            dh.extend(part);
            let transposed = transpose(&p, rows, vocabulary);
            let part =
                with_f32(&h.narrow(0, from, rows)?, |h| Ok(matmul(&transposed, vocabulary, h, rows, width)))?;
            dw.par_iter_mut().zip(part).for_each(|(a, b)| *a += b);
            Ok(())
        })?;
        let (dh, dw) = (from_vec(dh, (grad.len(), width))?, from_vec(dw, (vocabulary, width))?);
        Ok((Some(dh), Some(dw)))
    }
}
