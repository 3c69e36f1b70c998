//! Losses that judge each answer by its own log-ratio h, so that both cannot drift the same way unseen.

use super::math::{log_sigmoid, sigmoid};
use super::objective::Parameters;
use super::{Row, Slope};

/// −log σ(βh_c) − ½ log σ(−βh_c) − ½ log σ(−βh_r) (NCA, 2402.05369).
pub(super) fn nca_pair(row: &Row, p: &Parameters) -> Slope {
    let (c, r) = (p.beta * row.chosen.ratio, p.beta * row.rejected.ratio);
    Slope {
        value: -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r),
        chosen: p.beta * (0.5 * sigmoid(c) - sigmoid(-c)),
        rejected: p.beta * 0.5 * sigmoid(r),
    }
}

/// −log σ(βh_c − δ) − log σ(−(βh_r − δ)) (BCO, 2404.04656). TRL's `bco_pair` has δ = 0.
pub(super) fn bco_pair(row: &Row, p: &Parameters) -> Slope {
    let (c, r) = (p.beta * row.chosen.ratio - p.centre, p.beta * row.rejected.ratio - p.centre);
    Slope {
        value: -log_sigmoid(c) - log_sigmoid(-r),
        chosen: -p.beta * sigmoid(-c),
        rejected: p.beta * sigmoid(r),
    }
}

/// (1 − σ(βh_c)) + σ(βh_r) (APO-zero, 2408.06266 eq. 7): for chosen answers better than the model's.
pub(super) fn apo_zero(row: &Row, p: &Parameters) -> Slope {
    let (c, r) = (p.beta * row.chosen.ratio, p.beta * row.rejected.ratio);
    Slope {
        value: sigmoid(-c) + sigmoid(r),
        chosen: -p.beta * sigmoid(c) * sigmoid(-c),
        rejected: p.beta * sigmoid(r) * sigmoid(-r),
    }
}

/// σ(βh_c) + 1 − σ(βD) (APO-down, 2408.06266 eq. 8): for chosen answers worse than the model's; lowers both.
pub(super) fn apo_down(row: &Row, p: &Parameters) -> Slope {
    let c = p.beta * row.chosen.ratio;
    let x = p.beta * (row.chosen.ratio - row.rejected.ratio);
    let steep = sigmoid(x) * sigmoid(-x);
    Slope {
        value: sigmoid(c) + sigmoid(-x),
        chosen: p.beta * (sigmoid(c) * sigmoid(-c) - steep),
        rejected: p.beta * steep,
    }
}

/// (h_c − 1/(2β))² + (h_r + 1/(2β))² (SPPO with hard labels, 2405.00675 eq. 4.7; TRL sums where the authors halve).
pub(super) fn sppo_hard(row: &Row, p: &Parameters) -> Slope {
    let (c, r) = (row.chosen.ratio - 0.5 / p.beta, row.rejected.ratio + 0.5 / p.beta);
    Slope { value: c * c + r * r, chosen: 2.0 * c, rejected: 2.0 * r }
}
