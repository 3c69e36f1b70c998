//! An iteration's training handed to TRL.

use std::path::{Path, PathBuf};

use training::handoff::{self, Job, Reader};
use training::{Recipe, TrainError};

use crate::run::Observer;

/// Whether TRL can do what the recipe says, before anything is sampled for it.
///
/// # Errors
/// If it cannot.
pub(crate) fn possible(recipe: &Recipe) -> Result<(), TrainError> {
    Ok(handoff::trl::plan(&Job::of(recipe)?, &[]).map(|_| ())?)
}

/// Trains with TRL where it is installed; returns the folder that came back.
///
/// # Errors
/// If TRL cannot do what the recipe says, is not there, or fails.
pub(crate) fn train(
    recipe: &Recipe,
    python: Option<&Path>,
    observer: &dyn Observer,
) -> Result<PathBuf, TrainError> {
    let done = recipe.out.join("final");
    if done.is_dir() {
        return Ok(done);
    }
    std::fs::create_dir_all(&recipe.out)
        .map_err(|source| TrainError::Io { path: recipe.out.clone(), source })?;
    let mut job = Job::of(recipe)?;
    job.resume = job.folder().is_dir();
    let _lock = job.lock()?;
    let written = handoff::write_rows(&job, recipe, Reader::Trl)?;
    let plan = handoff::trl::plan(&job, &written)?;
    plan.write()?;
    let program = handoff::find(&plan, python)?;
    handoff::run(&plan, &program, &|| observer.cancelled(), &mut |line| observer.note(line))?;
    handoff::take_back(&job, &plan)?;
    Ok(done)
}
