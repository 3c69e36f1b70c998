//! A 5-gram model with interpolated absolute discounting: what any neural model has to beat.

use std::collections::HashMap;

/// Longest context plus one.
pub const ORDER: usize = 5;
/// Taken from every seen count and given to the shorter context (Ney, Essen, Kneser 1994).
const DISCOUNT: f64 = 0.75;

/// Counts of what followed which context.
#[derive(Debug, Default)]
pub struct NGram {
    /// Context (up to four tokens) → (total, follower → count).
    counts: HashMap<Vec<u32>, (u64, HashMap<u32, u64>)>,
    vocabulary: usize,
}

impl NGram {
    /// An empty model over a vocabulary.
    pub fn new(vocabulary: usize) -> Self {
        Self { counts: HashMap::new(), vocabulary }
    }

    /// Learns a text.
    pub fn add(&mut self, ids: &[u32]) {
        for i in 0..ids.len() {
            for n in 0..ORDER.min(i + 1) {
                let entry = self.counts.entry(ids[i - n..i].to_vec()).or_default();
                entry.0 += 1;
                *entry.1.entry(ids[i]).or_default() += 1;
            }
        }
    }

    /// P(next | context), never 0: each order keeps a share for the one below, the last for the uniform distribution.
    pub fn probability(&self, context: &[u32], next: u32) -> f64 {
        let mut p = 1.0 / self.vocabulary as f64;
        for n in 0..ORDER.min(context.len() + 1) {
            if let Some((total, followers)) = self.counts.get(&context[context.len() - n..]) {
                let total = *total as f64;
                let count = followers.get(&next).copied().unwrap_or(0) as f64;
                let held_back = DISCOUNT * followers.len() as f64 / total;
                p = (count - DISCOUNT).max(0.0) / total + held_back * p;
            }
        }
        p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_all_followers_sum_to_one() {
        let mut model = NGram::new(6);
        model.add(&[1, 2, 3, 1, 2, 4, 1, 2, 3]);
        for context in [&[][..], &[1], &[1, 2], &[5, 5, 1, 2]] {
            let sum: f64 = (0..6).map(|t| model.probability(context, t)).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{context:?}: {sum}");
        }
    }
}
