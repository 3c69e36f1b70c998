//! Losses of single answers called good or bad: KTO, APO-zero, BCO.

use super::math::{log_sigmoid, sigmoid};
use super::objective::Parameters;

/// 1 − σ(β(h − z)) for desirable, 1 − σ(β(z − h)) for undesirable rows (KTO, 2402.01306 eq. 7); z, a mean of
/// mismatched rows, carries no gradient. With z = 0 it is APO-zero (2408.06266 eq. 7). Gives value and d/dh.
pub(super) fn kto(ratio: f64, desirable: bool, p: &Parameters) -> (f64, f64) {
    let sign = if desirable { 1.0 } else { -1.0 };
    let x = sign * p.beta * (ratio - p.centre);
    (sigmoid(-x), -sign * p.beta * sigmoid(x) * sigmoid(-x))
}

/// −log σ(βh − δ) for desirable, −log σ(−(βh − δ)) for undesirable rows (BCO, 2404.04656).
pub(super) fn bco(ratio: f64, desirable: bool, p: &Parameters) -> (f64, f64) {
    let sign = if desirable { 1.0 } else { -1.0 };
    let x = sign * (p.beta * ratio - p.centre);
    (-log_sigmoid(x), -sign * p.beta * sigmoid(-x))
}
