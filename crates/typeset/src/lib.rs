//! From a [`Paper`] to PDF, HTML and LaTeX.
//!
//! A paper arrives as data: model text is never markup to the typesetter. [`pdf`] uses the embedded typesetter (no
//! TeX needed), [`latex`] writes a folder that ordinary LaTeX compiles, [`html`] one self-contained page. A result that
//! was simulated is marked on every page that shows one.

mod paper;

pub use paper::{Block, Citation, Inline, Origin, Paper, PaperSection, Style, TableBlock};
