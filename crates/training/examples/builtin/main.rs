//! How the models that ship are made: data, a pruned start, training, quantisation, measurement.
//!
//! ```text
//! builtin prepare  REVIEWS_DIR OUT_DIR
//! builtin prune    MODEL.gguf CORPUS.jsonl OUT_DIR LAYERS VOCABULARY      (LAYERS as 0,1,2,29)
//! builtin train    RECIPE.toml [--resume]
//! builtin quantize FOLDER OUT.gguf NAME KIND                             (KIND as q4_1, q5_0, q5_1, q8_0)
//! builtin evaluate MODEL ROWS.jsonl [ROWS]
//! builtin adapter  FINAL_DIR OUT_DIR
//! builtin judges   REVIEWS_DIR OUT_DIR
//! builtin scratch  VOCABULARY.gguf OUT_DIR HIDDEN LAYERS SEED
//! builtin judge    MODEL ROWS.jsonl [ROWS]
//! builtin ship     FINAL_DIR OUT_DIR
//! builtin validity MODEL ROWS.jsonl ROWS
//! builtin ngram    MODEL TRAIN.jsonl ROWS.jsonl TOKENS
//! builtin sample   MODEL ROWS.jsonl 0,1,2
//! ```
//! `crates/builtin/recipes/README.md` has the commands in order.

mod adapter;
mod judges;
mod measure;
mod papers;
mod prepare;
mod prune;
mod rows;
mod sample;
mod validity;

use std::path::Path;

use training::{Recipe, Start, Trainer, Watch};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Prints every line of metrics.
struct Terminal;
impl Watch for Terminal {
    fn step(&mut self, metrics: &serde_json::Value, total: usize) {
        println!("of {total}: {metrics}");
    }
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn train(recipe: &Path, resume: bool) -> Outcome {
    let recipe = Recipe::parse(&std::fs::read_to_string(recipe)?, &[])?;
    let done = Trainer::new(recipe, &Start { resume, cache: None }, &mut Terminal)?.run(&mut Terminal)?;
    println!("{}", done.display());
    Ok(())
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["prepare", from, to] => prepare::run(Path::new(from), Path::new(to)),
        ["prune", model, corpus, out, layers, vocabulary] => {
            let layers = layers.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
            prune::run(Path::new(model), Path::new(corpus), Path::new(out), &layers, vocabulary.parse()?)
        }
        ["train", recipe] => train(Path::new(recipe), false),
        ["train", recipe, "--resume"] => train(Path::new(recipe), true),
        ["quantize", folder, out, name, kind] => {
            prune::quantize(Path::new(folder), Path::new(out), name, kind)
        }
        ["judges", from, to] => judges::prepare(Path::new(from), Path::new(to)),
        ["scratch", vocabulary, out, hidden, layers, seed] => judges::scratch(
            Path::new(vocabulary),
            Path::new(out),
            hidden.parse()?,
            layers.parse()?,
            seed.parse()?,
        ),
        ["judge", model, rows] => judges::measure(Path::new(model), Path::new(rows), usize::MAX),
        ["judge", model, rows, n] => judges::measure(Path::new(model), Path::new(rows), n.parse()?),
        ["ship", from, to] => judges::ship(Path::new(from), Path::new(to)),
        ["validity", model, rows, n] => validity::run(Path::new(model), Path::new(rows), n.parse()?),
        ["adapter", from, to] => adapter::run(Path::new(from), Path::new(to)),
        ["evaluate", model, rows] => measure::evaluate(Path::new(model), Path::new(rows), usize::MAX),
        ["evaluate", model, rows, n] => measure::evaluate(Path::new(model), Path::new(rows), n.parse()?),
        ["sample", model, file, wanted] => {
            let wanted = wanted.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
            sample::run(Path::new(model), Path::new(file), &wanted)
        }
        ["ngram", model, train, rows, tokens] => {
            measure::ngram(Path::new(model), Path::new(train), Path::new(rows), tokens.parse()?)
        }
        _ => Err("see the head of crates/training/examples/builtin/main.rs for the commands".into()),
    }
}
