//! Layers (optional content groups) that are switched off: the interpreter never draws them, so their text has to be
//! looked for in the content stream itself.

use crate::text::{collapse, has_word, push_folded, shorten, word_count};
use crate::{Finding, Severity};
use hayro_font::FontCache;
use hayro_font::hayro_cmap::BfString;
use hayro_font::{Font, FontGlyph};
use hayro_interpret::InterpreterSettings;
use hayro_syntax::Pdf;
use hayro_syntax::content::ops::TypedInstruction;
use hayro_syntax::object::{Array, Dict, Name, Object, ObjectIdentifier};
use hayro_syntax::page::Page;
use std::collections::HashSet;

/// The layers of a file that are off.
pub(crate) struct Layers {
    off: HashSet<ObjectIdentifier>,
}

impl Layers {
    /// Reads the default configuration of the catalog.
    pub(crate) fn of(pdf: &Pdf) -> Self {
        let mut off = HashSet::new();
        let catalog = pdf.xref().get::<Dict<'_>>(pdf.xref().root_id());
        let properties = catalog.and_then(|c| c.get::<Dict<'_>>(b"OCProperties".as_slice()));
        if let Some(properties) = properties
            && let Some(default) = properties.get::<Dict<'_>>(b"D".as_slice())
        {
            let references = |dict: &Dict<'_>, key: &[u8]| -> Vec<ObjectIdentifier> {
                let array = dict.get::<Array<'_>>(key);
                array
                    .iter()
                    .flat_map(|a| a.raw_iter())
                    .filter_map(|o| o.as_obj_ref())
                    .map(Into::into)
                    .collect()
            };
            if default.get::<Name<'_>>(b"BaseState".as_slice()).is_some_and(|n| n.as_str() == "OFF") {
                off.extend(references(&properties, b"OCGs"));
            }
            for on in references(&default, b"ON") {
                off.remove(&on);
            }
            off.extend(references(&default, b"OFF"));
        }
        Layers { off }
    }

    /// The text of a page that stands in such a layer.
    pub(crate) fn finding<'p>(
        &self,
        page: &Page<'p>,
        number: usize,
        fonts: &FontCache<'p>,
        settings: &InterpreterSettings,
    ) -> Option<Finding> {
        if self.off.is_empty() {
            return None;
        }
        let text = self.text(page, fonts, settings);
        if !has_word(&text, 3) {
            return None;
        }
        let many = word_count(&text) >= 3 || text.split(' ').any(|t| t.chars().count() >= 12);
        let hidden = many || crate::instructions::addresses_a_model(&text);
        Some(Finding {
            severity: if hidden { Severity::Hidden } else { Severity::Note },
            reason: "layer-off".to_owned(),
            page: Some(number + 1),
            bounds: None,
            text: shorten(&text, 500),
        })
    }

    fn text<'p>(&self, page: &Page<'p>, fonts: &FontCache<'p>, settings: &InterpreterSettings) -> String {
        let resources = page.resources();
        let mut out = String::new();
        // Whether each open marked content is in a layer that is off.
        let mut open: Vec<bool> = Vec::new();
        let mut font: Option<Font<'p>> = None;
        let mut operations = page.typed_operations();
        while let Some(operation) = operations.next() {
            let inside = open.last().copied().unwrap_or(false);
            match operation {
                TypedInstruction::BeginMarkedContent(_) => open.push(inside),
                TypedInstruction::BeginMarkedContentWithProperties(mark) => {
                    let reference = mark
                        .1
                        .clone()
                        .into_name()
                        .and_then(|name| resources.properties.get_ref(name.as_ref()));
                    open.push(inside || reference.is_some_and(|r| self.off.contains(&r.into())));
                }
                TypedInstruction::EndMarkedContent(_) => {
                    open.pop();
                    if inside {
                        out.push(' ');
                    }
                }
                TypedInstruction::TextFont(name) => {
                    font = resources
                        .get_font(name.0)
                        .and_then(|dict| fonts.font(&dict, &settings.font_resolver, &settings.cmap_resolver));
                }
                TypedInstruction::ShowText(text) if inside => {
                    decode(&mut out, font.as_ref(), text.0.as_bytes())
                }
                TypedInstruction::NextLineAndShowText(text) if inside => {
                    out.push(' ');
                    decode(&mut out, font.as_ref(), text.0.as_bytes());
                }
                TypedInstruction::ShowTexts(texts) if inside => {
                    for object in texts.0.iter::<Object<'_>>() {
                        match object {
                            // A shift of a fifth of the size or more is a space.
                            Object::Number(shift) if shift.as_f32() < -200.0 => out.push(' '),
                            Object::String(text) => decode(&mut out, font.as_ref(), text.as_bytes()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        collapse(&out)
    }
}

fn decode(out: &mut String, font: Option<&Font<'_>>, bytes: &[u8]) {
    let Some(font) = font else {
        return bytes.iter().for_each(|b| push_folded(out, char::from(*b)));
    };
    let mut at = 0;
    while at < bytes.len() {
        let (code, length) = font.read_code(bytes, at);
        at += length.max(1);
        let meaning = match font.glyph(font.map_code(code), code) {
            FontGlyph::Outline(glyph) => glyph.as_unicode(),
            FontGlyph::Type3(glyph) => glyph.as_unicode(),
        };
        match meaning {
            Some(BfString::Char(c)) => push_folded(out, c),
            Some(BfString::String(s)) => s.chars().for_each(|c| push_folded(out, c)),
            None => out.push('\u{fffd}'),
        }
    }
}
