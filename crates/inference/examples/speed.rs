//! Tokens per second of a model on this machine, by the engine itself:
//!
//!     cargo run --release -p inference --example speed -- MODEL [PROMPT_TOKENS] [NEW_TOKENS] [ROWS]
//!
//! Rows have nothing in common, so nothing is shared. `RAYON_NUM_THREADS` sets the threads.

use std::sync::Arc;
use std::time::Instant;

use inference::{Engine, EngineOptions, Observer, Plan, Row, Sampling};
use models::{LoadOptions, Model, ModelSource};

/// Notes when the last prompt token was read.
struct Watch {
    read: Option<Instant>,
}

impl Observer for Watch {
    fn prefill(&mut self, done: usize, total: usize) {
        if done >= total && self.read.is_none() {
            self.read = Some(Instant::now());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which model?")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |a| a.parse::<usize>());
    let (prompt, new, count) = (number(512)?, number(64)?, number(1)?);
    let started = Instant::now();
    let model = Arc::new(Model::load(&ModelSource::parse(&path), &LoadOptions::default())?);
    println!("loaded in {:.1} s", started.elapsed().as_secs_f64());
    let vocabulary = model.decoder.config().vocab_size as u32;
    let engine = Engine::new(model, EngineOptions::default());
    let sampled = Sampling { temperature: 0.4, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::default() };
    for (name, sampling) in [("greedy", Sampling::default()), ("sampled", sampled)] {
        let rows = (0..count as u32)
            .map(|r| Row {
                // The seed of the ids differs by pass: a kept prefix would be reused.
                prompt: (0..prompt as u32)
                    .map(|t| (t * 31 + r * 977 + name.len() as u32) % vocabulary)
                    .collect(),
                plan: Plan::Text { max_tokens: new, stop: vec![], grammar: None, ignore_eos: true },
                sampling: sampling.clone(),
                seed: u64::from(r),
                logprobs: false,
            })
            .collect();
        let mut watch = Watch { read: None };
        let started = Instant::now();
        engine.run(rows, &mut watch)?;
        let ended = Instant::now();
        let read = watch.read.unwrap_or(ended);
        let (reading, writing) = ((read - started).as_secs_f64(), (ended - read).as_secs_f64());
        println!(
            "{name}: {count} rows · prefill {prompt} tokens each {:.1} tokens/s · decoding {new} each {:.1} tokens/s",
            (prompt * count) as f64 / reading,
            (new.saturating_sub(1) * count) as f64 / writing
        );
    }
    Ok(())
}
