//! The tables of a specification: what is matched, filtered, divided, and how the dialogue is written.

use serde::{Deserialize, Serialize};
use sources::State;

/// How records on disk are read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// The venue of records that name none.
    pub venue: Option<String>,
}

/// How a paper is found on arXiv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Matching {
    /// Below this confidence (0 to 1) a match by title is none. One title without a common author has 0.5.
    pub least_confidence: f64,
    /// Hits that are looked at.
    pub candidates: usize,
    /// Which version of the text is fetched.
    pub version: WantedVersion,
}

/// Which version of a paper's text is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedVersion {
    /// The latest one: of accepted papers mostly the final one.
    #[default]
    Latest,
    /// What reviewers may have read: the first version on arXiv if it is older than the first review, else the first PDF
    /// that OpenReview shows; where it shows none, the latest, which `text_version` says.
    Submitted,
}

impl Default for Matching {
    fn default() -> Self {
        Self { least_confidence: 0.75, candidates: 5, version: WantedVersion::Latest }
    }
}

/// How much of a paper a row must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaperPart {
    /// The title is enough.
    Title,
    /// Title and abstract.
    Abstract,
    /// The whole text.
    #[default]
    Full,
}

/// Which papers stay. Each is a named, counted step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// States that are left out (`withdrawn`, `desk_rejected`, …); the others are kept with their flag.
    pub drop_states: Vec<State>,
    /// Only these states, if any are named.
    pub only_states: Vec<State>,
    /// A shorter abstract is a placeholder; papers without a listed abstract are not judged by it.
    pub abstract_chars: usize,
    /// Reviews with text that a paper must have.
    pub reviews: usize,
    /// Ratings that a paper must have.
    pub ratings: usize,
    /// How much of the paper a row must have.
    pub paper: PaperPart,
    /// Characters of the whole text: fewer is no paper.
    pub text_chars: usize,
    /// Share of the cited keys that must be found in the bibliography (research).
    pub citations: f64,
    /// Whether an outline is needed (research).
    pub outline: bool,
    /// What happens to a paper whose text is the final version, or later than its first review.
    pub later_text: LaterText,
}

/// What happens to a paper whose text is later than its reviews: it may give the decision away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LaterText {
    /// It stays, and says so.
    #[default]
    Keep,
    /// It is left out.
    Drop,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            drop_states: Vec::new(),
            only_states: Vec::new(),
            abstract_chars: 100,
            reviews: 0,
            ratings: 0,
            paper: PaperPart::Full,
            text_chars: 2_000,
            citations: 0.0,
            outline: false,
            later_text: LaterText::Keep,
        }
    }
}

/// What happens to papers that are nearly the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alike {
    /// The earliest stays.
    #[default]
    Drop,
    /// All stay, in one split.
    Group,
}

/// What is nearly the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicates {
    /// What happens to them.
    pub action: Alike,
    /// Similarity (Jaccard over shingles of three words) from which on two texts are one paper.
    pub similarity: f64,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { action: Alike::Drop, similarity: 0.7 }
    }
}

/// How papers are divided. A paper, and what is nearly the same, is in one part as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// `paper`: by a hash of the id; `time`: the latest papers are tested.
    pub by: SplitBy,
    /// Papers of the test part: those whose hash is smallest, or the latest ones.
    pub test: Option<usize>,
    /// Or their share.
    pub test_share: f64,
    /// By time: from when on papers are tested, a year (`2024`) or a day (`"2024-03-01"`, `"2024-03"`).
    pub test_from: Option<When>,
}

impl Default for Split {
    fn default() -> Self {
        Self { by: SplitBy::Paper, test: None, test_share: 0.1, test_from: None }
    }
}

/// By what papers are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// A hash of the id.
    Paper,
    /// When a paper came: its date where that is known, else its year.
    Time,
}

/// A year or a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum When {
    /// `2024`.
    Year(i32),
    /// `2024-03-01` or `2024-03`.
    Day(String),
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Year(year) => write!(f, "{year:04}"),
            Self::Day(day) => f.write_str(day),
        }
    }
}

/// What must not be in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leakage {
    /// Files or folders, relative to `--from`, whose papers are kept out where they exist.
    pub keep_out: Vec<String>,
}

impl Default for Leakage {
    fn default() -> Self {
        Self { keep_out: vec!["test".into()] }
    }
}

/// Which licences a paper may have. Licences are compared by their beginning: `CC BY` is also `CC BY 4.0`, not `CC BY-NC`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Licences {
    /// Whether arXiv is asked for the licence of each of its papers: one request more.
    pub ask: bool,
    /// Only these, if any are named.
    pub allow: Vec<String>,
    /// None of these.
    pub deny: Vec<String>,
    /// Whether a paper whose licence is not known stays.
    pub unknown: Unknown,
}

impl Default for Licences {
    fn default() -> Self {
        Self { ask: true, allow: Vec::new(), deny: Vec::new(), unknown: Unknown::Keep }
    }
}

/// Who is asked for abstracts of cited works that Semantic Scholar does not have, by their DOI (research).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct References {
    /// OpenAlex: 50 works a request.
    pub openalex: bool,
    /// Crossref: one work a request, and rarely an abstract.
    pub crossref: bool,
}

impl Default for References {
    fn default() -> Self {
        Self { openalex: true, crossref: false }
    }
}

/// What happens to a paper whose licence is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It stays, marked.
    #[default]
    Keep,
    /// It is left out.
    Drop,
}

/// How the dialogue is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Messages {
    /// The form of the reviews, a name in `prompts/forms`; without one, that of the year.
    pub form: Option<String>,
    /// Reviews in a dialogue, harshest first; all without.
    pub reviews: Option<usize>,
}
