//! The way from the bytes of a PDF to a document, page by page.

use super::device::{Glyph, PageContent, Recorder};
use super::fonts::FontIndex;
use super::layers::Layers;
use super::lines::{Line, Piece, pieces};
use super::paragraphs::{Measures, paragraphs};
use super::structure::assemble;
use super::{furniture, hidden, layout};
use crate::read::ReadOptions;
use crate::text::{Vocabulary, collapse, ends_in_hyphen};
use crate::{Document, Finding, ReadError, Severity, Source};
use hayro_font::FontCache;
use hayro_interpret::{Context, InterpreterCache, InterpreterSettings, RenderContent, interpret_page};
use hayro_syntax::page::Page;
use hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use kurbo::{Affine, Rect};
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

/// Reads a PDF.
pub(crate) fn read_pdf(
    bytes: Vec<u8>,
    sha256: String,
    path: &Path,
    options: &ReadOptions,
) -> Result<Document, ReadError> {
    let started = Instant::now();
    let ends = has_end(&bytes);
    let pdf = Pdf::new(bytes).map_err(|e| match e {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => {
            ReadError::Encrypted { path: path.into() }
        }
        LoadPdfError::Decryption(e) => {
            ReadError::Damaged { path: path.into(), reason: format!("its encryption cannot be read ({e:?})") }
        }
        LoadPdfError::Invalid => ReadError::Damaged {
            path: path.into(),
            reason: "it begins like a PDF, but holds no readable page (cut off?); fetch it again".into(),
        },
    })?;
    let count = pdf.pages().len();
    if count == 0 {
        return Err(ReadError::Empty { path: path.into(), reason: "the PDF has no page".into() });
    }
    if !ends {
        // What is left may look like a whole, short paper.
        return Err(ReadError::Damaged {
            path: path.into(),
            reason: format!("cut off: its end is missing, {count} pages are left of it; fetch it again"),
        });
    }
    if count > options.max_pages {
        return Err(ReadError::Limit {
            path: path.into(),
            reason: format!(
                "{count} pages, and at most {} are read; take the paper out of it (for example: qpdf IN --pages . 1-50 -- OUT)",
                options.max_pages
            ),
        });
    }
    let settings =
        InterpreterSettings { render_content: RenderContent::PAGE, ..InterpreterSettings::default() };
    let cache = InterpreterCache::new();
    let mut fonts = FontIndex::new(&pdf, &settings);
    let mut inked = HashMap::new();
    let layers = Layers::of(&pdf);
    let layer_fonts = FontCache::new();
    let mut findings: Vec<Finding> = Vec::new();
    let mut piece_pages: Vec<Vec<Piece>> = Vec::with_capacity(count);
    let mut heights = Vec::with_capacity(count);
    let mut widths = Vec::with_capacity(count);
    let (mut unmapped, mut total, mut images) = (0usize, 0usize, 0usize);
    for (number, page) in pdf.pages().iter().enumerate() {
        if let Some(limit) = options.max_time
            && started.elapsed() > limit
        {
            return Err(ReadError::Limit {
                path: path.into(),
                reason: format!("only {number} of {count} pages were read within {} s", limit.as_secs()),
            });
        }
        let mut content = interpret(page, &pdf, &cache, &settings, &mut fonts, &mut inked);
        findings.extend(hidden::separate(&mut content, number, &fonts));
        findings.extend(layers.finding(page, number, &layer_fonts, &settings));
        unmapped += content.unmapped;
        total += content.glyphs.len();
        images += usize::from(content.image_cover > 0.02);
        let (glyphs, width, height) = upright(content);
        piece_pages.push(pieces(&glyphs, &fonts));
        widths.push(width);
        heights.push(height);
    }
    if total == 0 {
        if findings.iter().any(|f| f.severity == Severity::Hidden) {
            // Nothing but hidden text: the findings are the result.
            return Ok(empty_document(sha256, count, findings));
        }
        return Err(ReadError::Empty {
            path: path.into(),
            reason: format!(
                "no text layer ({count} pages, {images} of them pictures); run OCR on it first (for example: ocrmypdf IN OUT)"
            ),
        });
    }
    if unmapped > 0 {
        findings.push(Finding {
            severity: Severity::Note,
            reason: "unmapped-glyphs".into(),
            page: None,
            bounds: None,
            text: format!("{unmapped} of {total} characters have no Unicode value and read as U+FFFD"),
        });
    }
    furniture::remove_line_numbers(&mut piece_pages);
    let mut line_pages = lay_out(piece_pages, &widths);
    furniture::remove_running_lines(&mut line_pages, &heights);
    let vocabulary = learn(&line_pages);
    let measures = Measures::of(&line_pages);
    let line_pages: Vec<Vec<Line>> = line_pages.into_iter().map(layout::reading_order).collect();
    let paragraphs = paragraphs(line_pages, &measures, &vocabulary);
    let metadata_title = pdf.metadata().title.as_deref().map(decode_text_string);
    let parts = assemble(paragraphs, &measures, &vocabulary, metadata_title.as_deref());
    Ok(Document {
        source: Source::Pdf,
        sha256,
        title: parts.title,
        abstract_text: parts.abstract_text,
        front_matter: parts.front_matter,
        sections: parts.sections,
        references: parts.references,
        tables: parts.tables,
        pages: Some(count),
        findings,
    })
}

/// True if the file's last `startxref` is there. One that points to 0 is the first part of a file made for the web, whose
/// end says more.
fn has_end(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"startxref";
    let last = bytes.windows(MARK.len()).rposition(|w| w == MARK);
    last.is_some_and(|at| {
        let rest = bytes[at + MARK.len()..].trim_ascii_start();
        rest.first().is_some_and(|b| (b'1'..=b'9').contains(b))
    })
}

fn empty_document(sha256: String, pages: usize, findings: Vec<Finding>) -> Document {
    Document {
        source: Source::Pdf,
        sha256,
        title: None,
        abstract_text: None,
        front_matter: None,
        sections: Vec::new(),
        references: Vec::new(),
        tables: Vec::new(),
        pages: Some(pages),
        findings,
    }
}

fn interpret<'p>(
    page: &Page<'p>,
    pdf: &'p Pdf,
    cache: &InterpreterCache<'p>,
    settings: &InterpreterSettings,
    fonts: &mut FontIndex,
    inked: &mut HashMap<u128, bool>,
) -> PageContent {
    let transform = Affine::new(page.initial_transform(true).as_coeffs());
    let (width, height) = page.render_dimensions();
    let bounds = Rect::new(0.0, 0.0, f64::from(width), f64::from(height));
    let media = page.media_box();
    let sheet = transform.transform_rect_bbox(Rect::new(media.x0, media.y0, media.x1, media.y1));
    let mut recorder = Recorder::new(fonts, inked, bounds, sheet);
    // A box far larger than the page, so that every clip is told.
    let everything = Rect::new(-1e6, -1e6, 1e6, 1e6);
    let mut context = Context::new(transform, everything, cache, pdf.xref(), settings.clone());
    interpret_page(page, &mut context, &mut recorder);
    recorder.finish()
}

/// Glyphs in the page's main direction, turned to run rightwards. Others (a stamp in the margin, axis labels) are left
/// out.
fn upright(content: PageContent) -> (Vec<Glyph>, f32, f32) {
    let mut counts = [0usize; 5];
    for glyph in &content.glyphs {
        counts[usize::from(glyph.turn.min(4))] += 1;
    }
    let main = (0..4u8).max_by_key(|t| (counts[usize::from(*t)], 4 - *t)).unwrap_or(0);
    let (width, height) = (content.width, content.height);
    let glyphs = content
        .glyphs
        .into_iter()
        .filter(|g| g.turn == main)
        .map(|mut g| {
            (g.x, g.y) = match main {
                1 => (height - g.y, g.x),
                2 => (width - g.x, height - g.y),
                3 => (g.y, width - g.x),
                _ => (g.x, g.y),
            };
            g.turn = 0;
            g
        })
        .collect();
    if main % 2 == 1 { (glyphs, height, width) } else { (glyphs, width, height) }
}

/// Lines of each page, with columns; a page with little text takes the gutter of the document.
fn lay_out(pages: Vec<Vec<Piece>>, widths: &[f32]) -> Vec<Vec<Line>> {
    let gutters: Vec<Option<f32>> = pages.iter().zip(widths).map(|(p, w)| layout::gutter(p, *w)).collect();
    let mut known: Vec<f32> = gutters.iter().flatten().copied().collect();
    known.sort_by(f32::total_cmp);
    let usual = (known.len() * 2 > pages.len()).then(|| known[known.len() / 2]);
    pages
        .into_iter()
        .enumerate()
        .map(|(number, page)| {
            let gutter = gutters[number].or(usual);
            layout::lines(page, gutter, number, widths.get(number).copied().unwrap_or(612.0))
        })
        .collect()
}

fn learn(pages: &[Vec<Line>]) -> Vocabulary {
    let mut vocabulary = Vocabulary::default();
    for page in pages {
        let mut after_hyphen = false;
        for line in page {
            let text = line.text();
            vocabulary.learn(&text, after_hyphen);
            after_hyphen = ends_in_hyphen(&text);
        }
    }
    vocabulary
}

/// A PDF text string: UTF-16 with a byte order mark, UTF-8 with one, else near enough Latin-1.
fn decode_text_string(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xfe, 0xff, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        other => other.iter().map(|b| char::from(*b)).collect(),
    };
    collapse(&text)
}
