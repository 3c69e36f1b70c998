//! From glyphs to pieces (runs of words on one baseline) and lines.

use super::device::Glyph;
use super::fonts::FontIndex;
use crate::text::{combining_of, push_folded};
use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization;

/// A word with its place along the line, in points.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) x0: f32,
    pub(crate) x1: f32,
}

/// Words on one baseline without a wide gap between them.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) words: Vec<Word>,
    pub(crate) x0: f32,
    pub(crate) x1: f32,
    /// Baseline.
    pub(crate) y: f32,
    /// Size of most of its characters.
    pub(crate) size: f32,
    /// Face of most of its characters.
    pub(crate) face: u16,
    /// Whether most letters are bold; italic.
    pub(crate) bold: bool,
    pub(crate) italic: bool,
    /// Share of characters in mathematical fonts.
    pub(crate) math: f32,
    /// Length in bytes of the bold text it begins with.
    pub(crate) bold_lead: usize,
    /// True if it begins with a raised mark, as footnotes do.
    pub(crate) raised_start: bool,
    /// Index of its first glyph in drawing order.
    pub(crate) order: usize,
    /// Number of characters.
    pub(crate) chars: usize,
}

impl Piece {
    /// The words with single spaces.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for word in &self.words {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&word.text);
        }
        out
    }
}

impl Piece {
    /// Takes the last or the first word away.
    pub(crate) fn drop_word(&mut self, last: bool) {
        if self.words.is_empty() {
            return;
        }
        let word = if last { self.words.pop() } else { Some(self.words.remove(0)) };
        self.chars = self.chars.saturating_sub(word.map_or(0, |w| w.text.chars().count()));
        self.x0 = self.words.first().map_or(self.x0, |w| w.x0);
        self.x1 = self.words.last().map_or(self.x1, |w| w.x1);
        self.raised_start &= last;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Base,
    Raised,
    Lowered,
}

struct Item<'g> {
    glyph: &'g Glyph,
    /// Gap before it in units of the size.
    gap: f32,
    space_before: bool,
    place: Place,
    accent: Option<char>,
}

/// Chains glyphs, which must share one direction turned to run rightwards, into pieces.
pub(crate) fn pieces(glyphs: &[Glyph], fonts: &FontIndex) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut chain: Vec<Item<'_>> = Vec::new();
    let (mut base_y, mut base_size, mut pen, mut base_end) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    let (mut space, mut start) = (false, 0usize);
    let mut accent: Option<(char, &Glyph)> = None;
    for (index, glyph) in glyphs.iter().enumerate() {
        if glyph.text.is_whitespace() && glyph.more.is_none() {
            space = true;
            continue;
        }
        if matches!(glyph.text, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
            && glyph.more.is_none()
        {
            continue;
        }
        if let Some(mark) = combining_of(glyph.text)
            && glyph.more.is_none()
            && let Some(next) = glyphs.get(index + 1)
            && next.text.is_alphabetic()
            && overlaps(glyph, next)
        {
            accent = Some((mark, glyph));
            continue;
        }
        let mark = accent.take().map(|(mark, _)| mark);
        // An accent drawn after its letter.
        if let (Some(combining), Some(last)) = (combining_of(glyph.text), chain.last_mut())
            && glyph.more.is_none()
            && last.glyph.text.is_alphabetic()
            && last.accent.is_none()
            && overlaps(glyph, last.glyph)
        {
            last.accent = Some(combining);
            continue;
        }
        let extension = fonts.face(glyph.face).extension;
        let relation = if chain.is_empty() {
            None
        } else {
            relation(glyph, extension, base_y, base_size, pen, base_end, chain.last().map(|i| i.place))
        };
        match relation {
            Some((place, gap)) => {
                if place == Place::Base
                    && glyph.size > 1.15 * base_size
                    && (glyph.y - base_y).abs() > 0.1 * glyph.size
                {
                    // What stood before was a raised or lowered mark of this glyph's line.
                    let before = if base_y < glyph.y { Place::Raised } else { Place::Lowered };
                    chain.iter_mut().for_each(|i| i.place = before);
                    base_y = glyph.y;
                    base_size = glyph.size;
                }
                chain.push(Item {
                    glyph,
                    gap: gap / glyph.size.max(base_size).max(0.1),
                    space_before: space,
                    place,
                    accent: mark,
                });
                if place == Place::Base && !extension {
                    base_size = base_size.max(glyph.size);
                    base_end = glyph.x + glyph.advance;
                }
                pen = if place == Place::Base {
                    glyph.x + glyph.advance
                } else {
                    pen.max(glyph.x + glyph.advance)
                };
            }
            None => {
                close(&mut out, &mut chain, base_y, start, fonts);
                start = index;
                base_y = glyph.y;
                base_size = glyph.size;
                pen = glyph.x + glyph.advance;
                base_end = pen;
                chain.push(Item { glyph, gap: 0.0, space_before: false, place: Place::Base, accent: mark });
            }
        }
        space = false;
    }
    close(&mut out, &mut chain, base_y, start, fonts);
    out
}

fn overlaps(accent: &Glyph, letter: &Glyph) -> bool {
    let centre = accent.x + accent.advance / 2.0;
    (accent.y - letter.y).abs() < 0.6 * letter.size
        && centre > letter.x - 0.12 * letter.size
        && centre < letter.x + letter.advance + 0.12 * letter.size
}

/// Whether `glyph` goes on with the chain: where it stands in relation to the baseline, and the gap before it.
fn relation(
    glyph: &Glyph,
    extension: bool,
    base_y: f32,
    base_size: f32,
    pen: f32,
    base_end: f32,
    last: Option<Place>,
) -> Option<(Place, f32)> {
    let big = base_size.max(glyph.size);
    let dy = glyph.y - base_y;
    let gap = glyph.x - pen;
    if extension {
        return (dy.abs() <= 2.5 * base_size && gap > -big && gap < big).then_some((Place::Base, gap));
    }
    if dy.abs() <= 0.12 * big + 0.2 {
        if gap < -0.7 * big || gap > 1.3 * big {
            return None;
        }
        // Another size on the same baseline and some way off: a line number, a label.
        let ratio = glyph.size / base_size.max(0.1);
        if !(0.72..=1.38).contains(&ratio) && gap > 0.45 * big {
            return None;
        }
        return Some((Place::Base, gap));
    }
    if glyph.size < 0.93 * base_size && dy > -0.75 * base_size && dy < 0.45 * base_size {
        let place = if dy < 0.0 { Place::Raised } else { Place::Lowered };
        let stacked =
            last.is_some_and(|l| l != Place::Base && l != place) && glyph.x >= base_end - 0.2 * base_size;
        if (gap > -0.3 * big && gap < 0.6 * base_size) || stacked {
            return Some((place, gap.max(0.0)));
        }
        return None;
    }
    // The chain so far was a small mark; this is the line's real baseline.
    if base_size < 0.87 * glyph.size
        && dy > -0.45 * glyph.size
        && dy < 0.75 * glyph.size
        && gap > -0.3 * big
        && gap < 0.6 * big
    {
        return Some((Place::Base, gap));
    }
    None
}

fn close(out: &mut Vec<Piece>, chain: &mut Vec<Item<'_>>, y: f32, start: usize, fonts: &FontIndex) {
    let items = std::mem::take(chain);
    let Some(first) = items.first() else { return };
    let threshold = space_threshold(&items);
    let mut words: Vec<Word> = Vec::new();
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    let mut faces: HashMap<u16, usize> = HashMap::new();
    let (mut letters, mut bold, mut italic, mut math, mut total) = (0usize, 0usize, 0usize, 0usize, 0usize);
    let (mut lead_open, mut lead) = (true, 0usize);
    let mut last_bold = false;
    let mut before = Place::Base;
    let mut length = 0usize;
    for (i, item) in items.iter().enumerate() {
        let glyph = item.glyph;
        let breaks = i == 0 || item.space_before && item.gap > -0.2 || item.gap > threshold;
        if breaks {
            if i > 0 {
                length += 1;
            }
            words.push(Word { text: String::new(), x0: glyph.x, x1: glyph.x });
        }
        let Some(word) = words.last_mut() else { continue };
        let had = word.text.len();
        if item.place != before && item.place != Place::Base && !word.text.is_empty() {
            let c = glyph.text;
            if c.is_alphanumeric() || "-−+∗*†‡§¶(,".contains(c) {
                word.text.push(if item.place == Place::Raised { '^' } else { '_' });
            }
        }
        before = item.place;
        match item.accent {
            Some(mark) => {
                let base = match glyph.text {
                    'ı' => 'i',
                    'ȷ' => 'j',
                    c => c,
                };
                word.text.extend([base, mark].into_iter().nfc());
            }
            None => push_folded(&mut word.text, glyph.text),
        }
        if let Some(more) = &glyph.more {
            more.chars().for_each(|c| push_folded(&mut word.text, c));
        }
        length += word.text.len() - had;
        word.x0 = word.x0.min(glyph.x);
        word.x1 = word.x1.max(glyph.x + glyph.advance);
        let face = fonts.face(glyph.face);
        total += 1;
        if item.place == Place::Base {
            *sizes.entry((glyph.size * 10.0).round() as u32).or_default() += 1;
            *faces.entry(glyph.face).or_default() += 1;
        }
        if glyph.text.is_alphanumeric() && item.place == Place::Base && !face.math {
            letters += 1;
            bold += usize::from(face.bold);
            italic += usize::from(face.italic);
            last_bold = face.bold;
            if !face.bold {
                lead_open = false;
            }
        }
        if lead_open && face.bold {
            lead = length;
        }
        math += usize::from(face.math);
    }
    words.retain(|w| !w.text.trim().is_empty());
    words.iter_mut().for_each(|w| {
        if w.text.contains(' ') {
            w.text = crate::text::collapse(&w.text);
        }
    });
    if words.is_empty() {
        return;
    }
    let most = |map: &HashMap<u32, usize>| {
        let mut pairs: Vec<_> = map.iter().map(|(k, n)| (*n, *k)).collect();
        pairs.sort_unstable();
        pairs.last().map(|p| p.1)
    };
    let size = most(&sizes).map_or(first.glyph.size, |s| s as f32 / 10.0);
    let faces: HashMap<u32, usize> = faces.into_iter().map(|(k, n)| (u32::from(k), n)).collect();
    let face = most(&faces).and_then(|f| u16::try_from(f).ok()).unwrap_or(first.glyph.face);
    out.push(Piece {
        x0: words.iter().map(|w| w.x0).fold(f32::INFINITY, f32::min),
        x1: words.iter().map(|w| w.x1).fold(f32::NEG_INFINITY, f32::max),
        y,
        size,
        face,
        // A bold lead that nearly fills its line ends in a letter that is not bold.
        bold: last_bold && bold * 20 >= letters * 17,
        italic: letters > 0 && italic * 10 >= letters * 7,
        math: math as f32 / total.max(1) as f32,
        bold_lead: lead,
        raised_start: first.place == Place::Raised && items.iter().any(|i| i.place == Place::Base),
        order: start,
        chars: total,
        words,
    });
}

/// The gap (in units of the size) from which on a space is meant. Letter-spaced lines have wide gaps throughout.
fn space_threshold(items: &[Item<'_>]) -> f32 {
    let explicit = items.iter().any(|i| i.space_before);
    let mut gaps: Vec<f32> =
        items.iter().skip(1).filter(|i| i.place == Place::Base && !i.space_before).map(|i| i.gap).collect();
    if gaps.len() >= 6 {
        gaps.sort_by(f32::total_cmp);
        let median = gaps[gaps.len() / 2];
        if median > 0.08 {
            return if explicit { median + 0.3 } else { median + 0.15 };
        }
    }
    if explicit { 0.25 } else { 0.145 }
}

/// A line: pieces on one baseline, left to right.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) x0: f32,
    pub(crate) x1: f32,
    pub(crate) y: f32,
    pub(crate) size: f32,
    pub(crate) bold: bool,
    pub(crate) italic: bool,
    pub(crate) math: f32,
    pub(crate) face: u16,
    pub(crate) order: usize,
    pub(crate) chars: usize,
    /// Page, from 0.
    pub(crate) page: usize,
    /// 0 across the page (or the only column), 1 left, 2 right.
    pub(crate) column: u8,
}

impl Line {
    /// A line of one piece.
    pub(crate) fn of(piece: Piece, page: usize) -> Self {
        Line {
            x0: piece.x0,
            x1: piece.x1,
            y: piece.y,
            size: piece.size,
            bold: piece.bold,
            italic: piece.italic,
            math: piece.math,
            face: piece.face,
            order: piece.order,
            chars: piece.chars,
            page,
            column: 0,
            pieces: vec![piece],
        }
    }

    /// Adds a piece to the right or to the left.
    pub(crate) fn add(&mut self, piece: Piece) {
        if piece.chars > self.pieces.iter().map(|p| p.chars).max().unwrap_or(0) {
            self.size = piece.size;
            self.face = piece.face;
            self.y = piece.y;
        }
        let whole = (self.chars + piece.chars).max(1) as f32;
        self.math = (self.math * self.chars as f32 + piece.math * piece.chars as f32) / whole;
        self.bold = self.bold && piece.bold;
        self.italic = self.italic && piece.italic;
        self.chars += piece.chars;
        self.x0 = self.x0.min(piece.x0);
        self.x1 = self.x1.max(piece.x1);
        self.order = self.order.min(piece.order);
        self.pieces.push(piece);
        self.pieces.sort_by(|a, b| a.x0.total_cmp(&b.x0));
    }

    /// All words with single spaces.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&piece.text());
        }
        out
    }

    /// Cells: words apart by more than `gap` points.
    pub(crate) fn cells(&self, gap: f32) -> Vec<String> {
        let mut cells: Vec<String> = Vec::new();
        let mut end = f32::NEG_INFINITY;
        for word in self.pieces.iter().flat_map(|p| &p.words) {
            match cells.last_mut() {
                Some(cell) if word.x0 - end <= gap => {
                    cell.push(' ');
                    cell.push_str(&word.text);
                }
                _ => cells.push(word.text.clone()),
            }
            end = word.x1;
        }
        cells
    }

    /// True if it begins with a raised mark.
    pub(crate) fn raised_start(&self) -> bool {
        self.pieces.first().is_some_and(|p| p.raised_start)
    }
}
