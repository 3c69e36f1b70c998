//! Sums of gradients by the name of what is trained.

use std::collections::BTreeMap;

use candle_core::{Result as Candle, Tensor};

/// Gradients, f32, flat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradients {
    /// Name → sum, in the order of the variable's elements.
    pub sums: BTreeMap<String, Vec<f32>>,
}

impl Gradients {
    /// Adds one.
    ///
    /// # Errors
    /// If the tensor cannot be read.
    pub fn add(&mut self, name: &str, gradient: &Tensor) -> Candle<()> {
        self.add_values(name, gradient.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    /// Adds one by its values.
    pub fn add_values(&mut self, name: &str, values: Vec<f32>) {
        match self.sums.get_mut(name) {
            Some(sum) => sum.iter_mut().zip(&values).for_each(|(a, b)| *a += b),
            None => {
                self.sums.insert(name.to_string(), values);
            }
        }
    }

    /// The sum of one, zeros of this length if there is none yet.
    pub fn entry(&mut self, name: &str, length: usize) -> &mut Vec<f32> {
        self.sums.entry(name.to_string()).or_insert_with(|| vec![0.0; length])
    }

    /// Adds the rows of `gradient` (`[ids.len(), width]`) to the rows `ids` of a table of `rows` rows, in order.
    pub(crate) fn add_rows(&mut self, name: &str, rows: usize, ids: &[u32], gradient: &Tensor) -> Candle<()> {
        let width = gradient.dim(1)?;
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        let sum = self.entry(name, rows * width);
        for (row, &id) in values.chunks_exact(width).zip(ids) {
            let at = id as usize * width;
            sum[at..at + width].iter_mut().zip(row).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// L2 norm over all.
    pub fn norm(&self) -> f64 {
        let squares = |g: &[f32]| g.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        self.sums.values().map(|g| squares(g)).sum::<f64>().sqrt()
    }
}
