//! The loss of rows, to be differentiated or only read.

use candle_core::Tensor;
use models::Model;

use crate::data::Example;
use crate::error::TrainError;

/// Held-out figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean negative log-probability of the tokens that count, in nats.
    pub loss: f64,
    /// The same in bits per byte of their text: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// How many tokens.
    pub tokens: usize,
    /// Bytes of their text; control tokens have none.
    pub bytes: usize,
}

impl Evaluation {
    /// From −Σ log p (nats) over `tokens` tokens that spell `bytes` bytes.
    pub fn new(sum: f64, tokens: usize, bytes: usize) -> Self {
        let bits_per_byte = sum / std::f64::consts::LN_2 / bytes.max(1) as f64;
        Self { loss: sum / tokens.max(1) as f64, bits_per_byte, tokens, bytes }
    }
}

/// Where hidden states predict a token that counts, and which.
fn targets(rows: &[&Example]) -> (Vec<u32>, Vec<u32>) {
    let (mut index, mut targets) = (Vec::new(), Vec::new());
    let mut first = 0u32;
    for row in rows {
        for t in (1..row.ids.len()).filter(|&t| row.mask[t]) {
            index.push(first + t as u32 - 1);
            targets.push(row.ids[t]);
        }
        first += row.ids.len() as u32;
    }
    (index, targets)
}

/// Loss and bits per byte over the tokens that count, row by row; the model need not be trainable.
///
/// # Errors
/// If a tensor operation fails.
pub fn evaluate(model: &Model, rows: &[Example]) -> Result<Evaluation, TrainError> {
    // Logits of so many positions are held at once.
    const CHUNK: usize = 64;
    let (mut sum, mut tokens, mut bytes) = (0.0, 0, 0);
    for row in rows {
        let hidden = model.decoder.forward_packed(std::slice::from_ref(&row.ids))?.detach();
        let (index, targets) = targets(&[row]);
        for (index, targets) in index.chunks(CHUNK).zip(targets.chunks(CHUNK)) {
            let picked = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?;
            let logits = model.decoder.logits(&picked)?.to_vec2::<f32>()?;
            for (logits, &target) in logits.iter().zip(targets) {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
                sum += total.ln() - f64::from(logits[target as usize] - largest);
            }
        }
        tokens += targets.len();
        bytes += targets.iter().filter_map(|&id| model.tokenizer.bytes(id)).map(|b| b.len()).sum::<usize>();
    }
    Ok(Evaluation::new(sum, tokens, bytes))
}
