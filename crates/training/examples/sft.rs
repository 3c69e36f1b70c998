//! Runs a recipe without the `cycle` binary: `cargo run -p training --example sft -- RECIPE.toml [--resume]`.

use training::{Recipe, Trainer, Watch};

struct Print;

impl Watch for Print {
    fn step(&mut self, metrics: &serde_json::Value, total: usize) {
        println!("{metrics} of {total}");
    }
    fn note(&mut self, text: &str) {
        println!("{text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("usage: sft RECIPE.toml [--resume]")?;
    let recipe = Recipe::parse(&std::fs::read_to_string(path)?, &[])?;
    // Graphs are dropped recursively: a thread with a deep stack.
    let resume = args.iter().any(|a| a == "--resume");
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        let mut trainer = Trainer::new(recipe, resume, &mut Print)?;
        trainer.run(&mut Print)
    })?;
    println!("{}", thread.join().map_err(|_| "the training thread died")??.display());
    Ok(())
}
