//! `cycle loop`: iterative preference training.

use std::collections::BTreeMap;
use std::path::Path;

use improve::ledger::{Kind, Ledger};
use improve::report::{Report, page, report};
use improve::{Ending, ImproveError, Loop, LoopConfig, Observer, recipes};
use lm::{LanguageModel, LmError};
use serde_json::{Value, json};
use store::Store;

use crate::args::{Format, LoopArgs, LoopCommand, WhichLoop};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::interrupt::be_patient;
use crate::output::{columns, emit};
use crate::progress::{Loudness, Reporter, interrupted, say};

/// Runs the command.
///
/// # Errors
/// If the loop cannot be used, fails, or is interrupted.
pub fn run(context: &Context, command: &LoopCommand) -> Result<Outcome, Failure> {
    match command {
        LoopCommand::Run(args) => go(context, args, false),
        LoopCommand::Resume(args) => go(context, args, true),
        LoopCommand::Status(args) => {
            let (config, ledger) = begun(context, &args.which)?;
            show(&reported(&config, &ledger)?, args.format)
        }
        LoopCommand::Report { which, format, to } => {
            let (config, ledger) = begun(context, which)?;
            let report = reported(&config, &ledger)?;
            let text = match format {
                Format::Html => page(&report),
                _ => shown(&report, *format)?,
            };
            match (to.as_deref(), format) {
                (Some(path), _) if path == Path::new("-") => emit(&text, None)?,
                (None, Format::Html) => {
                    let path = config.out.join("report.html");
                    emit(&text, Some(&path))?;
                    emit(&path.display().to_string(), None)?;
                }
                (path, _) => emit(&text, path)?,
            }
            Ok(Outcome::Done)
        }
        LoopCommand::Recipes { name, format } => list(name.as_deref(), *format),
    }
}

/// The built-in loops in a line each, or the text of one.
fn list(name: Option<&str>, format: Format) -> Result<Outcome, Failure> {
    let text = match (name, format) {
        (Some(name), Format::Json) => {
            json!({"schema": "cycle.loop_recipe/1", "name": name, "text": named(name)?.text}).to_string()
        }
        (Some(name), _) => named(name)?.text.to_string(),
        (None, Format::Json) => {
            let all = recipes::ALL.map(|r| json!({"name": r.name, "summary": r.summary()}));
            json!({"schema": "cycle.loop_recipes/1", "recipes": all}).to_string()
        }
        (None, _) => {
            let rows: Vec<Vec<String>> =
                recipes::ALL.iter().map(|r| vec![r.name.into(), r.summary().into()]).collect();
            columns(&["loop", "what it does"], &rows)
        }
    };
    emit(&text, None)?;
    Ok(Outcome::Done)
}

fn named(name: &str) -> Result<recipes::Shipped, Failure> {
    recipes::named(name).map_err(|near| {
        let names = recipes::ALL.map(|r| r.name).join(", ");
        Failure::new(Code::Usage, format!("no loop {name:?}; did you mean {near}?"))
            .advise(format!("there are {names}"))
    })
}

/// The loop that was named, with the command line over it.
fn chosen(which: &WhichLoop) -> Result<LoopConfig, Failure> {
    let text = match (&which.config, &which.recipe) {
        (Some(path), _) => std::fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?,
        (None, Some(name)) => named(name)?.text.to_string(),
        (None, None) => return Err(Failure::new(Code::Usage, "give --config FILE or --recipe NAME")),
    };
    let mut set = which.set.clone();
    if let Some(out) = &which.out {
        set.push(format!("out={}", toml::Value::String(out.display().to_string())));
    }
    set.extend(which.seed.map(|seed| format!("seed={seed}")));
    LoopConfig::parse(&text, &set).map_err(|e| {
        let mut failure = Failure::from(e);
        if let Some(path) = &which.config {
            failure.what = format!("{}: {}", path.display(), failure.what);
        }
        failure
    })
}

/// The rows of a loop in the store.
pub(super) struct Rows {
    pub(super) store: Store,
    pub(super) run: String,
}

impl Ledger for Rows {
    fn rows(&self, kind: Kind, iteration: usize) -> Result<BTreeMap<String, Value>, String> {
        let rows = self.store.loop_rows(&self.run, iteration, kind.name()).map_err(|e| e.to_string())?;
        Ok(rows.into_iter().collect())
    }

    fn put(&mut self, kind: Kind, iteration: usize, rows: &[(String, Value)]) -> Result<(), String> {
        self.store.put_loop_rows(&self.run, iteration, kind.name(), rows).map_err(|e| e.to_string())
    }
}

pub(super) fn config_text(config: &LoopConfig) -> Result<String, Failure> {
    serde_json::to_string(config).map_err(|e| Failure::new(Code::Model, e))
}

/// A loop that has rows already.
fn begun(context: &Context, which: &WhichLoop) -> Result<(LoopConfig, Rows), Failure> {
    let config = chosen(which)?;
    let store = context.store()?;
    let run = Store::run_id("loop", &config_text(&config)?);
    if !store.runs()?.iter().any(|r| r.id == run) {
        return Err(Failure::new(Code::Usage, "no loop of this configuration was begun").advise(
            "`cycle loop run` with the same options begins it; `cycle runs list` shows those there are",
        ));
    }
    Ok((config, Rows { store, run }))
}

fn units(ledger: &Rows) -> (String, String) {
    let found = ledger.store.stages(&ledger.run).unwrap_or_default();
    let units = found.into_iter().find(|(name, _)| name == "judges").map(|(_, v)| v).unwrap_or_default();
    let of = |name: &str| units[name].as_str().unwrap_or_default().to_string();
    (of("judge"), of("second"))
}

fn reported(config: &LoopConfig, ledger: &Rows) -> Result<Report, Failure> {
    let mut report = report(config, &ledger.run, units(ledger), ledger)?;
    if report.status == "running" {
        // Rows alone do not tell whether a loop failed.
        let row = ledger.store.runs()?.into_iter().find(|r| r.id == ledger.run);
        report.status = row.map_or(report.status, |r| r.status);
    }
    Ok(report)
}

/// Writes the page into the loop's folder.
pub(super) fn write_page(context: &Context, config: &LoopConfig, ledger: &Rows) -> Result<Report, Failure> {
    let report = reported(config, ledger)?;
    let path = config.out.join("report.html");
    emit(&page(&report), Some(&path))?;
    context.note(&format!("the report: {}", path.display()));
    Ok(report)
}

fn shown(report: &Report, format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        return serde_json::to_string(report).map_err(|e| Failure::new(Code::Model, e));
    }
    Ok(format!(
        "{}\nloop {} {}, hash {}\n",
        report.table(),
        report.run,
        report.status,
        &report.hash[..12.min(report.hash.len())]
    ))
}

fn show(report: &Report, format: Format) -> Result<Outcome, Failure> {
    emit(&shown(report, format)?, None)?;
    Ok(if report.status == "stopped" { Outcome::Look } else { Outcome::Done })
}

/// Begins a loop or goes on with it.
fn go(context: &Context, args: &LoopArgs, resume: bool) -> Result<Outcome, Failure> {
    let config = chosen(&args.which)?;
    let text = config_text(&config)?;
    let store = context.store()?;
    let run = Store::run_id("loop", &text);
    let there = store.runs()?.iter().any(|r| r.id == run);
    if resume && !there {
        return begun(context, &args.which).map(|_| Outcome::Done);
    }
    if !resume && there && !store.loop_rows(&run, 0, Kind::HeldOut.name())?.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            format!("{}: this loop was begun already", config.out.display()),
        )
        .advise("`cycle loop resume` with the same options goes on; --seed or --out begins another"));
    }
    if !there && occupied(&config.out) {
        return Err(Failure::new(Code::Usage, format!("{} holds another loop", config.out.display()))
            .advise("give another --out"));
    }
    let (ending, ledger) = carry_out(context, &config, store)?;
    let report = write_page(context, &config, &ledger)?;
    if let Ending::Stopped { iteration, .. } = &ending {
        context.note(&format!(
            "iteration {iteration} was rolled back and the loop stopped: the policy before it is in force (policy.json)"
        ));
    }
    show(&report, args.format)
}

/// Runs a loop to its end, or goes on with it, and keeps the run's row in the store true.
pub(super) fn carry_out(
    context: &Context,
    config: &LoopConfig,
    store: Store,
) -> Result<(Ending, Rows), Failure> {
    let text = config_text(config)?;
    let run = Store::run_id("loop", &text);
    let mut ledger = Rows { store, run: run.clone() };
    let observer = Terminal::new(context.loudness);
    let open = |reference: &str| -> Result<Box<dyn LanguageModel>, LmError> {
        let reference = reference.parse()?;
        context.open(&reference).map_err(|f| LmError::Model(f.what))
    };
    let options = context.open_options()?;
    let mut ended = {
        let mut work = Loop::new(config.clone(), options, &mut ledger, &observer, &open)?;
        // The folder is locked from here on: only its owner may touch the run's row.
        let keeper = context.store()?;
        keeper.start_run("loop", &text, false)?;
        if let Err(failure) = place(&keeper, &run, &config.out) {
            keeper.end_run(&run, "interrupted", Some(&failure.what))?;
            return Err(failure);
        }
        let (judge, second) = work.units();
        keeper.put_stage(&run, "judges", &json!({"judge": judge, "second": second}).to_string())?;
        work.run().map_err(|e| {
            // What is wrong with the loop itself is wrong the next time too.
            let settled = matches!(e, ImproveError::Config(_) | ImproveError::Nothing { .. });
            (Failure::from(e), settled)
        })
    };
    observer.done();
    let keeper = &ledger.store;
    match &ended {
        Ok(Ending::Done) => keeper.end_run(&run, "done", None)?,
        Ok(Ending::Stopped { iteration, alarms }) => {
            keeper.end_run(
                &run,
                "done",
                Some(&format!("stopped in iteration {iteration}: {}", alarms.join("; "))),
            )?;
        }
        Err((failure, _)) => {
            let status = if failure.code == Code::Interrupted { "interrupted" } else { "failed" };
            // A disk that is too full for this row is what the failure says already.
            let _ = keeper.end_run(&run, status, Some(&failure.what));
        }
    }
    if let Err((failure, settled)) = &mut ended {
        if failure.advice.is_none() && !*settled && failure.code != Code::Interrupted {
            failure.advice =
                Some("what was finished is stored; `cycle loop resume` with the same options goes on".into());
        }
    }
    Ok((ended.map_err(|(failure, _)| failure)?, ledger))
}

/// Notes where a loop's checkpoints lie. The store knows a loop by its configuration, which names the same folder from
/// another place.
///
/// # Errors
/// If it was begun in another folder that is still there.
fn place(store: &Store, run: &str, out: &Path) -> Result<(), Failure> {
    let here = std::path::absolute(out).map_err(|e| Failure::io(out, &e))?;
    let value = json!(here).to_string();
    let known = store.claim_stage(run, "place", &value)?;
    let there = Path::new(known.as_str().unwrap_or_default());
    if there == here {
        return Ok(());
    }
    if there.join("lock").exists() {
        let what = format!("this loop was begun in {}", there.display());
        return Err(Failure::new(Code::Usage, what)
            .advise("go on from there, move that folder here, or give another --out or --seed"));
    }
    Ok(store.put_stage(run, "place", &value)?)
}

/// Whether a folder holds iterations of some loop.
fn occupied(out: &Path) -> bool {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("iteration-"))
}

/// A loop on a terminal: a line a phase, the model's own progress below it.
struct Terminal {
    reporter: Reporter,
    loudness: Loudness,
}

impl Terminal {
    fn new(loudness: Loudness) -> Self {
        Self { reporter: Reporter::new("loop", loudness), loudness }
    }

    fn done(&self) {
        self.reporter.done();
    }

    fn say(&self, text: &str) {
        if self.loudness != Loudness::Quiet {
            self.reporter.above(text);
        }
    }
}

impl lm::Progress for Terminal {
    fn prefill(&self, done: usize, total: usize) {
        self.reporter.prefill(done, total);
    }
    fn decode(&self, generated: usize, bound: usize) {
        self.reporter.decode(generated, bound);
    }
    fn cancelled(&self) -> bool {
        interrupted()
    }
}

impl Observer for Terminal {
    fn phase(&self, iteration: usize, what: &str, total: usize) {
        let place = if iteration == 0 { "start".to_string() } else { format!("iteration {iteration}") };
        self.reporter.relabel(&format!("{place}, {what}"));
        self.say(&format!("{place}: {what} ({total})"));
    }
    fn note(&self, text: &str) {
        self.say(text);
    }
    fn step(&self, metrics: &Value, total: usize) {
        if let (Some(step), Some(loss)) = (metrics["step"].as_u64(), metrics["loss"].as_f64()) {
            self.reporter.count("step", step as usize, total, &format!("loss {loss:.4}"));
        }
    }
    fn stopping(&self) {
        be_patient();
        say("interrupted: writing a checkpoint; once more ends at once");
    }
    fn progress(&self) -> &dyn lm::Progress {
        self
    }
}

impl From<ImproveError> for Failure {
    fn from(error: ImproveError) -> Self {
        use ImproveError as E;
        match error {
            E::Model(e) => e.into(),
            E::Train(e) => e.into(),
            E::Checkpoint(e) => e.into(),
            E::Review(e) => e.into(),
            E::Research(e) => e.into(),
            E::Io { path, source } => Self::io(&path, &source),
            E::Prompts { .. } => Self::new(Code::Input, error),
            E::Config(_) | E::Nothing { .. } => Self::new(Code::Model, error),
            E::Ledger(_) => Self::new(Code::Resources, error),
            E::Locked(_) => Self::new(Code::Resources, error),
            E::Interrupted => Self::new(Code::Interrupted, error),
        }
    }
}
