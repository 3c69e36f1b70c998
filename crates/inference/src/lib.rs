//! Many sequences decoded at once by one [`Engine`]: it knows token ids and log-probabilities, and nothing of
//! papers, reviews or chat.
//!
//! A request is a prompt and what may follow it: free text, text under a grammar, or a [`Script`] of fixed text,
//! choices and free parts. Requests that begin with the same tokens share that prefix: it is computed once and
//! its cache blocks are used by all. On the CPU a row's result is the same to the bit whatever shares its batch,
//! however its prompt is chunked, whatever the number of threads.

mod batch;
mod engine;
pub mod grammar;
mod prefix;
pub mod random;
mod request;
mod row;
pub mod sampler;

pub use engine::{Engine, EngineError, EngineOptions, Observer, RowError, Scored};
pub use request::{Chosen, Finish, Grammar, Part, PartOutput, Plan, Row, RowOutput, Sampling, Script};
