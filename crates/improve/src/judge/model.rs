//! A score model: one pass a paper.

use lm::Progress;
use models::ModelSource;
use serde_json::Value;
use training::{RewardModel, Verdict};

use super::{Judge, QUESTION, Reads, rendered};
use crate::error::ImproveError;
use crate::rows::{Cost, Scored};

/// A reward model that reads papers.
pub struct ModelJudge {
    model: RewardModel,
    reads: Reads,
    units: Option<String>,
    accept_at: Option<f64>,
}

impl ModelJudge {
    /// Opens a reward model.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(
        source: &ModelSource,
        reads: Reads,
        units: Option<String>,
        accept_at: Option<f64>,
    ) -> Result<Self, ImproveError> {
        let model = RewardModel::open(source)
            .map_err(|e| ImproveError::Config(format!("the judge cannot be used: {e}")))?;
        Ok(Self { model, reads, units, accept_at })
    }
}

impl Judge for ModelJudge {
    fn id(&self) -> String {
        self.model.sha256().into()
    }

    fn units(&self) -> String {
        if let Some(units) = &self.units {
            return units.clone();
        }
        match self.model.objective().name {
            training::RewardName::Regression => "the score model's units",
            training::RewardName::Bt => "log-odds",
            training::RewardName::Gpm => "probability of being preferred",
        }
        .into()
    }

    fn score(
        &self,
        papers: &[String],
        against: Option<&[String]>,
        _seed: u64,
        progress: &dyn Progress,
    ) -> Result<(Vec<Scored>, Cost), ImproveError> {
        if progress.cancelled() {
            return Err(ImproveError::Interrupted);
        }
        let started = std::time::Instant::now();
        let lost = || Scored::failed(self.id(), "it has no title and abstract to read");
        let read: Vec<Option<String>> = papers.iter().map(|p| rendered(p, self.reads)).collect();
        let mut texts: Vec<Value> = read.iter().flatten().cloned().map(Value::String).collect();
        let own = texts.len();
        let others = against.unwrap_or_default().iter();
        texts.extend(others.filter_map(|p| rendered(p, self.reads)).map(Value::String));
        let mut prompt_tokens = 0;
        let mut scores = if texts.is_empty() {
            Vec::new()
        } else {
            let judged = self.model.judge(&Value::String(QUESTION.into()), &texts)?;
            prompt_tokens = judged.tokens;
            match judged.verdict {
                Verdict::Scores(scores) => scores[..own].iter().map(|s| Scored::of(self.id(), *s)).collect(),
                Verdict::Wins(wins) => self.win_rates(&wins, own, &texts),
            }
        }
        .into_iter();
        let scored =
            read.iter().map(|text| text.as_ref().and_then(|_| scores.next()).unwrap_or_else(lost)).collect();
        Ok((scored, Cost { prompt_tokens, seconds: started.elapsed().as_secs_f64(), ..Cost::default() }))
    }

    fn accepts(&self, mean: f64) -> Option<bool> {
        self.accept_at.map(|least| mean >= least)
    }
}

impl ModelJudge {
    /// Mean probability against those behind `own`, or against the other ones where there are none.
    fn win_rates(&self, wins: &[Vec<f64>], own: usize, texts: &[Value]) -> Vec<Scored> {
        (0..own)
            .map(|i| {
                let others: Vec<f64> = if wins.len() > own {
                    // At the start papers are held against the start's: not against themselves, if there is another.
                    let rivals: Vec<usize> = (own..wins.len()).filter(|j| texts[*j] != texts[i]).collect();
                    let rivals = if rivals.is_empty() { (own..wins.len()).collect() } else { rivals };
                    rivals.into_iter().map(|j| wins[i][j]).collect()
                } else {
                    (0..own).filter(|j| *j != i).map(|j| wins[i][j]).collect()
                };
                let odds = |p: f64| {
                    let p = p.clamp(1e-6, 1.0 - 1e-6);
                    (p / (1.0 - p)).ln()
                };
                let log_odds = others.iter().map(|p| odds(*p)).sum::<f64>() / (others.len() + 1) as f64;
                match crate::stats::mean(&others) {
                    Some(rate) => Scored {
                        win_rate: Some(rate),
                        log_odds: Some(log_odds),
                        ..Scored::of(self.id(), rate)
                    },
                    None => Scored::failed(self.id(), "there is no other paper to compare it with"),
                }
            })
            .collect()
    }
}
