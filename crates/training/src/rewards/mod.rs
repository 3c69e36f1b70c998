//! Losses of reward models: Bradley–Terry scores here, vectors of the general preference model in [`gpm`].

pub mod gpm;

use crate::objectives::math::cross_entropy;

/// What a comparison should come out as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The first answer wins with this probability; 1 is a hard label. Loss: cross-entropy.
    Wins(f64),
    /// The margin over τ should be this number. Loss: half the squared error.
    Margin(f64),
    /// The margin over τ should be 5σ(m), m the pair's own margin. Loss: half the squared error (`loss.py` of
    /// general-preference-model).
    SquashedMargin(f64),
}

impl Goal {
    /// The hard label.
    pub const WIN: Self = Self::Wins(1.0);

    /// Loss and its derivative with respect to `z`, the score difference over τ.
    fn loss(self, z: f64) -> (f64, f64) {
        let squared = |target: f64| (0.5 * (z - target) * (z - target), z - target);
        match self {
            Self::Wins(p) => cross_entropy(z, p),
            Self::Margin(target) => squared(target),
            Self::SquashedMargin(margin) => squared(5.0 * crate::objectives::math::sigmoid(margin)),
        }
    }
}

/// A Bradley–Terry comparison of two scalar rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BradleyTerry {
    /// Temperature (TRL 1; general-preference-model's default .1).
    pub tau: f64,
    /// Weight of (r_c + r_r)², which keeps the scores around 0 (TRL's `center_rewards_coefficient`; .01 is usual).
    pub centre: f64,
}

impl Default for BradleyTerry {
    fn default() -> Self {
        Self { tau: 1.0, centre: 0.0 }
    }
}

/// A loss of two scalar rewards.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ScalarLoss {
    /// Nats (or squared units).
    pub value: f64,
    /// dLoss / d r_chosen.
    pub chosen: f64,
    /// dLoss / d r_rejected.
    pub rejected: f64,
}

impl BradleyTerry {
    /// Loss of (r_c − r_r − m)/τ against a goal, plus the centring term: −log σ(·) for [`Goal::WIN`] (TRL 1.16
    /// `RewardTrainer`; `PairWiseLoss` of general-preference-model). Two logits of one model call (PairPM) are such a
    /// pair as well.
    pub fn loss(&self, chosen: f64, rejected: f64, margin: f64, goal: Goal) -> ScalarLoss {
        let (value, slope) = goal.loss((chosen - rejected - margin) / self.tau);
        let sum = chosen + rejected;
        ScalarLoss {
            value: value + self.centre * sum * sum,
            chosen: slope / self.tau + 2.0 * self.centre * sum,
            rejected: -slope / self.tau + 2.0 * self.centre * sum,
        }
    }
}

/// ½(r − target)² of one answer with a known score, and its derivative.
pub fn score_regression(reward: f64, target: f64) -> (f64, f64) {
    let error = reward - target;
    (0.5 * error * error, error)
}
