//! The specification of a data set: what `datasets/*.toml` may say. Unknown keys are refused, the nearest one is offered.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sources::{Api, State};

use crate::error::DatasetError;
use crate::scale::Scale;

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
}

impl Default for Matching {
    fn default() -> Self {
        Self { least_confidence: 0.75, candidates: 5 }
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
    /// `paper`: by a hash of the id; `time`: by the year.
    pub by: SplitBy,
    /// Papers of the test part (by paper): those whose hash is smallest.
    pub test: Option<usize>,
    /// Or their share.
    pub test_share: f64,
    /// First year of the test part (by time).
    pub test_from: Option<i32>,
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
    /// The year.
    Time,
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

impl Spec {
    /// Reads a specification; `place` names it in messages.
    ///
    /// # Errors
    /// If it is no TOML, has a key that does not exist, or contradicts itself.
    pub fn parse(text: &str, place: &str) -> Result<Self, DatasetError> {
        let wrong = |what: String| DatasetError::Spec { place: place.into(), what };
        let spec: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", nearest(e.message())))
        })?;
        for venue in &spec.venue {
            let who = format!("{} {}", venue.name, venue.year);
            if let Some(scale) = &venue.scale
                && !spec.scales.contains_key(scale)
            {
                let known: Vec<&str> = spec.scales.keys().map(String::as_str).collect();
                return Err(wrong(format!(
                    "{who}: no scale is called `{scale}`; there are {}",
                    known.join(", ")
                )));
            }
            if venue.listed_by == ListedBy::Openreview && (venue.api.is_none() || venue.submissions.is_none())
            {
                return Err(wrong(format!(
                    "{who}: OpenReview needs `api` (\"1\" or \"2\") and `submissions`"
                )));
            }
        }
        let share = |name: &str, x: f64| {
            if (0.0..=1.0).contains(&x) {
                Ok(())
            } else {
                Err(wrong(format!("{name} is {x}, not between 0 and 1")))
            }
        };
        share("split.test_share", spec.split.test_share)?;
        share("near_duplicates.similarity", spec.near_duplicates.similarity)?;
        share("match.least_confidence", spec.matching.least_confidence)?;
        share("filters.citations", spec.filters.citations)?;
        if spec.split.by == SplitBy::Time && spec.split.test_from.is_none() {
            return Err(wrong(
                "split.by = \"time\" needs split.test_from, the first year of the test part".into(),
            ));
        }
        if spec.name.is_empty() || !spec.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(wrong(format!("name = {:?}: letters, digits, - _ . only", spec.name)));
        }
        Ok(spec)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Spec::parse`], or if the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, DatasetError> {
        let text = std::fs::read_to_string(path).map_err(DatasetError::reading(path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The venue of a record, and its scale.
    pub(crate) fn venue_of(&self, name: &str, year: i32) -> Option<&Venue> {
        self.venue.iter().find(|v| v.year == year && v.name.eq_ignore_ascii_case(name))
    }

    /// The scale of a venue.
    pub(crate) fn scale_of(&self, name: &str, year: i32) -> Option<&Scale> {
        self.scales.get(self.venue_of(name, year)?.scale.as_ref()?)
    }
}

/// Serde's words about an unknown key, with the nearest known one in front of the list.
fn nearest(message: &str) -> String {
    let Some(rest) =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))
    else {
        return message.lines().next().unwrap_or_default().into();
    };
    let mut quoted = rest.split('`');
    let typed = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
    let best =
        known.iter().max_by(|a, b| strsim::jaro_winkler(typed, a).total_cmp(&strsim::jaro_winkler(typed, b)));
    match best {
        Some(best) => format!("`{typed}` is not known here; did you mean `{best}`?"),
        None => format!("`{typed}` is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"x\"\nkind = \"review\"\ndescription = \"y\"\n";

    #[test]
    fn a_wrong_key_is_named_with_its_line_and_the_nearest_right_one() {
        let says = |more: &str| Spec::parse(&format!("{LEAST}{more}"), "x.toml").unwrap_err().to_string();
        assert_eq!(
            says("[filters]\nreview = 3\n"),
            "x.toml: line 5: `review` is not known here; did you mean `reviews`?"
        );
        assert!(says("[near_duplicates]\naction = \"dorp\"\n").contains("did you mean `drop`"));
        assert!(says("[split]\nby = \"time\"\n").contains("test_from"));
        assert!(says("[split]\ntest_share = 3\n").contains("not between 0 and 1"));
        let venue = "[[venue]]\nname = \"ICLR\"\nyear = 2024\nlisted_by = \"openreview\"\nid = \"I\"\n";
        assert!(says(venue).contains("needs `api`"));
        assert!(Spec::parse(LEAST, "x.toml").is_ok());
    }
}
