//! How much memory a training will take at its peak, before anything is loaded.
//!
//! Counted from the shapes of what is alive at once: at the end of the forward pass, and in the middle of the backward pass
//! of a block that is computed again. What the allocator holds beyond that is a share of the activations, measured on runs
//! of 512 to 16,384 tokens (README, training).

use candle_core::DType;
use kernels::{Arithmetic, BlockFormat, Head};
use models::{AdapterFiles, DecoderConfig, ModelSource, inventory, open_weights};
use serde::Serialize;

use crate::data::Row;
use crate::error::TrainError;
use crate::network::{arithmetic, kept_blocks};
use crate::recipe::{Objective, Recipe};

/// The program, its tokenizer and its threads, before a weight is loaded.
const PROCESS: usize = 55 << 20;
/// What the allocator holds of freed activations, as a share of them.
const HELD: f64 = 0.18;

/// What SPO's removal leaves of an answer, over its versions.
const DEGRADED: f64 = 0.68;

/// Bytes at the peak, by what they are for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Weights that do not move.
    pub frozen: usize,
    /// Weights that move, their gradients and moments.
    pub moving: usize,
    /// Activations, at the moment when they are most.
    pub activations: usize,
    /// Logits of a chunk of rows.
    pub logits: usize,
    /// All of it, with the process itself.
    pub peak: usize,
    /// Bytes by which the peak grows with every token of a micro-batch.
    pub per_token: usize,
}

/// Tokens of the largest micro-batch: computed ones, predicted ones, and keys over all its sequences.
/// Of an answer, every version of SPO has about [`DEGRADED`] left.
fn largest(rows: &[Row], batch: usize, prompt_too: bool, versions: usize) -> (usize, usize, usize) {
    let mut sizes: Vec<(usize, usize, usize)> = rows
        .iter()
        .map(|row| match row {
            Row::Text(r) => (r.ids.len(), row.counted(), r.ids.len()),
            Row::Pair(r) => {
                let answers = r.chosen.len() + r.rejected.len();
                let predicted = answers + if prompt_too { r.prompt.len() } else { 0 };
                let versions = if r.degrees.is_some() { 0 } else { versions };
                let more = (DEGRADED * (versions * answers) as f64) as usize;
                let sides = 3 + 2 * versions;
                (r.prompt.len() + answers + more, predicted, sides * r.prompt.len() + answers + more)
            }
            Row::Answer(r) => {
                let all = r.prompt.len() + r.completion.len();
                (all, r.completion.len(), all + r.prompt.len())
            }
        })
        .collect();
    sizes.sort_unstable();
    sizes.iter().rev().take(batch).fold((0, 0, 0), |(a, b, c), (d, e, f)| (a + d, b + e, c + f))
}

/// Bytes of a decoder's frozen weights as the trainer keeps them.
fn frozen_bytes(source: &ModelSource, config: &DecoderConfig, keep: Arithmetic) -> Result<usize, TrainError> {
    let weights = open_weights(source)?;
    // What an adapter is merged into is read as f32.
    let merged = source.adapter.as_deref().map(AdapterFiles::read).transpose()?;
    let merges = |name: &str| {
        let module = name.strip_suffix(".weight").and_then(|n| n.rsplit('.').next());
        merged
            .as_ref()
            .is_some_and(|files| files.settings.target_modules.iter().any(|t| Some(t.as_str()) == module))
    };
    let mut bytes = 0;
    for (name, shape) in inventory(config) {
        let elements: usize = shape.iter().product();
        bytes += match weights.block_format(&name) {
            Some(format) => elements / BlockFormat::LENGTH * format.bytes(),
            None if shape.len() == 1 => 4 * elements,
            None if name.ends_with("embed_tokens.weight") && !config.tie_word_embeddings => {
                weights.dtype(&name)?.size_in_bytes() * elements
            }
            None if keep == Arithmetic::Bf16 => 2 * elements,
            None if weights.dtype(&name)? == DType::BF16 && !merges(&name) => 2 * elements,
            None => 4 * elements,
        };
    }
    Ok(bytes)
}

impl Memory {
    /// For the rows of a recipe whose training moves `trained` numbers.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub(crate) fn predict(
        recipe: &Recipe,
        config: &DecoderConfig,
        rows: &[Row],
        trained: usize,
    ) -> Result<Self, TrainError> {
        let c = config;
        let source = ModelSource::parse(&recipe.model);
        let keep = arithmetic(recipe.dtype);
        let element = if keep == Arithmetic::Bf16 { 2 } else { 4 };
        let full =
            recipe.lora.is_none() && !matches!(&recipe.objective, Objective::Reward(o) if o.freeze_trunk);
        let mut frozen = if full { 0 } else { frozen_bytes(&source, c, keep)? };
        let (mut reference, mut prompt_too) = (false, false);
        if let Objective::Preference(settings) = &recipe.objective {
            let needs = crate::objectives::Objective::new(settings).map_err(TrainError::Recipe)?.needs();
            (reference, prompt_too) = (needs.reference, needs.prompt);
        }
        match (&recipe.lora, &recipe.reference_model) {
            // The policy with its adapter off, or with the one it went on from.
            (Some(lora), None) => {
                if reference && lora.init.is_some() {
                    frozen += 4 * trained;
                }
            }
            _ if !reference => {}
            _ if recipe.reference.is_some() => {
                frozen +=
                    4 * inventory(c).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
            }
            (_, own) => {
                let own = ModelSource::parse(own.as_ref().unwrap_or(&recipe.model));
                frozen += frozen_bytes(&own, c, keep)?;
            }
        }
        // The number itself, its gradient, two moments; the optimiser copies one variable at a time.
        let moving = 16 * trained;
        let versions = recipe.degree.as_ref().map_or(0, |d| d.degrees);
        let (tokens, predicted, keys) = largest(rows, recipe.optimizer.batch_size, prompt_too, versions);
        let (wide, narrow) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let raw = if c.qk_norm { wide + narrow } else { 0 };
        let saved = 4 * (2 * wide + 2 * narrow + raw + c.hidden_size + 2 * c.intermediate_size + c.num_heads);
        // In the middle of a block: what it saved, the gradient that came down, those around SwiGLU.
        let middle = saved + 4 * (c.hidden_size + 3 * c.intermediate_size);
        let whole = kept_blocks(recipe.recompute, c.num_layers, saved * tokens);
        let inputs = 4 * c.num_layers * c.hidden_size;
        let outside = 4 * 3 * c.hidden_size;
        let again = c.num_layers - whole;
        let forward = inputs + whole * saved + outside;
        let backward = outside
            + if again == 0 {
                inputs + (whole - 1) * saved + middle
            } else {
                (inputs / c.num_layers * again + middle)
                    .max(inputs + whole.saturating_sub(1) * saved + middle)
            };
        let head_rows = 4 * 3 * c.hidden_size * predicted;
        let at_head = Head::rows_at_once(c.vocab_size).min(predicted.max(12));
        let logits = at_head * c.vocab_size * (4 + element);
        let activations = (forward * tokens + head_rows + logits).max(backward * tokens) - logits;
        // Attention's packed sides and its sums by head; worker threads keep that memory.
        let attention = keys * (4 * narrow * element + 8 * wide);
        let held = (HELD * (activations + logits) as f64) as usize + attention;
        let per_token = forward.max(backward) + (HELD * forward.max(backward) as f64) as usize;
        let peak = PROCESS + frozen + moving + activations + logits + held;
        Ok(Self { frozen, moving, activations: activations + held, logits, peak, per_token })
    }
}
