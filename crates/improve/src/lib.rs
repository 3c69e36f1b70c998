//! The loop: a policy writes papers, a judge scores them, scores become pairs, the policy learns from the pairs, and a
//! second judge says on prompts that nothing was trained on whether the gain is real.
//!
//! A [`Loop`] goes through iterations of sample → score → pair → train → evaluate → decide. Everything it makes is a row
//! in a [`Ledger`](ledger::Ledger), put there when it is done; a loop that was stopped anywhere does only what is missing
//! and ends with the same rows. [`guards`] stop it and go back to the policy before when the judge is being fooled.

pub mod checks;
pub mod config;
mod error;
pub mod evaluate;
pub mod export;
pub mod guards;
mod handoff;
pub mod judge;
pub mod ledger;
pub mod pairs;
mod policy;
pub mod prompts;
pub mod recipes;
pub mod report;
pub mod reward;
pub mod rows;
mod run;
pub mod stats;
pub mod study;

pub use config::LoopConfig;
pub use error::ImproveError;
pub use run::{Ending, Loop, Observer, OpenModel, open_judge};
