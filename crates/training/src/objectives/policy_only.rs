//! Losses without a reference model: CPO, SimPO, AlphaPO, ORPO.

use super::math::{cross_entropy, exp, exp_m1, log_sigmoid, log1mexp, sigmoid};
use super::objective::Parameters;
use super::{Row, Side, Slope};

/// AlphaPO's reward r = (1 − e^(−αl))/α and dr/dl (2501.03884); l itself for α = 0.
///
/// From the log-probability, never by `exp().pow()`: p underflows long before r does.
pub(super) fn reward(l: f64, alpha: f64) -> (f64, f64) {
    if alpha == 0.0 {
        return (l, 1.0);
    }
    let x = -alpha * l;
    (-exp_m1(x) / alpha, exp(x))
}

/// Rewards of sums or of averages, their difference, and what its derivative is multiplied by for either sum.
fn rewards(row: &Row, alpha: f64, averaged: bool) -> (f64, f64, f64) {
    let one = |side: &Side| {
        let n = if averaged { side.tokens } else { 1.0 };
        let (r, slope) = reward(side.policy / n, alpha);
        (r, slope / n)
    };
    let ((c, dc), (r, dr)) = (one(&row.chosen), one(&row.rejected));
    (c - r, dc, dr)
}

/// −log σ(β(l_c − l_r)) (CPO, 2401.08417 eq. 3); NLL is added by the table.
pub(super) fn cpo(row: &Row, p: &Parameters) -> Slope {
    let (d, dc, dr) = rewards(row, p.alpha, false);
    let (value, slope) = cross_entropy(p.beta * d, 1.0 - p.label_smoothing);
    Slope { value, chosen: p.beta * slope * dc, rejected: -p.beta * slope * dr }
}

/// max(0, 1 − β(l_c − l_r)).
pub(super) fn cpo_hinge(row: &Row, p: &Parameters) -> Slope {
    let (d, dc, dr) = rewards(row, p.alpha, false);
    let value = 1.0 - p.beta * d;
    if value > 0.0 { Slope { value, chosen: -p.beta * dc, rejected: p.beta * dr } } else { Slope::default() }
}

/// (l_c/n_c − l_r/n_r − 1/(2β))².
pub(super) fn cpo_ipo(row: &Row, p: &Parameters) -> Slope {
    let (d, dc, dr) = rewards(row, p.alpha, true);
    let error = d - 0.5 / p.beta;
    Slope { value: error * error, chosen: 2.0 * error * dc, rejected: -2.0 * error * dr }
}

/// −log σ(β(l_c/n_c − l_r/n_r) − γ) (SimPO, 2405.14734); AlphaPO with α ≠ 0.
pub(super) fn simpo(row: &Row, p: &Parameters) -> Slope {
    let (d, dc, dr) = rewards(row, p.alpha, true);
    let (value, slope) = cross_entropy(p.beta * d - p.gamma, 1.0 - p.label_smoothing);
    Slope { value, chosen: p.beta * slope * dc, rejected: -p.beta * slope * dr }
}

/// log odds of the averaged log-probability and its derivative.
fn log_odds(side: &Side) -> (f64, f64) {
    // A certain answer has infinite odds: the nearest number below probability 1 stands for it.
    let l = side.average().min(-f64::EPSILON);
    (l - log1mexp(l), -1.0 / l.exp_m1() / side.tokens)
}

/// log odds ratio of the pair, for the metrics.
pub(super) fn log_odds_ratio(row: &Row) -> f64 {
    log_odds(&row.chosen).0 - log_odds(&row.rejected).0
}

/// −β log σ(log odds_c − log odds_r) (ORPO, 2403.07691 eq. 7); NLL over prompt and completion is added by the table.
pub(super) fn orpo(row: &Row, p: &Parameters) -> Slope {
    let ((c, dc), (r, dr)) = (log_odds(&row.chosen), log_odds(&row.rejected));
    let slope = -p.beta * sigmoid(r - c);
    Slope { value: -p.beta * log_sigmoid(c - r), chosen: slope * dc, rejected: -slope * dr }
}
