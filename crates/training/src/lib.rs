//! Training of decoders: supervised, reward models, preferences; exact, lean and resumable.
//!
//! A [`Recipe`] (TOML) names model, data, objective and optimiser; a [`Trainer`] turns rows into packed batches without
//! padding, a prompt shared by its answers, and asks an objective for loss and gradient as functions of log-probabilities.
//! The backward pass computes block after block again; AdamW moves all weights or an adapter. Checkpoints are whole or
//! absent, and resuming ends in the same bits as never stopping.

mod adamw;
mod checkpoint;
mod curves;
mod data;
mod error;
mod estimate;
mod evaluation;
mod folder;
pub mod games;
pub mod handoff;
mod heads;
mod memory;
mod merge;
pub mod mini;
pub mod miniatures;
mod network;
pub mod ngram;
pub mod objectives;
mod packing;
mod pass;
pub mod rake;
mod recipe;
pub mod recipes;
mod reference;
mod reward_model;
pub mod rewards;
mod rows;
mod schedule;
mod tensors;
mod trainer;

pub use data::sha256 as data_sha256;
pub use data::{AnswerRow, Example, PairRow, Reading, Row, RowKind, Rows, order};
pub use error::TrainError;
pub use estimate::Estimate as Plan;
pub use evaluation::{Evaluation, evaluate};
pub use folder::{Companions, Described};
pub use memory::Memory;
pub use merge::{Merged, merge};
pub use recipe::{
    Data, Degree, Dtype, FollowingReference, GateName, Kind, Lora, LossOn, Objective, Optimizer, Overlong,
    Pool, Recipe, Recompute, Removal, RewardName, RewardObjective, Save, Scheduler, SftObjective, TokenLoss,
    read_toml,
};
pub use reward_model::{Judged, RewardModel, Verdict, is_reward_model};
pub use schedule::learning_rate;
pub use trainer::{Measured, Start, Trainer, Watch};
