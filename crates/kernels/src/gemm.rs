//! The matrix product of training: `out = Σ a·b` over one or more terms, in f32 or bf16, with sums in f32.
//!
//! Every output element is one chain of additions over the terms in order and k within them, whatever the number of
//! threads or the tile a row falls into.

use std::ops::Range;

use rayon::prelude::*;

use crate::element::{Element, MOST_ROWS, padded};
use crate::pack::PANEL;

/// Depths of one pass: four panels of it stay in the second-level cache.
const DEPTH: usize = 1024;
/// Panels that share one reading of the left operand.
const GROUP: usize = 4;
/// Rows of a task.
const ROWS: usize = 480;

/// A right operand `[depth, columns]`, given panel by panel.
pub(crate) trait Right<E>: Sync {
    /// Depths `span` of panel `p` (it begins at a multiple of [`DEPTH`]); its own memory, or written to `scratch`. Depths
    /// beyond the end, up to whole steps, and columns beyond the last are zero.
    fn panel<'s>(&'s self, p: usize, span: Range<usize>, scratch: &'s mut [E]) -> &'s [E];
    /// True if panels lie ready in memory.
    fn ready(&self) -> bool {
        false
    }
}

/// One product of a sum of products.
pub(crate) struct Term<'a, E> {
    /// `[rows, padded(depth)]`.
    pub(crate) left: &'a [E],
    /// k.
    pub(crate) depth: usize,
    /// `[depth, columns]`.
    pub(crate) right: &'a dyn Right<E>,
}

/// Where a task's results go: a block of its own in one matrix.
#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: each task writes only its own block; the buffer outlives the parallel loop.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// `out = Σ left·right`; `out` is `[rows, columns]`, its content does not matter.
pub(crate) fn gemm<E: Element>(rows: usize, columns: usize, terms: &[Term<'_, E>], out: &mut [f32]) {
    assert_eq!(out.len(), rows * columns, "the result has another shape");
    for term in terms {
        assert_eq!(term.left.len(), rows * padded::<E>(term.depth), "a left operand has another shape");
    }
    if rows == 0 || columns == 0 {
        return;
    }
    if terms.iter().all(|t| t.depth == 0) {
        out.fill(0.0);
        return;
    }
    let groups = columns.div_ceil(GROUP * PANEL);
    // Panels that must be written first are written once for many rows.
    let height = if terms.iter().all(|t| t.right.ready()) || groups < 4 { ROWS } else { 4 * ROWS };
    let blocks = rows.div_ceil(height);
    let target = Target(out.as_mut_ptr());
    (0..groups * blocks).into_par_iter().for_each(|task| {
        let (group, block) = (task / blocks, task % blocks);
        let panels = group * GROUP..((group + 1) * GROUP).min(columns.div_ceil(PANEL));
        let span = block * height..((block + 1) * height).min(rows);
        run(&span, columns, panels, terms, target);
    });
}

fn run<E: Element>(
    rows: &Range<usize>,
    columns: usize,
    panels: Range<usize>,
    terms: &[Term<'_, E>],
    target: Target,
) {
    let mut scratch = vec![E::default(); GROUP * DEPTH * PANEL];
    let mut edge = [0f32; MOST_ROWS * PANEL];
    let mut first = true;
    for term in terms {
        let stride = padded::<E>(term.depth);
        for from in (0..term.depth).step_by(DEPTH) {
            let depth = DEPTH.min(term.depth - from);
            let steps = padded::<E>(depth);
            let mut rest = scratch.as_mut_slice();
            let mut ready: [&[E]; GROUP] = [&[]; GROUP];
            for (slot, p) in ready.iter_mut().zip(panels.clone()) {
                let (own, after) = rest.split_at_mut(DEPTH * PANEL);
                *slot = term.right.panel(p, from..from + depth, own);
                assert!(slot.len() >= steps * PANEL, "a panel is too short");
                rest = after;
            }
            let mut row = rows.start;
            while row < rows.end {
                let m = E::tile_rows().min(rows.end - row);
                let a = term.left[row * stride + from..].as_ptr();
                for (panel, p) in ready.iter().zip(panels.clone()) {
                    let width = PANEL.min(columns - p * PANEL);
                    // SAFETY: rows row..row+m and columns of this panel belong to this task; the operands were checked.
                    unsafe {
                        let c = target.0.add(row * columns + p * PANEL);
                        if first {
                            // Here rather than before the loop: the tile is then written while it is in the cache.
                            for i in 0..m {
                                std::ptr::write_bytes(c.add(i * columns), 0, width);
                            }
                        }
                        if width == PANEL {
                            E::tile(m, steps, a, stride, panel.as_ptr(), c, columns);
                            continue;
                        }
                        for i in 0..m {
                            std::ptr::copy_nonoverlapping(
                                c.add(i * columns),
                                edge.as_mut_ptr().add(i * PANEL),
                                width,
                            );
                        }
                        E::tile(m, steps, a, stride, panel.as_ptr(), edge.as_mut_ptr(), PANEL);
                        for i in 0..m {
                            std::ptr::copy_nonoverlapping(
                                edge.as_ptr().add(i * PANEL),
                                c.add(i * columns),
                                width,
                            );
                        }
                    }
                }
                row += m;
            }
            first = false;
        }
    }
}

/// A row-major `[depth, columns]` matrix as it stands.
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) columns: usize,
}

impl<E: Element> Right<E> for Rows<'_> {
    fn panel<'s>(&'s self, p: usize, span: Range<usize>, scratch: &'s mut [E]) -> &'s [E] {
        let source = &self.data[span.start * self.columns + p * PANEL..];
        E::pack_rows(source, self.columns, span.len(), PANEL.min(self.columns - p * PANEL), scratch);
        scratch
    }
}

/// A row-major `[columns, depth]` matrix, transposed.
pub(crate) struct Columns<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

impl<E: Element> Right<E> for Columns<'_> {
    fn panel<'s>(&'s self, p: usize, span: Range<usize>, scratch: &'s mut [E]) -> &'s [E] {
        let source = &self.data[p * PANEL * self.depth + span.start..];
        E::pack_columns(source, self.depth, span.len(), PANEL.min(self.columns - p * PANEL), scratch);
        scratch
    }
}

/// `a · b` for row-major f32 `a` `[m, k]` and a right operand of `n` columns.
pub(crate) fn product<E: Element>(a: &[f32], m: usize, k: usize, b: &dyn Right<E>, n: usize) -> Vec<f32> {
    let left = crate::element::left::<E>(a, m, k);
    let mut out = vec![0f32; m * n];
    gemm(m, n, &[Term { left: &left, depth: k, right: b }], &mut out);
    out
}
