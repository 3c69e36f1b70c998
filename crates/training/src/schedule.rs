//! Learning rates over steps, as transformers' schedulers give them.

use crate::recipe::{Optimizer, Scheduler};

/// The learning rate of step `step` (from 0) of `total`.
///
/// Warm-up starts at 0, so that the first step changes nothing; a warm-up below 1 is a share, rounded up.
pub fn learning_rate(optimizer: &Optimizer, step: usize, total: usize) -> f64 {
    let peak = optimizer.learning_rate;
    let warmup = if optimizer.warmup_steps < 1.0 {
        (optimizer.warmup_steps * total as f64).ceil() as usize
    } else {
        optimizer.warmup_steps as usize
    };
    if optimizer.lr_scheduler_type != Scheduler::Constant && step < warmup {
        return peak * step as f64 / warmup.max(1) as f64;
    }
    let rest = total.saturating_sub(warmup).max(1) as f64;
    match optimizer.lr_scheduler_type {
        Scheduler::Constant | Scheduler::ConstantWithWarmup => peak,
        Scheduler::Linear => peak * (total.saturating_sub(step) as f64 / rest),
        Scheduler::Cosine => {
            let progress = (step - warmup) as f64 / rest;
            peak * (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
        }
    }
}
