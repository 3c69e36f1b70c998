//! The general preference model (GPM, 2410.02197): an answer is a vector, a preference a skew form of two vectors.
//!
//! s(y_i ≻ y_j) = ⟨R v_i, v_j⟩ = Σ_l λ_l (a_{2l} b_{2l+1} − a_{2l+1} b_{2l}), a = v_i, b = v_j. The paper prints the other
//! sign in places (v_iᵀ R v_j); this is its code's.

use super::Goal;

/// How blocks weigh, from logits of the prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// All alike, 1.
    None,
    /// softmax(z), which sums to 1 (`gpm_example_usage.py`).
    Softmax,
    /// k·softmax(z/√hidden), which averages 1 (`rw_model_general_preference.py`).
    ScaledSoftmax {
        /// Width of the state the logits come from.
        hidden: usize,
    },
}

/// Shape of the model's comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpm {
    /// k: vectors have 2k numbers, and one more if [`Gpm::scalar`].
    pub blocks: usize,
    /// Weights of the blocks.
    pub gate: Gate,
    /// Vectors are scaled to length 1 (all 2k numbers together).
    pub l2: bool,
    /// Temperature; .1 in the paper.
    pub tau: f64,
    /// The last number of a vector is a scalar reward beside the skew form, s = r_i − r_j + ⟨R v_i, v_j⟩ (HRC,
    /// 2605.17342): an answer that beats a whole cycle then needs no block of its own. It is neither scaled nor gated.
    pub scalar: bool,
}

/// A loss of two vectors and its gradients, of the shapes of what was given.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorLoss {
    /// Nats (or squared units).
    pub value: f64,
    /// s(i ≻ j), before τ.
    pub score: f64,
    /// dLoss / d v_i.
    pub first: Vec<f64>,
    /// dLoss / d v_j.
    pub second: Vec<f64>,
    /// dLoss / d gate logits; empty without a gate.
    pub gate: Vec<f64>,
}

/// A vector as the skew form sees it.
struct Embedding {
    form: Vec<f64>,
    /// What it was divided by.
    norm: f64,
    scalar: f64,
}

impl Gpm {
    /// Numbers of an answer's vector.
    pub fn width(&self) -> usize {
        2 * self.blocks + usize::from(self.scalar)
    }

    /// λ: `[blocks]`.
    ///
    /// # Errors
    /// If the number of logits is not that of the blocks (any number, also none, without a gate).
    pub fn weights(&self, logits: &[f64]) -> Result<Vec<f64>, String> {
        let (scale, total) = match self.gate {
            Gate::None => return Ok(vec![1.0; self.blocks]),
            Gate::Softmax => (1.0, 1.0),
            Gate::ScaledSoftmax { hidden } => ((hidden as f64).sqrt().recip(), self.blocks as f64),
        };
        if logits.len() != self.blocks {
            return Err(format!("{} gate logits for {} blocks", logits.len(), self.blocks));
        }
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = logits.iter().map(|z| ((z - largest) * scale).exp()).collect();
        let sum: f64 = exp.iter().sum();
        Ok(exp.into_iter().map(|e| total * e / sum).collect())
    }

    fn embed(&self, vector: &[f64]) -> Result<Embedding, String> {
        if vector.len() != self.width() {
            return Err(format!("a vector of {} numbers where {} are expected", vector.len(), self.width()));
        }
        let form = &vector[..2 * self.blocks];
        let scalar = if self.scalar { vector[2 * self.blocks] } else { 0.0 };
        // As torch's normalize: a zero vector stays zero.
        let norm = if self.l2 { form.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12) } else { 1.0 };
        Ok(Embedding { form: form.iter().map(|x| x / norm).collect(), norm, scalar })
    }

    /// s(i ≻ j), before τ; P(i ≻ j) = σ(s/τ).
    ///
    /// # Errors
    /// If a length is wrong.
    pub fn score(&self, first: &[f64], second: &[f64], logits: &[f64]) -> Result<f64, String> {
        let weights = self.weights(logits)?;
        let (a, b) = (self.embed(first)?, self.embed(second)?);
        Ok(a.scalar - b.scalar + skew(&weights, &a.form, &b.form))
    }

    /// `[K, K]` of s(i ≻ j)/τ from the vectors of one prompt's K answers: K model calls and O(K²k) work. The diagonal is
    /// 0 and the table exactly skew.
    ///
    /// GPO's score of an answer is its row's mean, itself included. (The authors' ranker subtracts the transpose, which
    /// doubles every number.)
    ///
    /// # Errors
    /// If a length is wrong.
    pub fn table(&self, vectors: &[Vec<f64>], logits: &[f64]) -> Result<Vec<Vec<f64>>, String> {
        let weights = self.weights(logits)?;
        let all = vectors.iter().map(|v| self.embed(v)).collect::<Result<Vec<_>, _>>()?;
        let mut table = vec![vec![0.0; all.len()]; all.len()];
        for i in 0..all.len() {
            for j in i + 1..all.len() {
                let (a, b) = (&all[i], &all[j]);
                let s = (a.scalar - b.scalar + skew(&weights, &a.form, &b.form)) / self.tau;
                (table[i][j], table[j][i]) = (s, -s);
            }
        }
        Ok(table)
    }

    /// Loss of (s − margin)/τ against a goal; for [`Goal::WIN`] −log σ((s − m)/τ) (2410.02197, soft labels App.
    /// A.1; `HighDimGeneralPreferenceMoELoss`).
    ///
    /// # Errors
    /// If a length is wrong.
    pub fn loss(
        &self,
        first: &[f64],
        second: &[f64],
        logits: &[f64],
        margin: f64,
        goal: Goal,
    ) -> Result<VectorLoss, String> {
        let weights = self.weights(logits)?;
        let (a, b) = (self.embed(first)?, self.embed(second)?);
        let score = a.scalar - b.scalar + skew(&weights, &a.form, &b.form);
        let (value, slope) = goal.loss((score - margin) / self.tau);
        let slope = slope / self.tau;
        let (mut da, mut db) = (vec![0.0; 2 * self.blocks], vec![0.0; 2 * self.blocks]);
        for (l, w) in weights.iter().enumerate() {
            let (x, y) = (2 * l, 2 * l + 1);
            (da[x], da[y]) = (slope * w * b.form[y], -slope * w * b.form[x]);
            (db[x], db[y]) = (-slope * w * a.form[y], slope * w * a.form[x]);
        }
        Ok(VectorLoss {
            value,
            score,
            first: self.through_norm(&a, da, slope),
            second: self.through_norm(&b, db, -slope),
            gate: self.gate_gradient(&weights, &a.form, &b.form, slope),
        })
    }

    /// From the gradient of the scaled vector to that of the raw one.
    fn through_norm(&self, v: &Embedding, mut gradient: Vec<f64>, scalar: f64) -> Vec<f64> {
        if self.l2 {
            let along: f64 = gradient.iter().zip(&v.form).map(|(g, x)| g * x).sum();
            for (g, x) in gradient.iter_mut().zip(&v.form) {
                *g = (*g - along * x) / v.norm;
            }
        }
        if self.scalar {
            gradient.push(scalar);
        }
        gradient
    }

    fn gate_gradient(&self, weights: &[f64], a: &[f64], b: &[f64], slope: f64) -> Vec<f64> {
        let (scale, total) = match self.gate {
            Gate::None => return Vec::new(),
            Gate::Softmax => (1.0, 1.0),
            Gate::ScaledSoftmax { hidden } => ((hidden as f64).sqrt().recip(), self.blocks as f64),
        };
        let block = |l: usize| a[2 * l] * b[2 * l + 1] - a[2 * l + 1] * b[2 * l];
        let mean = skew(weights, a, b) / total;
        (0..self.blocks).map(|l| slope * scale * weights[l] * (block(l) - mean)).collect()
    }
}

/// Σ_l λ_l (a_{2l} b_{2l+1} − a_{2l+1} b_{2l}).
fn skew(weights: &[f64], a: &[f64], b: &[f64]) -> f64 {
    let blocks = a.chunks_exact(2).zip(b.chunks_exact(2));
    weights.iter().zip(blocks).map(|(w, (a, b))| w * (a[0] * b[1] - a[1] * b[0])).sum()
}
