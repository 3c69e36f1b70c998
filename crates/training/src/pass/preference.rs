//! Preferences between answers, or labels of single ones.

use std::ops::Range;

use kernels::{TokenGradient, TokenLogProbs};
use models::{Keep, Pass, TrainableDecoder};

use super::{Micro, Outcome, degree};
use crate::data::{AnswerRow, PairRow, Row};
use crate::error::TrainError;
use crate::network::{Network, head_backward, logprobs};
use crate::objectives::{Answer, Batch, Gradient, Labelled, Loss, Needs, Objective, Pair};
use crate::packing::{PackedAnswer, Packing};

/// A row's answers in the packed batch.
struct Placed {
    row: usize,
    /// Predictions of the prompt's tokens, for the first answer.
    prompt: Range<usize>,
    answers: Vec<PackedAnswer>,
}

/// Micro-batches one after the other. An objective that looks at the whole batch is evaluated on the whole step: its
/// log-probabilities are computed first, without gradients, and each micro-batch then sends its part of the gradient back.
pub(super) fn run(
    network: &Network,
    objective: &Objective,
    micros: &[Micro<'_>],
    wanted: &dyn Fn() -> Result<(), TrainError>,
    outcome: &mut Outcome,
) -> Result<(), TrainError> {
    let needs = objective.needs();
    if micros.len() == 1 || !needs.whole_batch {
        let rows = micros.iter().flat_map(|m| m.rows);
        let all: usize = rows.map(|row| chosen_tokens(row, needs.prompt)).sum();
        for micro in micros {
            wanted()?;
            let tokens = needs.step_tokens.then_some(all as f64 * micro.share);
            let seen = see(network, needs, micro, !micro.only_loss, outcome)?;
            let mismatched = mismatched(network, objective, &[micro.rows])?;
            let loss =
                evaluate(objective, micro.rows.iter(), seen.answers.iter(), &mismatched, tokens, outcome)?;
            outcome.loss += loss.value * micro.share;
            for (name, value) in &loss.metrics {
                outcome.metric(name, *value, micro.share * speaks(name, &[micro.rows]));
            }
            finish(network, micro, seen, &loss.gradients, micro.share, outcome)?;
            if !outcome.loss.is_finite() {
                break;
            }
        }
        return Ok(());
    }
    let mut answers = Vec::new();
    for micro in micros {
        wanted()?;
        // Degrees come with the second pass.
        let micro = Micro { degrade: None, ..*micro };
        answers.extend(see(network, needs, &micro, false, outcome)?.answers);
    }
    let rows: Vec<&[Row]> = micros.iter().map(|m| m.rows).collect();
    let mismatched = mismatched(network, objective, &rows)?;
    let all = micros.iter().flat_map(|m| m.rows);
    let loss = evaluate(objective, all, answers.iter(), &mismatched, None, outcome)?;
    outcome.loss += loss.value;
    for (name, value) in &loss.metrics {
        outcome.metric(name, *value, speaks(name, &rows));
    }
    let only_loss = micros.iter().all(|m| m.only_loss);
    if !loss.value.is_finite() || only_loss && network.degree.is_none() {
        return Ok(());
    }
    // Chosen answers of the step stand before the rejected ones.
    let n: usize = micros.iter().map(|m| m.rows.len()).sum();
    let mut first = 0;
    for micro in micros {
        wanted()?;
        let of = first..first + micro.rows.len();
        first = of.end;
        let mut gradients = loss.gradients[of.clone()].to_vec();
        if needs.pairs {
            gradients.extend_from_slice(&loss.gradients[n + of.start..n + of.end]);
        }
        // What the loss asked for has been used; its gradient needs the policy alone.
        let needs = Needs { reference: false, square_sums: false, ..needs };
        let seen = see(network, needs, micro, !only_loss, outcome)?;
        finish(network, micro, seen, &gradients, 1.0, outcome)?;
    }
    Ok(())
}

/// Tokens that an NLL counts: those of the chosen answer, and of the prompt (but the first) where it is learned too.
fn chosen_tokens(row: &Row, prompt_too: bool) -> usize {
    let Row::Pair(pair) = row else { return 0 };
    pair.chosen.len() + if prompt_too { pair.prompt.len().saturating_sub(1) } else { 0 }
}

/// The share of rows that a metric is a mean over: of single answers, those of its label.
fn speaks(metric: &str, batches: &[&[Row]]) -> f64 {
    let rows = || batches.iter().copied().flatten();
    let share = |good: bool| {
        let labels = rows().filter_map(|r| if let Row::Answer(r) = r { Some(r.desirable) } else { None });
        let (of, all) = labels.fold((0.0, 0.0), |(of, n), l| (of + f64::from(u8::from(l == good)), n + 1.0));
        if all > 0.0 { of / all } else { 1.0 }
    };
    match metric.rsplit('/').next() {
        Some("chosen") => share(true),
        Some("rejected") => share(false),
        _ => 1.0,
    }
}

/// What the policy says of a micro-batch's answers.
struct Seen {
    packing: Packing,
    placed: Vec<Placed>,
    versions: Option<Vec<degree::Version>>,
    pass: Pass,
    predictions: usize,
    /// In the order of the rows, a pair's chosen one first.
    answers: Vec<Answer>,
}

fn see(
    network: &Network,
    needs: Needs,
    micro: &Micro<'_>,
    differentiated: bool,
    outcome: &mut Outcome,
) -> Result<Seen, TrainError> {
    let decoder = network.decoder();
    let mut packing = Packing::default();
    let placed = place(&mut packing, decoder, micro.rows, needs.prompt);
    let versions = match (&network.degree, micro.degrade) {
        (Some(_), Some(degradation)) => {
            Some(degree::place(degradation, micro.rows, &placed_rows(&placed), &mut packing)?)
        }
        _ => None,
    };
    let references = references(network, micro, &packing, &placed, needs.reference, outcome)?;
    let pass = if differentiated {
        network.forward(&packing.batch)?
    } else {
        decoder.forward(&packing.batch, true, Keep::Nothing)?
    };
    let tokens = logprobs(decoder, &pass.hidden, &packing, needs.square_sums)?;
    let mut answers = Vec::new();
    for (p, mut references) in placed.iter().zip(references) {
        references.resize(p.answers.len(), Vec::new());
        for (i, (a, reference)) in p.answers.iter().zip(references).enumerate() {
            let tokens_of = &tokens[a.predictions.clone()];
            let prompt = if i == 0 { p.prompt.clone() } else { 0..0 };
            answers.push(Answer {
                policy: values(tokens_of, |t| t.target),
                reference,
                prompt: values(&tokens[prompt], |t| t.target),
                square_sums: if needs.square_sums { values(tokens_of, |t| t.square_sum) } else { Vec::new() },
            });
        }
        let finite = |t: &TokenLogProbs| t.target.is_finite();
        let whole = p.answers.iter().all(|a| tokens[a.predictions.clone()].iter().all(finite));
        if !whole && !outcome.broken.contains(&p.row) {
            outcome.broken.push(p.row);
        }
    }
    Ok(Seen { packing, placed, versions, pass, predictions: tokens.len(), answers })
}

/// The objective of rows, whose answers come in the same order.
fn evaluate<'a>(
    objective: &Objective,
    rows: impl Iterator<Item = &'a Row>,
    answers: impl Iterator<Item = &'a Answer>,
    mismatched: &[(f64, f64)],
    tokens: Option<f64>,
    outcome: &mut Outcome,
) -> Result<Loss, TrainError> {
    let mut answers = answers.cloned();
    let (mut pairs, mut labelled) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            Row::Pair(row) => {
                if let (Some(chosen), Some(rejected)) = (answers.next(), answers.next()) {
                    pairs.push(Pair { chosen, rejected, targets: row.targets });
                }
            }
            Row::Answer(row) => {
                labelled.extend(answers.next().map(|answer| Labelled { answer, desirable: row.desirable }));
            }
            Row::Text(_) => {}
        }
    }
    let batch = if objective.needs().pairs {
        Batch::Pairs(&pairs)
    } else {
        Batch::Labelled { rows: &labelled, mismatched }
    };
    objective.evaluate_part(&batch, tokens, &mut outcome.state).map_err(TrainError::Recipe)
}

/// Degrees of a micro-batch, and its gradients by answer sent back through the decoder.
fn finish(
    network: &Network,
    micro: &Micro<'_>,
    seen: Seen,
    gradients: &[Gradient],
    share: f64,
    outcome: &mut Outcome,
) -> Result<(), TrainError> {
    let decoder = network.decoder();
    let degrees = match (&network.degree, &seen.versions) {
        (Some(head), Some(versions)) => {
            let hidden = &seen.pass.hidden;
            let made = degree::loss(head, hidden, versions, micro.share, &mut outcome.gradients)?;
            outcome.metric("degree_loss", made.value, micro.share);
            outcome.metric("degree_accuracy", made.accuracy, micro.share);
            outcome.loss += micro.share * head.settings.weight * made.value;
            Some(made.hidden)
        }
        _ => None,
    };
    if micro.only_loss {
        return Ok(());
    }
    let spread = spread(gradients, &seen.placed, seen.predictions, share);
    let gradient = |row: usize, _: &TokenLogProbs| TokenGradient { target: spread[row], mean: 0.0 };
    let Seen { packing, pass, .. } = seen;
    let (_, mut grad) =
        head_backward(decoder, &pass.hidden, &packing, false, &gradient, &mut outcome.gradients)?;
    if let Some(degrees) = degrees {
        grad = (grad + degrees)?;
    }
    decoder.backward(&packing.batch, pass, &grad, &mut outcome.gradients)?;
    Ok(())
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

/// Summed log-probabilities (policy, reference) of every prompt with the answer of the row before it in the step, for
/// KTO's z; none where the objective has no use for them.
fn mismatched(
    network: &Network,
    objective: &Objective,
    batches: &[&[Row]],
) -> Result<Vec<(f64, f64)>, TrainError> {
    if !objective.needs().mismatched {
        return Ok(Vec::new());
    }
    let rows = batches.iter().copied().flatten();
    let answers: Vec<&AnswerRow> =
        rows.filter_map(|row| if let Row::Answer(row) = row { Some(row) } else { None }).collect();
    let mut all = Vec::with_capacity(answers.len());
    let mut first = 0;
    for batch in batches {
        let mut packing = Packing::default();
        let mut spans = Vec::new();
        for i in first..first + batch.len() {
            let other = answers[(i + answers.len() - 1) % answers.len()];
            let (prompt, completion) = (&answers[i].prompt, &other.completion);
            let (_, placed) = packing.answers(network.decoder(), prompt, &[completion], false);
            spans.extend(placed.into_iter().map(|a| a.predictions));
        }
        first += batch.len();
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
        all.extend(policy.into_iter().zip(reference));
    }
    Ok(all)
}

/// Gradients by prediction, out of those by answer: first answers of all rows, then second ones.
fn spread(gradients: &[Gradient], placed: &[Placed], predictions: usize, share: f64) -> Vec<f32> {
    let mut all = vec![0f32; predictions];
    let mut put = |span: &Range<usize>, values: &[f64]| {
        for (at, v) in span.clone().zip(values) {
            all[at] = (share * v) as f32;
        }
    };
    let n = placed.len();
    for (i, p) in placed.iter().enumerate() {
        for (j, answer) in p.answers.iter().enumerate() {
            let gradient = &gradients[j * n + i];
            put(&answer.predictions, &gradient.policy);
            if j == 0 {
                put(&p.prompt, &gradient.prompt);
            }
        }
    }
    all
}
