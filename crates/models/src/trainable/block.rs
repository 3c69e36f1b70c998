//! One pre-norm block, forward and backward.

use candle_core::{Result as Candle, Tensor};
use kernels::{
    Arithmetic, Attended, FlashAttention, LoraFactors, Projection, RotaryTable, Wanted, Weight, rms_norm,
    rms_norm_backward, rope, rope_backward, swiglu, swiglu_backward,
};

use super::{Gradients, TrainableDecoder};

/// A linear map by the name of its module.
#[derive(Clone)]
pub(super) struct Map {
    /// `model.layers.0.self_attn.q_proj`.
    pub(super) module: String,
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
    /// A, B and their factor.
    pub(super) lora: Option<(Tensor, Tensor, f64)>,
}

#[derive(Clone)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) input_norm: Tensor,
    /// q, k, v; or the three fused (phi3).
    pub(super) qkv: Vec<Map>,
    pub(super) head_norms: Option<(Tensor, Tensor)>,
    pub(super) o: Map,
    pub(super) post_norm: Tensor,
    /// gate, up; or the two fused.
    pub(super) ffn: Vec<Map>,
    pub(super) down: Map,
}

impl Layer {
    pub(super) fn maps(&self) -> impl Iterator<Item = &Map> {
        self.qkv.iter().chain([&self.o]).chain(&self.ffn).chain([&self.down])
    }

    pub(super) fn maps_mut(&mut self) -> impl Iterator<Item = &mut Map> {
        self.qkv.iter_mut().chain([&mut self.o]).chain(&mut self.ffn).chain([&mut self.down])
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.maps().map(|m| m.weight.bytes()).sum()
    }
}

/// Activations of a block that its backward pass needs; norms and SwiGLU are cheap and computed again.
pub(super) struct Saved {
    /// Before their norm; only where heads are normed.
    raw: Option<(Tensor, Tensor)>,
    /// Rotated.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    /// After attention and its residual.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Map {
    fn projection(&self, adapters: bool, arithmetic: Arithmetic) -> Projection<'_> {
        let lora = self.lora.as_ref().filter(|_| adapters);
        Projection {
            weight: &self.weight,
            bias: self.bias.as_ref(),
            lora: lora.map(|(a, b, scale)| LoraFactors { a, b, scale: *scale }),
            arithmetic,
        }
    }
}

/// Columns of a fused projection, or the projections as they are.
fn split(parts: Vec<Tensor>, widths: &[usize]) -> Candle<Vec<Tensor>> {
    if parts.len() == widths.len() {
        return Ok(parts);
    }
    let mut from = 0;
    widths
        .iter()
        .map(|&width| {
            let part = parts[0].narrow(1, from, width)?.contiguous();
            from += width;
            part
        })
        .collect()
}

/// The way back.
fn join(parts: Vec<Tensor>, maps: usize) -> Candle<Vec<Tensor>> {
    if parts.len() == maps { Ok(parts) } else { Ok(vec![Tensor::cat(&parts, 1)?]) }
}

impl TrainableDecoder {
    pub(super) fn run_block(
        &self,
        layer: &Layer,
        x: &Tensor,
        table: &RotaryTable,
        attention: &FlashAttention,
        adapters: bool,
    ) -> Candle<(Tensor, Saved)> {
        let c = &self.config;
        let run = |map: &Map, x: &Tensor| map.projection(adapters, self.arithmetic).forward(x);
        let (wide, narrow) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let normed = rms_norm(x, &layer.input_norm, c.rms_norm_eps)?;
        let qkv = layer.qkv.iter().map(|m| run(m, &normed)).collect::<Candle<_>>()?;
        let mut qkv = split(qkv, &[wide, narrow, narrow])?.into_iter();
        let (Some(mut q), Some(mut k), Some(v)) = (qkv.next(), qkv.next(), qkv.next()) else {
            candle_core::bail!("a block without its three projections");
        };
        let mut raw = None;
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            let (q_raw, k_raw) = (q, k);
            q = self.per_head(&q_raw, |t| rms_norm(t, q_norm, c.rms_norm_eps))?;
            k = self.per_head(&k_raw, |t| rms_norm(t, k_norm, c.rms_norm_eps))?;
            raw = Some((q_raw, k_raw));
        }
        let (q, k) = (rope(&q, table, c.head_dim)?, rope(&k, table, c.head_dim)?);
        let attended = attention.forward(&q, &k, &v)?;
        let middle = (x + run(&layer.o, &attended.out)?)?;
        let normed = rms_norm(&middle, &layer.post_norm, c.rms_norm_eps)?;
        let ffn = layer.ffn.iter().map(|m| run(m, &normed)).collect::<Candle<_>>()?;
        let mut ffn = split(ffn, &[c.intermediate_size; 2])?.into_iter();
        let (Some(gate), Some(up)) = (ffn.next(), ffn.next()) else {
            candle_core::bail!("a block without gate and up");
        };
        let out = (&middle + run(&layer.down, &swiglu(&gate, &up)?)?)?;
        Ok((out, Saved { raw, q, k, v, attended, middle, gate, up }))
    }

    fn per_head(&self, t: &Tensor, f: impl Fn(&Tensor) -> Candle<Tensor>) -> Candle<Tensor> {
        let (tokens, width) = t.dims2()?;
        let dim = self.config.head_dim;
        f(&t.reshape((tokens, width / dim, dim))?)?.reshape((tokens, width))
    }

    /// Gradients of several maps of one input; returns that of the input.
    fn maps_backward(
        &self,
        maps: &[&Map],
        x: &Tensor,
        grads: &[Tensor],
        adapters: bool,
        want_input: bool,
        gradients: &mut Gradients,
    ) -> Candle<Option<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for (map, grad) in maps.iter().zip(grads) {
            let wanted = Wanted { x: want_input, weight: self.full };
            let made = map.projection(adapters, self.arithmetic).backward(x, grad, wanted)?;
            if let Some(dw) = &made.weight {
                gradients.add(&format!("{}.weight", map.module), dw)?;
            }
            if let Some(db) = &made.bias {
                gradients.add(&format!("{}.bias", map.module), db)?;
            }
            if let Some((da, db)) = &made.lora {
                gradients.add(&super::adapters::factor(&map.module, 'A'), da)?;
                gradients.add(&super::adapters::factor(&map.module, 'B'), db)?;
            }
            if let Some(dx) = made.x {
                sum = Some(match sum {
                    Some(sum) => (sum + dx)?,
                    None => dx,
                });
            }
        }
        Ok(sum)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn block_backward(
        &self,
        layer: &Layer,
        x: &Tensor,
        saved: Saved,
        (table, attention): (&RotaryTable, &FlashAttention),
        adapters: bool,
        grad: &Tensor,
        want_input: bool,
        gradients: &mut Gradients,
    ) -> Candle<Option<Tensor>> {
        let c = &self.config;
        let eps = c.rms_norm_eps;
        let missing = || candle_core::Error::Msg("a gradient is missing".into());
        let Saved { raw, q, k, v, attended, middle, gate, up } = saved;
        let inner = swiglu(&gate, &up)?;
        let d_inner = self
            .maps_backward(&[&layer.down], &inner, std::slice::from_ref(grad), adapters, true, gradients)?
            .ok_or_else(missing)?;
        drop(inner);
        let (d_gate, d_up) = swiglu_backward(&gate, &up, &d_inner)?;
        drop((gate, up, d_inner));
        let ffn: Vec<&Map> = layer.ffn.iter().collect();
        let normed = rms_norm(&middle, &layer.post_norm, eps)?;
        let grads = join(vec![d_gate, d_up], ffn.len())?;
        let d_normed =
            self.maps_backward(&ffn, &normed, &grads, adapters, true, gradients)?.ok_or_else(missing)?;
        drop((normed, grads));
        let (d_middle, dw) = rms_norm_backward(&middle, &layer.post_norm, &d_normed, eps)?;
        if self.full {
            gradients.add(&format!("{}.post_attention_layernorm.weight", layer.name), &dw)?;
        }
        let d_middle = (d_middle + grad)?;
        drop((d_normed, middle));
        let d_attended = self
            .maps_backward(
                &[&layer.o],
                &attended.out,
                std::slice::from_ref(&d_middle),
                adapters,
                true,
                gradients,
            )?
            .ok_or_else(missing)?;
        let [dq, dk, dv] = attention.backward(&q, &k, &v, &attended, &d_attended)?;
        drop((q, k, v, attended, d_attended));
        let (mut dq, mut dk) =
            (rope_backward(&dq, table, c.head_dim)?, rope_backward(&dk, table, c.head_dim)?);
        if let (Some((q_norm, k_norm)), Some((q_raw, k_raw))) = (&layer.head_norms, &raw) {
            for (name, norm, raw, grad) in
                [("q_norm", q_norm, q_raw, &mut dq), ("k_norm", k_norm, k_raw, &mut dk)]
            {
                let (tokens, width) = raw.dims2()?;
                let heads = (tokens, width / c.head_dim, c.head_dim);
                let (dx, dw) = rms_norm_backward(&raw.reshape(heads)?, norm, &grad.reshape(heads)?, eps)?;
                *grad = dx.reshape((tokens, width))?;
                if self.full {
                    gradients.add(&format!("{}.self_attn.{name}.weight", layer.name), &dw)?;
                }
            }
        }
        let qkv: Vec<&Map> = layer.qkv.iter().collect();
        let normed = rms_norm(x, &layer.input_norm, eps)?;
        let grads = join(vec![dq, dk, dv], qkv.len())?;
        let Some(d_normed) = self.maps_backward(&qkv, &normed, &grads, adapters, want_input, gradients)?
        else {
            return Ok(None);
        };
        let (dx, dw) = rms_norm_backward(x, &layer.input_norm, &d_normed, eps)?;
        if self.full {
            gradients.add(&format!("{}.input_layernorm.weight", layer.name), &dw)?;
        }
        Ok(Some((dx + d_middle)?))
    }
}
