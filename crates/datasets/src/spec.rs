//! The specification of a data set: what `datasets/*.toml` may say. Unknown keys are refused, the nearest one is offered.

mod options;
mod parse;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sources::Api;

use crate::scale::Scale;

pub use options::{
    Alike, Filters, LaterText, Leakage, Licences, Matching, Messages, NearDuplicates, PaperPart, Records,
    References, Split, SplitBy, Unknown, WantedVersion, When,
};

/// What kind of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecKind {
    /// Papers with their reviews.
    Review,
    /// Papers with what they cite and an outline.
    Research,
}

/// A whole specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Short, for folders and the store.
    pub name: String,
    /// What kind of rows.
    pub kind: SpecKind,
    /// One sentence for the card.
    pub description: String,
    /// Where papers come from; without any, every record of `--from` is taken.
    #[serde(default)]
    pub venue: Vec<Venue>,
    /// Rating scales by name.
    #[serde(default)]
    pub scales: BTreeMap<String, Scale>,
    /// How records on disk are read.
    #[serde(default)]
    pub records: Records,
    /// How a paper is found on arXiv.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// Which papers stay.
    #[serde(default)]
    pub filters: Filters,
    /// What is nearly the same.
    #[serde(default)]
    pub near_duplicates: NearDuplicates,
    /// What is held out.
    #[serde(default)]
    pub split: Split,
    /// What must not be in it.
    #[serde(default)]
    pub leakage: Leakage,
    /// Which licences a paper may have.
    #[serde(default)]
    pub licences: Licences,
    /// Who is asked for what Semantic Scholar does not have.
    #[serde(default)]
    pub references: References,
    /// How the dialogue is written.
    #[serde(default)]
    pub messages: Messages,
}

/// The service that lists a venue's papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListedBy {
    /// OpenReview, by an invitation.
    Openreview,
    /// ACL Anthology, by a file and its volume: `2023.acl#long`.
    Acl,
    /// CVF, by a page: `CVPR2024`.
    Cvf,
    /// PMLR, by a volume: `v202`.
    Pmlr,
}

/// One venue of one year.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Venue {
    /// `ICLR`.
    pub name: String,
    /// The year.
    pub year: i32,
    /// Who lists its papers.
    pub listed_by: ListedBy,
    /// OpenReview's group (`ICLR.cc/2024/Conference`), or the listing's name.
    pub id: String,
    /// OpenReview: which API.
    #[serde(default)]
    pub api: Option<Api>,
    /// OpenReview: the invitation of its submissions.
    #[serde(default)]
    pub submissions: Option<String>,
    /// OpenReview: further invitations with submissions, of those withdrawn or refused (API 1 lists them apart).
    #[serde(default)]
    pub also: Vec<String>,
    /// The rating scale, one of `scales`.
    #[serde(default)]
    pub scale: Option<String>,
    /// Papers of the wanted states, about: for `--dry-run` alone.
    #[serde(default)]
    pub expected: Option<u64>,
    /// Papers that the service lists, about, where these are more: for `--dry-run` alone.
    #[serde(default)]
    pub listed: Option<u64>,
}
