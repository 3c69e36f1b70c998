//! Functions that stay finite where the textbook form overflows or cancels.

/// Largest exponent taken: e³⁰⁰ squared is still finite, so that a saturated loss is huge, never NaN.
const LARGEST_EXPONENT: f64 = 300.0;

/// 1/(1 + e⁻ˣ), with full relative precision at both ends.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// log σ(x).
pub(crate) fn log_sigmoid(x: f64) -> f64 {
    if x >= 0.0 { -(-x).exp().ln_1p() } else { x - x.exp().ln_1p() }
}

/// −p log σ(x) − (1−p) log σ(−x) and its derivative: cross-entropy of a Bernoulli variable with log-odds x.
///
/// The derivative is σ(x) − p, written so that it does not cancel where p is 0 or 1.
pub(crate) fn cross_entropy(x: f64, p: f64) -> (f64, f64) {
    let mut value = 0.0;
    if p != 0.0 {
        value -= p * log_sigmoid(x);
    }
    if p != 1.0 {
        value -= (1.0 - p) * log_sigmoid(-x);
    }
    (value, (1.0 - p) * sigmoid(x) - p * sigmoid(-x))
}

/// eˣ, held finite.
pub(crate) fn exp(x: f64) -> f64 {
    x.min(LARGEST_EXPONENT).exp()
}

/// eˣ − 1, held finite, with full precision near 0.
pub(crate) fn exp_m1(x: f64) -> f64 {
    if x < 1.0 { x.exp_m1() } else { exp(x) - 1.0 }
}

/// log(1 − eˣ) for x < 0 (Mächler 2012).
pub(crate) fn log1mexp(x: f64) -> f64 {
    if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}
