//! The scale path: a training handed to TRL or OpenRLHF, and its result taken back.
//!
//! What is larger than this machine is trained by the programs made for clusters. A [`Job`] says what is trained in the
//! words of a recipe; [`trl`] and [`openrlhf`] turn it into data and configuration their own command lines read (no
//! Python is written), [`run`] starts them and passes their log on, [`take_back`] brings weights and losses to where
//! `cycle train` puts its own: `final/` and `metrics.jsonl`.
//!
//! Whatever an engine cannot do as the job says is an error that names what it can do, never a quiet change.

mod accelerate;
mod events;
mod job;
pub mod openrlhf;
mod plan;
mod recipe;
mod rows;
mod run;
mod take;
pub mod trl;
mod yaml;

pub use job::{HandoffError, Hardware, Job, Lora, Loss, Method, Precision, Reduction, Sharding, eos_token};
pub use plan::Plan;
pub use recipe::{Reader, write_rows};
pub use rows::{Form, Source, Written};
pub use run::{find, run};
pub use take::{Taken, take_back};
