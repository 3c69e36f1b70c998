//! The [`Paper`]: what is to be set, free of any output format.

use serde::{Deserialize, Serialize};

/// Page design.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// One column, in the manner of an ICLR submission.
    #[default]
    Iclr,
    /// One column, in the manner of NeurIPS.
    Neurips,
    /// Plain article.
    Article,
}

/// Where numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Given by the user or measured by the user's command.
    Results,
    /// Invented by a model and marked as such.
    Simulated,
    /// Said in the text, backed by nothing.
    Text,
}

/// A paper ready to be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paper {
    /// The title.
    pub title: String,
    /// Printed under the title, for example "Anonymous authors" or the generator's notice.
    pub byline: String,
    /// The abstract's paragraphs.
    pub abstract_text: Vec<Vec<Inline>>,
    /// The body.
    pub sections: Vec<PaperSection>,
    /// The bibliography in the order of first citation.
    pub references: Vec<Citation>,
    /// A notice at the paper's end: machine-generated, which model, seed, run.
    pub declaration: String,
    /// Page design.
    pub style: Style,
}

/// A headed part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperSection {
    /// 1 for a section, 2 for a subsection, 3 for a sub-subsection.
    pub level: u8,
    /// The heading.
    pub heading: String,
    /// Its content.
    pub blocks: Vec<Block>,
}

/// A block of a section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// A paragraph.
    Paragraph(Vec<Inline>),
    /// A displayed formula, LaTeX source without delimiters.
    Equation(String),
    /// A list.
    List {
        /// Numbered or bulleted.
        ordered: bool,
        /// One entry each.
        items: Vec<Vec<Inline>>,
    },
    /// A table with its caption.
    Table(TableBlock),
    /// Source code or verbatim text.
    Code(String),
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableBlock {
    /// The caption, without "Table 1".
    pub caption: String,
    /// The first row is the header.
    pub rows: Vec<Vec<String>>,
    /// Where its numbers come from.
    pub origin: Origin,
}

/// A piece of running text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inline {
    /// Text as it is.
    Text(String),
    /// Emphasis.
    Emph(String),
    /// Bold.
    Strong(String),
    /// Typewriter.
    Code(String),
    /// A formula, LaTeX source without delimiters.
    Math(String),
    /// Citations; every key is in [`Paper::references`].
    Cite {
        /// The keys.
        keys: Vec<String>,
        /// "Smith et al. (2020)" rather than "(Smith et al., 2020)".
        textual: bool,
    },
    /// A number in the text that comes from a result, marked by its origin.
    Number {
        /// As written.
        text: String,
        /// Where it comes from.
        origin: Origin,
    },
}

/// An entry of the bibliography.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    /// Its key.
    pub key: String,
    /// Authors as "First Last" each.
    pub authors: Vec<String>,
    /// Year as written.
    pub year: Option<String>,
    /// Title.
    pub title: String,
    /// Journal, proceedings or publisher.
    pub venue: Option<String>,
    /// DOI, arXiv id or address.
    pub locator: Option<String>,
    /// The entry as BibTeX, cleaned so that BibTeX reads it.
    pub bibtex: String,
}

impl Paper {
    /// True if any table or number is simulated.
    pub fn has_simulated(&self) -> bool {
        self.sections.iter().flat_map(|s| &s.blocks).any(|b| match b {
            Block::Table(t) => t.origin == Origin::Simulated,
            Block::Paragraph(inlines) => simulated(inlines),
            Block::List { items, .. } => items.iter().any(|i| simulated(i)),
            Block::Equation(_) | Block::Code(_) => false,
        }) || self.abstract_text.iter().any(|p| simulated(p))
    }
}

fn simulated(inlines: &[Inline]) -> bool {
    inlines.iter().any(|i| matches!(i, Inline::Number { origin: Origin::Simulated, .. }))
}
