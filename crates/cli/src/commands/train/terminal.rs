//! The progress of a training: a bar on a terminal, plain lines in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use training::Watch;

use crate::interrupt::{be_patient, interrupted};
use crate::progress::{Loudness, bar, say};

/// Shows what a training says of itself.
pub struct Terminal {
    loudness: Loudness,
    bar: Option<ProgressBar>,
    /// Tokens and seconds so far, for a rate that does not jump.
    spent: (f64, f64),
    steps: usize,
}

impl Terminal {
    /// Nothing has been done yet.
    pub fn new(loudness: Loudness) -> Self {
        let bar = bar("loading", loudness);
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("[{bar:20}] {pos}/{len} {msg}")) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { loudness, bar, spent: (0.0, 0.0), steps: 0 }
    }

    /// Takes the bar away.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match (&self.bar, self.loudness) {
            (_, Loudness::Quiet) => {}
            (Some(bar), _) => bar.println(text),
            (None, _) => say(text),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.done();
    }
}

/// What is worth a glance beside the loss, by its name in the metrics; `eval_` before it for held-out rows.
const GLANCE: [(&str, &str); 7] = [
    ("perplexity", "perplexity"),
    ("rewards/accuracies", "accuracy"),
    ("rewards/margins", "margin"),
    ("accuracy", "accuracy"),
    ("margin", "margin"),
    ("mse", "squared error"),
    ("degree_accuracy", "degree accuracy"),
];

fn glance(metrics: &Value, before: &str) -> String {
    let shown = GLANCE.iter().filter_map(|(name, word)| {
        let value = metrics[format!("{before}{name}")].as_f64()?;
        Some(format!(", {word} {value:.3}"))
    });
    shown.collect()
}

/// Seconds as a person says them.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s.div_ceil(60)),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

impl Watch for Terminal {
    fn step(&mut self, metrics: &Value, total: usize) {
        let number = |key: &str| metrics[key].as_f64();
        let step = metrics["step"].as_u64().unwrap_or(0);
        if let Some(loss) = number("eval_loss") {
            self.say(&format!("step {step}: held-out loss {loss:.4}{}", glance(metrics, "eval_")));
            return;
        }
        let (Some(loss), Some(speed), Some(tokens)) =
            (number("loss"), number("tokens_per_second"), number("tokens"))
        else {
            return;
        };
        self.spent = (self.spent.0 + tokens, self.spent.1 + tokens / speed.max(1e-9));
        self.steps += 1;
        let rate = self.spent.0 / self.spent.1.max(1e-9);
        let left = (total as f64 - step as f64) * self.spent.1 / self.steps as f64;
        let about = format!("loss {loss:.4}{}, {rate:.0} tokens/s", glance(metrics, ""));
        match &self.bar {
            Some(bar) => {
                bar.set_length(total as u64);
                bar.set_position(step);
                bar.set_message(format!("{about}, {} left", clock(left)));
            }
            None => self.say(&format!("step {step} of {total}: {about}, about {} left", clock(left))),
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
