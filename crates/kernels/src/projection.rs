//! A linear map with its LoRA branch in one product, and its backward.
//!
//! y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ (arXiv 2106.09685): the low-rank term continues the same sums. Backward:
//! du = s·g·B, dx = g·W + du·A, dB = s·gᵀ·u, dA = duᵀ·x, dW = gᵀ·x, db = Σ g.

use candle_core::{Result, Tensor};
use half::bf16;

use crate::composed;
use crate::element::{Element, left};
use crate::gemm::{Columns, Rows, Term, gemm, product};
use crate::pack::transpose;
use crate::tensor::{from_vec, with_f32};
use crate::weight::{Arithmetic, Backward, Forward, Weight};

/// The two factors of a low-rank change of a weight.
#[derive(Clone, Copy)]
pub struct LoraFactors<'a> {
    /// `[r, in]`, f32.
    pub a: &'a Tensor,
    /// `[out, r]`, f32.
    pub b: &'a Tensor,
    /// α/r or α/√r.
    pub scale: f64,
}

/// A linear map.
#[derive(Clone, Copy)]
pub struct Projection<'a> {
    /// `[out, in]`.
    pub weight: &'a Weight,
    /// `[out]`, f32.
    pub bias: Option<&'a Tensor>,
    /// The low-rank branch.
    pub lora: Option<LoraFactors<'a>>,
    /// Number type of the products.
    pub arithmetic: Arithmetic,
}

/// Gradients of a projection; those of what is frozen are not computed.
#[derive(Default)]
pub struct ProjectionGradient {
    /// `[rows, in]`.
    pub x: Option<Tensor>,
    /// `[out, in]`.
    pub weight: Option<Tensor>,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// `[r, in]` and `[out, r]`.
    pub lora: Option<(Tensor, Tensor)>,
}

/// Which gradients are wanted beside the adapter's.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// That of the input.
    pub x: bool,
    /// Those of weight and bias.
    pub weight: bool,
}

impl Projection<'_> {
    /// `[rows, in]` → `[rows, out]`, f32.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        if inputs != self.weight.inputs() {
            candle_core::bail!(
                "linear: input of width {inputs} for a weight of width {}",
                self.weight.inputs()
            );
        }
        if self.weight.elsewhere().is_some() {
            return self.composed(x);
        }
        let out = match self.arithmetic {
            Arithmetic::F32 => self.forward_in::<f32>(x, rows),
            Arithmetic::Bf16 => self.forward_in::<bf16>(x, rows),
        }?;
        from_vec(out, (rows, self.weight.outputs()))
    }

    /// The same out of candle's own operations: for other devices, and the reference in tests.
    ///
    /// # Errors
    /// If the shapes do not fit, or the weight lies packed on the CPU.
    pub fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.weight.elsewhere() else {
            candle_core::bail!("a packed weight cannot be composed");
        };
        let mut y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(x.dtype())?;
        if let Some(lora) = self.lora {
            y = (y + (x.matmul(&lora.a.t()?)?.matmul(&lora.b.t()?)? * lora.scale)?)?;
        }
        match self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn forward_in<E: Element>(&self, x: &Tensor, rows: usize) -> Result<Vec<f32>> {
        let (inputs, outputs) = (self.weight.inputs(), self.weight.outputs());
        let x = x.contiguous()?;
        with_f32(&x, |x| {
            let x = left::<E>(x, rows, inputs);
            let mut out = vec![0f32; rows * outputs];
            let forward = Forward(self.weight);
            let main = Term { left: &x, depth: inputs, right: &forward };
            match self.lora {
                None => gemm(rows, outputs, &[main], &mut out),
                Some(lora) => with_f32(lora.b, |b| {
                    let r = lora.b.dim(1)?;
                    let mut u = self.inner(&lora, &x, rows)?;
                    u.iter_mut().for_each(|u| *u *= lora.scale as f32);
                    let u = left::<E>(&u, rows, r);
                    let b = Columns { data: b, columns: outputs, depth: r };
                    gemm(rows, outputs, &[main, Term { left: &u, depth: r, right: &b }], &mut out);
                    Ok(())
                })?,
            }
            if let Some(bias) = self.bias {
                with_f32(bias, |bias| {
                    for row in out.chunks_exact_mut(outputs) {
                        row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
                    }
                    Ok(())
                })?;
            }
            Ok(out)
        })
    }

    /// u = x·Aᵀ, `[rows, r]`.
    fn inner<E: Element>(&self, lora: &LoraFactors<'_>, x: &[E], rows: usize) -> Result<Vec<f32>> {
        let (r, inputs) = lora.a.dims2()?;
        with_f32(lora.a, |a| {
            let mut u = vec![0f32; rows * r];
            let right = Columns { data: a, columns: r, depth: inputs };
            gemm(rows, r, &[Term { left: x, depth: inputs, right: &right }], &mut u);
            Ok(u)
        })
    }

    /// Gradients for the input `x` (`[rows, in]`) from that of the output (`[rows, out]`).
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(&self, x: &Tensor, grad: &Tensor, wanted: Wanted) -> Result<ProjectionGradient> {
        if self.weight.elsewhere().is_some() {
            return self.backward_composed(x, grad, wanted);
        }
        match self.arithmetic {
            Arithmetic::F32 => self.backward_in::<f32>(x, grad, wanted),
            Arithmetic::Bf16 => self.backward_in::<bf16>(x, grad, wanted),
        }
    }

    fn backward_in<E: Element>(
        &self,
        x: &Tensor,
        grad: &Tensor,
        wanted: Wanted,
    ) -> Result<ProjectionGradient> {
        let (rows, inputs) = x.dims2()?;
        let outputs = self.weight.outputs();
        if grad.dims() != [rows, outputs] {
            candle_core::bail!("linear: gradient {:?} for [{rows}, {outputs}]", grad.dims());
        }
        let mut result = ProjectionGradient::default();
        let (x, grad) = (x.contiguous()?, grad.contiguous()?);
        with_f32(&x, |x| {
            with_f32(&grad, |g| {
                let left_g = left::<E>(g, rows, outputs);
                let mut du = None;
                if let Some(lora) = self.lora {
                    let r = lora.a.dim(0)?;
                    let scale = lora.scale as f32;
                    let mut u = self.inner(&lora, &left::<E>(x, rows, inputs), rows)?;
                    u.iter_mut().for_each(|v| *v *= scale);
                    // dBᵀ = uᵀ·g reads the long side of g as it lies.
                    let right = Rows { data: g, columns: outputs };
                    let db = product::<E>(&transpose(&u, rows, r), r, rows, &right, outputs);
                    let db = transpose(&db, r, outputs);
                    let mut inner = vec![0f32; rows * r];
                    with_f32(lora.b, |b| {
                        let right = Rows { data: b, columns: r };
                        gemm(rows, r, &[Term { left: &left_g, depth: outputs, right: &right }], &mut inner);
                        Ok(())
                    })?;
                    inner.iter_mut().for_each(|v| *v *= scale);
                    let da = product::<E>(
                        &transpose(&inner, rows, r),
                        r,
                        rows,
                        &Rows { data: x, columns: inputs },
                        inputs,
                    );
                    result.lora = Some((from_vec(da, (r, inputs))?, from_vec(db, (outputs, r))?));
                    du = Some((left::<E>(&inner, rows, r), r, lora.a));
                }
                if wanted.x {
                    let mut dx = vec![0f32; rows * inputs];
                    let backward = Backward(self.weight);
                    let main = Term { left: &left_g, depth: outputs, right: &backward };
                    match &du {
                        None => gemm(rows, inputs, &[main], &mut dx),
                        Some((du, r, a)) => with_f32(a, |a| {
                            let a = Rows { data: a, columns: inputs };
                            gemm(rows, inputs, &[main, Term { left: du, depth: *r, right: &a }], &mut dx);
                            Ok(())
                        })?,
                    }
                    result.x = Some(from_vec(dx, (rows, inputs))?);
                }
                if wanted.weight {
                    let right = Rows { data: x, columns: inputs };
                    let dw = product::<E>(&transpose(g, rows, outputs), outputs, rows, &right, inputs);
                    result.weight = Some(from_vec(dw, (outputs, inputs))?);
                    if self.bias.is_some() {
                        let mut db = vec![0f32; outputs];
                        for row in g.chunks_exact(outputs) {
                            db.iter_mut().zip(row).for_each(|(d, g)| *d += g);
                        }
                        result.bias = Some(from_vec(db, outputs)?);
                    }
                }
                Ok(())
            })
        })?;
        Ok(result)
    }

    fn backward_composed(&self, x: &Tensor, grad: &Tensor, wanted: Wanted) -> Result<ProjectionGradient> {
        let Some(weight) = self.weight.elsewhere() else {
            candle_core::bail!("a packed weight cannot be composed");
        };
        let mut result = ProjectionGradient::default();
        if let Some(lora) = self.lora {
            let made = composed::backward(&[x, lora.a, lora.b], grad, |t| {
                t[0].matmul(&t[1].t()?)?.matmul(&t[2].t()?)? * lora.scale
            })?;
            let [dx, da, db]: [Tensor; 3] =
                made.try_into().map_err(|_| candle_core::Error::Msg("three gradients".into()))?;
            result.x = Some(dx);
            result.lora = Some((da, db));
        }
        if wanted.x {
            let main = grad.to_dtype(weight.dtype())?.matmul(weight)?.to_dtype(x.dtype())?;
            result.x = Some(match result.x.take() {
                Some(lora) => (main + lora)?,
                None => main,
            });
        } else {
            result.x = None;
        }
        if wanted.weight {
            result.weight = Some(grad.t()?.matmul(x)?);
            if self.bias.is_some() {
                result.bias = Some(grad.sum(0)?);
            }
        }
        Ok(result)
    }
}
