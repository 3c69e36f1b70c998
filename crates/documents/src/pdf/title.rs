//! Where the title page ends, and which of its lines are the title.

use super::classify::Kind;
use super::paragraphs::{Measures, Paragraph};
use crate::headings::{Number, Role};
use crate::text::{collapse, has_word, word_count};

pub(super) struct BodyStart {
    /// Paragraphs before this are front matter.
    pub(super) front: usize,
}

pub(super) fn body_start(paragraphs: &[Paragraph], kinds: &[Kind], measures: &Measures) -> BodyStart {
    let first = kinds.iter().zip(paragraphs).position(|(k, p)| {
        p.page <= 3
            && matches!(k, Kind::Heading(h) if h.role == Some(Role::Abstract)
                || h.role == Some(Role::Usual) && h.level == 1
                || h.number.as_ref().is_some_and(|n| matches!(n, Number::Arabic(a) if a.as_slice() == [1]) || matches!(n, Number::Roman(1))))
    });
    let limit =
        first.unwrap_or_else(|| paragraphs.iter().position(|p| p.page > 0).unwrap_or(paragraphs.len()));
    // An abstract without a heading: the first long paragraph before the first heading.
    let long = paragraphs[..limit].iter().position(|p| {
        word_count(&p.text) >= 45
            && p.lines.len() >= 3
            && p.size < 1.3 * measures.body
            && !crate::scrub::names_people(&p.text)
    });
    BodyStart { front: long.unwrap_or(limit) }
}

pub(super) struct FoundTitle {
    pub(super) text: String,
    pub(super) range: std::ops::Range<usize>,
}

pub(super) fn find_title(front: &[Paragraph], metadata: Option<&str>) -> Option<FoundTitle> {
    let first_page = front.first()?.page;
    let candidates: Vec<usize> = (0..front.len())
        .filter(|i| {
            front[*i].page <= first_page + 1 && has_word(&front[*i].text, 3) && front[*i].chars() >= 6
        })
        .collect();
    let largest = candidates
        .iter()
        .copied()
        .filter(|i| front[*i].text.split_whitespace().count() >= 2 || candidates.len() == 1)
        .max_by(|a, b| front[*a].size.total_cmp(&front[*b].size).then(b.cmp(a)))
        .or_else(|| candidates.first().copied())?;
    let alike = |i: usize| (front[i].size - front[largest].size).abs() < 0.04 * front[largest].size;
    // Well above the rest, the size alone tells; else weight must agree.
    let others =
        front.iter().map(|p| p.size).filter(|s| *s < 0.96 * front[largest].size).fold(0.0f32, f32::max);
    let clear = front[largest].size > 1.15 * others;
    let bold_differs = |i: usize| !clear && front[i].bold != front[largest].bold;
    let mut start = largest;
    // With equal sizes the first of them is the title.
    while start > 0 && alike(start - 1) && !bold_differs(start - 1) && near(&front[start - 1], &front[start])
    {
        start -= 1;
    }
    let mut end = start + 1;
    while end < front.len()
        && alike(end)
        && !bold_differs(end)
        && near(&front[end - 1], &front[end])
        && end - start < 6
    {
        end += 1;
    }
    let mut text = String::new();
    for p in &front[start..end] {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&p.text);
    }
    let text = clean_title(&text);
    // The file's own idea of its title, where it stands on the page in these letters.
    if let Some(meta) = metadata.map(collapse)
        && word_count(&meta) >= 2
        && letters(&meta) == letters(&text)
    {
        return Some(FoundTitle { text: meta, range: start..end });
    }
    Some(FoundTitle { text, range: start..end })
}

fn near(above: &Paragraph, below: &Paragraph) -> bool {
    above.page == below.page
        && below.top - above.bottom < 2.4 * above.size.max(below.size)
        && below.top > above.bottom - 1.0
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn clean_title(text: &str) -> String {
    let text = collapse(text);
    let cut = text.trim_end_matches(|c: char| "∗*†‡§¶^ ".contains(c));
    let cut = match cut.rfind('^') {
        Some(i) if i + 3 >= cut.len() => &cut[..i],
        _ => cut,
    };
    cut.to_owned()
}
