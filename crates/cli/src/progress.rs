//! Progress on standard error: bars on a terminal, plain lines in a pipe, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub use crate::interrupt::interrupted;

/// Writes a line to standard error. A reader that went away is no reason to stop, and none to panic.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// Nothing.
    Quiet,
    /// Notes and plain lines.
    Lines,
    /// Bars.
    Bars,
}

/// Bars where a person looks, lines elsewhere.
pub fn loudness(quiet: bool) -> Loudness {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Loudness::Quiet,
        (false, true) => Loudness::Bars,
        (false, false) => Loudness::Lines,
    }
}

/// A bar with rate and time left, where a person looks.
pub fn bar(label: &str, loudness: Loudness) -> Option<ProgressBar> {
    (loudness == Loudness::Bars).then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {per_sec}, {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    })
}

/// One job's progress.
pub struct Reporter {
    label: Mutex<String>,
    loudness: Loudness,
    bar: Option<ProgressBar>,
    pace: Mutex<Pace>,
    said: AtomicUsize,
}

/// What a pipe was told, and since when the pass that runs now runs.
struct Pace {
    told: Instant,
    since: Instant,
    what: &'static str,
    done: usize,
}

impl Reporter {
    /// A reporter for `label`.
    pub fn new(label: impl Into<String>, loudness: Loudness) -> Self {
        let label = label.into();
        let bar = bar(&label, loudness);
        let now = Instant::now();
        let label = Mutex::new(label);
        let pace = Mutex::new(Pace { told: now, since: now, what: "", done: 0 });
        Self { label, loudness, bar, pace, said: AtomicUsize::new(0) }
    }

    fn label(&self) -> String {
        self.label.lock().map(|l| l.clone()).unwrap_or_default()
    }

    /// From now on the job is called this.
    pub fn relabel(&self, label: &str) {
        if let Ok(mut own) = self.label.lock() {
            *own = label.into();
        }
    }

    /// Says a line above the bar.
    pub fn above(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    /// So many of so many things are done; what is known of the last one.
    pub fn count(&self, what: &str, done: usize, total: usize, about: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {about}", self.label()));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        } else if self.loudness == Loudness::Lines {
            say(&format!("{}: {what} {done} of {total}: {about}", self.label()));
        }
    }

    fn show(&self, what: &'static str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {what}", self.label()));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            return;
        }
        if self.loudness != Loudness::Lines {
            return;
        }
        let Ok(mut pace) = self.pace.lock() else { return };
        // A job has many batches: time left is by the pace of this one.
        if pace.what != what || done < pace.done {
            (pace.what, pace.since) = (what, Instant::now());
        }
        pace.done = done;
        // A pipe gets a line every ten seconds.
        if pace.told.elapsed() < Duration::from_secs(10) {
            return;
        }
        pace.told = Instant::now();
        self.said.fetch_add(1, Ordering::Relaxed);
        let left =
            pace.since.elapsed().as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
        // What is written may end long before its limit.
        let how = if what == "writing" { "at most" } else { "about" };
        say(&format!("{}: {what} {done} of {total} tokens, {how} {left:.0} s left", self.label()));
    }

    /// Takes the bar away.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.done();
    }
}

impl lm::Progress for Reporter {
    fn prefill(&self, done: usize, total: usize) {
        self.show("reading", done, total);
    }
    fn decode(&self, generated: usize, bound: usize) {
        self.show("writing", generated, bound);
    }
    fn cancelled(&self) -> bool {
        interrupted()
    }
}
