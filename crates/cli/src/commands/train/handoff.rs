//! `--engine trl` and `--engine openrlhf`: a recipe handed over, and its result taken back.

use serde_json::json;
use training::Recipe;
use training::handoff::{self, HandoffError, Hardware, Job, Plan, Reader, Sharding, Written};

use super::finished;
use crate::args::{Engine, Format, Share, TrainArgs};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::interrupt::{be_patient, interrupted};
use crate::output::emit;

/// Refuses options that mean nothing to the engine, before anything is read.
///
/// # Errors
/// If there is one.
pub fn check(args: &TrainArgs) -> Result<(), Failure> {
    let usage = |what: &str, advice: &str| Err(Failure::new(Code::Usage, what).advise(advice));
    let given = [
        ("--python", args.python.is_some()),
        ("--gpus", args.gpus.is_some()),
        ("--machines", args.machines.is_some()),
        ("--main", args.main.is_some()),
        ("--sharding", args.sharding.is_some()),
    ];
    match (args.engine, given.iter().find(|(_, given)| *given)) {
        (Engine::Local, Some((option, _))) => {
            return usage(
                &format!("{option} means nothing to --engine local, which trains on this machine's CPU"),
                "--engine trl and --engine openrlhf take it",
            );
        }
        (Engine::Openrlhf, _) if args.gpus.is_none() => {
            return usage("OpenRLHF trains on GPUs alone", "give --gpus N, or --engine trl");
        }
        (_, Some((option, _))) if args.gpus.is_none() && *option != "--python" => {
            return usage(&format!("{option} needs --gpus"), "give the GPUs of each machine: --gpus N");
        }
        _ => {}
    }
    if let Some(main) = &args.main {
        let port = main.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if port.is_none_or(|(host, _)| host.is_empty()) {
            return usage(&format!("--main {main}: write HOST:PORT"), "such as --main 10.0.0.1:29500");
        }
    }
    let machines = args.machines.unwrap_or(1);
    if args.engine == Engine::Trl && machines > 1 && args.main.is_none() {
        return usage("several machines need to know the first", "give its address: --main HOST:PORT");
    }
    if args.engine == Engine::Trl && machines > 1 && !args.dry_run {
        return usage(
            "TRL is started on each of several machines, which this one cannot do",
            "--dry-run writes all it needs and the line to type",
        );
    }
    Ok(())
}

/// Hands a recipe over; a dry run stops before the start.
///
/// # Errors
/// If the engine cannot do what the recipe says, is not there, fails, or is interrupted.
pub fn run(context: &Context, recipe: &Recipe, args: &TrainArgs) -> Result<Outcome, Failure> {
    let mut job = Job::of(recipe)?;
    job.resume = args.resume;
    if let Some(per_machine) = args.gpus {
        job.hardware = Hardware::Gpus {
            per_machine: per_machine as usize,
            machines: args.machines.unwrap_or(1) as usize,
            main: args.main.as_ref().map(|main| match args.engine {
                // Ray's jobs are submitted over HTTP.
                Engine::Openrlhf if !main.contains("://") => format!("http://{main}"),
                _ => main.clone(),
            }),
            sharding: match args.sharding.unwrap_or(Share::None) {
                Share::None => Sharding::None,
                Share::Zero2 => Sharding::Zero2,
                Share::Zero3 => Sharding::Zero3,
                Share::Fsdp => Sharding::Fsdp,
            },
        };
    }
    // What can be refused is, before a row is written.
    job.share()?;
    let _lock = job.lock()?;
    let reader = if args.engine == Engine::Trl { Reader::Trl } else { Reader::Openrlhf };
    let written = handoff::write_rows(&job, recipe, reader)?;
    let plan = match reader {
        Reader::Trl => handoff::trl::plan(&job, &written)?,
        Reader::Openrlhf => handoff::openrlhf::plan(&job, &written)?,
    };
    plan.write()?;
    if args.dry_run {
        emit(&shown(&plan, &written, args.format), None)?;
        return Ok(Outcome::Done);
    }
    let several = args.machines.is_some_and(|m| m > 1);
    if several && args.main.is_none() && !job.folder().join("hostfile").is_file() {
        let what = format!("{} is missing", job.folder().join("hostfile").display());
        return Err(
            Failure::new(Code::Usage, what).advise("write the machines there, one `HOST slots=N` a line")
        );
    }
    let program = handoff::find(&plan, args.python.as_deref())?;
    for note in &plan.notes {
        context.note(note);
    }
    train(context, recipe, args, &job, &plan, &program)
}

/// Starts the engine; the run, its start and what came out of it are rows of the store.
fn train(
    context: &Context,
    recipe: &Recipe,
    args: &TrainArgs,
    job: &Job,
    plan: &Plan,
    program: &std::path::Path,
) -> Result<Outcome, Failure> {
    let store = context.store()?;
    let config = serde_json::to_string(recipe).map_err(|e| Failure::new(Code::Model, e))?;
    let origin = finished::Origin::of(recipe)?;
    let id = store.start_run("train", &config, false)?;
    store.put_stage(&id, "start", &origin.stage().to_string())?;
    let engine = json!({"engine": plan.engine, "launch": plan.command_line(), "notes": plan.notes});
    store.put_stage(&id, "handoff", &engine.to_string())?;
    // The engine and all it started are ended first.
    be_patient();
    let result = handoff::run(plan, program, &interrupted, &mut |line| context.note(line));
    let taken = result.and_then(|()| handoff::take_back(job, plan)).map_err(Failure::from);
    let recorded =
        taken.and_then(|_| finished::record(&store, &id, recipe, &origin, &recipe.out.join("final")));
    finished::close(&store, &id, recipe, recorded, args.format)
}

/// The line to type, what was written, what differs; or `cycle.handoff/1`.
fn shown(plan: &Plan, written: &[Written], format: Format) -> String {
    let names = plan.files.iter().map(|(name, _)| name.as_str()).chain(["launch.txt"]);
    let files: Vec<String> = names.map(|n| plan.folder.join(n).display().to_string()).collect();
    if format == Format::Json {
        let rows = written.iter().map(|w| json!({"path": w.path, "rows": w.rows, "overlong": w.overlong}));
        return json!({"schema": "cycle.handoff/1", "engine": plan.engine, "launch": plan.command_line(),
            "files": files, "data": rows.collect::<Vec<_>>(), "notes": plan.notes})
        .to_string();
    }
    let mut text = format!("{}\n", plan.command_line());
    for one in written {
        let overlong = match one.overlong {
            0 => String::new(),
            n => format!(", {n} longer than max_length"),
        };
        text += &format!("  data  {} ({} rows{overlong})\n", one.path.display(), one.rows);
    }
    for file in files {
        text += &format!("  file  {file}\n");
    }
    for note in &plan.notes {
        text += &format!("  note  {note}\n");
    }
    text
}

impl From<HandoffError> for Failure {
    fn from(error: HandoffError) -> Self {
        let text = error.to_string();
        let (what, advice) = text.split_once('\n').unwrap_or((&text, ""));
        let code = match &error {
            HandoffError::Io { path, source } => return Self::io(path, source),
            HandoffError::Row { .. } => Code::Input,
            HandoffError::Interrupted(_) => Code::Interrupted,
            HandoffError::Failed { last, .. } if last.to_lowercase().contains("out of memory") => {
                Code::Resources
            }
            _ => Code::Model,
        };
        let failure = Self::new(code, what);
        if advice.is_empty() { failure } else { failure.advise(advice.replace('\n', " ")) }
    }
}
