//! Rows of a training file as token ids.

mod encode;
mod parquet;
mod read;

pub use encode::Reading;
pub use read::sha256;

use crate::objectives::Targets;
use crate::recipe::Degree;

/// A text of which some tokens are learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Its line in the file, from 1.
    pub row: usize,
    /// Token ids.
    pub ids: Vec<u32>,
    /// True where a token is learned.
    pub mask: Vec<bool>,
}

/// Two answers to one prompt, the end of text included.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// Its line in the file, from 1.
    pub row: usize,
    /// Never empty.
    pub prompt: Vec<u32>,
    /// The better answer, with its text where the row has one.
    pub chosen: Vec<u32>,
    /// The worse one.
    pub rejected: Vec<u32>,
    /// What else is known.
    pub targets: Targets,
    /// Texts of both answers; SPO's degrees need them.
    pub texts: Option<[String; 2]>,
    /// Degrees of both answers where the row brings its own.
    pub degrees: Option<[usize; 2]>,
}

impl PairRow {
    /// Whether SPO's degrees can be made of the row, or stand in it.
    ///
    /// # Errors
    /// What it lacks.
    pub(crate) fn degradable(&self, settings: &Degree) -> Result<(), String> {
        match (self.degrees, &self.texts) {
            (Some(degrees), _) => match degrees.iter().find(|d| **d > settings.degrees) {
                Some(d) => Err(format!("has the degree {d}; degree.degrees is {}", settings.degrees)),
                None => Ok(()),
            },
            (None, Some(_)) => Ok(()),
            (None, None) => {
                Err("holds ids or messages; [degree] removes phrases of texts (or give degree_chosen and \
                     degree_rejected)"
                    .into())
            }
        }
    }
}

/// One answer, called good or bad, or given a score.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRow {
    /// Its line in the file, from 1.
    pub row: usize,
    /// Never empty.
    pub prompt: Vec<u32>,
    /// The answer.
    pub completion: Vec<u32>,
    /// `label`.
    pub desirable: bool,
    /// `score`.
    pub score: Option<f64>,
}

/// A row of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// For supervised fine-tuning.
    Text(Example),
    /// For objectives and reward models of pairs.
    Pair(PairRow),
    /// For unpaired objectives and regression.
    Answer(AnswerRow),
}

impl Row {
    /// Its line in the file, from 1.
    pub fn number(&self) -> usize {
        match self {
            Self::Text(r) => r.row,
            Self::Pair(r) => r.row,
            Self::Answer(r) => r.row,
        }
    }

    /// Its sequences of ids: a text, or a prompt and its answers.
    pub(crate) fn parts(&self) -> [&[u32]; 3] {
        match self {
            Self::Text(r) => [&r.ids, &[], &[]],
            Self::Pair(r) => [&r.prompt, &r.chosen, &r.rejected],
            Self::Answer(r) => [&r.prompt, &r.completion, &[]],
        }
    }

    /// Its largest id, if a vocabulary of this size does not have it: rows of ids are not always for this model.
    pub(crate) fn outside(&self, vocabulary: usize) -> Option<u32> {
        self.parts().into_iter().flatten().copied().max().filter(|&id| id as usize >= vocabulary)
    }

    /// Tokens a user counts: every answer with its prompt.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Text(r) => r.ids.len(),
            Self::Pair(r) => 2 * r.prompt.len() + r.chosen.len() + r.rejected.len(),
            Self::Answer(r) => r.prompt.len() + r.completion.len(),
        }
    }

    /// Tokens that are learned.
    pub fn counted(&self) -> usize {
        match self {
            Self::Text(r) => r.mask.iter().skip(1).filter(|m| **m).count(),
            Self::Pair(r) => r.chosen.len() + r.rejected.len(),
            Self::Answer(r) => r.completion.len(),
        }
    }
}

/// What kind of rows a training wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// [`Row::Text`].
    Text,
    /// [`Row::Pair`].
    Pair,
    /// [`Row::Answer`] with a label.
    Label,
    /// [`Row::Answer`] with a score.
    Score,
}

/// All rows of a file and what was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The rows that are used.
    pub rows: Vec<Row>,
    /// Rows longer than the limit, left out or cut.
    pub overlong: usize,
}

/// The order of an epoch: a Fisher–Yates shuffle that is a function of seed and epoch.
pub fn order(rows: usize, shuffle: bool, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    if shuffle {
        let mut state = seed ^ (epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        for i in (1..rows).rev() {
            order.swap(i, (next() % (i as u64 + 1)) as usize);
        }
    }
    order
}
