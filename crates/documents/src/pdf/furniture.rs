//! Page numbers, running heads and feet, line numbers: what stands on a page without being read.

use super::lines::{Line, Piece};
use std::collections::HashMap;

/// Removes columns of line numbers: whole numbers at one x that increase down the page, outside of the text.
/// Returns the number of pieces removed.
pub(crate) fn remove_line_numbers(pages: &mut [Vec<Piece>]) -> usize {
    let candidates: Vec<Vec<usize>> = pages.iter().map(|p| line_number_indices(p)).collect();
    let with = candidates.iter().filter(|c| !c.is_empty()).count();
    // One page with such a column may be a table; a manuscript has it on most of its pages.
    if with == 0 || with * 2 < pages.iter().filter(|p| p.len() > 10).count() {
        return 0;
    }
    let mut removed = 0;
    for (page, indices) in pages.iter_mut().zip(candidates) {
        removed += indices.len();
        let mut index = 0;
        page.retain(|_| {
            index += 1;
            !indices.contains(&(index - 1))
        });
    }
    removed
}

fn line_number_indices(page: &[Piece]) -> Vec<usize> {
    let mut numbers: Vec<(usize, u32, &Piece)> = page
        .iter()
        .enumerate()
        .filter_map(|(i, p)| match p.words.as_slice() {
            [word] if word.text.len() <= 4 => word.text.parse::<u32>().ok().map(|n| (i, n, p)),
            _ => None,
        })
        .collect();
    numbers.sort_by(|a, b| a.2.y.total_cmp(&b.2.y));
    let text: Vec<&Piece> = page.iter().filter(|p| p.chars >= 20).collect();
    let mut found = Vec::new();
    for edge in [|p: &Piece| p.x1, |p: &Piece| p.x0] {
        let mut groups: HashMap<i32, Vec<(usize, u32, &Piece)>> = HashMap::new();
        for n in &numbers {
            groups.entry((edge(n.2) / 3.0).round() as i32).or_default().push(*n);
        }
        for group in groups.into_values() {
            if group.len() < 5 {
                continue;
            }
            let rising = group.windows(2).filter(|w| w[1].1 > w[0].1 && w[1].1 - w[0].1 <= 10).count();
            if rising + 1 < group.len() * 9 / 10 {
                continue;
            }
            // Outside of the text: hardly any long piece reaches over the numbers.
            let x = group.iter().map(|g| (g.2.x0 + g.2.x1) / 2.0).sum::<f32>() / group.len() as f32;
            let over = text.iter().filter(|p| p.x0 < x && p.x1 > x).count();
            let right_of = text.iter().filter(|p| p.x0 >= x).count();
            let outside = over * 10 <= text.len() && (right_of * 10 >= text.len() * 9 || right_of * 10 <= text.len());
            let between_columns = over * 10 <= text.len() && group.len() >= 20;
            if outside || between_columns {
                found.extend(group.iter().map(|g| g.0));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
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
        drop.sort_unstable();
        drop.dedup();
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
            let key: String = page[i].text().chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
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
        let next = page.iter().map(|l| l.y - l.size * 0.8).filter(|y| *y > first - 0.5).fold(f32::INFINITY, f32::min);
        let leading = same.first().map_or(10.0, |i| page[*i].size);
        let apart = next - first > 0.75 * leading && first < 0.12 * height;
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

/// "12", "- 12 -", "xii", "Page 3 of 9", "12/20".
fn is_page_number(text: &str) -> bool {
    let t = text.trim().trim_matches(|c: char| "-–—|. ".contains(c)).to_lowercase();
    let t = t.strip_prefix("page").unwrap_or(&t).trim();
    let parts: Vec<&str> = t.split(|c: char| c == '/' || c.is_whitespace()).filter(|p| !p.is_empty() && *p != "of").collect();
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
