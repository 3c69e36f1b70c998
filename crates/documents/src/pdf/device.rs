//! Interprets a page and notes each glyph with place, size, font and whether a human can see it.

use super::fonts::FontIndex;
use super::visibility::{Area, Unseen, mark_covered, mark_overfull};
use crate::text::has_word;
use hayro_interpret::font::{Glyph as PdfGlyph, GlyphRun};
use hayro_interpret::hayro_cmap::BfString;
use hayro_interpret::{
    BlendMode, CacheKey, ClipPath, Device, DrawMode, DrawProps, FillRule, Image, ImageDrawProps, Paint,
    SoftMask,
};
use kurbo::{Affine, BezPath, Point, Rect, Shape};
use std::collections::HashMap;

/// One glyph. Lengths in points; x to the right, y downwards from the page's top left corner.
#[derive(Debug, Clone)]
pub(crate) struct Glyph {
    /// What it says; U+FFFD where the file does not tell.
    pub(crate) text: char,
    /// The rest, where one glyph stands for several characters.
    pub(crate) more: Option<Box<str>>,
    pub(crate) x: f32,
    /// Baseline.
    pub(crate) y: f32,
    /// Advance along the baseline.
    pub(crate) advance: f32,
    /// Height of the font.
    pub(crate) size: f32,
    /// Direction of the baseline in quarter turns: 0 to the right, 1 upwards, 2 upside down, 3 downwards; 4 oblique.
    pub(crate) turn: u8,
    pub(crate) face: u16,
    /// Position in the drawing order of the page.
    pub(crate) order: u32,
    pub(crate) unseen: Option<Unseen>,
}

impl Glyph {
    /// Rough box: left, top, right, bottom.
    pub(crate) fn bounds(&self) -> Rect {
        let (x, y, a, s) =
            (f64::from(self.x), f64::from(self.y), f64::from(self.advance), f64::from(self.size));
        match self.turn {
            0 => Rect::new(x, y - 0.7 * s, x + a, y + 0.2 * s),
            1 => Rect::new(x - 0.7 * s, y - a, x + 0.2 * s, y),
            2 => Rect::new(x - a, y - 0.2 * s, x, y + 0.7 * s),
            3 => Rect::new(x - 0.2 * s, y, x + 0.7 * s, y + a),
            _ => Rect::new(x - 0.5 * s, y - 0.5 * s, x + 0.5 * s, y + 0.5 * s),
        }
    }
}

/// What one page holds.
pub(crate) struct PageContent {
    pub(crate) glyphs: Vec<Glyph>,
    /// Points.
    pub(crate) width: f32,
    pub(crate) height: f32,
    /// Glyphs whose meaning the file does not tell.
    pub(crate) unmapped: usize,
    /// Share of the page that opaque images cover (overlaps count twice).
    pub(crate) image_cover: f32,
}

/// The device that the interpreter draws on.
pub(crate) struct Recorder<'f> {
    fonts: &'f mut FontIndex,
    page: Rect,
    sheet: Rect,
    glyphs: Vec<Glyph>,
    areas: Vec<Area>,
    clips: Vec<Rect>,
    opacities: Vec<f32>,
    order: u32,
    unmapped: usize,
    image_cover: f64,
    last_run: Option<(f32, f32, usize)>,
    inked: &'f mut HashMap<u128, bool>,
    stop: bool,
}

/// More painted areas than this are charts; their exact stacking is not followed.
const MAX_AREAS: usize = 4000;
/// A page with more glyphs than this is no page of a paper.
const MAX_GLYPHS: usize = 400_000;
/// Largest difference per colour channel (of 255) that a human does not see.
const SAME_COLOUR: i32 = 14;

impl<'f> Recorder<'f> {
    /// `page`: the visible page; `sheet`: the media box in the same coordinates.
    pub(crate) fn new(
        fonts: &'f mut FontIndex,
        inked: &'f mut HashMap<u128, bool>,
        page: Rect,
        sheet: Rect,
    ) -> Self {
        Recorder {
            fonts,
            page,
            sheet,
            glyphs: Vec::new(),
            areas: Vec::new(),
            clips: Vec::new(),
            opacities: vec![1.0],
            order: 0,
            unmapped: 0,
            image_cover: 0.0,
            last_run: None,
            inked,
            stop: false,
        }
    }

    /// The page, after everything was drawn.
    pub(crate) fn finish(mut self) -> PageContent {
        mark_covered(&mut self.glyphs, &self.areas);
        mark_overfull(&mut self.glyphs, self.page.width() as f32);
        PageContent {
            glyphs: self.glyphs,
            width: self.page.width() as f32,
            height: self.page.height() as f32,
            unmapped: self.unmapped,
            image_cover: self.image_cover as f32,
        }
    }

    fn clip(&self) -> Rect {
        self.clips.last().copied().unwrap_or(Rect::new(-1e9, -1e9, 1e9, 1e9))
    }

    fn opacity(&self) -> f32 {
        self.opacities.last().copied().unwrap_or(1.0)
    }

    fn add_area(&mut self, bounds: Rect, path: Option<BezPath>, paint: Option<[u8; 4]>, image: bool) {
        self.order += 1;
        let bounds = bounds.intersect(self.clip()).intersect(self.page);
        if bounds.width() < 1.0 || bounds.height() < 1.0 || self.areas.len() >= MAX_AREAS {
            return;
        }
        let alpha = paint.map_or(1.0, |c| f32::from(c[3]) / 255.0) * self.opacity();
        if alpha < 0.1 {
            return;
        }
        let opaque = alpha > 0.95;
        let colour = paint.filter(|_| opaque).map(|c| [c[0], c[1], c[2]]);
        self.areas.push(Area {
            order: self.order,
            bounds,
            path,
            colour,
            opaque: opaque && (paint.is_some() || image),
            image,
        });
    }

    /// The colour beneath a point; `None` where it is not one colour.
    fn background(&self, p: Point) -> Option<[u8; 3]> {
        for area in self.areas.iter().rev() {
            if area.covers_point(p) {
                return area.colour;
            }
        }
        Some([255, 255, 255])
    }

    fn visibility(&self, glyph: &Glyph, colour: Option<[u8; 4]>, mode: &DrawMode) -> Option<Unseen> {
        if matches!(mode, DrawMode::Invisible) {
            return Some(Unseen::NotPainted);
        }
        let bounds = glyph.bounds();
        if bounds.x1 < self.sheet.x0
            || bounds.x0 > self.sheet.x1
            || bounds.y1 < self.sheet.y0
            || bounds.y0 > self.sheet.y1
        {
            return Some(Unseen::OffPage);
        }
        let centre = bounds.center();
        if !self.page.contains(centre) {
            return Some(if self.sheet.contains(centre) { Unseen::OutsideCropBox } else { Unseen::OffPage });
        }
        let clip = self.clip();
        let seen = bounds.intersect(clip);
        let visible_part = |a: f64, whole: f64| whole <= 0.0 || a / whole > 0.15;
        if seen.width() <= 0.0 && bounds.width() > 0.0
            || seen.height() <= 0.0
            || !visible_part(seen.width() * seen.height(), bounds.width() * bounds.height())
        {
            return Some(Unseen::Clipped);
        }
        if let Some(c) = colour {
            if f32::from(c[3]) / 255.0 * self.opacity() < 0.06 {
                return Some(Unseen::Transparent);
            }
            if let Some(beneath) = self.background(centre) {
                let distance =
                    (0..3).map(|i| (i32::from(c[i]) - i32::from(beneath[i])).abs()).max().unwrap_or(255);
                if distance <= SAME_COLOUR {
                    return Some(Unseen::SameColour);
                }
            }
        }
        if glyph.size < 2.0 && !self.fonts.face(glyph.face).type3 {
            return Some(Unseen::Tiny);
        }
        None
    }
}

fn colour_of(paint: &Paint<'_>) -> Option<[u8; 4]> {
    match paint {
        Paint::Color(c) => Some(c.to_rgba().to_rgba8()),
        Paint::Pattern(_) => None,
    }
}

fn turn_of(a: f64, b: f64) -> u8 {
    // y points downwards, so a baseline that goes up the page has a negative b.
    if b.abs() <= 0.1 * a.abs() {
        if a >= 0.0 { 0 } else { 2 }
    } else if a.abs() <= 0.1 * b.abs() {
        if b < 0.0 { 1 } else { 3 }
    } else {
        4
    }
}

/// Widths of Computer Modern letters in thousandths of the size: nearly all bitmap fonts in papers are Computer Modern
/// (or Times, which is close), and their nominal size says nothing.
fn typical_width(c: char) -> Option<f32> {
    Some(match c {
        'a' | 'g' | 'o' | 'v' | 'x' | '0'..='9' => 500.0,
        'b' | 'd' | 'h' | 'k' | 'n' | 'p' | 'u' => 556.0,
        'c' | 'e' | 'z' => 444.0,
        'f' => 306.0,
        'i' | 'l' => 278.0,
        'm' => 833.0,
        'q' | 'y' => 528.0,
        'r' | 's' => 392.0,
        't' => 389.0,
        'w' => 722.0,
        'A' | 'B' | 'C' | 'D' | 'H' | 'K' | 'N' | 'R' | 'U' | 'V' | 'X' | 'Y' => 740.0,
        'E' | 'F' | 'L' | 'P' | 'T' => 670.0,
        'G' | 'O' | 'Q' => 780.0,
        _ => return None,
    })
}

impl<'a> Device<'a> for Recorder<'_> {
    fn draw_path(&mut self, path: &BezPath, props: DrawProps<'a>, mode: &DrawMode) {
        let path = props.transform * path;
        let bounds = path.bounding_box();
        if matches!(mode, DrawMode::Fill(_) | DrawMode::FillAndStroke(..)) {
            let rectangle = path.elements().len() <= 6 && {
                let area = path.area().abs();
                (area - bounds.area()).abs() <= 0.02 * bounds.area().max(1.0)
            };
            self.add_area(bounds, (!rectangle).then_some(path), colour_of(&props.paint), false);
        }
    }

    fn push_clip_path(&mut self, clip: &ClipPath) {
        let bounds = match clip.fill {
            FillRule::NonZero | FillRule::EvenOdd => clip.path.bounding_box(),
        };
        let clipped = self.clip().intersect(bounds);
        self.clips.push(clipped);
    }

    fn push_clip_rect(&mut self, rect: &Rect) {
        let clipped = self.clip().intersect(*rect);
        self.clips.push(clipped);
    }

    fn pop_clip(&mut self) {
        self.clips.pop();
    }

    fn push_transparency_group(&mut self, opacity: f32, mask: Option<SoftMask<'a>>, _: BlendMode) {
        // What a mask lets through is not followed: seen, but not opaque.
        let through = if mask.is_some() { 0.9 } else { 1.0 };
        let product = self.opacity() * opacity * through;
        self.opacities.push(product);
    }

    fn pop_transparency_group(&mut self) {
        if self.opacities.len() > 1 {
            self.opacities.pop();
        }
    }

    fn draw_image(&mut self, image: Image<'a, '_>, props: ImageDrawProps<'a>) {
        let unit = Rect::new(0.0, 0.0, f64::from(image.width()), f64::from(image.height()));
        let bounds = props.transform.transform_rect_bbox(unit);
        let visible = bounds.intersect(self.page).intersect(self.clip());
        // A stencil paints with holes: neither a background of one colour nor a cover.
        // A scan may come in strips: their areas add up.
        let share = visible.width().max(0.0) * visible.height().max(0.0) / self.page.area().max(1.0);
        match image {
            Image::Stencil(_) => self.image_cover += share,
            Image::Raster(_) if props.soft_mask.is_some() => self.add_area(bounds, None, None, false),
            Image::Raster(raster) => {
                let dict = raster.stream().dict();
                let solid = !dict.contains_key(b"SMask") && !dict.contains_key(b"Mask");
                if solid {
                    self.image_cover += share;
                }
                self.add_area(bounds, None, None, solid);
            }
        }
    }

    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, mode: &DrawMode) {
        if self.stop {
            return;
        }
        let glyphs = run.glyphs();
        let Some(first) = glyphs.first() else { return };
        // Render mode 2 comes as a fill and a stroke of the same run.
        let origin = props.transform * first.transform() * Point::ZERO;
        let signature = (origin.x as f32, origin.y as f32, glyphs.len());
        if matches!(mode, DrawMode::Stroke(_)) && self.last_run == Some(signature) {
            return;
        }
        self.last_run = Some(signature);
        let colour = colour_of(&props.paint);
        let size_of_type3 = type3_size(glyphs, &props);
        self.order += 1;
        for positioned in glyphs {
            if self.glyphs.len() >= MAX_GLYPHS {
                self.stop = true;
                return;
            }
            let t: Affine = props.transform * positioned.transform();
            let [a, b, c, d, x, y] = t.as_coeffs();
            if ![a, b, c, d, x, y].iter().all(|v| v.is_finite() && v.abs() < 1e7) {
                continue;
            }
            let glyph: &PdfGlyph<'a> = positioned;
            let width = match glyph {
                PdfGlyph::Outline(o) => o.advance_width().unwrap_or(500.0),
                PdfGlyph::Type3(t) => t.advance_width().unwrap_or(500.0),
            };
            let advance = f64::from(width) * a.hypot(b);
            let size = match (glyph, size_of_type3) {
                (PdfGlyph::Type3(_), Some(size)) => size,
                _ => (1000.0 * c.hypot(d)) as f32,
            };
            let (text, more, mut unseen) = self.meaning(glyph);
            let mut recorded = Glyph {
                text,
                more,
                x: x as f32,
                y: y as f32,
                advance: advance as f32,
                size,
                turn: turn_of(a, b),
                face: self.fonts.face_of(glyph),
                order: self.order,
                unseen: None,
            };
            if unseen.is_none() {
                unseen = self.visibility(&recorded, colour, mode);
            }
            if unseen.is_none() && a.hypot(b) < 0.08 * c.hypot(d) {
                unseen = Some(Unseen::Squeezed);
            }
            if unseen.is_none()
                && let PdfGlyph::Type3(t) = glyph
                && !text.is_whitespace()
                && !self.has_ink(t)
            {
                unseen = Some(Unseen::EmptyGlyph);
            }
            recorded.unseen = unseen;
            self.glyphs.push(recorded);
        }
    }
}

impl Recorder<'_> {
    /// What a glyph says, and whether it says it in characters that no font shows.
    fn meaning(&mut self, glyph: &PdfGlyph<'_>) -> (char, Option<Box<str>>, Option<Unseen>) {
        match glyph.as_unicode() {
            Some(BfString::Char(c)) if is_tag(c) => (untag(c), None, Some(Unseen::TagCharacters)),
            Some(BfString::Char(c)) => (c, None, None),
            Some(BfString::String(s)) => {
                if s.chars().any(is_tag) {
                    let plain: String = s.chars().map(|c| if is_tag(c) { untag(c) } else { c }).collect();
                    let mut chars = plain.chars();
                    let first = chars.next().unwrap_or('\u{fffd}');
                    return (first, Some(chars.as_str().into()), Some(Unseen::TagCharacters));
                }
                if s.chars()
                    .filter(|c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}'))
                    .count()
                    >= 8
                    && !has_word(&s, 3)
                {
                    let shown: Option<char> = s.chars().find(|c| c.is_alphanumeric());
                    return (shown.unwrap_or('\u{200b}'), None, Some(Unseen::ZeroWidth));
                }
                let mut chars = s.chars();
                match chars.next() {
                    Some(first) => {
                        let rest = chars.as_str();
                        (first, (!rest.is_empty()).then(|| rest.into()), None)
                    }
                    None => ('\u{200b}', None, None),
                }
            }
            None => match bitmap_code(glyph) {
                Some(c) => (c, None, None),
                None => {
                    self.unmapped += 1;
                    ('\u{fffd}', None, None)
                }
            },
        }
    }

    fn has_ink(&mut self, glyph: &hayro_interpret::font::Type3Glyph<'_>) -> bool {
        let key = glyph.cache_key();
        if let Some(&known) = self.inked.get(&key) {
            return known;
        }
        let mut probe = InkProbe(false);
        let paint = Paint::Color(hayro_interpret::color::Color::from_rgba(
            hayro_interpret::color::AlphaColor::from_rgba8(0, 0, 0, 255),
        ));
        glyph.interpret(&mut probe, Affine::IDENTITY, Affine::IDENTITY, &paint);
        self.inked.insert(key, probe.0);
        probe.0
    }
}

/// What the code of a bitmap glyph without a name says. Such fonts are TeX's (dvips), and TeX's codes for letters, digits
/// and most signs are ASCII; the five ligatures come before.
fn bitmap_code(glyph: &PdfGlyph<'_>) -> Option<char> {
    let PdfGlyph::Type3(_) = glyph else { return None };
    match glyph.char_code() {
        0x0b => Some('ﬀ'),
        0x0c => Some('ﬁ'),
        0x0d => Some('ﬂ'),
        0x0e => Some('ﬃ'),
        0x0f => Some('ﬄ'),
        0x7b => Some('–'),
        0x7c => Some('—'),
        code @ 0x21..=0x7a => char::from_u32(code),
        _ => None,
    }
}

/// Size of a run of Type 3 glyphs, from the widths of its letters.
fn type3_size(glyphs: &[hayro_interpret::font::PositionedGlyph<'_>], props: &DrawProps<'_>) -> Option<f32> {
    let mut ratios = Vec::new();
    for positioned in glyphs {
        let PdfGlyph::Type3(glyph) = &**positioned else { return None };
        let (Some(BfString::Char(c)), Some(width)) = (glyph.as_unicode(), glyph.advance_width()) else {
            continue;
        };
        if let Some(typical) = typical_width(c) {
            let [a, b, ..] = (props.transform * positioned.transform()).as_coeffs();
            ratios.push((f64::from(width) * a.hypot(b)) as f32 * 1000.0 / typical);
        }
    }
    ratios.sort_by(f32::total_cmp);
    ratios.get(ratios.len() / 2).copied().map(|r| (r * 10.0).round() / 10.0)
}

fn is_tag(c: char) -> bool {
    ('\u{e0000}'..='\u{e007f}').contains(&c)
}

fn untag(c: char) -> char {
    char::from_u32((c as u32) - 0xe0000).filter(|c| !c.is_control()).unwrap_or('\u{200b}')
}

/// A device that only notes whether anything is drawn.
struct InkProbe(bool);

impl<'a> Device<'a> for InkProbe {
    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'a>, _: &DrawMode) {
        self.0 = true;
    }
    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {}
    fn draw_glyph_run(&mut self, _: &GlyphRun<'_, 'a>, _: DrawProps<'a>, _: &DrawMode) {
        self.0 = true;
    }
    fn draw_image(&mut self, _: Image<'a, '_>, _: ImageDrawProps<'a>) {
        self.0 = true;
    }
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}
