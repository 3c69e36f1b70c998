//! The named steps that a paper passes, in their order. Each that leaves a paper out says why.

use serde::{Deserialize, Serialize};

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A record that is no paper: no id, no JSON, another schema.
    BrokenRecord,
    /// A venue or year that the specification does not name.
    OtherVenue,
    /// A paper of a list that is to be kept out (test papers).
    KeptOut,
    /// Without a title it cannot be told from others.
    NoTitle,
    /// Withdrawn, refused without review, or whatever state the specification leaves out.
    State,
    /// A placeholder.
    ShortAbstract,
    /// Too few reviews with text.
    Reviews,
    /// Too few ratings.
    Ratings,
    /// The licence is not allowed.
    Licence,
    /// The file of sources or the PDF is no paper.
    Unreadable,
    /// Less of the paper than a row must have.
    PaperText,
    /// Its text is later than its reviews.
    LaterText,
    /// Too few of its citations are in its bibliography.
    Citations,
    /// Nothing that could be a second half.
    SecondHalf,
    /// Nearly the same as an earlier one.
    NearDuplicate,
    /// More than `--limit`.
    Limit,
    /// No outline, or one that the paper does not bear out.
    Outline,
}

impl Step {
    /// All, in their order.
    pub const ALL: [Step; 17] = [
        Step::BrokenRecord,
        Step::OtherVenue,
        Step::KeptOut,
        Step::NoTitle,
        Step::State,
        Step::ShortAbstract,
        Step::Reviews,
        Step::Ratings,
        Step::Licence,
        Step::Unreadable,
        Step::PaperText,
        Step::LaterText,
        Step::Citations,
        Step::SecondHalf,
        Step::NearDuplicate,
        Step::Limit,
        Step::Outline,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BrokenRecord => "broken-record",
            Self::OtherVenue => "other-venue",
            Self::KeptOut => "kept-out",
            Self::NoTitle => "no-title",
            Self::State => "state",
            Self::ShortAbstract => "short-abstract",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
            Self::Licence => "licence",
            Self::Unreadable => "unreadable",
            Self::PaperText => "paper-text",
            Self::LaterText => "later-text",
            Self::Citations => "citations",
            Self::SecondHalf => "second-half",
            Self::NearDuplicate => "near-duplicate",
            Self::Limit => "limit",
            Self::Outline => "outline",
        }
    }
}

/// A paper that is not in the set, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its id, or the place of a record that has none.
    pub id: String,
    /// Its year, where known.
    pub year: Option<i32>,
    /// Its title, where known.
    pub title: Option<String>,
    /// The step.
    pub step: Step,
    /// Why.
    pub reason: String,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCount {
    /// Its name.
    pub step: String,
    /// Papers that it left out.
    pub left_out: usize,
}

/// Counts by step, in their order; steps that left nothing out too, so that a report says what was looked for.
pub fn counts(left_out: &[usize]) -> Vec<StepCount> {
    let one = |(step, n): (&Step, &usize)| StepCount { step: step.name().into(), left_out: *n };
    Step::ALL.iter().zip(left_out).map(one).collect()
}

/// The place of a step in [`Step::ALL`].
pub fn place(step: Step) -> usize {
    Step::ALL.iter().position(|s| *s == step).unwrap_or(0)
}
