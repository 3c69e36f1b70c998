//! The decoder: one forward pass for llama, mistral, qwen2, qwen3 and phi3, driven by [`DecoderConfig`].
//!
//! It runs over packed weights and a [`KvCache`], ragged rows side by side without padding. Training has a decoder of its
//! own, [`crate::TrainableDecoder`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result as Candle, Tensor};
use kernels::{
    Arithmetic, AttentionSegment, BLOCK, FlashAttention, KvShape, PackedWeight, PagedSegment, RotaryTable,
    WeightType, paged_attention, rms_norm, rope, swiglu,
};
use rayon::prelude::*;

use crate::cache::{Keys, KvCache, RopeRegime, SequenceId};
use crate::config::{Architecture, DecoderConfig, RopeScaling};
use crate::error::ModelError;
use crate::weights::{WeightSource, fetch};

/// How a decoder is loaded.
#[derive(Debug, Clone)]
pub struct DecoderOptions {
    /// Where it runs.
    pub device: Device,
    /// How weights are kept (arithmetic on the CPU is f32).
    pub dtype: DType,
}

/// New tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Whose.
    pub sequence: SequenceId,
    /// The tokens that follow what the cache holds.
    pub tokens: Vec<u32>,
}

/// One forward pass over several sequences.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Each sequence at most once.
    pub segments: Vec<Segment>,
}

enum Matrix {
    Packed(PackedWeight),
    Dense(Tensor),
}

struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Candle<Tensor> {
        match &self.weight {
            Matrix::Packed(w) => w.linear(x, self.bias.as_ref()),
            Matrix::Dense(w) => {
                let y = x.to_dtype(w.dtype())?.matmul(&w.t()?)?;
                match &self.bias {
                    Some(b) => y.broadcast_add(b)?.to_dtype(x.dtype()),
                    None => y.to_dtype(x.dtype()),
                }
            }
        }
    }
}

struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    head_norms: Option<(Tensor, Tensor)>,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

enum Embedding {
    /// `[vocabulary, hidden]`.
    Rows(Tensor),
    /// The packed head's rows.
    Head,
}

/// A loaded decoder.
pub struct Decoder {
    config: DecoderConfig,
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
    frequencies: [Vec<f32>; 2],
    rope_scale: f64,
}

/// Fetches, checks and places tensors while a decoder is built.
struct Loader<'a> {
    source: &'a dyn WeightSource,
    options: &'a DecoderOptions,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        fetch(self.source, name, shape)
    }

    /// A small tensor that is used as it is: norms and biases, f32 (on other devices the weights' type for biases).
    fn vector(&self, name: &str, width: usize) -> Result<Tensor, ModelError> {
        Ok(self.tensor(name, &[width])?.to_dtype(DType::F32)?.to_device(&self.options.device)?)
    }

    fn place(&self, weight: Tensor) -> Result<Matrix, ModelError> {
        if !self.options.device.is_cpu() {
            let weight = weight.to_dtype(self.options.dtype)?.to_device(&self.options.device)?;
            return Ok(Matrix::Dense(weight));
        }
        let kind = match self.options.dtype {
            DType::BF16 => WeightType::Bf16,
            DType::F16 => WeightType::F16,
            _ => WeightType::F32,
        };
        Ok(Matrix::Packed(PackedWeight::pack(&weight, kind)?))
    }

    fn linear(&self, name: &str, out: usize, inputs: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, inputs])?;
        self.linear_of(name, weight, 0..out, bias)
    }

    /// Rows of a fused projection.
    fn linear_of(
        &self,
        name: &str,
        fused: Tensor,
        rows: Range<usize>,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let out = fused.dim(0)?;
        let weight = if rows == (0..out) { fused } else { fused.narrow(0, rows.start, rows.len())? };
        let bias = if bias {
            let b = self.vector(&format!("{name}.bias"), out)?.narrow(0, rows.start, rows.len())?;
            let dtype = if self.options.device.is_cpu() { DType::F32 } else { self.options.dtype };
            Some(b.to_dtype(dtype)?)
        } else {
            None
        };
        Ok(Linear { weight: self.place(weight)?, bias })
    }
}

impl Decoder {
    /// Builds the decoder from its tensors, checking shapes and that every weight is finite.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, or holds NaN or infinite values.
    pub fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        options: &DecoderOptions,
    ) -> Result<Self, ModelError> {
        let load = Loader { source, options };
        let c = config;
        let (q, kv) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let mut layers = Vec::with_capacity(c.num_layers);
        for i in 0..c.num_layers {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            let attention = if c.architecture == Architecture::Phi3 {
                let name = at("self_attn.qkv_proj");
                let fused = load.tensor(&format!("{name}.weight"), &[q + 2 * kv, c.hidden_size])?;
                [0..q, q..q + kv, q + kv..q + 2 * kv]
                    .map(|rows| load.linear_of(&name, fused.clone(), rows, c.qkv_bias))
            } else {
                [("q", q), ("k", kv), ("v", kv)].map(|(p, out)| {
                    load.linear(&at(&format!("self_attn.{p}_proj")), out, c.hidden_size, c.qkv_bias)
                })
            };
            let [q_proj, k_proj, v_proj] = attention;
            let ffn = if c.architecture == Architecture::Phi3 {
                let name = at("mlp.gate_up_proj");
                let fused =
                    load.tensor(&format!("{name}.weight"), &[2 * c.intermediate_size, c.hidden_size])?;
                [0..c.intermediate_size, c.intermediate_size..2 * c.intermediate_size]
                    .map(|rows| load.linear_of(&name, fused.clone(), rows, c.mlp_bias))
            } else {
                ["gate", "up"].map(|p| {
                    load.linear(&at(&format!("mlp.{p}_proj")), c.intermediate_size, c.hidden_size, c.mlp_bias)
                })
            };
            let [gate, up] = ffn;
            let head_norms = if c.qk_norm {
                Some((
                    load.vector(&at("self_attn.q_norm.weight"), c.head_dim)?,
                    load.vector(&at("self_attn.k_norm.weight"), c.head_dim)?,
                ))
            } else {
                None
            };
            layers.push(Layer {
                input_norm: load.vector(&at("input_layernorm.weight"), c.hidden_size)?,
                q: q_proj?,
                k: k_proj?,
                v: v_proj?,
                o: load.linear(&at("self_attn.o_proj"), c.hidden_size, q, c.o_bias)?,
                head_norms,
                post_norm: load.vector(&at("post_attention_layernorm.weight"), c.hidden_size)?,
                gate: gate?,
                up: up?,
                down: load.linear(&at("mlp.down_proj"), c.hidden_size, c.intermediate_size, c.mlp_bias)?,
            });
        }
        let norm = load.vector("model.norm.weight", c.hidden_size)?;
        let rows = load.tensor("model.embed_tokens.weight", &[c.vocab_size, c.hidden_size])?;
        let on_cpu = options.device.is_cpu();
        let head_weight = if c.tie_word_embeddings {
            rows.clone()
        } else {
            load.tensor("lm_head.weight", &[c.vocab_size, c.hidden_size])?
        };
        let head = Linear { weight: load.place(head_weight)?, bias: None };
        let embedding = match (&head.weight, c.tie_word_embeddings) {
            (Matrix::Packed(_), true) => Embedding::Head,
            (Matrix::Dense(w), true) => Embedding::Rows(w.clone()),
            _ if on_cpu => Embedding::Rows(rows.to_dtype(options.dtype)?),
            _ => Embedding::Rows(rows.to_dtype(options.dtype)?.to_device(&options.device)?),
        };
        let (frequencies, rope_scale) = frequencies(config);
        Ok(Self {
            config: config.clone(),
            device: options.device.clone(),
            embedding,
            layers,
            norm,
            head,
            frequencies,
            rope_scale,
        })
    }

    /// What it is made of.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The inverse frequencies of a regime, as used.
    pub fn inverse_frequencies(&self, regime: RopeRegime) -> &[f32] {
        &self.frequencies[regime as usize]
    }

    /// An empty cache for this model.
    pub fn cache(&self) -> KvCache {
        let c = &self.config;
        let shape = KvShape { layers: c.num_layers, kv_heads: c.num_kv_heads, head_dim: c.head_dim };
        KvCache::new(shape, self.device.is_cpu())
    }

    /// The frequencies for a sequence of this total length. A sequence whose length crosses the border must be computed
    /// anew: its stored keys were turned with the other set.
    pub fn rope_regime(&self, total_len: usize) -> RopeRegime {
        rope_regime(&self.config, total_len)
    }

    fn embed(&self, ids: &[u32]) -> Candle<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            candle_core::bail!("token {id} is outside the vocabulary of {}", self.config.vocab_size);
        }
        match (&self.embedding, &self.head.weight) {
            (Embedding::Head, Matrix::Packed(head)) => head.rows(ids),
            (Embedding::Rows(rows), _) => {
                let ids = Tensor::new(ids, rows.device())?;
                rows.index_select(&ids, 0)?.to_dtype(DType::F32)
            }
            (Embedding::Head, Matrix::Dense(rows)) => {
                rows.index_select(&Tensor::new(ids, rows.device())?, 0)?.to_dtype(DType::F32)
            }
        }
    }

    /// Runs the new tokens of a step and stores their keys and values.
    ///
    /// Returns `[tokens, hidden]` after the final norm, rows in the order of the step, f32.
    ///
    /// # Errors
    /// If a sequence is unknown or named twice, or a token lies outside the vocabulary.
    pub fn forward(&self, step: &Step, cache: &mut KvCache) -> Candle<Tensor> {
        self.run(step, cache, &mut |_| {})
    }

    /// Hidden states of one sequence: the embedding, then every block's output, the last one after the final norm;
    /// `[tokens, hidden]` each.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn layer_states(&self, ids: &[u32]) -> Candle<Vec<Tensor>> {
        let mut cache = self.cache();
        let sequence = cache.create(self.rope_regime(ids.len()));
        let mut states = Vec::new();
        let step = Step { segments: vec![Segment { sequence, tokens: ids.to_vec() }] };
        let last = self.run(&step, &mut cache, &mut |h| states.push(h.clone()))?;
        states.pop();
        states.push(last);
        Ok(states)
    }

    fn run(&self, step: &Step, cache: &mut KvCache, observe: &mut dyn FnMut(&Tensor)) -> Candle<Tensor> {
        let mut ids = Vec::new();
        let mut rows = Vec::new();
        let mut spans: Vec<(SequenceId, Range<usize>, usize)> = Vec::new();
        for segment in &step.segments {
            if !cache.sequences.contains_key(&segment.sequence)
                || spans.iter().any(|(s, ..)| *s == segment.sequence)
            {
                candle_core::bail!("a step names a sequence that is unknown or named twice");
            }
            let position = cache.len(segment.sequence);
            let frequencies = self.frequencies[cache.regime(segment.sequence) as usize].as_slice();
            rows.extend((0..segment.tokens.len()).map(|i| (frequencies, position + i)));
            spans.push((segment.sequence, ids.len()..ids.len() + segment.tokens.len(), position));
            ids.extend_from_slice(&segment.tokens);
            cache.reserve(segment.sequence, segment.tokens.len());
        }
        let table = RotaryTable::new(rows, self.frequencies[0].len(), self.rope_scale);
        let mut h = self.embed(&ids)?;
        observe(&h);
        for (i, layer) in self.layers.iter().enumerate() {
            h = self
                .block(layer, &h, &table, &mut |q, k, v| self.cached_attention(i, q, k, v, &spans, cache))?;
            observe(&h);
        }
        for (sequence, span, position) in spans {
            if let Some(s) = cache.sequences.get_mut(&sequence) {
                s.len = position + span.len();
            }
        }
        rms_norm(&h, &self.norm, self.config.rms_norm_eps)
    }

    /// Runs whole segments without a cache; each attends inside itself only.
    ///
    /// Returns `[sum of lengths, hidden]` after the final norm.
    ///
    /// # Errors
    /// If a token lies outside the vocabulary.
    pub fn forward_packed(&self, segments: &[Vec<u32>]) -> Candle<Tensor> {
        let (attention, table, ids) = self.packed(segments);
        let mut h = self.embed(&ids)?;
        for (i, _) in self.layers.iter().enumerate() {
            h = self.packed_block(i, &h, &attention, &table)?;
        }
        rms_norm(&h, &self.norm, self.config.rms_norm_eps)
    }

    fn packed(&self, segments: &[Vec<u32>]) -> (FlashAttention, RotaryTable, Vec<u32>) {
        let mut ranges = Vec::with_capacity(segments.len());
        let mut rows = Vec::new();
        let mut ids = Vec::new();
        for segment in segments.iter().filter(|s| !s.is_empty()) {
            ranges.push(AttentionSegment { rows: ids.len()..ids.len() + segment.len(), prefix: 0..0 });
            let frequencies = self.frequencies[self.rope_regime(segment.len()) as usize].as_slice();
            rows.extend((0..segment.len()).map(|p| (frequencies, p)));
            ids.extend_from_slice(segment);
        }
        let attention = FlashAttention {
            heads: self.config.num_heads,
            kv_heads: self.config.num_kv_heads,
            head_dim: self.config.head_dim,
            window: None,
            segments: Arc::new(ranges),
            arithmetic: Arithmetic::F32,
        };
        (attention, RotaryTable::new(rows, self.frequencies[0].len(), self.rope_scale), ids)
    }

    fn packed_block(
        &self,
        i: usize,
        h: &Tensor,
        attention: &FlashAttention,
        table: &RotaryTable,
    ) -> Candle<Tensor> {
        let attention = FlashAttention { window: self.config.sliding_window[i], ..attention.clone() };
        self.block(&self.layers[i], h, table, &mut |q, k, v| Ok(attention.forward(&q, &k, &v)?.out))
    }

    /// One pre-norm block; `attend` receives rotated q, k and v, `[tokens, heads · head_dim]`.
    fn block(
        &self,
        layer: &Layer,
        h: &Tensor,
        table: &RotaryTable,
        attend: &mut dyn FnMut(Tensor, Tensor, Tensor) -> Candle<Tensor>,
    ) -> Candle<Tensor> {
        let c = &self.config;
        let x = rms_norm(h, &layer.input_norm, c.rms_norm_eps)?;
        let (mut q, mut k, v) = (layer.q.forward(&x)?, layer.k.forward(&x)?, layer.v.forward(&x)?);
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            let per_head = |t: &Tensor, norm: &Tensor| {
                let (tokens, width) = t.dims2()?;
                let heads = t.reshape((tokens, width / c.head_dim, c.head_dim))?;
                rms_norm(&heads, norm, c.rms_norm_eps)?.reshape((tokens, width))
            };
            q = per_head(&q, q_norm)?;
            k = per_head(&k, k_norm)?;
        }
        let (q, k) = (rope(&q, table, c.head_dim)?, rope(&k, table, c.head_dim)?);
        let h = (h + layer.o.forward(&attend(q, k, v)?)?)?;
        let x = rms_norm(&h, &layer.post_norm, c.rms_norm_eps)?;
        let inner = swiglu(&layer.gate.forward(&x)?, &layer.up.forward(&x)?)?;
        h + layer.down.forward(&inner)?
    }

    fn cached_attention(
        &self,
        layer: usize,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spans: &[(SequenceId, Range<usize>, usize)],
        cache: &mut KvCache,
    ) -> Candle<Tensor> {
        let window = self.config.sliding_window[layer];
        if !self.device.is_cpu() {
            return self.tensor_attention(layer, q, k, v, spans, cache);
        }
        let shape = cache.shape;
        let width = shape.kv_heads * shape.head_dim;
        let (k, v) = (k.flatten_all()?.to_vec1::<f32>()?, v.flatten_all()?.to_vec1::<f32>()?);
        let of: HashMap<SequenceId, (&Range<usize>, usize)> =
            spans.iter().map(|(sequence, span, position)| (*sequence, (span, *position))).collect();
        cache.sequences.par_iter_mut().for_each(|(sequence, state)| {
            let (Some((span, position)), Keys::Blocks(blocks)) = (of.get(sequence), &mut state.keys) else {
                return;
            };
            for (i, row) in (*span).clone().enumerate() {
                let (block, slot) = ((position + i) / BLOCK, (position + i) % BLOCK);
                let (k, v) = (&k[row * width..][..width], &v[row * width..][..width]);
                Arc::make_mut(&mut blocks[block]).write(&shape, layer, slot, k, v);
            }
        });
        let segments: Vec<PagedSegment<'_>> = spans
            .iter()
            .filter_map(|(sequence, span, position)| match &cache.sequences.get(sequence)?.keys {
                Keys::Blocks(blocks) => Some(PagedSegment {
                    blocks,
                    first_row: span.start,
                    rows: span.len(),
                    position: *position,
                }),
                Keys::Tensors(_) => None,
            })
            .collect();
        let q_data = q.flatten_all()?.to_vec1::<f32>()?;
        let out = paged_attention(&q_data, self.config.num_heads, &shape, layer, window, &segments);
        Tensor::from_vec(out, q.shape(), &self.device)
    }

    /// Attention on other devices: keys and values grow by concatenation.
    fn tensor_attention(
        &self,
        layer: usize,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spans: &[(SequenceId, Range<usize>, usize)],
        cache: &mut KvCache,
    ) -> Candle<Tensor> {
        let c = &self.config;
        let group = c.num_heads / c.num_kv_heads;
        let mut parts = Vec::with_capacity(spans.len());
        for (sequence, span, position) in spans {
            let n = span.len();
            let (mut keys, mut values) = (k.narrow(0, span.start, n)?, v.narrow(0, span.start, n)?);
            let Some(Keys::Tensors(layers)) = cache.sequences.get_mut(sequence).map(|s| &mut s.keys) else {
                candle_core::bail!("a cache of another device");
            };
            if let Some((old_keys, old_values)) = layers[layer].take() {
                keys = Tensor::cat(&[old_keys, keys], 0)?;
                values = Tensor::cat(&[old_values, values], 0)?;
            }
            layers[layer] = Some((keys.clone(), values.clone()));
            let total = position + n;
            let widen = |t: &Tensor| -> Candle<Tensor> {
                t.reshape((total, c.num_kv_heads, 1, c.head_dim))?
                    .broadcast_as((total, c.num_kv_heads, group, c.head_dim))?
                    .contiguous()?
                    .reshape((total, c.num_heads, c.head_dim))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let queries = q
                .narrow(0, span.start, n)?
                .reshape((n, c.num_heads, c.head_dim))?
                .transpose(0, 1)?
                .contiguous()?;
            let scores = (queries.matmul(&widen(&keys)?.transpose(1, 2)?.contiguous()?)?
                / (c.head_dim as f64).sqrt())?;
            let window = c.sliding_window[layer];
            let mask: Vec<f32> = (0..n)
                .flat_map(|i| {
                    let at = position + i;
                    (0..total).map(move |j| {
                        if j <= at && window.is_none_or(|w| at < j + w) { 0.0 } else { f32::NEG_INFINITY }
                    })
                })
                .collect();
            let scores = scores.broadcast_add(&Tensor::from_vec(mask, (1, n, total), q.device())?)?;
            let weights = candle_nn::ops::softmax_last_dim(&scores)?;
            let out = weights.matmul(&widen(&values)?)?.transpose(0, 1)?.contiguous()?;
            parts.push(out.reshape((n, c.num_heads * c.head_dim))?);
        }
        Tensor::cat(&parts, 0)
    }

    /// Scores of every token of the vocabulary: `[n, hidden]` → `[n, vocabulary]`, f32.
    ///
    /// # Errors
    /// If the width is wrong.
    pub fn logits(&self, hidden: &Tensor) -> Candle<Tensor> {
        self.head.forward(hidden)
    }

    /// Bytes of the weights as they are kept.
    pub fn weight_bytes(&self) -> usize {
        let bytes = |l: &Linear| match &l.weight {
            Matrix::Packed(w) => w.bytes(),
            Matrix::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
        };
        let embedding = match &self.embedding {
            Embedding::Rows(t) if !self.config.tie_word_embeddings => {
                t.elem_count() * t.dtype().size_in_bytes()
            }
            _ => 0,
        };
        let blocks = self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        blocks.map(bytes).sum::<usize>() + bytes(&self.head) + embedding
    }
}

pub(crate) fn rope_regime(config: &DecoderConfig, total_len: usize) -> RopeRegime {
    match &config.rope.scaling {
        RopeScaling::LongRope { original_max_position_embeddings, .. }
            if total_len > *original_max_position_embeddings =>
        {
            RopeRegime::Long
        }
        _ => RopeRegime::Short,
    }
}

/// Inverse frequencies (short, long) and the factor on cos and sin.
pub(crate) fn frequencies(config: &DecoderConfig) -> ([Vec<f32>; 2], f64) {
    let rope = &config.rope;
    let half = rope.rotary_dim / 2;
    let plain: Vec<f64> =
        (0..half).map(|i| 1.0 / rope.theta.powf(2.0 * i as f64 / rope.rotary_dim as f64)).collect();
    let to_f32 = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    match &rope.scaling {
        RopeScaling::None => ([to_f32(plain.clone()), to_f32(plain)], 1.0),
        RopeScaling::Linear { factor } => {
            let scaled = to_f32(plain.iter().map(|f| f / factor).collect());
            ([scaled.clone(), scaled], 1.0)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = *original_max_position_embeddings as f64;
            let scaled = plain
                .iter()
                .map(|&f| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength < context / high_freq_factor {
                        f
                    } else if wavelength > context / low_freq_factor {
                        f / factor
                    } else {
                        let smooth =
                            (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect();
            let scaled = to_f32(scaled);
            ([scaled.clone(), scaled], 1.0)
        }
        RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } => {
            let by = |factors: &[f64]| to_f32(plain.iter().zip(factors).map(|(f, s)| f / s).collect());
            ([by(short_factor), by(long_factor)], *attention_factor)
        }
    }
}
