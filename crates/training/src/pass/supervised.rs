//! Supervised fine-tuning: −Σ log p over the tokens that count, over their number in the whole step.

use kernels::{TokenGradient, TokenLogProbs};
use models::Keep;

use super::{Micro, Outcome};
use crate::data::Row;
use crate::error::TrainError;
use crate::network::{Network, head_backward, logprobs};
use crate::packing::Packing;
use crate::recipe::{SftObjective, TokenLoss};

pub(super) fn run(
    network: &Network,
    objective: &SftObjective,
    micro: &Micro<'_>,
    outcome: &mut Outcome,
) -> Result<(), TrainError> {
    let decoder = network.decoder();
    let mut packing = Packing::default();
    let mut spans = Vec::new();
    for row in micro.rows {
        if let Row::Text(example) = row {
            spans.push((example.row, packing.text(&example.ids, &example.mask)));
        }
    }
    let smoothing = objective.label_smoothing as f32;
    let statistics = smoothing > 0.0;
    let each = 1.0 / micro.counted.max(1) as f32;
    let gradient = |_: usize, t: &TokenLogProbs| {
        let weight = match objective.loss_type {
            TokenLoss::Nll => each,
            TokenLoss::Dft => each * t.target.exp(),
        };
        TokenGradient { target: -weight * (1.0 - smoothing), mean: -weight * smoothing }
    };
    let tokens = if micro.only_loss {
        let pass = decoder.forward(&packing.batch, true, Keep::Nothing)?;
        logprobs(decoder, &pass.hidden, &packing, statistics)?
    } else {
        let pass = network.forward(&packing.batch)?;
        let (tokens, grad) =
            head_backward(decoder, &pass.hidden, &packing, statistics, &gradient, &mut outcome.gradients)?;
        decoder.backward(&packing.batch, pass, &grad, &mut outcome.gradients)?;
        tokens
    };
    let value = |t: &TokenLogProbs| {
        let (own, mean) = (f64::from(t.target), f64::from(t.mean));
        let weight = if objective.loss_type == TokenLoss::Dft { own.exp() } else { 1.0 };
        -weight * ((1.0 - objective.label_smoothing) * own + objective.label_smoothing * mean)
    };
    outcome.loss += tokens.iter().map(value).sum::<f64>() / micro.counted.max(1) as f64;
    let hits = tokens.iter().filter(|t| t.hit).count();
    outcome.metric("mean_token_accuracy", hits as f64 / tokens.len().max(1) as f64, micro.share);
    if statistics || objective.loss_type != TokenLoss::Nll {
        // The loss is then no likelihood; this is.
        let sum: f64 = tokens.iter().map(|t| f64::from(t.target)).sum();
        outcome.metric("nll", -sum / tokens.len().max(1) as f64, micro.share);
    }
    let finite = |t: &TokenLogProbs| t.target.is_finite();
    let broken = spans.into_iter().filter(|(_, s)| !tokens[s.clone()].iter().all(finite)).map(|(r, _)| r);
    outcome.broken.extend(broken);
    Ok(())
}
