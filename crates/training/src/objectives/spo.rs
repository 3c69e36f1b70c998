//! Self-supervised preference degrees (SPO, 2409.17791): a head tells how much key content was taken out of an answer.

/// Cross-entropy of a batch of degree predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct DegreeLoss {
    /// Mean over the rows, nats.
    pub value: f64,
    /// dLoss / d logits: `[rows, degrees]`.
    pub gradient: Vec<Vec<f64>>,
    /// Share of rows whose largest logit is the label's.
    pub accuracy: f64,
}

/// CE of `logits` (`[rows, degrees]`) against the degrees removed. It is added to the alignment loss times γ; at γ = 0
/// nothing of it reaches the policy.
///
/// # Errors
/// If there are no rows, a label is missing or out of range.
pub fn degree_loss(logits: &[Vec<f64>], labels: &[usize]) -> Result<DegreeLoss, String> {
    if logits.is_empty() || logits.len() != labels.len() {
        return Err(format!("{} rows of logits for {} degrees", logits.len(), labels.len()));
    }
    let rows = logits.len() as f64;
    let (mut value, mut right, mut gradient) = (0.0, 0.0, Vec::with_capacity(logits.len()));
    for (row, &label) in logits.iter().zip(labels) {
        let Some(&own) = row.get(label) else {
            return Err(format!("degree {label} of a head with {} degrees", row.len()));
        };
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|l| (l - largest).exp()).sum();
        value += (total.ln() + largest - own) / rows;
        right += f64::from(u8::from(own >= largest)) / rows;
        let softmax = row.iter().map(|l| (l - largest).exp() / total);
        gradient
            .push(softmax.enumerate().map(|(i, q)| (q - f64::from(u8::from(i == label))) / rows).collect());
    }
    Ok(DegreeLoss { value, gradient, accuracy: right })
}
