//! From a file to a [`Document`]: title, abstract, sections, references and pages in reading order, and what the file
//! tried to hide.
//!
//! PDF, LaTeX (a file, a folder, an arXiv archive), Markdown and plain text come in; one value comes out. Damaged
//! input is data: what could be read is there, what could not is a [`Finding`]. [`read`] runs in this process;
//! [`read_isolated`] runs the same in a worker process with limits on memory and time. What a reviewer may see of a
//! document (no names, thanks, venue lines or addresses) is made by [`scrub`].

mod bibliography;
mod document;
mod error;
mod headings;
mod instructions;
mod isolate;
mod latex;
mod pdf;
mod plain;
mod quotes;
mod read;
mod references;
mod reviewer;
mod scrub;
mod text;

pub use bibliography::{BibEntry, Bibliography, bibliography, parse as parse_bibliography};
pub use document::{Anchor, Document, Finding, Reference, Section, Severity, Source, Table};
pub use error::ReadError;
pub use isolate::{Limits, WORKER_ARGUMENT, read_isolated, worker_main_if_requested};
pub use latex::{LatexSource, latex_source, to_text as latex_to_text};
pub use quotes::find_quote;
pub use read::{ReadOptions, read, read_bytes};
pub use reviewer::{KeptSection, ReviewerText, TextBudget, reviewer_text};
pub use scrub::scrub;
