//! Papers, reviews, runs and models in one SQLite file.
//!
//! A [`Store`] blocks: every call is a short transaction, and nothing is held open while a model works. Ids are a letter
//! and twelve hex digits of a content hash; any unique prefix names a row. JSON documents are stored as text, as they
//! are; what is missing is NULL.

mod error;
mod rows;
mod sql;
mod store;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use rows::{
    Health, Item, Lineage, NewGeneration, NewReview, PairRow, PaperRow, ReviewKey, ReviewRow, RunRow,
    ScoreRow, StoredReview, VersionRow,
};
pub use store::{OpenOptions, Store};
