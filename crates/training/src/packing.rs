//! Rows as one packed batch, and where in it every token is predicted.

use std::ops::Range;

use models::{PackedBatch, TrainableDecoder};

/// An answer in a packed batch.
#[derive(Debug, Clone)]
pub(crate) struct PackedAnswer {
    /// Its own rows.
    pub(crate) rows: Range<usize>,
    /// Row of the last prompt token.
    pub(crate) prompt_end: usize,
    /// Its tokens, among the predictions.
    pub(crate) predictions: Range<usize>,
}

impl PackedAnswer {
    /// The row of its last token.
    pub(crate) fn last(&self) -> usize {
        self.rows.end - 1
    }
}

/// A batch under construction: its tokens, and which rows predict which tokens.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    pub(crate) batch: PackedBatch,
    /// Rows whose hidden state predicts …
    pub(crate) index: Vec<u32>,
    /// … these tokens.
    pub(crate) targets: Vec<u32>,
}

impl Packing {
    fn predict(&mut self, row: usize, token: u32) {
        self.index.push(row as u32);
        self.targets.push(token);
    }

    /// A text; its tokens where `mask` says so are predicted.
    pub(crate) fn text(&mut self, ids: &[u32], mask: &[bool]) -> Range<usize> {
        let first = self.index.len();
        let rows = self.batch.push(ids);
        for t in (1..ids.len()).filter(|&t| mask[t]) {
            self.predict(rows.start + t - 1, ids[t]);
        }
        first..self.index.len()
    }

    /// A prompt and its answers. The prompt is computed once, unless the answers' lengths call for different rotary
    /// frequencies. With `prompt_too` the prompt's tokens but the first are predicted as well, for the first answer;
    /// their predictions come first.
    pub(crate) fn answers(
        &mut self,
        decoder: &TrainableDecoder,
        prompt: &[u32],
        answers: &[&[u32]],
        prompt_too: bool,
    ) -> (Range<usize>, Vec<PackedAnswer>) {
        let total = |a: &[u32]| prompt.len() + a.len();
        let longest = answers.iter().map(|a| total(a)).max().unwrap_or(prompt.len());
        let regime = decoder.rope_regime(longest);
        let shared = answers.iter().all(|a| decoder.rope_regime(total(a)) as usize == regime as usize);
        let mut place = shared.then(|| self.batch.push_prompt(prompt, longest));
        let mut of_prompt = 0..0;
        let mut packed = Vec::with_capacity(answers.len());
        for (i, answer) in answers.iter().enumerate() {
            let prompt_rows = match &place {
                Some(rows) if shared => rows.clone(),
                _ => self.batch.push_prompt(prompt, total(answer)),
            };
            place = Some(prompt_rows.clone());
            if prompt_too && i == 0 {
                let first = self.index.len();
                for t in 1..prompt.len() {
                    self.predict(prompt_rows.start + t - 1, prompt[t]);
                }
                of_prompt = first..self.index.len();
            }
            let rows = self.batch.push_answer(prompt_rows.clone(), answer);
            let first = self.index.len();
            for (t, &token) in answer.iter().enumerate() {
                self.predict(if t == 0 { prompt_rows.end - 1 } else { rows.start + t - 1 }, token);
            }
            packed.push(PackedAnswer {
                rows,
                prompt_end: prompt_rows.end - 1,
                predictions: first..self.index.len(),
            });
        }
        (of_prompt, packed)
    }
}
