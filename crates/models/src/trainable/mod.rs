//! A decoder whose gradients are computed block by block.
//!
//! The backward pass is written out, not recorded: a forward pass keeps the input of every block, the backward pass
//! computes a block again and goes through it from its end. Frozen weights get no gradient, and nothing of the size
//! tokens × tokens or tokens × vocabulary exists.

mod adapters;
mod batch;
mod block;
mod gradients;
mod load;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result as Candle, Tensor, Var};
use kernels::{Arithmetic, FlashAttention, Head, RotaryTable, Weight, rms_norm, rms_norm_backward};

pub use adapters::{AdapterFiles, LoraSettings, linear_modules};
pub use batch::PackedBatch;
pub use gradients::Gradients;
pub use load::{Train, TrainableOptions};

use crate::cache::RopeRegime;
use crate::config::DecoderConfig;
use block::{Layer, Saved};

/// How a pass is to be differentiated later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Not at all.
    Nothing,
    /// Inputs of all blocks are kept; the activations of the last so many too, those of the others are computed again.
    Inputs {
        /// Blocks whose activations are kept.
        whole: usize,
    },
}

/// What [`TrainableDecoder::forward`] leaves.
pub struct Pass {
    /// `[tokens, hidden]` after the final norm, f32.
    pub hidden: Tensor,
    last: Tensor,
    inputs: Vec<Tensor>,
    saved: Vec<Option<Saved>>,
    table: RotaryTable,
    adapters: bool,
}

#[derive(Clone)]
enum Embedding {
    /// `[vocabulary, hidden]`.
    Rows(Tensor),
    /// The head's weight.
    Head,
}

/// A decoder in training.
pub struct TrainableDecoder {
    config: DecoderConfig,
    device: Device,
    arithmetic: Arithmetic,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Weight,
    frequencies: [Vec<f32>; 2],
    rope_scale: f64,
    /// True if the weights themselves move.
    full: bool,
    variables: BTreeMap<String, Var>,
    lora: Option<LoraSettings>,
}

impl TrainableDecoder {
    /// What it is made of.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number type of its products.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// What is trained: weights by their Hugging Face name, or an adapter's factors by PEFT's.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// The adapter's settings, if one is trained.
    pub fn lora(&self) -> Option<&LoraSettings> {
        self.lora.as_ref()
    }

    /// True if weights or an adapter move; false under a head that moves alone.
    pub fn moves(&self) -> bool {
        self.full || self.lora.is_some()
    }

    /// Adds a variable that is trained beside the decoder (a reward head).
    ///
    /// # Errors
    /// If the tensor cannot be copied.
    pub fn add_variable(&mut self, name: &str, start: &Tensor) -> Candle<Var> {
        let variable = Var::from_tensor(&start.to_dtype(DType::F32)?.to_device(&self.device)?)?;
        self.variables.insert(name.to_string(), variable.clone());
        Ok(variable)
    }

    /// Bytes of the weights as they are kept, without adapters.
    pub fn weight_bytes(&self) -> usize {
        let embedding = match &self.embedding {
            Embedding::Rows(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Embedding::Head => 0,
        };
        self.layers.iter().map(Layer::weight_bytes).sum::<usize>() + self.head.bytes() + embedding
    }

    /// The frequencies for a sequence of this total length.
    pub fn rope_regime(&self, total_len: usize) -> RopeRegime {
        crate::decoder::rope_regime(&self.config, total_len)
    }

    /// Bytes of activations that one block keeps for one token if it is not computed again.
    pub fn block_bytes_per_token(&self) -> usize {
        let c = &self.config;
        let (wide, narrow) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let raw = if c.qk_norm { wide + narrow } else { 0 };
        4 * (2 * wide + 2 * narrow + raw + c.hidden_size + 2 * c.intermediate_size + c.num_heads)
    }

    fn embed(&self, ids: &[u32]) -> Candle<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            candle_core::bail!("token {id} is outside the vocabulary of {}", self.config.vocab_size);
        }
        match &self.embedding {
            Embedding::Head => self.head.rows(ids),
            Embedding::Rows(rows) => {
                rows.index_select(&Tensor::new(ids, rows.device())?, 0)?.to_dtype(DType::F32)
            }
        }
    }

    fn attention(&self, batch: &PackedBatch, layer: usize) -> FlashAttention {
        FlashAttention {
            heads: self.config.num_heads,
            kv_heads: self.config.num_kv_heads,
            head_dim: self.config.head_dim,
            window: self.config.sliding_window[layer],
            segments: batch.segments.clone(),
            arithmetic: self.arithmetic,
        }
    }

    fn table(&self, batch: &PackedBatch) -> RotaryTable {
        let mut rows = Vec::with_capacity(batch.ids.len());
        for (segment, &total) in batch.segments.iter().zip(&batch.lengths) {
            let frequencies = self.frequencies[self.rope_regime(total) as usize].as_slice();
            let first = segment.prefix.len();
            rows.extend((0..segment.rows.len()).map(|i| (frequencies, first + i)));
        }
        RotaryTable::new(rows, self.frequencies[0].len(), self.rope_scale)
    }

    /// Runs a packed batch; with `adapters` false as if the adapter were not there (the reference of a LoRA training).
    ///
    /// # Errors
    /// If a token lies outside the vocabulary, or memory is short.
    pub fn forward(&self, batch: &PackedBatch, adapters: bool, keep: Keep) -> Candle<Pass> {
        let table = self.table(batch);
        let mut h = self.embed(&batch.ids)?;
        let (mut inputs, mut saved) = (Vec::new(), Vec::new());
        let count = self.layers.len();
        for (i, layer) in self.layers.iter().enumerate() {
            let attention = self.attention(batch, i);
            let (out, activations) = self.run_block(layer, &h, &table, &attention, adapters)?;
            if let Keep::Inputs { whole } = keep {
                inputs.push(h);
                saved.push((i + whole >= count).then_some(activations));
            }
            h = out;
        }
        let hidden = rms_norm(&h, &self.norm, self.config.rms_norm_eps)?;
        Ok(Pass { hidden, last: h, inputs, saved, table, adapters })
    }

    /// The head over this decoder's hidden states.
    pub fn head(&self, statistics: bool) -> Head<'_> {
        Head { weight: &self.head, arithmetic: self.arithmetic, statistics }
    }

    /// Name and number of elements of the head's weight where it is trained.
    pub fn head_variable(&self) -> Option<(&'static str, usize)> {
        let name =
            if self.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.full.then(|| (name, self.config.vocab_size * self.config.hidden_size))
    }

    /// Adds the gradients of everything that is trained below the head, given that of `pass.hidden`.
    ///
    /// # Errors
    /// If the pass kept nothing, or memory is short.
    pub fn backward(
        &self,
        batch: &PackedBatch,
        mut pass: Pass,
        grad: &Tensor,
        gradients: &mut Gradients,
    ) -> Candle<()> {
        if pass.inputs.len() != self.layers.len() {
            candle_core::bail!("the pass was not kept for a backward pass");
        }
        let eps = self.config.rms_norm_eps;
        let (mut grad, dw) = rms_norm_backward(&pass.last, &self.norm, grad, eps)?;
        if self.full {
            gradients.add("model.norm.weight", &dw)?;
        }
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let attention = self.attention(batch, i);
            let (Some(input), Some(saved)) = (pass.inputs.pop(), pass.saved.pop()) else { break };
            let saved = match saved {
                Some(saved) => saved,
                None => self.run_block(layer, &input, &pass.table, &attention, pass.adapters)?.1,
            };
            let want_input = self.full || i > 0;
            let up = self.block_backward(
                layer,
                &input,
                saved,
                (&pass.table, &attention),
                pass.adapters,
                &grad,
                want_input,
                gradients,
            )?;
            match up {
                Some(up) => grad = up,
                None => return Ok(()),
            }
        }
        if self.full {
            gradients.add_rows("model.embed_tokens.weight", self.config.vocab_size, &batch.ids, &grad)?;
        }
        Ok(())
    }
}
