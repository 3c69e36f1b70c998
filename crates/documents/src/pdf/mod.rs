//! PDF: from the bytes to a [`Document`](crate::Document).
//!
//! 1. `device` interprets a page and notes each glyph with place, size, font and whether a human can see it (`visibility`).
//! 2. `lines` chains glyphs to words and lines; `layout` finds columns and blocks and orders them.
//! 3. `furniture` takes away page numbers, running heads and line numbers.
//! 4. `paragraphs` cuts the lines; `classify` and `title` say what each paragraph is; `structure` puts the paper together,
//!    `entries` its bibliography.
//! 5. `hidden` turns what a human cannot see into findings; `layers` finds text in layers that are off.

mod classify;
mod device;
mod entries;
mod fonts;
mod furniture;
mod hidden;
mod layers;
mod layout;
mod lines;
mod pages;
mod paragraphs;
mod structure;
mod title;
mod visibility;

pub(crate) use pages::read_pdf;
