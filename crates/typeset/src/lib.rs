//! From a [`Paper`] to PDF, HTML and LaTeX.
//!
//! A paper arrives as data: model text is never markup to the typesetter. [`pdf`] uses the embedded typesetter (no
//! TeX needed), [`latex`] writes a folder that ordinary LaTeX compiles, [`html`] one self-contained page. A result that
//! was simulated is marked on every page that shows one.

mod citations;
mod error;
mod html;
mod latex;
mod math;
mod paper;
mod pdf;
mod tex_text;

pub use error::TypesetError;
pub use html::html;
pub use latex::{LatexBundle, latex};
pub use paper::{Block, Citation, Inline, Origin, Paper, PaperSection, Style, TableBlock};
pub use pdf::{SIMULATED_MARK, pdf};
