//! `cycle train`: recipes, what they will do, and doing it.

mod finished;
mod handoff;
mod objectives;
mod plan;
mod recipe;
mod terminal;

use training::{Plan, Recipe, Start, TrainError, Trainer};

use crate::args::{Engine, TrainArgs, TrainCommand};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::emit;
use terminal::Terminal;

/// Runs the command.
///
/// # Errors
/// If the recipe, the model or the data cannot be used.
pub fn run(context: &Context, command: &TrainCommand) -> Result<Outcome, Failure> {
    let (kind, args) = match command {
        TrainCommand::Sft(args) => (training::Kind::Sft, args),
        TrainCommand::Reward(args) => (training::Kind::Reward, args),
        TrainCommand::Preference(args) => (training::Kind::Preference, args),
        TrainCommand::Objectives { format } => return objectives::show(*format),
        TrainCommand::Recipes { name, format } => return recipe::show(name.as_deref(), *format),
    };
    handoff::check(args)?;
    let recipe = recipe::chosen(context, kind, args)?;
    if args.engine != Engine::Local {
        return handoff::run(context, &recipe, args);
    }
    if args.dry_run {
        emit(&plan::shown(&recipe, &Plan::of(&recipe)?, args.format), None)?;
        return Ok(Outcome::Done);
    }
    local(context, recipe, args)
}

/// Trains in this process; the run, its start and what came out of it are rows of the store.
fn local(context: &Context, recipe: Recipe, args: &TrainArgs) -> Result<Outcome, Failure> {
    let store = context.store()?;
    let config = serde_json::to_string(&recipe).map_err(|e| Failure::new(Code::Model, e))?;
    let mut watch = Terminal::new(context.loudness);
    let start = Start { resume: args.resume, cache: Some(context.settings.home.join("reference")) };
    // The output folder is locked from here on: only its owner may touch the run's row.
    let mut trainer = Trainer::new(recipe.clone(), &start, &mut watch).map_err(|e| advise(e, args))?;
    let origin = finished::Origin::of(&recipe)?;
    if recipe.lora.is_some() && models::ModelSource::parse(&recipe.model).adapter.is_some() {
        context.note("final/ will be an adapter over the model with its first adapter: `cycle models merge` that one first");
    }
    let id = store.start_run("train", &config, false)?;
    store.put_stage(&id, "start", &origin.stage().to_string())?;
    let result = trainer.run(&mut watch).map_err(|e| advise(e, args));
    watch.done();
    let recorded = result.and_then(|folder| finished::record(&store, &id, &recipe, &origin, &folder));
    finished::close(&store, &id, &recipe, recorded, args.format)
}

/// An error with what to do about it.
fn advise(error: TrainError, args: &TrainArgs) -> Failure {
    let not_finite = matches!(error, TrainError::NotFinite { .. });
    let failure = Failure::from(error);
    match failure.code {
        Code::Resources => failure.advise(
            "the checkpoints before it are whole; make room, and give the same command with --resume",
        ),
        _ if not_finite && !args.resume => failure.advise(
            "lower optimizer.learning_rate, or look at these rows; --resume goes on from the last checkpoint",
        ),
        _ => failure,
    }
}
