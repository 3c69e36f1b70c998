//! `cycle bench loop-…`: several loops in one table. Stopped anywhere, the same command does the rest; two of them at
//! once share the work, because a loop that another process runs is passed over.

use std::path::PathBuf;

use improve::judge::{Judge, JudgeConfig};
use improve::rows::Interval;
use improve::study::{Planned, Run, Study, Summary, Table, inherit, outcome, run_elsewhere};
use improve::{LoopConfig, open_judge, recipes};
use store::Store;

use crate::args::{BenchArgs, Format};
use crate::commands::Outcome;
use crate::commands::looping::{Rows, carry_out, config_text, write_page};
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// Seconds for which a panel's server is asked again.
const PATIENCE: u64 = 300;

/// Runs the loops that did not end yet, and prints the table.
///
/// # Errors
/// If a loop fails, or is interrupted.
pub fn run(context: &Context, args: &BenchArgs, study: &Study) -> Result<Outcome, Failure> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("cycle-bench").join(&args.name));
    let loops = study.loops(&out, args.seeds.unwrap_or(study.seeds), args.small)?;
    let judge = common_judge(context, study, args.small, &out)?;
    let elsewhere = elsewhere(&args.with)?;
    let ended = |planned: &Planned| -> Result<Option<Run>, Failure> {
        if let Some(run) = run_elsewhere(study, planned, &elsewhere)? {
            return Ok(Some(run));
        }
        let config = &planned.config;
        let again = judge.as_ref().filter(|(own, _)| *own != config.judge).map(|(_, j)| j.as_ref());
        let variant = &study.variants[planned.variant].name;
        Ok(outcome(variant, config, &rows(context, config)?, again)?)
    };
    // After every loop: what there is may be taken elsewhere at any time.
    let write = || -> Result<(Table, String), Failure> {
        // Another process may have ended loops that this one passed over.
        let found: Vec<Option<Run>> = loops.iter().map(&ended).collect::<Result<_, _>>()?;
        let missing = found.iter().filter(|run| run.is_none()).count();
        let table = Table::of(study, found.into_iter().flatten().collect(), missing);
        let text = serde_json::to_string(&table).map_err(|e| Failure::new(Code::Model, e))?;
        std::fs::create_dir_all(&out).map_err(|e| Failure::io(&out, &e))?;
        emit(&text, Some(&out.join("study.json")))?;
        Ok((table, text))
    };
    for (done, planned) in loops.iter().enumerate() {
        if ended(planned)?.is_some() {
            continue;
        }
        let config = &planned.config;
        let label = &study.variants[planned.variant].label;
        context.note(&format!("{label}, seed {} ({} of {})", config.seed, done + 1, loops.len()));
        let mut ledger = rows(context, config)?;
        begin(context, &mut ledger, planned, &loops)?;
        match carry_out(context, config, ledger.store) {
            Ok((_, ledger)) => {
                write_page(context, config, &ledger)?;
                write()?;
            }
            Err(failure) if failure.code == Code::Resources && failure.what.contains("another process") => {
                context.note(&failure.what);
            }
            Err(failure) if failure.code == Code::Interrupted => {
                return Err(Failure::new(
                    Code::Interrupted,
                    "interrupted; the same command goes on from there",
                ));
            }
            // Out of disk ends the study; a loop that has nothing to learn from ends itself alone.
            Err(failure) if failure.code == Code::Resources => return Err(failure),
            Err(failure) => context.note(&format!("{label}, seed {}: {}", config.seed, failure.what)),
        }
    }
    let (table, text) = write()?;
    match args.format {
        Format::Json => emit(&text, None)?,
        _ => emit(&shown(&table), None)?,
    }
    Ok(if table.holds() { Outcome::Done } else { Outcome::Look })
}

/// The runs of tables that were printed on other machines.
fn elsewhere(files: &[PathBuf]) -> Result<Vec<Run>, Failure> {
    let mut runs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::io(file, &e))?;
        let table: Table = serde_json::from_str(&text).map_err(|e| {
            Failure::new(Code::Usage, format!("{} is no table of a study: {e}", file.display()))
        })?;
        runs.extend(table.runs);
    }
    Ok(runs)
}

/// The study's own judge, which every variant is measured by.
fn common_judge(
    context: &Context,
    study: &Study,
    small: bool,
    out: &std::path::Path,
) -> Result<Option<(JudgeConfig, Box<dyn Judge>)>, Failure> {
    if small {
        return Ok(None);
    }
    let recipe = recipes::named(&study.recipe).map_err(|near| Failure::new(Code::Usage, near))?;
    let config = LoopConfig::parse(recipe.text, &[])?.judge;
    let open = |reference: &str| {
        let reference = reference.parse()?;
        context.open(&reference).map_err(|f| lm::LmError::Model(f.what))
    };
    let judge = open_judge(&config, &out.join("judge"), &context.open_options()?, &open, PATIENCE)?;
    Ok(Some((config, judge)))
}

fn rows(context: &Context, config: &LoopConfig) -> Result<Rows, Failure> {
    Ok(Rows { store: context.store()?, run: Store::run_id("loop", &config_text(config)?) })
}

/// Takes over what another variant of this seed drew before it was trained.
fn begin(context: &Context, ledger: &mut Rows, planned: &Planned, loops: &[Planned]) -> Result<(), Failure> {
    // The rows hang on the run's own.
    ledger.store.start_run("loop", &config_text(&planned.config)?, false)?;
    let siblings = loops.iter().filter(|l| l.config.seed == planned.config.seed && *l != planned);
    for sibling in siblings {
        let from = rows(context, &sibling.config)?;
        inherit(&planned.config, ledger, &sibling.config, &from)?;
    }
    Ok(())
}

fn shown(table: &Table) -> String {
    let show = |i: &Option<Interval>| match i {
        Some(Interval { mean, low: Some(low), high: Some(high), .. }) => {
            format!("{mean:+.3} [{low:+.3}, {high:+.3}]")
        }
        Some(i) => format!("{:+.3}", i.mean),
        None => "–".into(),
    };
    let plain = |i: &Option<Interval>| i.map_or("–".into(), |i| format!("{:.2}", i.mean));
    let row = |v: &Summary| {
        vec![
            v.label.clone(),
            v.seeds.to_string(),
            v.stopped.to_string(),
            show(&v.judge_gain),
            show(&v.second_gain),
            show(&v.validity_gain),
            plain(&v.length_ratio),
            plain(&v.distinct_ratio),
            show(&v.self_bleu_gain),
            plain(&v.kl),
            format!("{:.0}", v.drawn),
            format!("{:.0}", v.seconds),
        ]
    };
    let head = [
        "METHOD",
        "SEEDS",
        "STOPPED",
        "JUDGE",
        "SECOND JUDGE",
        "VALID",
        "LENGTH ×",
        "DISTINCT ×",
        "SELF-BLEU",
        "KL",
        "PAPERS",
        "SECONDS",
    ];
    let rows: Vec<Vec<String>> = table.variants.iter().map(row).collect();
    let missing = match table.missing {
        0 => String::new(),
        n => format!("{n} loops are another process's, or did not end: the same command does the rest\n"),
    };
    format!(
        "{}\n{}\nchanges against the start on held-out prompts; means over seeds with 95 % intervals (Student's t)\n{missing}",
        table.question,
        columns(&head, &rows),
    )
}
