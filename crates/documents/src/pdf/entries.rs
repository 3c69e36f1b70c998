//! The lines of a bibliography, cut into entries.

use super::lines::Line;
use super::paragraphs::{Measures, append_line};
use crate::text::{Vocabulary, drop_soft_hyphens, has_word};
use crate::{Reference, references};
use std::collections::HashMap;

/// Cuts the lines of the bibliography into entries: by labels, by hanging indents, by gaps.
pub(super) fn split_references(
    lines: &[Line],
    measures: &Measures,
    vocabulary: &Vocabulary,
) -> Vec<Reference> {
    let texts: Vec<String> = lines.iter().map(|l| l.text()).collect();
    let starts = reference_starts(lines, &texts, measures);
    let mut out = Vec::new();
    let mut current = String::new();
    for (text, start) in texts.iter().zip(&starts) {
        if *start && !current.is_empty() {
            out.push(references::entry(&drop_soft_hyphens(&std::mem::take(&mut current))));
        }
        append_line(&mut current, text, vocabulary);
    }
    if !current.trim().is_empty() {
        out.push(references::entry(&drop_soft_hyphens(&current)));
    }
    out.retain(|r| has_word(&r.text, 3));
    out
}

fn reference_starts(lines: &[Line], texts: &[String], measures: &Measures) -> Vec<bool> {
    let labelled: Vec<bool> = texts.iter().map(|t| references::split_label(t).is_some()).collect();
    let labels = labelled.iter().filter(|b| **b).count();
    if labels >= 2 && labels * 8 >= lines.len() && labelled.first() == Some(&true) {
        return labelled;
    }
    // The edge of this bibliography in each column of each page.
    let mut edges: HashMap<(usize, u8), f32> = HashMap::new();
    for line in lines {
        let edge = edges.entry((line.page, line.column)).or_insert(f32::INFINITY);
        *edge = edge.min(line.x0);
    }
    let indent = |l: &Line| l.x0 - edges.get(&(l.page, l.column)).copied().unwrap_or(l.x0);
    let hanging = lines.iter().filter(|l| indent(l) > 0.45 * l.size).count();
    if hanging * 5 >= lines.len() && hanging < lines.len() {
        return lines.iter().map(|l| indent(l) <= 0.45 * l.size).collect();
    }
    let mut starts = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        let start = match i.checked_sub(1).map(|j| &lines[j]) {
            None => true,
            Some(last) if last.page != line.page || last.column != line.column => {
                texts[i - 1].trim_end().ends_with('.') && texts[i].starts_with(|c: char| c.is_uppercase())
            }
            Some(last) => line.y - last.y > 1.18 * measures.leading * (line.size / measures.body),
        };
        starts.push(start);
    }
    starts
}
