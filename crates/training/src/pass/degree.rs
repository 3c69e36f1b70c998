//! SPO's auxiliary task: tell how much key content was taken out of an answer (arXiv 2409.17791).

use std::ops::Range;

use candle_core::{Device, Tensor};
use models::{Gradients, Tokenizer};

use crate::data::Row;
use crate::error::TrainError;
use crate::heads::DegreeHead;
use crate::objectives::degree_loss;
use crate::packing::{PackedAnswer, Packing};
use crate::rake::{self, Rake};
use crate::recipe::{Degree, Pool, Removal};

/// How answers are degraded.
pub(crate) struct Degradation {
    rake: Rake,
    settings: Degree,
    seed: u64,
    tokenizer: Tokenizer,
    eos: Option<u32>,
}

/// Rows of a version and what was taken out of it.
pub(super) struct Version {
    rows: Range<usize>,
    degree: usize,
}

/// What the auxiliary loss gives.
pub(super) struct DegreeOutcome {
    /// Mean over pairs of the sum over both answers.
    pub(super) value: f64,
    pub(super) accuracy: f64,
    /// `[tokens, hidden]`.
    pub(super) hidden: Tensor,
}

impl Degradation {
    pub(crate) fn new(settings: &Degree, seed: u64, tokenizer: &Tokenizer, eos: Option<u32>) -> Self {
        Self { rake: Rake::default(), settings: settings.clone(), seed, tokenizer: tokenizer.clone(), eos }
    }

    /// Token ids of the degraded versions of an answer, degrees 1, 2, …; none if the text has too few phrases. They end as
    /// the answer does, and are no longer than it: nothing but the phrases tells them apart.
    fn versions(&self, row: usize, text: &str, answer: &[u32]) -> Result<Vec<Vec<u32>>, TrainError> {
        let ends = answer.last() == self.eos.as_ref();
        let removal = match self.settings.removal {
            Removal::Keywords => rake::Removal::Key,
            Removal::Random => rake::Removal::Random(self.seed ^ row as u64),
            Removal::Low => rake::Removal::Low,
        };
        let Some(versions) = self.rake.versions(text, self.settings.degrees, removal) else {
            return Ok(Vec::new());
        };
        versions
            .iter()
            .skip(1)
            .map(|text| {
                let mut ids = self.tokenizer.encode(text)?;
                ids.extend(self.eos.filter(|_| ends));
                ids.truncate(answer.len());
                Ok(ids)
            })
            .collect()
    }
}

/// Adds the degraded versions of every pair's answers to the batch, after the prompt they share.
pub(super) fn place(
    degradation: &Degradation,
    rows: &[Row],
    placed: &[&[PackedAnswer]],
    packing: &mut Packing,
) -> Result<Vec<Version>, TrainError> {
    let mut all = Vec::new();
    for (row, answers) in rows.iter().zip(placed) {
        let Row::Pair(pair) = row else { continue };
        if let Some(degrees) = pair.degrees {
            for (answer, degree) in answers.iter().zip(degrees) {
                all.push(Version { rows: answer.rows.clone(), degree });
            }
            continue;
        }
        let Some(texts) = &pair.texts else {
            return Err(TrainError::Recipe(format!(
                "row {}: [degree] removes phrases of texts; this row holds ids or messages",
                pair.row
            )));
        };
        for ((text, ids), answer) in texts.iter().zip([&pair.chosen, &pair.rejected]).zip(*answers) {
            let versions = degradation.versions(pair.row, text, ids)?;
            if versions.is_empty() {
                continue;
            }
            all.push(Version { rows: answer.rows.clone(), degree: 0 });
            let prompt = answer.prompt_end + 1 - pair.prompt.len()..answer.prompt_end + 1;
            for (i, ids) in versions.iter().enumerate() {
                if ids.is_empty() {
                    continue;
                }
                let rows = packing.batch.push_answer(prompt.clone(), ids);
                all.push(Version { rows, degree: i + 1 });
            }
        }
    }
    Ok(all)
}

/// CE of the degrees from the mean hidden state of each version; gradients are scaled by the weight and `share`.
pub(super) fn loss(
    head: &DegreeHead,
    hidden: &Tensor,
    versions: &[Version],
    share: f64,
    gradients: &mut Gradients,
) -> Result<DegreeOutcome, TrainError> {
    let (tokens, width) = hidden.dims2()?;
    if versions.is_empty() {
        return Ok(DegreeOutcome { value: 0.0, accuracy: 0.0, hidden: hidden.zeros_like()? });
    }
    let read: Vec<Range<usize>> = versions
        .iter()
        .map(|v| match head.settings.pool {
            Pool::Mean => v.rows.clone(),
            Pool::Last => v.rows.end - 1..v.rows.end,
        })
        .collect();
    let means: Vec<Vec<f32>> = read
        .iter()
        .map(|rows| hidden.narrow(0, rows.start, rows.len())?.mean(0)?.to_vec1::<f32>())
        .collect::<candle_core::Result<_>>()?;
    let labels: Vec<usize> = versions.iter().map(|v| v.degree).collect();
    let made = degree_loss(&head.head.forward(&means)?, &labels).map_err(TrainError::Recipe)?;
    // Both answers of a pair have a term each.
    let scale = 2.0 * share * head.settings.weight;
    let grads: Vec<Vec<f64>> =
        made.gradient.iter().map(|row| row.iter().map(|g| g * scale).collect()).collect();
    let back = head.head.backward(&means, &grads, gradients)?;
    let mut spread = vec![0f32; tokens * width];
    for (rows, back) in read.into_iter().zip(back) {
        let n = rows.len() as f64;
        for row in rows {
            for (s, b) in spread[row * width..(row + 1) * width].iter_mut().zip(&back) {
                *s += (b / n) as f32;
            }
        }
    }
    let hidden = Tensor::from_vec(spread, (tokens, width), &Device::Cpu)?.to_device(hidden.device())?;
    Ok(DegreeOutcome { value: 2.0 * made.value, accuracy: made.accuracy, hidden })
}
