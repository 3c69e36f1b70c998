//! PDF: from the bytes to a [`Document`](crate::Document).
//!
//! 1. `device` interprets a page and notes each glyph with place, size, font and whether a human can see it.
//! 2. `lines` chains glyphs to words and lines; `layout` finds columns and blocks and orders them.
//! 3. `furniture` takes away page numbers, running heads and line numbers.
//! 4. `structure` tells title, abstract, headings, paragraphs, captions, footnotes and references apart.
//! 5. `hidden` turns what a human cannot see into findings.

mod device;
mod fonts;
mod furniture;
mod hidden;
mod layout;
mod lines;
mod pages;
mod paragraphs;
mod structure;

pub(crate) use pages::read_pdf;
