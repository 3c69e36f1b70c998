//! Preferences between answers, or labels of single ones.

use std::ops::Range;

use kernels::{TokenGradient, TokenLogProbs};
use models::{Keep, TrainableDecoder};

use super::{Micro, Outcome, degree};
use crate::data::{AnswerRow, PairRow, Row};
use crate::error::TrainError;
use crate::network::{Network, head_backward, logprobs};
use crate::objectives::{Answer, Batch, Labelled, Loss, Objective, Pair};
use crate::packing::{PackedAnswer, Packing};

/// A row's answers in the packed batch.
struct Placed {
    row: usize,
    /// Predictions of the prompt's tokens, for the first answer.
    prompt: Range<usize>,
    answers: Vec<PackedAnswer>,
}

pub(super) fn run(
    network: &Network,
    objective: &Objective,
    micro: &Micro<'_>,
) -> Result<Outcome, TrainError> {
    let decoder = network.decoder();
    let needs = objective.needs();
    let mut packing = Packing::default();
    let placed = place(&mut packing, decoder, micro.rows, needs.prompt);
    let versions = match (&network.degree, micro.degrade) {
        (Some(_), Some(degradation)) => {
            Some(degree::place(degradation, micro.rows, &placed_rows(&placed), &mut packing)?)
        }
        _ => None,
    };
    let mut outcome = Outcome { state: micro.state.clone(), ..Outcome::default() };
    let references = references(network, micro, &packing, &placed, needs.reference, &mut outcome)?;
    let pass = if micro.only_loss {
        decoder.forward(&packing.batch, true, Keep::Nothing)?
    } else {
        network.forward(&packing.batch)?
    };
    let tokens = logprobs(decoder, &pass.hidden, &packing, needs.square_sums)?;
    let mut answers = placed.iter().zip(references).flat_map(|(p, mut references)| {
        references.resize(p.answers.len(), Vec::new());
        let tokens = &tokens;
        p.answers.iter().zip(references).enumerate().map(move |(i, (a, reference))| Answer {
            policy: values(&tokens[a.predictions.clone()], |t| t.target),
            reference,
            prompt: if i == 0 { values(&tokens[p.prompt.clone()], |t| t.target) } else { Vec::new() },
            square_sums: if needs.square_sums {
                values(&tokens[a.predictions.clone()], |t| t.square_sum)
            } else {
                Vec::new()
            },
        })
    });
    let loss = if needs.pairs {
        let pairs: Vec<Pair> = micro
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Pair(row) => {
                    Some(Pair { chosen: answers.next()?, rejected: answers.next()?, targets: row.targets })
                }
                _ => None,
            })
            .collect();
        objective.evaluate(&Batch::Pairs(&pairs), &mut outcome.state)
    } else {
        let rows: Vec<Labelled> = micro
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Answer(row) => Some(Labelled { answer: answers.next()?, desirable: row.desirable }),
                _ => None,
            })
            .collect();
        let mismatched = if needs.mismatched { mismatched(network, micro.rows)? } else { Vec::new() };
        objective.evaluate(&Batch::Labelled { rows: &rows, mismatched: &mismatched }, &mut outcome.state)
    };
    let loss = loss.map_err(TrainError::Recipe)?;
    outcome.loss = loss.value * micro.share;
    outcome.metrics = loss.metrics.clone();
    let finite = |t: &TokenLogProbs| t.target.is_finite();
    let whole = |p: &Placed| p.answers.iter().all(|a| tokens[a.predictions.clone()].iter().all(finite));
    outcome.broken = placed.iter().filter(|p| !whole(p)).map(|p| p.row).collect();
    let degrees = match (&network.degree, &versions) {
        (Some(head), Some(versions)) => {
            let made = degree::loss(head, &pass.hidden, versions, micro.share, &mut outcome.gradients)?;
            outcome.metrics.insert("degree_loss".into(), made.value);
            outcome.metrics.insert("degree_accuracy".into(), made.accuracy);
            outcome.loss += micro.share * head.settings.weight * made.value;
            Some(made.hidden)
        }
        _ => None,
    };
    if micro.only_loss {
        return Ok(outcome);
    }
    let spread = spread(&loss, &placed, tokens.len(), needs.pairs, micro.share);
    let gradient = |row: usize, _: &TokenLogProbs| TokenGradient { target: spread[row], mean: 0.0 };
    let (_, mut grad) =
        head_backward(decoder, &pass.hidden, &packing, false, &gradient, &mut outcome.gradients)?;
    if let Some(degrees) = degrees {
        grad = (grad + degrees)?;
    }
    decoder.backward(&packing.batch, pass, &grad, &mut outcome.gradients)?;
    Ok(outcome)
}

fn values(tokens: &[TokenLogProbs], f: impl Fn(&TokenLogProbs) -> f32) -> Vec<f64> {
    tokens.iter().map(|t| f64::from(f(t))).collect()
}

fn placed_rows(placed: &[Placed]) -> Vec<&[PackedAnswer]> {
    placed.iter().map(|p| p.answers.as_slice()).collect()
}

fn place(packing: &mut Packing, decoder: &TrainableDecoder, rows: &[Row], prompt_too: bool) -> Vec<Placed> {
    rows.iter()
        .filter_map(|row| {
            let (number, prompt, answers): (usize, &[u32], Vec<&[u32]>) = match row {
                Row::Pair(PairRow { row, prompt, chosen, rejected, .. }) => {
                    (*row, prompt, vec![chosen, rejected])
                }
                Row::Answer(AnswerRow { row, prompt, completion, .. }) => (*row, prompt, vec![completion]),
                Row::Text(_) => return None,
            };
            let (prompt, answers) = packing.answers(decoder, prompt, &answers, prompt_too);
            Some(Placed { row: number, prompt, answers })
        })
        .collect()
}

/// Reference log-probabilities of every row's answers: out of the cache, or computed together.
fn references(
    network: &Network,
    micro: &Micro<'_>,
    packing: &Packing,
    placed: &[Placed],
    wanted: bool,
    outcome: &mut Outcome,
) -> Result<Vec<Vec<Vec<f64>>>, TrainError> {
    let Some((decoder, adapters)) = network.reference().filter(|_| wanted) else {
        return Ok(vec![Vec::new(); placed.len()]);
    };
    let wide = |answers: &[Vec<f32>]| -> Vec<Vec<f64>> {
        answers.iter().map(|a| a.iter().map(|v| f64::from(*v)).collect()).collect()
    };
    let cached: Vec<_> = placed.iter().map(|p| micro.cache.get(p.row)).collect();
    if cached.iter().all(Option::is_some) {
        return Ok(cached.into_iter().flatten().map(|a| wide(a)).collect());
    }
    let pass = decoder.forward(&packing.batch, adapters, Keep::Nothing)?;
    let tokens = logprobs(decoder, &pass.hidden, packing, false)?;
    let mut all = Vec::with_capacity(placed.len());
    for p in placed {
        let answers: Vec<Vec<f32>> = p
            .answers
            .iter()
            .map(|a| tokens[a.predictions.clone()].iter().map(|t| t.target).collect())
            .collect();
        all.push(wide(&answers));
        outcome.references.push((p.row, answers));
    }
    Ok(all)
}

/// Summed log-probabilities (policy, reference) of every prompt with the answer of the row before it, for KTO's z.
fn mismatched(network: &Network, rows: &[Row]) -> Result<Vec<(f64, f64)>, TrainError> {
    let answers: Vec<&AnswerRow> =
        rows.iter().filter_map(|r| if let Row::Answer(r) = r { Some(r) } else { None }).collect();
    let mut packing = Packing::default();
    let mut spans = Vec::new();
    for (i, row) in answers.iter().enumerate() {
        let other = answers[(i + answers.len() - 1) % answers.len()];
        let (_, placed) = packing.answers(network.decoder(), &row.prompt, &[&other.completion], false);
        spans.extend(placed.into_iter().map(|a| a.predictions));
    }
    let sums = |decoder: &TrainableDecoder, adapters: bool| -> Result<Vec<f64>, TrainError> {
        let pass = decoder.forward(&packing.batch, adapters, Keep::Nothing)?;
        let tokens = logprobs(decoder, &pass.hidden, &packing, false)?;
        Ok(spans.iter().map(|s| values(&tokens[s.clone()], |t| t.target).iter().sum()).collect())
    };
    let policy = sums(network.decoder(), true)?;
    let reference = match network.reference() {
        Some((decoder, adapters)) => sums(decoder, adapters)?,
        None => vec![0.0; policy.len()],
    };
    Ok(policy.into_iter().zip(reference).collect())
}

/// Gradients by prediction, out of those by answer.
fn spread(loss: &Loss, placed: &[Placed], predictions: usize, pairs: bool, share: f64) -> Vec<f32> {
    let mut all = vec![0f32; predictions];
    let mut put = |span: &Range<usize>, values: &[f64]| {
        for (at, v) in span.clone().zip(values) {
            all[at] = (share * v) as f32;
        }
    };
    let n = placed.len();
    for (i, p) in placed.iter().enumerate() {
        for (j, answer) in p.answers.iter().enumerate() {
            let gradient = &loss.gradients[if pairs { j * n + i } else { i }];
            put(&answer.predictions, &gradient.policy);
            if j == 0 {
                put(&p.prompt, &gradient.prompt);
            }
        }
    }
    all
}
