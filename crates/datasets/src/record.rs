//! A paper and its reviews as rows of a data set know them. What is not known is absent.

use serde::{Deserialize, Serialize};
use sources::State;

/// One review.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// On the scale of its venue and year.
    pub rating: Option<f64>,
    /// The rating as it was written, where it was written in words.
    pub rating_label: Option<String>,
    /// 1 to 5.
    pub confidence: Option<f64>,
    /// 1 to 4.
    pub soundness: Option<f64>,
    /// 1 to 4.
    pub presentation: Option<f64>,
    /// 1 to 4.
    pub contribution: Option<f64>,
    /// The form's sections.
    pub summary: Option<String>,
    /// …
    pub strengths: Option<String>,
    /// …
    pub weaknesses: Option<String>,
    /// …
    pub questions: Option<String>,
    /// What stands in other fields, or a review without sections.
    pub text: Option<String>,
    /// "CC BY 4.0", where the note says it.
    pub license: Option<String>,
}

impl Review {
    /// True if something was written.
    pub fn has_text(&self) -> bool {
        [&self.summary, &self.strengths, &self.weaknesses, &self.questions, &self.text]
            .iter()
            .any(|t| t.as_deref().is_some_and(|t| !t.trim().is_empty()))
    }
}

/// Which version of a paper was read. The decision is easy to tell from it: accepted papers are camera-ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// As the reviewers saw it.
    Submitted,
    /// On arXiv before the first review was written: it knows nothing of the decision, and may differ from the submission.
    Preprint,
    /// As it was published.
    CameraReady,
    /// It does not say.
    Unknown,
}

/// Where a paper's text is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextSource {
    /// LaTeX.
    Latex,
    /// A PDF through our reader.
    Pdf,
    /// A record that held it.
    Record,
    /// There is only the abstract.
    Abstract,
    /// There is only the title.
    Title,
}

/// How a paper was found on arXiv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArxivMatch {
    /// `2411.00816`.
    pub id: String,
    /// The version that was read.
    pub version: Option<u32>,
    /// 1 by id; by title and authors from 0 to 1.
    pub confidence: f64,
}

/// A row of a review set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviewRow {
    /// OpenReview's id.
    pub id: String,
    /// `ICLR`.
    pub venue: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// When it was submitted or first shown: `2023-09-28`, or as much of that as is known.
    pub date: Option<String>,
    /// The title.
    pub title: String,
    /// The abstract.
    #[serde(rename = "abstract")]
    pub abstract_text: Option<String>,
    /// What became of it.
    pub state: State,
    /// In the source's own words.
    pub decision: Option<String>,
    /// Final ratings, as the venue lists them.
    pub ratings: Vec<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// Before the discussion, where known.
    pub ratings_initial: Vec<f64>,
    /// Confidences in the order of the ratings.
    pub confidences: Vec<f64>,
    /// The scale's name.
    pub scale: Option<String>,
    /// The reviews.
    pub reviews: Vec<Review>,
    /// The meta-review.
    pub meta_review: Option<String>,
    /// What a reviewer reads: scrubbed Markdown.
    pub paper_text: String,
    /// Where it is from.
    pub text_source: TextSource,
    /// Which version it is.
    pub text_version: Version,
    /// Day of that version, where known.
    pub text_date: Option<String>,
    /// Day of the first review, where known.
    pub reviewed: Option<String>,
    /// The paper on arXiv.
    pub arxiv: Option<ArxivMatch>,
    /// The paper's licence.
    pub license: Option<String>,
    /// The review's licences, each once.
    pub review_licenses: Vec<String>,
    /// The dialogue.
    pub messages: Vec<Turn>,
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// system, user, assistant.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Turn {
    /// A turn.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A cited work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CitedWork {
    /// The key it is cited by.
    pub key: String,
    /// Its title.
    pub title: Option<String>,
    /// Its abstract, joined from Semantic Scholar, OpenAlex, Crossref or the bibliography itself.
    #[serde(rename = "abstract")]
    pub abstract_text: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// Semantic Scholar's id.
    #[serde(rename = "paperId")]
    pub paper_id: Option<String>,
    /// The entry as BibTeX.
    pub bibtex: String,
}

/// A section of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatexSection {
    /// The heading as plain text.
    pub heading: String,
    /// The LaTeX below it, subsections included.
    pub latex: String,
}

/// A table of the paper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// The caption.
    pub caption: String,
    /// Rows of cells.
    pub rows: Vec<Vec<String>>,
}

/// One experiment or result of an outline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultItem {
    /// What it is.
    pub name: String,
    /// First row is the header; empty where there is no table.
    pub table: Vec<Vec<String>>,
    /// In words.
    pub description: Option<String>,
}

/// A row of a research set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResearchRow {
    /// arXiv id, listing id, or the file's name.
    pub id: String,
    /// Semantic Scholar's id.
    #[serde(rename = "paperId")]
    pub paper_id: Option<String>,
    /// The venue.
    pub venue: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// When it was submitted or first shown: `2023-09-28`, or as much of that as is known.
    pub date: Option<String>,
    /// The title.
    pub title: String,
    /// The abstract.
    #[serde(rename = "abstract")]
    pub abstract_text: Option<String>,
    /// In order.
    pub authors: Vec<String>,
    /// arXiv's id.
    pub arxiv: Option<String>,
    /// The paper's licence.
    pub license: Option<String>,
    /// Sections of the source.
    pub sections: Vec<LatexSection>,
    /// All headings, subsections included, as plain text.
    pub headings: Vec<String>,
    /// Names of the figure files.
    pub figures: Vec<String>,
    /// Tables.
    pub tables: Vec<TableRow>,
    /// What it cites.
    pub references: Vec<CitedWork>,
    /// Keys that are cited.
    pub cited: usize,
    /// Of these, found in the bibliography.
    pub resolved: usize,
    /// Why it was worth doing.
    pub motivation: Option<String>,
    /// What it does.
    pub main_idea: Option<String>,
    /// The experiments: name and description.
    pub experimental_setup: Vec<ResultItem>,
    /// Their results; every number stands in the paper.
    pub experimental_results: Vec<ResultItem>,
    /// The model that wrote the outline.
    pub outline_model: Option<String>,
    /// The dialogue.
    pub messages: Vec<Turn>,
}
