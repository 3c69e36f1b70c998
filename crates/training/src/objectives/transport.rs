//! Alignment by optimal transport (AOT, 2406.05882): the whole batch's margins, sorted, are compared.

use super::math::cross_entropy;
use super::objective::Parameters;
use super::{Row, Slope};

/// Positions of the values in rising order; equal ones keep theirs.
fn ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// sort(l_c − l_r) against sort(ref_c − ref_r). Values stand in sorted order, derivatives in the rows' order: through
/// the sort the gradient reaches the row whose margin has that rank.
pub(super) fn aot(rows: &[Row], p: &Parameters) -> Vec<Slope> {
    let policy: Vec<f64> = rows.iter().map(|r| r.chosen.policy - r.rejected.policy).collect();
    let mut reference: Vec<f64> =
        rows.iter().map(|r| r.chosen.reference() - r.rejected.reference()).collect();
    reference.sort_by(f64::total_cmp);
    let mut slopes = vec![Slope::default(); rows.len()];
    for (rank, row) in ranks(&policy).into_iter().enumerate() {
        let (value, slope) = cross_entropy(p.beta * (policy[row] - reference[rank]), 1.0 - p.label_smoothing);
        slopes[rank].value = value;
        slopes[row].chosen = p.beta * slope;
        slopes[row].rejected = -p.beta * slope;
    }
    slopes
}

/// sort(h_c) against sort(h_r): chosen and rejected answers need not belong together.
pub(super) fn aot_unpaired(rows: &[Row], p: &Parameters) -> Vec<Slope> {
    let chosen: Vec<f64> = rows.iter().map(|r| r.chosen.ratio).collect();
    let rejected: Vec<f64> = rows.iter().map(|r| r.rejected.ratio).collect();
    let mut slopes = vec![Slope::default(); rows.len()];
    for (rank, (c, r)) in ranks(&chosen).into_iter().zip(ranks(&rejected)).enumerate() {
        let (value, slope) = cross_entropy(p.beta * (chosen[c] - rejected[r]), 1.0 - p.label_smoothing);
        slopes[rank].value = value;
        slopes[c].chosen = p.beta * slope;
        slopes[r].rejected = -p.beta * slope;
    }
    slopes
}
