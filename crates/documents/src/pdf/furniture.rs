//! Page numbers, running heads and feet, line numbers: what stands on a page without being read.

use super::lines::{Line, Piece};
use std::collections::HashMap;

/// Removes columns of line numbers: whole numbers at one x that increase down the page, outside of the text.
/// Returns how many were removed.
pub(crate) fn remove_line_numbers(pages: &mut [Vec<Piece>]) -> usize {
    let candidates: Vec<Vec<(usize, bool)>> = pages.iter().map(|p| line_numbers(p)).collect();
    let with = candidates.iter().filter(|c| !c.is_empty()).count();
    // One page with such a column may be a table; a manuscript has it on most of its pages.
    if with == 0 || with * 2 < pages.iter().filter(|p| p.len() > 10).count() {
        return 0;
    }
    // The places where such columns stand; a page with a few numbered lines has them there too.
    let mut places: Vec<(bool, f32, f32)> = Vec::new();
    for (page, numbers) in pages.iter().zip(&candidates) {
        places.extend(numbers.iter().filter_map(|(index, last)| {
            let words = &page[*index].words;
            let word = if *last { words.last() } else { words.first() }?;
            Some((*last, word.x0, word.x1))
        }));
    }
    let usual = |last: bool, x0: f32, x1: f32| {
        let near = places
            .iter()
            .filter(|(l, a, b)| *l == last && ((a - x0).abs() < 2.0 || (b - x1).abs() < 2.0))
            .count();
        near * 10 >= places.len()
    };
    let mut removed = 0;
    for (page, mut numbers) in pages.iter_mut().zip(candidates) {
        if numbers.is_empty() {
            numbers = number_words(page)
                .into_iter()
                .filter(|c| usual(c.last, c.x0, c.x1))
                .map(|c| (c.index, c.last))
                .collect();
            numbers.sort_unstable();
            numbers.reverse();
        }
        removed += numbers.len();
        for (index, last) in numbers {
            page[index].drop_word(last);
        }
        page.retain(|p| !p.words.is_empty());
    }
    removed
}

/// A number that stands apart at the beginning or the end of a piece.
struct Candidate {
    index: usize,
    last: bool,
    number: u32,
    x0: f32,
    x1: f32,
    y: f32,
}

fn number_words(page: &[Piece]) -> Vec<Candidate> {
    let mut numbers: Vec<Candidate> = Vec::new();
    for (index, piece) in page.iter().enumerate() {
        let count = piece.words.len();
        for (at, last) in [(0, false), (count.saturating_sub(1), true)] {
            if last && count < 2 {
                continue;
            }
            let Some(word) = piece.words.get(at) else { continue };
            // A number that stands inside a line is apart from its neighbour.
            let apart = match if last { at.checked_sub(1) } else { Some(1) }.and_then(|n| piece.words.get(n))
            {
                None => true,
                Some(n) if last => word.x0 - n.x1 > 0.5 * piece.size,
                Some(n) => n.x0 - word.x1 > 0.5 * piece.size,
            };
            if apart
                && word.text.len() <= 4
                && let Ok(number) = word.text.parse::<u32>()
            {
                numbers.push(Candidate { index, last, number, x0: word.x0, x1: word.x1, y: piece.y });
            }
        }
    }
    numbers
}

/// Pieces whose first (false) or last (true) word is a line number.
fn line_numbers(page: &[Piece]) -> Vec<(usize, bool)> {
    let mut numbers = number_words(page);
    numbers.sort_by(|a, b| a.y.total_cmp(&b.y));
    let text: Vec<(f32, f32)> = page
        .iter()
        .filter(|p| p.chars >= 20)
        .map(|p| (p.words.get(1).map_or(p.x0, |w| w.x0), p.words.iter().rev().nth(1).map_or(p.x1, |w| w.x1)))
        .collect();
    let mut found = Vec::new();
    for edge in [|c: &Candidate| c.x1, |c: &Candidate| c.x0] {
        let mut groups: HashMap<i32, Vec<&Candidate>> = HashMap::new();
        for n in &numbers {
            groups.entry((edge(n) / 3.0).round() as i32).or_default().push(n);
        }
        for group in groups.into_values() {
            if group.len() < 5 {
                continue;
            }
            let rising = group
                .windows(2)
                .filter(|w| w[1].number > w[0].number && w[1].number - w[0].number <= 10)
                .count();
            if rising + 1 < group.len() * 9 / 10 {
                continue;
            }
            // Outside of the text: hardly any long piece reaches over the numbers.
            let x = group.iter().map(|g| (g.x0 + g.x1) / 2.0).sum::<f32>() / group.len() as f32;
            let over = text.iter().filter(|(from, to)| *from < x && *to > x).count();
            let right_of = text.iter().filter(|(from, _)| *from >= x).count();
            let clear = over * 10 <= text.len();
            let outside = right_of * 10 >= text.len() * 9 || right_of * 10 <= text.len();
            // Enumerations and reference labels stand at the edge too, but not on nearly every line.
            let lines = text.len().max(1);
            let dense = group.len() * 10 >= lines * 6
                || group.windows(2).all(|w| w[1].number.abs_diff(w[0].number) % 5 == 0);
            if clear && dense && (outside || group.len() >= 20) {
                found.extend(group.iter().map(|g| (g.index, g.last)));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    // The last word first, so that dropping it does not move the first.
    found.reverse();
    found
}

/// Removes running heads, feet and page numbers; `heights` are the page heights in points.
pub(crate) fn remove_running_lines(pages: &mut [Vec<Line>], heights: &[f32]) -> Vec<String> {
    let mut removed = Vec::new();
    let keys: Vec<Vec<(usize, String, i32)>> =
        pages.iter().zip(heights).map(|(page, height)| edge_lines(page, *height)).collect();
    let mut counts: HashMap<(String, i32), usize> = HashMap::new();
    for page in &keys {
        for (_, key, y) in page {
            // Neighbouring buckets count as the same place.
            for place in [y - 1, *y, y + 1] {
                *counts.entry((key.clone(), place)).or_default() += 1;
            }
        }
    }
    let edges = isolated_edges(pages, heights);
    let numbered = numbered_heads(pages, heights);
    let needed = match pages.len() {
        0 | 1 => usize::MAX,
        2..=4 => 2,
        _ => 3,
    };
    for (number, page) in pages.iter_mut().enumerate() {
        let height = heights.get(number).copied().unwrap_or(792.0);
        let mut drop: Vec<usize> = Vec::new();
        for (index, key, y) in &keys[number] {
            let line = &page[*index];
            let repeated = counts.get(&(key.clone(), *y)).is_some_and(|n| *n >= needed);
            let in_edge = line.y < 0.12 * height || line.y > 0.88 * height;
            let at_extreme = extreme(page, *index);
            if (repeated && in_edge) || (is_page_number(&line.text()) && in_edge && at_extreme) {
                drop.push(*index);
            }
        }
        drop.extend(edges[number].iter().copied());
        drop.extend(numbered[number]);
        drop.sort_unstable();
        drop.dedup();
        // A page that holds nothing else is no page of running heads.
        if drop.len() == page.len() && page.iter().any(|l| !is_page_number(&l.text())) {
            continue;
        }
        for index in drop.into_iter().rev() {
            removed.push(page.remove(index).text());
        }
    }
    removed
}

/// The outermost lines with their text (digits as `#`) and height in buckets of 4 points.
fn edge_lines(page: &[Line], height: f32) -> Vec<(usize, String, i32)> {
    let mut by_y: Vec<usize> = (0..page.len()).collect();
    by_y.sort_by(|a, b| page[*a].y.total_cmp(&page[*b].y));
    let mut chosen: Vec<usize> = by_y.iter().take(4).chain(by_y.iter().rev().take(4)).copied().collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
        .into_iter()
        .filter(|i| page[*i].y < 0.14 * height || page[*i].y > 0.86 * height)
        .map(|i| {
            let key: String =
                page[i].text().chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            let mut short = String::new();
            for c in key.chars() {
                if !(c == '#' && short.ends_with('#')) {
                    short.push(c);
                }
            }
            (i, short, (page[i].y / 4.0).round() as i32)
        })
        .collect()
}

fn extreme(page: &[Line], index: usize) -> bool {
    let line = &page[index];
    let above = page.iter().filter(|l| l.y < line.y - 1.0).count();
    let below = page.iter().filter(|l| l.y > line.y + 1.0).count();
    above <= 1 || below <= 1
}

/// Top lines at one height on most pages, standing apart from the text below: running heads whose words change.
fn isolated_edges(pages: &[Vec<Line>], heights: &[f32]) -> Vec<Vec<usize>> {
    let mut tops: Vec<Option<(f32, Vec<usize>)>> = Vec::new();
    for (page, height) in pages.iter().zip(heights) {
        let first = page.iter().map(|l| l.y).fold(f32::INFINITY, f32::min);
        let same: Vec<usize> = (0..page.len()).filter(|i| page[*i].y - first < 2.5).collect();
        let next = page
            .iter()
            .map(|l| l.y - l.size * 0.8)
            .filter(|y| *y > first - 0.5)
            .fold(f32::INFINITY, f32::min);
        let leading = same.first().map_or(10.0, |i| page[*i].size);
        let apart = next - first > 0.75 * leading && first < 0.12 * height;
        // A heading at the top of a page also stands apart.
        let heading = same.iter().any(|i| {
            page[*i].bold
                || crate::headings::split_number(&page[*i].text()).is_some_and(|(l, ..)| l.contains('.'))
        });
        let apart = apart && !heading;
        tops.push((apart && page.len() > 3).then_some((first, same)));
    }
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); pages.len()];
    let with: Vec<usize> = (0..pages.len()).filter(|i| tops[*i].is_some()).collect();
    if with.len() < 3 || with.len() * 2 < pages.len() {
        return out;
    }
    for &i in &with {
        let Some((y, indices)) = &tops[i] else { continue };
        let alike = with.iter().filter(|j| tops[**j].as_ref().is_some_and(|t| (t.0 - y).abs() < 2.0)).count();
        if alike * 2 >= pages.len() && alike >= 3 {
            out[i] = indices.clone();
        }
    }
    out
}

/// The top line of each page that begins or ends with the page's number: "56 A. Author and B. Author". The numbers of two
/// pages must agree, or the number must be the page's own and the line end in "et al.".
fn numbered_heads(pages: &[Vec<Line>], heights: &[f32]) -> Vec<Option<usize>> {
    let mut found: Vec<Option<(usize, i64, bool)>> = Vec::with_capacity(pages.len());
    for (number, (page, height)) in pages.iter().zip(heights).enumerate() {
        let top = (0..page.len()).min_by(|a, b| page[*a].y.total_cmp(&page[*b].y));
        found.push(top.and_then(|index| {
            let line = &page[index];
            let text = line.text();
            let words: Vec<&str> = text.split_whitespace().collect();
            let value = |w: Option<&&str>| w.filter(|w| w.len() <= 4).and_then(|w| w.parse::<i64>().ok());
            let printed = value(words.first()).or_else(|| value(words.last()))?;
            let head = line.y < 0.14 * height && !line.bold && (2..=16).contains(&words.len());
            head.then(|| (index, printed - number as i64, text.contains("et al")))
        }));
    }
    found
        .iter()
        .map(|entry| {
            let (index, offset, people) = (*entry)?;
            let alike = found.iter().flatten().filter(|(_, o, _)| *o == offset).count();
            (alike >= 2 || people && offset == 1).then_some(index)
        })
        .collect()
}

/// "12", "- 12 -", "xii", "Page 3 of 9", "12/20".
fn is_page_number(text: &str) -> bool {
    let t = text.trim().trim_matches(|c: char| "-–—|. ".contains(c)).to_lowercase();
    let t = t.strip_prefix("page").unwrap_or(&t).trim();
    let parts: Vec<&str> =
        t.split(|c: char| c == '/' || c.is_whitespace()).filter(|p| !p.is_empty() && *p != "of").collect();
    let number = |p: &str| {
        !p.is_empty()
            && (p.len() <= 4 && p.bytes().all(|b| b.is_ascii_digit())
                || p.len() <= 6 && p.bytes().all(|b| b"ivxlc".contains(&b)))
    };
    match parts.as_slice() {
        [one] => number(one),
        [one, two] => number(one) && number(two),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_page_number;

    #[test]
    fn page_numbers_are_known_in_their_usual_dress() {
        for yes in ["3", "– 12 –", "xiv", "Page 3 of 9", "12/20"] {
            assert!(is_page_number(yes), "{yes}");
        }
        for no in ["3 Results", "Table 3", "12345", ""] {
            assert!(!is_page_number(no), "{no}");
        }
    }
}
