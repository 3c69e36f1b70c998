//! Losses of the difference D of the two answers' scores: DPO and its kin.

use super::math::{cross_entropy, exp, log_sigmoid, sigmoid as logistic};
use super::objective::Parameters;
use super::{Row, Slope};

fn difference(row: &Row) -> f64 {
    row.chosen.score - row.rejected.score
}

/// −log σ(βD) (DPO, 2305.18290 eq. 7). TRL ignores `label_smoothing` here; [`cdpo`] does not.
pub(super) fn sigmoid(row: &Row, p: &Parameters) -> Slope {
    let (value, slope) = cross_entropy(p.beta * difference(row), 1.0);
    Slope::of_difference(value, p.beta * slope)
}

/// −log σ(βD − m) (DPO with an offset, 2402.10571).
pub(super) fn offset(row: &Row, p: &Parameters) -> Slope {
    let (value, slope) = cross_entropy(p.beta * difference(row) - row.margin, 1.0);
    Slope::of_difference(value, p.beta * slope)
}

/// −(1−ε) log σ(βD) − ε log σ(−βD) (conservative DPO, Mitchell 2023).
pub(super) fn cdpo(row: &Row, p: &Parameters) -> Slope {
    let (value, slope) = cross_entropy(p.beta * difference(row), 1.0 - p.label_smoothing);
    Slope::of_difference(value, p.beta * slope)
}

/// [−(1−ε) log σ(βD) + ε log σ(−βD)]/(1−2ε) (2403.00409): unbiased under flipped labels, unbounded below.
pub(super) fn robust(row: &Row, p: &Parameters) -> Slope {
    let (x, e) = (p.beta * difference(row), p.label_smoothing);
    let value = (-(1.0 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) / (1.0 - 2.0 * e);
    let slope = (-(1.0 - e) * logistic(-x) - e * logistic(x)) / (1.0 - 2.0 * e);
    Slope::of_difference(value, p.beta * slope)
}

/// max(0, 1 − βD) (SLiC, 2305.10425).
pub(super) fn hinge(row: &Row, p: &Parameters) -> Slope {
    let value = 1.0 - p.beta * difference(row);
    if value > 0.0 { Slope::of_difference(value, -p.beta) } else { Slope::default() }
}

/// (h_c/n_c − h_r/n_r − 1/(2β))² (IPO, 2310.12036 eq. 17, averaged over tokens as its authors and TRL do).
pub(super) fn ipo(row: &Row, p: &Parameters) -> Slope {
    let (nc, nr) = (row.chosen.tokens, row.rejected.tokens);
    let error = row.chosen.score / nc - row.rejected.score / nr - 0.5 / p.beta;
    Slope { value: error * error, chosen: 2.0 * error / nc, rejected: -2.0 * error / nr }
}

/// (D − 1/(2β))² (IPO over sums, as older trainers had it).
pub(super) fn ipo_sum(row: &Row, p: &Parameters) -> Slope {
    let error = difference(row) - 0.5 / p.beta;
    Slope::of_difference(error * error, 2.0 * error)
}

/// −log σ(β(h_c/n_c − h_r/n_r)) (length-normalised DPO, 2411.15124).
pub(super) fn sigmoid_norm(row: &Row, p: &Parameters) -> Slope {
    let (nc, nr) = (row.chosen.tokens, row.rejected.tokens);
    let (value, slope) = cross_entropy(p.beta * (row.chosen.score / nc - row.rejected.score / nr), 1.0);
    Slope { value, chosen: p.beta * slope / nc, rejected: -p.beta * slope / nr }
}

/// KL(σ(βD) ‖ 1−ε): the reverse divergence to smoothed labels (EXO, 2402.00856 eq. 16).
pub(super) fn exo_pair(row: &Row, p: &Parameters) -> Slope {
    let (x, e) = (p.beta * difference(row), p.label_smoothing);
    let (log_right, log_wrong) = ((-e).ln_1p(), e.ln());
    let (q, not_q) = (logistic(x), logistic(-x));
    let value = q * (log_sigmoid(x) - log_right) + not_q * (log_sigmoid(-x) - log_wrong);
    Slope::of_difference(value, p.beta * q * not_q * (x - log_right + log_wrong))
}

/// (1−m)·(−log σ(x)) + m·e⁻ˣ with x = βD, m = σ(x/τ) (DiscoPOP, 2406.08414 eq. 5).
///
/// m·e⁻ˣ is one exponential: apart it is 0·∞ on a badly wrong pair.
pub(super) fn discopop(row: &Row, p: &Parameters) -> Slope {
    let x = p.beta * difference(row);
    let (m, not_m) = (logistic(x / p.tau), logistic(-x / p.tau));
    let logistic_part = -log_sigmoid(x);
    let exponential = exp(-x + log_sigmoid(x / p.tau));
    let value = not_m * logistic_part + exponential;
    let slope =
        -m * not_m / p.tau * logistic_part - not_m * logistic(-x) + exponential * (not_m / p.tau - 1.0);
    Slope::of_difference(value, p.beta * slope)
}

/// 0.8 `sigmoid` + 0.2 `bco_pair`, to which the table adds NLL (MPO, 2411.10442).
pub(super) fn mpo(row: &Row, p: &Parameters) -> Slope {
    sigmoid(row, p).scaled(0.8).plus(super::sides::bco_pair(row, p).scaled(0.2))
}
