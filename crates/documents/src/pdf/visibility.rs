//! What a human sees of a glyph: reasons why not, what is painted beneath and above it.

use super::device::Glyph;
use kurbo::{BezPath, Point, Rect, Shape};

/// Why a human cannot see a glyph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unseen {
    /// Render mode 3 (or 7, clip only): not painted at all.
    NotPainted,
    /// The colour of what lies beneath it.
    SameColour,
    /// Alpha near 0.
    Transparent,
    /// Below 2 pt.
    Tiny,
    /// Squeezed to nothing in one direction.
    Squeezed,
    /// Outside of the page.
    OffPage,
    /// On the sheet, but outside of the crop box.
    OutsideCropBox,
    /// Outside of the clipping path.
    Clipped,
    /// The end of a visible line that runs over the edge of the page.
    RunsOff,
    /// Something opaque was painted over it.
    Covered,
    /// The glyph has a meaning but no ink.
    EmptyGlyph,
    /// Unicode tag characters (U+E0000…), which no font shows.
    TagCharacters,
    /// Long runs of zero-width characters.
    ZeroWidth,
}

impl Unseen {
    /// Kebab-case name, as findings say it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unseen::NotPainted => "render-mode-3",
            Unseen::SameColour => "white-on-white",
            Unseen::Transparent => "transparent",
            Unseen::Tiny => "tiny",
            Unseen::Squeezed => "squeezed",
            Unseen::OffPage => "off-page",
            Unseen::OutsideCropBox => "outside-crop-box",
            Unseen::Clipped => "clipped",
            Unseen::RunsOff => "runs-off-page",
            Unseen::Covered => "covered",
            Unseen::EmptyGlyph => "empty-glyphs",
            Unseen::TagCharacters => "tag-characters",
            Unseen::ZeroWidth => "zero-width",
        }
    }
}

/// Something painted with a solid colour, or with something that is not a single colour (`None`).
pub(super) struct Area {
    pub(super) order: u32,
    pub(super) bounds: Rect,
    /// `None` for a rectangle, else its outline.
    pub(super) path: Option<BezPath>,
    pub(super) colour: Option<[u8; 3]>,
    pub(super) opaque: bool,
    pub(super) image: bool,
}

impl Area {
    pub(super) fn covers_point(&self, p: Point) -> bool {
        self.bounds.contains(p) && self.path.as_ref().is_none_or(|path| path.winding(p) != 0)
    }
}

/// Marks glyphs that something opaque was painted over later.
pub(super) fn mark_covered(glyphs: &mut [Glyph], areas: &[Area]) {
    let covers: Vec<&Area> = areas.iter().filter(|a| a.opaque).collect();
    if covers.is_empty() {
        return;
    }
    for glyph in glyphs.iter_mut() {
        if glyph.unseen.is_some() {
            continue;
        }
        let bounds = glyph.bounds();
        let hidden = covers.iter().rev().take_while(|a| a.order > glyph.order).any(|a| {
            let inset = bounds.inset(-0.05 * f64::from(glyph.size));
            a.bounds.contains(Point::new(inset.x0, inset.y0))
                && a.bounds.contains(Point::new(inset.x1, inset.y1))
                && (a.image || a.covers_point(bounds.center()))
        });
        if hidden {
            glyph.unseen = Some(Unseen::Covered);
        }
    }
}

/// Lines that begin on the page and end beyond its edge are bad typesetting, not a trick, as long as most is seen.
pub(super) fn mark_overfull(glyphs: &mut [Glyph], width: f32) {
    let outside =
        |g: &Glyph| matches!(g.unseen, Some(Unseen::OffPage | Unseen::OutsideCropBox | Unseen::Clipped));
    let follows = |a: &Glyph, b: &Glyph| {
        (a.y - b.y).abs() < 0.3 * b.size && a.turn == 0 && b.turn == 0 && {
            let gap = b.x - a.x - a.advance;
            gap > -0.5 * b.size && gap < 1.2 * b.size
        }
    };
    let mut i = 1;
    while i < glyphs.len() {
        if !outside(&glyphs[i]) || glyphs[i - 1].unseen.is_some() || !follows(&glyphs[i - 1], &glyphs[i]) {
            i += 1;
            continue;
        }
        let mut end = i + 1;
        while end < glyphs.len() && outside(&glyphs[end]) && follows(&glyphs[end - 1], &glyphs[end]) {
            end += 1;
        }
        let seen = (1..i)
            .rev()
            .take_while(|j| glyphs[*j].unseen.is_none() && follows(&glyphs[*j - 1], &glyphs[*j]))
            .count();
        // Either most of the line is seen, or much of it is and the edge of the page cuts it.
        let at_edge = glyphs[i - 1].x + glyphs[i - 1].advance > width - 1.5 * glyphs[i].size;
        if end - i <= seen.max(3) && end - i <= 80 || at_edge && seen >= 20 && end - i <= 4 * seen {
            glyphs[i..end].iter_mut().for_each(|g| g.unseen = Some(Unseen::RunsOff));
        }
        i = end;
    }
}
