//! The [`Review`]: what a panel said, as data (`cycle.review/1`).

use std::collections::BTreeMap;

use documents::Finding;
use lm::{ModelInfo, Sampling, Usage};
use serde::{Deserialize, Serialize};

use crate::error::ReviewError;
use crate::form::Form;

/// The whole review of one paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// `cycle.review/1`.
    pub schema: String,
    /// Set by the store; empty before.
    #[serde(default)]
    pub id: String,
    /// What was reviewed.
    pub paper: PaperInfo,
    /// The form's name.
    pub form: String,
    /// The form itself where it does not ship with the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub form_definition: Option<Form>,
    /// How much work was spent.
    pub mode: Mode,
    /// Who reviewed.
    pub model: ModelUsed,
    /// The panel's seed.
    pub seed: u64,
    /// How tokens were drawn.
    pub sampling: Sampling,
    /// One by one, strict to lenient.
    pub reviewers: Vec<Reviewer>,
    /// Aggregates by score.
    pub scores: BTreeMap<String, Aggregate>,
    /// The meta-review; absent where none was written or it could not be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub meta_review: Option<String>,
    /// SHA-256 of the meta-review's prompt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub meta_prompt_sha256: Option<String>,
    /// The decision; absent where no reviewer gave the main score.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decision: Option<Decision>,
    /// How much could be read.
    pub parse: ParseCounts,
    /// Hidden text and other things in the file.
    pub findings: Vec<Finding>,
    /// What the reviewers did not see, in words.
    #[serde(default)]
    pub cut: Vec<String>,
    /// Mean share of word 5-grams that a reviewer repeats from another: dependent opinions are not n opinions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overlap: Option<f64>,
    /// Tokens and seconds.
    pub usage: Usage,
    /// What every report says.
    pub notice: String,
}

/// What was reviewed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PaperInfo {
    /// Set by the store; empty before.
    #[serde(default)]
    pub id: String,
    /// Its title.
    pub title: Option<String>,
    /// Of the file.
    pub sha256: String,
    /// Pages (PDF).
    pub pages: Option<usize>,
    /// Tokens of the text that a reviewer could read; absent where the tokenizer is a server's.
    pub tokens: Option<usize>,
    /// Tokens that were read.
    pub tokens_read: Option<usize>,
}

impl Review {
    /// The form that was filled in.
    ///
    /// # Errors
    /// If it neither ships nor was kept with the review.
    pub fn filled_form(&self) -> Result<Form, ReviewError> {
        self.form_definition.clone().map_or_else(|| Form::named(&self.form), Ok)
    }
}

/// Who reviewed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelUsed {
    /// Name and hash.
    #[serde(flatten)]
    pub info: ModelInfo,
    /// The map from raw to venue scores; none in this version.
    pub calibration: Option<String>,
}

/// How much work is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Short texts, no meta-review.
    Fast,
    /// The panel and its meta-review.
    #[default]
    Standard,
    /// The panel, with quotations demanded and looked up in the paper; each weakness put to the model again with the
    /// paper; the meta-review.
    Best,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fast" => Ok(Self::Fast),
            "standard" => Ok(Self::Standard),
            "best" => Ok(Self::Best),
            other => Err(format!("{other:?} is no mode; there are fast, standard, best")),
        }
    }
}

/// How much of a reviewer's text could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parsed {
    /// Every field of the form.
    Full,
    /// Some; the others are absent, never empty or zero.
    Partial,
    /// None; the text is kept.
    Failed,
}

/// One reviewer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reviewer {
    /// From 1.
    pub index: usize,
    /// Strict to lenient; absent where the model wrote a whole panel at once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stance: Option<String>,
    /// How much could be read.
    pub parsed: Parsed,
    /// Tries that this text took.
    pub attempts: usize,
    /// Scores by key; a missing one is absent.
    pub scores: BTreeMap<String, ScoreRead>,
    /// The reviewer's confidence in itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confidence: Option<ScoreRead>,
    /// What the paper is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<String>,
    /// One point each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub strengths: Vec<String>,
    /// One point each, with its place in the paper.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub weaknesses: Vec<Weakness>,
    /// One each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub questions: Vec<String>,
    /// Further sections of the form (limitations, …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub other: BTreeMap<String, String>,
    /// The text as the model wrote it; kept where it could not be read in full.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub raw: Option<String>,
    /// SHA-256 of the prompt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prompt_sha256: Option<String>,
}

/// One score of one reviewer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRead {
    /// As drawn or written.
    pub value: f64,
    /// Mean of the distribution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<f64>,
    /// Probability of every value of the form; only where log-probabilities were read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub distribution: Option<BTreeMap<String, f64>>,
    /// True for a value that the form does not have.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub off_scale: bool,
}

/// A weakness and where it stands in the paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weakness {
    /// The point.
    pub text: String,
    /// Its place.
    pub anchor: Anchor,
    /// In `best` mode: the probability that the model, asked again with the paper, calls the point borne out by it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub support: Option<f64>,
}

/// How sure the place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnchorKind {
    /// The point quotes the paper, and the quotation stands there.
    Quoted,
    /// The point shares rare words with a section.
    Matched,
    /// Nowhere.
    None,
}

/// Where a point belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// How sure.
    pub kind: AnchorKind,
    /// Number or heading.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub section: Option<String>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub page: Option<usize>,
    /// The words that were found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quote: Option<String>,
}

/// A score over the panel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Of the values that are there.
    pub mean: f64,
    /// Mean of the expected values; where no distributions were read, of the values.
    pub expected: f64,
    /// Mapped to the venue's scale; none in this version.
    pub calibrated: Option<f64>,
    /// Central 90 % of the panel's mixture distribution, or of the values where there are no distributions.
    pub interval90: [f64; 2],
    /// How many reviewers gave it.
    pub reviewers: usize,
}

/// Accept or reject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// See [`crate::aggregate::accept_probability`].
    pub accept_probability: f64,
    /// `accept` or `reject`.
    pub label: String,
    /// What the venue accepts.
    pub base_rate: f64,
    /// What the model itself wrote as its decision, where it wrote one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub written: Option<String>,
}

/// How much could be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParseCounts {
    /// Whole reviewers.
    pub full: usize,
    /// With missing fields.
    pub partial: usize,
    /// Unreadable.
    pub failed: usize,
    /// Texts that were thrown away and drawn again.
    pub resampled: usize,
}

/// What every report says.
pub const NOTICE: &str = "Machine-generated review for the authors' own use; not for official peer review.";
