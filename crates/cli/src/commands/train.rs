//! `cycle train`: recipes.

use indicatif::ProgressBar;
use training::{Recipe, Start, Trainer, Watch};

use crate::args::TrainCommand;
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::interrupt::{be_patient, interrupted};
use crate::output::emit;
use crate::progress::{Loudness, bar, say};

/// Recipes in the binary.
const RECIPES: [(&str, &str); 1] = [("builtin", include_str!("../../../builtin/recipes/both.toml"))];

struct Terminal {
    loudness: Loudness,
    bar: Option<ProgressBar>,
}

impl Terminal {
    fn say(&self, text: &str) {
        match (&self.bar, self.loudness) {
            (_, Loudness::Quiet) => {}
            (Some(bar), _) => bar.println(text),
            (None, _) => say(text),
        }
    }
}

impl Watch for Terminal {
    fn step(&mut self, metrics: &serde_json::Value, total: usize) {
        let number = |key: &str| metrics[key].as_f64();
        let step = metrics["step"].as_u64().unwrap_or(0);
        if let Some(loss) = number("eval_loss") {
            self.say(&format!("step {step}: held-out loss {loss:.4}, perplexity {:.2}", loss.exp()));
        } else if let (Some(loss), Some(speed), Some(tokens)) =
            (number("loss"), number("tokens_per_second"), number("tokens"))
        {
            if let Some(bar) = &self.bar {
                bar.set_length(total as u64);
                bar.set_position(step);
                bar.set_message(format!("step {step}: loss {loss:.4}, {speed:.0} tokens/s"));
                return;
            }
            let left = (total as f64 - step as f64) * tokens / speed.max(1e-9);
            self.say(&format!(
                "step {step} of {total}: loss {loss:.4}, {speed:.0} tokens/s, about {left:.0} s left"
            ));
        }
    }
    fn note(&mut self, text: &str) {
        self.say(text);
    }
    fn cancelled(&mut self) -> bool {
        interrupted()
    }
    fn stopping(&mut self) {
        be_patient();
        self.say("interrupted: writing a checkpoint; once more ends at once");
    }
}

/// Runs the command.
///
/// # Errors
/// If the recipe, the model or the data cannot be used.
pub fn run(context: &Context, command: &TrainCommand) -> Result<Outcome, Failure> {
    let TrainCommand::Sft { config, recipe, resume, set, out } = command else {
        for (name, text) in RECIPES {
            emit(&format!("# {name}\n{text}"), None)?;
        }
        return Ok(Outcome::Done);
    };
    let text = match (config, recipe) {
        (Some(path), _) => std::fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?,
        (None, Some(name)) => match RECIPES.into_iter().find(|(n, _)| n == name) {
            Some((_, text)) => text.to_string(),
            None => {
                let names: Vec<&str> = RECIPES.into_iter().map(|r| r.0).collect();
                return Err(Failure::new(
                    Code::Usage,
                    format!("no recipe {name:?}; there are {}", names.join(", ")),
                ));
            }
        },
        (None, None) => return Err(Failure::new(Code::Usage, "give --config FILE or --recipe NAME")),
    };
    let mut set = set.clone();
    if let Some(out) = out {
        set.push(format!("out={:?}", out.display().to_string()));
    }
    let recipe = Recipe::parse(&text, &set)?;
    let store = context.store()?;
    let config = serde_json::to_string(&recipe).map_err(|e| Failure::new(Code::Model, e))?;
    let id = store.start_run("train", &config, false)?;
    let bar = bar("training", context.loudness);
    let mut watch = Terminal { loudness: context.loudness, bar };
    let result = Trainer::new(recipe, &Start { resume: *resume, cache: None }, &mut watch)
        .and_then(|mut t| t.run(&mut watch));
    if let Some(bar) = &watch.bar {
        bar.finish_and_clear();
    }
    match result {
        Ok(folder) => {
            store.put_stage(&id, "final", &serde_json::json!({"path": folder}).to_string())?;
            store.end_run(&id, "done", None)?;
            emit(&folder.display().to_string(), None)?;
            Ok(Outcome::Done)
        }
        Err(e) => {
            let failure = Failure::from(e);
            let status = if failure.code == Code::Interrupted { "interrupted" } else { "failed" };
            // A disk that is too full for this row is what the failure says already.
            let _ = store.end_run(&id, status, Some(&failure.what));
            Err(failure)
        }
    }
}
