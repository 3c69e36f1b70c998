//! One file a command.

pub mod bench;
pub mod dataset;
pub mod doctor;
pub mod generate;
pub mod judge;
pub mod looping;
pub mod models;
pub mod pairs;
pub mod prompt;
pub mod read;
pub mod research;
pub mod review;
pub mod stored;
pub mod study;
pub mod train;

/// How a command ended when it ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit 0.
    Done,
    /// Exit 1: something in the result needs a human's eye.
    Look,
}
