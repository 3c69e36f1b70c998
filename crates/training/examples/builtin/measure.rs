//! Held-out figures of a model, and of a 5-gram model over the same tokens.

use std::error::Error;
use std::path::Path;

use models::{LoadOptions, Model, ModelSource};
use training::ngram::{NGram, ORDER};
use training::objectives::Needs;
use training::{Evaluation, Example, LossOn, Overlong, Reading, Row, RowKind};

fn load(model: &Path) -> Result<Model, Box<dyn Error>> {
    let source = ModelSource::parse(&model.to_string_lossy());
    Ok(Model::load(&source, &LoadOptions::default())?)
}

fn examples(model: &Model, rows: &Path, loss_on: LossOn) -> Result<Vec<Example>, Box<dyn Error>> {
    let reading = Reading {
        kind: RowKind::Text,
        tokenizer: &model.tokenizer,
        chat: &model.chat,
        chat_is_fallback: model.chat_is_fallback,
        needs: Needs::default(),
        eos: model.eos.first().copied(),
        loss_on,
        max_length: 2048,
        overlong: Overlong::Skip,
    };
    let text = |row| if let Row::Text(example) = row { Some(example) } else { None };
    Ok(reading.file(rows)?.rows.into_iter().filter_map(text).collect())
}

fn print(what: &str, e: Evaluation) {
    println!(
        "{what}: loss {:.4}, perplexity {:.3}, bits per byte {:.4} over {} tokens and {} bytes",
        e.loss,
        e.loss.exp(),
        e.bits_per_byte,
        e.tokens,
        e.bytes
    );
}

/// The model's figures on the answers of the first `limit` rows.
pub fn evaluate(model: &Path, rows: &Path, limit: usize) -> Result<(), Box<dyn Error>> {
    let loaded = load(model)?;
    let mut rows = examples(&loaded, rows, LossOn::Completion)?;
    rows.truncate(limit);
    print(&model.display().to_string(), training::evaluate(&loaded, &rows)?);
    Ok(())
}

/// The 5-gram model's, learned from the first `tokens` tokens of `train`.
pub fn ngram(model: &Path, train: &Path, rows: &Path, tokens: usize) -> Result<(), Box<dyn Error>> {
    let model = load(model)?;
    let mut ngram = NGram::new(model.decoder.config().vocab_size);
    let mut seen = 0;
    for row in examples(&model, train, LossOn::All)? {
        if seen >= tokens {
            break;
        }
        seen += row.ids.len();
        ngram.add(&row.ids);
    }
    let rows = examples(&model, rows, LossOn::Completion)?;
    let (mut sum, mut count, mut bytes) = (0.0, 0, 0);
    for row in &rows {
        for t in (1..row.ids.len()).filter(|&t| row.mask[t]) {
            sum -= ngram.probability(&row.ids[t.saturating_sub(ORDER - 1)..t], row.ids[t]).ln();
            count += 1;
            bytes += model.tokenizer.bytes(row.ids[t]).map_or(0, |b| b.len());
        }
    }
    let e = Evaluation::new(sum, count, bytes);
    print(&format!("5-gram model of {seen} tokens"), e);
    Ok(())
}
