//! PDF by the embedded typesetter.

use std::sync::OnceLock;

use serde_json::{Value, json};
use typst::diag::{FileError, FileResult};
use typst::foundations::{Bytes, Datetime, Dict, Duration, IntoValue, Str};
use typst::syntax::{FileId, RootedPath, Source, VirtualPath, VirtualRoot};
use typst::text::{Font, FontBook};
use typst::utils::LazyHash;
use typst::{Library, LibraryExt, World};
use typst_layout::PagedDocument;
use typst_pdf::PdfOptions;

use crate::citations::{cite, entry};
use crate::error::TypesetError;
use crate::math;
use crate::paper::{Block, Inline, Origin, Paper};

const TEMPLATE: &str = include_str!("template.typ");
/// Stands on every page that shows a simulated result.
pub const SIMULATED_MARK: &str = "Contains simulated results: invented by a model, not measured.";

/// Sets a paper. The same paper gives the same bytes.
///
/// # Errors
/// Only if the template itself fails.
pub fn pdf(paper: &Paper) -> Result<Vec<u8>, TypesetError> {
    // A formula that the typesetter does not take shows its source: tried whole first, then without formulas.
    let mut last = None;
    for formulas in [true, false] {
        match compile(&data(paper, formulas)) {
            Ok(bytes) => return Ok(bytes),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| TypesetError::Compile("nothing to set".into())))
}

fn inline(x: &Inline, paper: &Paper, formulas: bool) -> Value {
    match x {
        Inline::Text(t) => json!({"t": "text", "v": t}),
        Inline::Emph(t) => json!({"t": "emph", "v": t}),
        Inline::Strong(t) => json!({"t": "strong", "v": t}),
        Inline::Code(t) => json!({"t": "code", "v": t}),
        Inline::Math(t) => match math::typst(t).filter(|_| formulas) {
            Some(v) => json!({"t": "math", "v": v}),
            None => json!({"t": "code", "v": t}),
        },
        Inline::Cite { keys, textual } => json!({"t": "text", "v": cite(keys, *textual, &paper.references)}),
        Inline::Number { text, origin: Origin::Simulated } => json!({"t": "simulated", "v": text}),
        Inline::Number { text, .. } => json!({"t": "text", "v": text}),
    }
}

fn block(b: &Block, paper: &Paper, formulas: bool) -> Value {
    let run = |xs: &[Inline]| xs.iter().map(|x| inline(x, paper, formulas)).collect::<Vec<_>>();
    match b {
        Block::Paragraph(xs) => json!({"t": "paragraph", "v": run(xs)}),
        Block::Equation(t) => match math::typst(t).filter(|_| formulas) {
            Some(v) => json!({"t": "equation", "v": v}),
            None => json!({"t": "source", "v": t}),
        },
        Block::Code(t) => json!({"t": "code", "v": t}),
        Block::List { ordered, items } => {
            json!({"t": "list", "ordered": ordered, "items": items.iter().map(|i| run(i)).collect::<Vec<_>>()})
        }
        Block::Table(t) => {
            let columns = t.rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
            let rows: Vec<Vec<String>> = t
                .rows
                .iter()
                .map(|r| (0..columns).map(|i| r.get(i).cloned().unwrap_or_default()).collect())
                .collect();
            let rows = if rows.is_empty() { vec![vec![String::new(); columns]] } else { rows };
            json!({"t": "table", "caption": t.caption, "columns": columns, "rows": rows,
                "simulated": t.origin == Origin::Simulated})
        }
    }
}

fn data(paper: &Paper, formulas: bool) -> String {
    let run = |xs: &[Inline]| xs.iter().map(|x| inline(x, paper, formulas)).collect::<Vec<_>>();
    let sections: Vec<Value> = paper
        .sections
        .iter()
        .map(|s| {
            json!({"level": s.level.clamp(1, 3), "heading": s.heading,
                "blocks": s.blocks.iter().map(|b| block(b, paper, formulas)).collect::<Vec<_>>()})
        })
        .collect();
    let running: String = paper.title.chars().take(90).collect();
    json!({"title": paper.title, "style": paper.style, "byline": paper.byline, "running": running, "mark": SIMULATED_MARK,
        "abstract": paper.abstract_text.iter().map(|p| run(p)).collect::<Vec<_>>(), "sections": sections,
        "references": paper.references.iter().map(entry).collect::<Vec<_>>(), "declaration": paper.declaration})
    .to_string()
}

struct Fonts {
    book: LazyHash<FontBook>,
    fonts: Vec<Font>,
}

fn fonts() -> &'static Fonts {
    static FONTS: OnceLock<Fonts> = OnceLock::new();
    FONTS.get_or_init(|| {
        let fonts: Vec<Font> = typst_assets::fonts().flat_map(|d| Font::iter(Bytes::new(d))).collect();
        Fonts { book: LazyHash::new(FontBook::from_fonts(&fonts)), fonts }
    })
}

/// One template, one value: no files, no network, no clock.
struct Desk {
    library: LazyHash<Library>,
    main: FileId,
    source: Source,
}

impl World for Desk {
    fn library(&self) -> &LazyHash<Library> {
        &self.library
    }
    fn book(&self) -> &LazyHash<FontBook> {
        &fonts().book
    }
    fn main(&self) -> FileId {
        self.main
    }
    fn source(&self, id: FileId) -> FileResult<Source> {
        if id == self.main { Ok(self.source.clone()) } else { Err(FileError::AccessDenied) }
    }
    fn file(&self, _: FileId) -> FileResult<Bytes> {
        Err(FileError::AccessDenied)
    }
    fn font(&self, index: usize) -> Option<Font> {
        fonts().fonts.get(index).cloned()
    }
    fn today(&self, _: Option<Duration>) -> Option<Datetime> {
        None
    }
}

fn compile(paper: &str) -> Result<Vec<u8>, TypesetError> {
    let fail = |what: String| TypesetError::Compile(what);
    let mut inputs = Dict::new();
    inputs.insert(Str::from("paper"), paper.into_value());
    let library = Library::builder().with_inputs(inputs).build();
    let path = VirtualPath::new("/main.typ").map_err(|e| fail(format!("{e:?}")))?;
    // The same name for every paper: file ids are interned for good.
    let main = RootedPath::new(VirtualRoot::Project, path).intern();
    let desk = Desk { library: LazyHash::new(library), main, source: Source::new(main, TEMPLATE.into()) };
    let messages = |errors: &[typst::diag::SourceDiagnostic]| {
        errors.iter().map(|e| e.message.to_string()).collect::<Vec<_>>().join("; ")
    };
    let document = typst::compile::<PagedDocument>(&desk).output.map_err(|e| fail(messages(&e)))?;
    let bytes = typst_pdf::pdf(&document, &PdfOptions::default()).map_err(|e| fail(messages(&e)))?;
    Ok(bytes)
}
