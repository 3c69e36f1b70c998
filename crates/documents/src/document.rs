//! The [`Document`]: one paper as data.

use serde::{Deserialize, Serialize};

/// What kind of file a document was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A PDF file.
    Pdf,
    /// A `.tex` file, a folder or an archive of them.
    Latex,
    /// Markdown.
    Markdown,
    /// Plain text.
    Text,
}

/// One paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What it was read from.
    pub source: Source,
    /// SHA-256 (hex) of the input bytes (of an archive: of the archive; of a folder: of the sorted files read).
    pub sha256: String,
    /// The title, where one was found.
    pub title: Option<String>,
    /// The abstract, where one was found.
    pub abstract_text: Option<String>,
    /// Author names and affiliations as they stood, one block; never shown to a reviewer.
    pub front_matter: Option<String>,
    /// Body in reading order. Text before the first heading is a section without a heading.
    pub sections: Vec<Section>,
    /// The bibliography.
    pub references: Vec<Reference>,
    /// Captioned tables, as text rows where cells could be told apart.
    pub tables: Vec<Table>,
    /// Pages of the file (PDF only).
    pub pages: Option<usize>,
    /// Hidden text, instructions to a reader that is a model, and other things a human should know.
    pub findings: Vec<Finding>,
}

/// A headed part of the body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// 1 for a section, 2 for a subsection, 3 below; 0 for text before the first heading.
    pub level: u8,
    /// "3.2" where it is numbered.
    pub number: Option<String>,
    /// The heading without its number; empty for text before the first heading.
    pub heading: String,
    /// Paragraphs, separated by blank lines; hyphenation joined.
    pub text: String,
    /// First page, from 1 (PDF only).
    pub page: Option<usize>,
    /// True after an appendix heading.
    pub appendix: bool,
}

/// One entry of the bibliography.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The key it is cited by (LaTeX) or its label ("12").
    pub key: Option<String>,
    /// The entry as one line of text.
    pub text: String,
    /// Its title, where it can be told.
    pub title: Option<String>,
}

/// A captioned table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The caption.
    pub caption: String,
    /// Rows of cells; empty where only the caption is known.
    pub rows: Vec<Vec<String>>,
    /// Page, from 1 (PDF only).
    pub page: Option<usize>,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing (unmapped glyphs, an OCR layer, a missing file).
    Note,
    /// Visible text that addresses a reviewer or a language model.
    Instruction,
    /// Text that a human reader cannot see; it is kept from the model and stops a review.
    Hidden,
}

/// Something in the file that a human should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How serious.
    pub severity: Severity,
    /// The technique or matter in kebab case: `white-on-white`, `render-mode-3`, `tiny`, `transparent`, `off-page`,
    /// `outside-crop-box`, `clipped`, `unmapped-glyphs`, `ocr-layer`, `missing-file`, …
    pub reason: String,
    /// Page, from 1.
    pub page: Option<usize>,
    /// Left, top, right, bottom in points from the page's top left corner.
    #[serde(rename = "box")]
    pub bounds: Option<[f32; 4]>,
    /// The text itself, at most 500 characters.
    pub text: String,
}

/// Where a quotation stands in a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Number or heading of the section.
    pub section: String,
    /// Page, from 1.
    pub page: Option<usize>,
}

impl Document {
    /// True if anything was hidden from a human reader.
    pub fn has_hidden_text(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Hidden)
    }
}
