//! Gradients of operations that are composed of candle's own: how every backward runs on other devices.

use candle_core::{Result, Tensor, Var};

/// Gradients of `f` at `inputs`, from the gradient of its result; zeros where `f` does not use an input.
///
/// # Errors
/// If an operation fails.
pub(crate) fn backward(
    inputs: &[&Tensor],
    grad: &Tensor,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let variables: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&t.detach())).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let store = (f(&tensors)? * grad.detach())?.sum_all()?.backward()?;
    variables
        .iter()
        .map(|v| match store.get(v) {
            Some(g) => Ok(g.clone()),
            None => v.zeros_like(),
        })
        .collect()
}
