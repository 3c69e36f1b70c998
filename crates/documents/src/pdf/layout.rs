//! Columns, and the order in which lines are read.

use super::lines::{Line, Piece};

/// The x of the gutter between two columns, if the page has two.
pub(crate) fn gutter(pieces: &[Piece], width: f32) -> Option<f32> {
    let wide: Vec<&Piece> = pieces.iter().filter(|p| p.x1 - p.x0 > 0.12 * width && p.chars >= 8).collect();
    let mut best: Option<(usize, f32, f32)> = None;
    let mut x = 0.3 * width;
    let mut run_start = x;
    let mut run_count = usize::MAX;
    let consider = |count: usize, from: f32, to: f32, best: &mut Option<(usize, f32, f32)>| {
        let better = match best {
            None => true,
            Some((c, f, t)) => count < *c || count == *c && to - from > *t - *f,
        };
        if better {
            *best = Some((count, from, to));
        }
    };
    while x <= 0.7 * width {
        let crossing = wide.iter().filter(|p| p.x0 < x - 0.5 && p.x1 > x + 0.5).count();
        if crossing != run_count {
            if run_count != usize::MAX {
                consider(run_count, run_start, x, &mut best);
            }
            run_count = crossing;
            run_start = x;
        }
        x += 1.0;
    }
    if run_count != usize::MAX {
        consider(run_count, run_start, x, &mut best);
    }
    let (crossing, from, to) = best?;
    let middle = (from + to) / 2.0;
    let left = wide.iter().filter(|p| p.x1 <= middle + 0.5).count();
    let right = wide.iter().filter(|p| p.x0 >= middle - 0.5).count();
    (left.min(right) >= 6 && crossing * 3 <= left + right && to - from >= 4.0).then_some(middle)
}

/// Joins pieces that stand on one baseline to lines and tells their column.
pub(crate) fn lines(mut pieces: Vec<Piece>, gutter: Option<f32>, page: usize, width: f32) -> Vec<Line> {
    pieces.sort_by_key(|p| p.order);
    let mut lines: Vec<Line> = Vec::new();
    for piece in pieces {
        let from = lines.len().saturating_sub(12);
        let host = lines[from..].iter_mut().rev().find(|line| joins(line, &piece, gutter));
        match host {
            Some(line) => line.add(piece),
            None => lines.push(Line::of(piece, page)),
        }
    }
    for line in &mut lines {
        line.column = match gutter {
            None => 0,
            Some(g) if line.x1 <= g + 0.02 * width && line.x0 < g - 0.03 * width => 1,
            Some(g) if line.x0 >= g - 0.02 * width => 2,
            Some(_) => 0,
        };
    }
    lines
}

fn joins(line: &Line, piece: &Piece, gutter: Option<f32>) -> bool {
    let big = line.size.max(piece.size);
    if (line.y - piece.y).abs() > 0.25 * line.size.min(piece.size) {
        return false;
    }
    let gap = if piece.x0 >= line.x1 - 0.3 * big {
        piece.x0 - line.x1
    } else if piece.x1 <= line.x0 + 0.3 * big {
        line.x0 - piece.x1
    } else {
        return false;
    };
    let (left_end, right_start) = if piece.x0 > line.x0 { (line.x1, piece.x0) } else { (piece.x1, line.x0) };
    let across = gutter.is_some_and(|g| left_end <= g + 2.0 && right_start >= g - 2.0);
    if across {
        return false;
    }
    gap <= 12.0 * big
}

/// Lines that belong together and are read without a jump.
struct Block {
    lines: Vec<Line>,
    x0: f32,
    x1: f32,
    top: f32,
    bottom: f32,
    column: u8,
}

/// Lines in reading order: the drawing order where it is plausible (TeX draws as one reads), else column by column.
pub(crate) fn reading_order(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|l| l.order);
    let mut blocks: Vec<Block> = Vec::new();
    for line in lines {
        let fits = blocks.last().is_some_and(|b| {
            let last = &b.lines[b.lines.len() - 1];
            let step = line.y - last.y;
            b.column == line.column
                && step > -0.3 * line.size
                && step < 2.6 * last.size.max(line.size)
                && line.x0 < b.x1 + 2.0 * line.size
                && line.x1 > b.x0 - 2.0 * line.size
        });
        if fits && let Some(block) = blocks.last_mut() {
            block.x0 = block.x0.min(line.x0);
            block.x1 = block.x1.max(line.x1);
            block.bottom = block.bottom.max(line.y);
            block.lines.push(line);
        } else {
            blocks.push(Block {
                x0: line.x0,
                x1: line.x1,
                top: line.y - line.size,
                bottom: line.y,
                column: line.column,
                lines: vec![line],
            });
        }
    }
    if plausible(&blocks) {
        lift_front(&mut blocks);
    } else {
        sort_by_place(&mut blocks);
    }
    blocks.into_iter().flat_map(|b| b.lines).collect()
}

/// Names that were drawn last (a stamp, a text box) but stand above the text of the title page go where they stand.
fn lift_front(blocks: &mut Vec<Block>) {
    for i in 1..blocks.len() {
        let block = &blocks[i];
        let small = block.lines.iter().map(|l| l.chars).sum::<usize>() < 400;
        if block.column != 0 || block.lines[0].page != 0 || !small || block.top > blocks[i - 1].top {
            continue;
        }
        let below = blocks[..i].iter().position(|b| b.top >= block.bottom - 1.0);
        if let Some(place) = below {
            let block = blocks.remove(i);
            blocks.insert(place, block);
        }
    }
}

fn plausible(blocks: &[Block]) -> bool {
    let weight = |b: &Block| b.lines.iter().map(|l| l.chars).sum::<usize>();
    let large: Vec<&Block> = blocks.iter().filter(|b| weight(b) >= 60).collect();
    let total: usize = large.iter().map(|b| weight(b)).sum();
    let mut wrong = 0;
    for pair in large.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let upwards = b.bottom < a.top + 2.0;
        let to_the_right = b.x0 > a.x0 + 0.5 * (a.x1 - a.x0) && b.x0 >= a.x1 - 10.0;
        let back_to_left = a.column == 2 && b.column == 1;
        if upwards && !to_the_right || back_to_left {
            wrong += weight(a).min(weight(b));
        }
    }
    wrong * 12 <= total
}

/// Bands between blocks that span the page; in each band the left column, then the right one.
fn sort_by_place(blocks: &mut Vec<Block>) {
    let mut order: Vec<Block> = Vec::with_capacity(blocks.len());
    let mut spanning: Vec<Block> = Vec::new();
    let mut columns: Vec<Block> = Vec::new();
    for block in blocks.drain(..) {
        if block.column == 0 { spanning.push(block) } else { columns.push(block) }
    }
    spanning.sort_by(|a, b| a.top.total_cmp(&b.top).then(a.x0.total_cmp(&b.x0)));
    columns.sort_by(|a, b| a.column.cmp(&b.column).then(a.top.total_cmp(&b.top)));
    for span in spanning {
        let (before, after): (Vec<Block>, Vec<Block>) = columns.into_iter().partition(|c| c.top < span.top);
        order.extend(before);
        order.push(span);
        columns = after;
    }
    order.extend(columns);
    *blocks = order;
}
