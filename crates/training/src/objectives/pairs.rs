//! Which samples of a prompt become pairs: DNO-Prct's rules (2404.03715 section 5.1).

use std::collections::HashMap;
use std::hash::Hash;

/// A judged completion of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// On the annotator's scale (0 to 6 in the paper).
    pub score: f64,
    /// Written by the model in training, not by the teacher.
    pub student: bool,
    /// [`repeats`] says that it runs in circles: it can only lose.
    pub repeats: bool,
}

/// Thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairRules {
    /// A positive scores at least this.
    pub positive: f64,
    /// A negative scores at least so much less.
    pub gap: f64,
    /// The same under a positive of the student's own.
    pub student_gap: f64,
}

impl Default for PairRules {
    fn default() -> Self {
        Self { positive: 5.0, gap: 2.0, student_gap: 1.0 }
    }
}

impl PairRules {
    /// All pairs (positive, negative) of one prompt's samples, as positions, in order. A sample that repeats itself is
    /// never a positive, and a negative under every positive whatever its score.
    pub fn pairs(&self, samples: &[Sample]) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for (i, positive) in samples.iter().enumerate() {
            if positive.repeats || positive.score < self.positive {
                continue;
            }
            let gap = if positive.student { self.student_gap } else { self.gap };
            for (j, negative) in samples.iter().enumerate() {
                if i != j && (negative.repeats || positive.score - negative.score >= gap) {
                    pairs.push((i, j));
                }
            }
        }
        pairs
    }
}

/// Whether some run of `n` tokens occurs more than `limit` times.
pub fn repeats<T: Eq + Hash>(tokens: &[T], n: usize, limit: usize) -> bool {
    if n == 0 {
        return false;
    }
    let mut counts: HashMap<&[T], usize> = HashMap::new();
    tokens.windows(n).any(|run| {
        let count = counts.entry(run).or_default();
        *count += 1;
        *count > limit
    })
}
