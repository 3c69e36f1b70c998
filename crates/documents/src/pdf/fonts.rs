//! Font names for glyphs.
//!
//! The interpreter's device sees glyphs without the name of their font, and for Type 1 fonts (nearly every pdfTeX
//! paper) not even the font data. Each glyph however has an identity (font program and glyph id); so all fonts of the
//! file are walked once and the identity of each of their glyphs is noted with the font's `/BaseFont`.

use hayro_font::{FontCache, FontGlyph};
use hayro_interpret::InterpreterSettings;
use hayro_interpret::font::Glyph;
use hayro_syntax::Pdf;
use hayro_syntax::object::{Dict, Name, Object};
use std::collections::HashMap;

/// What the name of a font says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FontFace {
    /// Name without the subset tag `ABCDEF+`.
    pub(crate) name: String,
    /// Bold, semibold, black.
    pub(crate) bold: bool,
    /// Italic or oblique.
    pub(crate) italic: bool,
    /// A mathematical font (symbols, maths italic, extensible).
    pub(crate) math: bool,
    /// TeX's extension font: its big operators and brackets hang below their origin.
    pub(crate) extension: bool,
    /// A Type 3 font: its nominal size says nothing about how large it is drawn.
    pub(crate) type3: bool,
}

impl FontFace {
    fn named(base: &str, type3: bool) -> Self {
        let name = match base.split_once('+') {
            Some((tag, rest)) if tag.len() == 6 => rest,
            _ => base,
        };
        let upper = name.to_ascii_uppercase();
        let has = |parts: &[&str]| parts.iter().any(|p| upper.contains(p));
        let starts = |parts: &[&str]| parts.iter().any(|p| upper.starts_with(p));
        FontFace {
            bold: has(&["BOLD", "MEDI", "BLACK", "HEAVY", "DEMI"]) && !has(&["MEDIUM", "CMMI"])
                || starts(&[
                    "CMBX",
                    "CMB1",
                    "CMSSBX",
                    "SFBX",
                    "SFSX",
                    "ECBX",
                    "EBGARAMOND-SEMI",
                    "LMROMAN10-BOLD",
                ])
                || upper.ends_with("-B")
                || upper.ends_with("BX10"),
            italic: has(&["ITAL", "OBLI", "CMTI", "CMSL", "SFTI", "ECTI"]),
            math: starts(&[
                "CMMI", "CMSY", "CMEX", "MSBM", "MSAM", "EUFM", "EUSM", "RSFS", "TXMI", "TXSY", "STIXMATH",
            ]) || has(&["MATH", "SYMBOL", "CMBSY", "MTSY", "MTMI"]),
            extension: starts(&["CMEX", "TXEX", "LMMATHEXTENSION", "MTEX", "EUEX"]),
            type3,
            name: name.to_owned(),
        }
    }
}

/// Faces by glyph identity.
pub(crate) struct FontIndex {
    faces: Vec<FontFace>,
    by_glyph: HashMap<u128, u16>,
    by_name: HashMap<String, u16>,
}

/// Index of the face that stands for "unknown".
pub(crate) const UNKNOWN_FACE: u16 = 0;

impl FontIndex {
    /// Walks all simple outline fonts of the file.
    pub(crate) fn new(pdf: &Pdf, settings: &InterpreterSettings) -> Self {
        let mut index = FontIndex {
            faces: vec![FontFace::named("", false), FontFace::named("Type3", true)],
            by_glyph: HashMap::new(),
            by_name: HashMap::new(),
        };
        let cache = FontCache::new();
        for object in pdf.objects() {
            let Object::Dict(dict) = object else { continue };
            if name_of(&dict, b"Type").as_deref() != Some("Font") {
                continue;
            }
            let (Some(base), Some(subtype)) = (name_of(&dict, b"BaseFont"), name_of(&dict, b"Subtype"))
            else {
                continue;
            };
            // Composite and Type 3 fonts are named when their glyphs are met.
            if !matches!(subtype.as_str(), "Type1" | "MMType1" | "TrueType") {
                continue;
            }
            let Some(font) = cache.font(&dict, &settings.font_resolver, &settings.cmap_resolver) else {
                continue;
            };
            let face = index.intern(&base, false);
            for code in 0..=255u32 {
                if let FontGlyph::Outline(outline) = font.glyph(font.map_code(code), code) {
                    index.by_glyph.insert(outline.identifier().cache_key(), face);
                }
            }
        }
        index
    }

    /// The face of a glyph that is being drawn.
    pub(crate) fn face_of(&mut self, glyph: &Glyph<'_>) -> u16 {
        match glyph {
            Glyph::Type3(_) => 1,
            Glyph::Outline(outline) => {
                let key = outline.identifier().cache_key();
                if let Some(&face) = self.by_glyph.get(&key) {
                    return face;
                }
                let face = match outline.font_data().and_then(|d| d.postscript_name) {
                    Some(name) => self.intern(&name, false),
                    None => UNKNOWN_FACE,
                };
                self.by_glyph.insert(key, face);
                face
            }
        }
    }

    /// The face with this index.
    pub(crate) fn face(&self, index: u16) -> &FontFace {
        self.faces.get(usize::from(index)).unwrap_or(&self.faces[0])
    }

    fn intern(&mut self, base: &str, type3: bool) -> u16 {
        if let Some(&known) = self.by_name.get(base) {
            return known;
        }
        // A file with more than 65,535 fonts gets "unknown" for the rest.
        let Ok(index) = u16::try_from(self.faces.len()) else { return UNKNOWN_FACE };
        self.faces.push(FontFace::named(base, type3));
        self.by_name.insert(base.to_owned(), index);
        index
    }
}

fn name_of(dict: &Dict<'_>, key: &[u8]) -> Option<String> {
    dict.get::<Name<'_>>(key).map(|n| n.as_str().to_owned())
}
