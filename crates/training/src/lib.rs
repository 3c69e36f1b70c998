//! Supervised fine-tuning of a decoder, exact and resumable.
//!
//! A [`Recipe`] (TOML) names model, data, objective and optimiser; a [`Trainer`] turns rows into packed segments
//! without padding, computes the loss by the chunked head, accumulates gradients exactly in tokens, clips, and updates
//! by AdamW. Checkpoints hold weights, moments and position, are whole or absent, and resuming ends in the same bits as
//! never stopping.

mod adamw;
mod checkpoint;
mod data;
mod error;
mod evaluation;
mod folder;
pub mod handoff;
pub mod ngram;
mod recipe;
mod schedule;
mod trainer;

pub use data::{Example, Examples, Reading, order};
pub use error::TrainError;
pub use evaluation::{Evaluation, evaluate};
pub use folder::Companions;
pub use recipe::{Kind, LossOn, Objective, Optimizer, Overlong, Recipe, Save, Scheduler};
pub use schedule::learning_rate;
pub use trainer::{Trainer, Watch};
