//! Reward models: scores or vectors of the last tokens, compared in pairs or held against known scores.

use candle_core::{Device, Tensor};
use models::Keep;

use super::{Micro, Outcome};
use crate::data::Row;
use crate::error::TrainError;
use crate::heads::{Comparison, RewardHead};
use crate::network::Network;
use crate::packing::Packing;
use crate::rewards::{Goal, score_regression};

/// Where a row's answers and its prompt end in the packed batch.
struct Ends {
    row: usize,
    prompt: usize,
    answers: Vec<usize>,
    margin: f64,
    /// P(chosen ≻ rejected), 1 for a hard label.
    wins: f64,
    score: f64,
}

pub(super) fn run(network: &Network, micro: &Micro<'_>, outcome: &mut Outcome) -> Result<(), TrainError> {
    let decoder = network.decoder();
    let Some(head) = &network.head else {
        return Err(TrainError::Recipe("a reward model without a head".into()));
    };
    let mut packing = Packing::default();
    let mut ends = Vec::new();
    for row in micro.rows {
        let (prompt, answers, targets, score): (&[u32], Vec<&[u32]>, _, f64) = match row {
            Row::Pair(r) => (&r.prompt, vec![&r.chosen, &r.rejected], r.targets, 0.0),
            Row::Answer(r) => (&r.prompt, vec![&r.completion], Default::default(), r.score.unwrap_or(0.0)),
            Row::Text(_) => continue,
        };
        let (_, placed) = packing.answers(decoder, prompt, &answers, false);
        ends.push(Ends {
            row: row.number(),
            prompt: placed.first().map_or(0, |p| p.prompt_end),
            answers: placed.iter().map(|p| p.last()).collect(),
            margin: targets.margin.unwrap_or(0.0),
            wins: targets.p_chosen.unwrap_or(1.0),
            score,
        });
    }
    let pass = if micro.only_loss || !decoder.moves() {
        decoder.forward(&packing.batch, true, Keep::Nothing)?
    } else {
        network.forward(&packing.batch)?
    };
    let index: Vec<u32> = ends.iter().flat_map(|e| e.answers.iter().map(|&i| i as u32)).collect();
    let gate_index: Vec<u32> = ends.iter().map(|e| e.prompt as u32).collect();
    let pick = |index: &[u32]| -> Result<Vec<Vec<f32>>, TrainError> {
        Ok(pass.hidden.index_select(&Tensor::new(index, pass.hidden.device())?, 0)?.to_vec2::<f32>()?)
    };
    let states = pick(&index)?;
    let values = head.value.forward(&states)?;
    let share = micro.share / ends.len().max(1) as f64;
    let gate = match &head.comparison {
        Comparison::Vectors(_, Some(gate)) => Some((gate, pick(&gate_index)?)),
        _ => None,
    };
    let logits = match &gate {
        Some((gate, states)) => gate.forward(states)?,
        None => vec![Vec::new(); ends.len()],
    };
    let (d_values, d_logits) = compare(head, &ends, &values, &logits, share, outcome)?;
    let broken = ends
        .iter()
        .zip(values.chunks(ends.first().map_or(1, |e| e.answers.len())))
        .filter(|(_, v)| !v.iter().flatten().all(|x| x.is_finite()))
        .map(|(e, _)| e.row);
    outcome.broken.extend(broken);
    if micro.only_loss {
        return Ok(());
    }
    let back = head.value.backward(&states, &d_values, &mut outcome.gradients)?;
    let (tokens, width) = pass.hidden.dims2()?;
    let mut spread = vec![0f32; tokens * width];
    let mut add = |row: u32, values: &[f64]| {
        let at = row as usize * width;
        spread[at..at + width].iter_mut().zip(values).for_each(|(s, v)| *s += *v as f32);
    };
    index.iter().zip(&back).for_each(|(&row, values)| add(row, values));
    if let Some((gate, states)) = &gate {
        let back = gate.backward(states, &d_logits, &mut outcome.gradients)?;
        gate_index.iter().zip(&back).for_each(|(&row, values)| add(row, values));
    }
    if decoder.moves() {
        let grad = Tensor::from_vec(spread, (tokens, width), &Device::Cpu)?;
        let grad = grad.to_device(pass.hidden.device())?;
        decoder.backward(&packing.batch, pass, &grad, &mut outcome.gradients)?;
    }
    Ok(())
}

type Gradients = (Vec<Vec<f64>>, Vec<Vec<f64>>);

/// Loss and gradients of the values (one row an answer) and of the gate's logits (one row a prompt).
fn compare(
    head: &RewardHead,
    ends: &[Ends],
    values: &[Vec<f64>],
    logits: &[Vec<f64>],
    share: f64,
    outcome: &mut Outcome,
) -> Result<Gradients, TrainError> {
    let (mut d_values, mut d_logits) = (Vec::new(), Vec::new());
    let n = ends.len().max(1) as f64;
    let (mut right, mut margins) = (0.0, 0.0);
    let goal = |e: &Ends| head.target.map_or(Goal::Wins(e.wins), Goal::Margin);
    match &head.comparison {
        Comparison::Score => {
            let mut squares = 0.0;
            for (e, v) in ends.iter().zip(values) {
                let (loss, slope) = score_regression(v[0], e.score);
                outcome.loss += share * loss;
                squares += 2.0 * loss / n;
                d_values.push(vec![share * slope]);
            }
            outcome.metric("mse", squares, share * n);
            return Ok((d_values, d_logits));
        }
        Comparison::Scalar(bt) => {
            for (e, v) in ends.iter().zip(values.chunks_exact(2)) {
                let made = bt.loss(v[0][0], v[1][0], e.margin, goal(e));
                outcome.loss += share * made.value;
                right += f64::from(u8::from(v[0][0] > v[1][0])) / n;
                margins += (v[0][0] - v[1][0]) / n;
                d_values.push(vec![share * made.chosen]);
                d_values.push(vec![share * made.rejected]);
            }
        }
        Comparison::Vectors(gpm, gate) => {
            for ((e, v), logits) in ends.iter().zip(values.chunks_exact(2)).zip(logits) {
                let made = gpm.loss(&v[0], &v[1], logits, e.margin, goal(e)).map_err(TrainError::Recipe)?;
                outcome.loss += share * made.value;
                right += f64::from(u8::from(made.score > 0.0)) / n;
                margins += made.score / n;
                let scaled = |g: &[f64]| g.iter().map(|g| share * g).collect::<Vec<f64>>();
                d_values.push(scaled(&made.first));
                d_values.push(scaled(&made.second));
                if gate.is_some() {
                    d_logits.push(scaled(&made.gate));
                }
            }
        }
    }
    outcome.metric("accuracy", right, share * n);
    outcome.metric("margin", margins, share * n);
    Ok((d_values, d_logits))
}
