//! From glyphs that a human cannot see to findings.

use super::device::{Glyph, PageContent};
use super::fonts::FontIndex;
use super::lines::pieces;
use super::visibility::Unseen;
use crate::text::{has_word, shorten, word_count};
use crate::{Finding, Severity};
use kurbo::Rect;
use std::collections::HashSet;

/// Takes what cannot be seen out of a page and says what it was.
///
/// Text under a scanned page (render mode 3 below or above an image that fills the page, with hardly any visible text)
/// is an OCR layer: it stays, with a note.
pub(crate) fn separate(content: &mut PageContent, page: usize, fonts: &FontIndex) -> Vec<Finding> {
    let mut findings = Vec::new();
    let letters = |g: &&Glyph| !g.text.is_whitespace();
    let seen = content.glyphs.iter().filter(letters).filter(|g| g.unseen.is_none()).count();
    let layer = |g: &Glyph| matches!(g.unseen, Some(Unseen::NotPainted | Unseen::Covered));
    let below = content.glyphs.iter().filter(letters).filter(|g| layer(g)).count();
    if below > 0 && content.image_cover > 0.5 && seen * 4 <= below {
        content.glyphs.iter_mut().filter(|g| layer(g)).for_each(|g| g.unseen = None);
        findings.push(Finding {
            severity: Severity::Note,
            reason: "ocr-layer".to_owned(),
            page: Some(page + 1),
            bounds: None,
            text: format!(
                "a scanned page: its text ({below} characters) is an OCR layer and may hold errors"
            ),
        });
    }
    if content.glyphs.iter().all(|g| g.unseen.is_none()) {
        return findings;
    }
    let (hidden, visible): (Vec<Glyph>, Vec<Glyph>) =
        std::mem::take(&mut content.glyphs).into_iter().partition(|g| g.unseen.is_some());
    // A halo or shadow: the same glyph is seen at the same place.
    let places: HashSet<(char, i32, i32)> = visible
        .iter()
        .flat_map(|g| {
            (-1..=1).flat_map(move |dx| (-1..=1).map(move |dy| (g.text, bucket(g.x) + dx, bucket(g.y) + dy)))
        })
        .collect();
    let hidden: Vec<Glyph> =
        hidden.into_iter().filter(|g| !places.contains(&(g.text, bucket(g.x), bucket(g.y)))).collect();
    content.glyphs = visible;
    let mut start = 0;
    while start < hidden.len() {
        let reason = hidden[start].unseen;
        let mut end = start + 1;
        while end < hidden.len() && hidden[end].unseen == reason {
            end += 1;
        }
        if let Some(reason) = reason
            && let Some(finding) = finding(&hidden[start..end], reason, page, fonts)
        {
            findings.push(finding);
        }
        start = end;
    }
    findings
}

fn bucket(v: f32) -> i32 {
    (v / 1.5).round() as i32
}

fn finding(glyphs: &[Glyph], reason: Unseen, page: usize, fonts: &FontIndex) -> Option<Finding> {
    let text = pieces(glyphs, fonts).iter().map(|p| p.text()).collect::<Vec<_>>().join(" ");
    let raw: String = glyphs.iter().map(|g| g.text).collect();
    let text = match reason {
        Unseen::ZeroWidth => format!("{} glyphs carry runs of zero-width characters", glyphs.len()),
        _ if text.trim().is_empty() => raw,
        _ => text,
    };
    // Blank placeholders and single signs are how figures and forms are made.
    if !has_word(&text, 2) && reason != Unseen::ZeroWidth {
        return None;
    }
    let words = word_count(&text);
    let hidden = match reason {
        // Labels that a figure covers or cuts off, and figures scaled down, are common and innocent.
        Unseen::Covered | Unseen::Clipped => {
            has_word(&text, 3) && (words >= 3 || text.split(' ').any(|t| t.chars().count() >= 12))
        }
        Unseen::RunsOff => false,
        Unseen::Tiny => {
            let size = glyphs.iter().map(|g| g.size).fold(0.0f32, f32::max);
            has_word(&text, 3) && (size < 1.0 || words >= 6)
        }
        Unseen::ZeroWidth => true,
        _ => has_word(&text, 3),
    };
    // However it was hidden, a message to a model is no accident.
    let hidden = hidden || crate::instructions::addresses_a_model(&text);
    let bounds = glyphs.iter().map(Glyph::bounds).reduce(|a: Rect, b| a.union(b))?;
    Some(Finding {
        severity: if hidden { Severity::Hidden } else { Severity::Note },
        reason: reason.reason().to_owned(),
        page: Some(page + 1),
        bounds: Some([bounds.x0 as f32, bounds.y0 as f32, bounds.x1 as f32, bounds.y1 as f32]),
        text: shorten(&text, 500),
    })
}
