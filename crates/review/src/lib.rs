//! CycleReviewer: a paper in, a panel's reviews with distributions over scores out.
//!
//! A [`Form`] (TOML) says what is asked; a [`Panel`] asks N reviewers, strict to lenient, in one batch that shares the
//! paper, then a meta-reviewer; what comes back is a [`Review`] (`cycle.review/1`). Where the model runs scripts every
//! score is read as a distribution over the form's values; elsewhere the salvage parser reads whatever layout came
//! back, and what is missing stays missing. Reports are text, Markdown, JSON and one HTML page.

pub mod aggregate;
mod anchor;
mod error;
mod form;
mod meta;
mod panel;
mod points;
pub mod prompts;
pub mod report;
mod review;
mod salvage;
mod self_check;

pub use error::ReviewError;
pub use form::{DecisionRule, Field, Form, Layout, ScoreField, ScoreValue, SectionField};
pub use panel::{Panel, default_sampling};
pub use review::{
    Aggregate, Anchor, AnchorKind, Decision, Mode, ModelUsed, NOTICE, PaperInfo, ParseCounts, Parsed, Review,
    Reviewer, ScoreRead, Weakness,
};
pub use salvage::{Found, Salvaged, salvage};
