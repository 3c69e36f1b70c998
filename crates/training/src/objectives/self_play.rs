//! Objectives towards the Nash point of a game: GPO, SPPO, DNO. The reference is π_t, the model at the round's start.

use super::math::{cross_entropy, sigmoid};
use super::objective::Parameters;
use super::{Row, Slope};

/// ½ Σ (h/n^a − target)², over the chosen and the rejected answer.
fn regression(row: &Row, targets: (f64, f64), length_exponent: f64) -> Slope {
    let (nc, nr) = (row.chosen.tokens.powf(length_exponent), row.rejected.tokens.powf(length_exponent));
    let (c, r) = (row.chosen.ratio / nc - targets.0, row.rejected.ratio / nr - targets.1);
    Slope { value: 0.5 * (c * c + r * r), chosen: c / nc, rejected: r / nr }
}

/// ½ Σ (h − s/β)² (GPO, 2410.02197 eq. 5.3 with log Z = 0; ½ and the pair form as in SPPO).
pub(super) fn gpo(row: &Row, p: &Parameters) -> Slope {
    regression(row, (row.scores.0 / p.beta, row.scores.1 / p.beta), 0.0)
}

/// ½ Σ (h/nᵃ − s/β)² (length-normalised GPO, 2410.02197 App. E.2).
pub(super) fn ln_gpo(row: &Row, p: &Parameters) -> Slope {
    regression(row, (row.scores.0 / p.beta, row.scores.1 / p.beta), p.length_exponent)
}

/// ½ Σ (βh − η(P − ½))²: β² times `sppo` at η = 1, so that its size does not depend on β.
pub(super) fn gpo_scaled(row: &Row, p: &Parameters) -> Slope {
    let target = |probability: f64| p.eta / p.beta * (probability - 0.5);
    regression(row, (target(row.probabilities.0), target(row.probabilities.1)), 0.0).scaled(p.beta * p.beta)
}

/// ½ Σ (h − (P − ½)/β)² (SPPO, 2405.00675; β = 1/η).
pub(super) fn sppo(row: &Row, p: &Parameters) -> Slope {
    let target = |probability: f64| (probability - 0.5) / p.beta;
    regression(row, (target(row.probabilities.0), target(row.probabilities.1)), 0.0)
}

/// ½ [(h_c − (P − ½)/β)² + (h_r + (P − ½)/β)²] with the pair's own P(c ≻ r) (SPPO's `sppo_single`).
pub(super) fn sppo_single(row: &Row, p: &Parameters) -> Slope {
    let target = (row.probabilities.0 - 0.5) / p.beta;
    regression(row, (target, -target), 0.0)
}

/// −σ(r_c − r_r) log σ(ηD) − σ(r_r − r_c) log σ(−ηD), r the win rates against π_t (DNO, 2404.03715 eq. 8).
pub(super) fn dno(row: &Row, p: &Parameters) -> Slope {
    let soft = sigmoid(row.probabilities.0 - row.probabilities.1);
    let (value, slope) = cross_entropy(p.eta * (row.chosen.ratio - row.rejected.ratio), soft);
    Slope::of_difference(value, p.eta * slope)
}

/// −log σ(ηD) on pairs of large margin (DNO-Prct, 2404.03715 eq. 13; [`super::PairRules`] picks them).
pub(super) fn dno_prct(row: &Row, p: &Parameters) -> Slope {
    let (value, slope) = cross_entropy(p.eta * (row.chosen.ratio - row.rejected.ratio), 1.0);
    Slope::of_difference(value, p.eta * slope)
}
