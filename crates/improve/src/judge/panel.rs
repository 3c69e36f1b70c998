//! CycleReviewer's panel as a judge.

use std::cell::Cell;

use lm::{LanguageModel, LmError, Progress};
use review::{Form, Panel, ReviewError};

use super::{Judge, Reads, rendered};
use crate::error::ImproveError;
use crate::policy::Pauses;
use crate::rows::{Cost, Scored};
use crate::stats::{deviation, mean};

/// A panel over a model.
pub struct PanelJudge {
    model: Box<dyn LanguageModel>,
    panel: Panel,
    /// Seconds for which a server that does not answer is asked again.
    patience: u64,
    /// The model has answered: what it refuses now is the paper's fault.
    answered: Cell<bool>,
}

impl PanelJudge {
    /// A panel of so many reviewers.
    pub fn new(model: Box<dyn LanguageModel>, panel: Panel, patience: u64) -> Self {
        Self { model, panel, patience, answered: Cell::new(false) }
    }

    /// Its form's main score.
    fn form(&self) -> &Form {
        &self.panel.form
    }

    fn one(
        &self,
        text: &str,
        seed: u64,
        progress: &dyn Progress,
        cost: &mut Cost,
    ) -> Result<Scored, ImproveError> {
        let failed = |why: String| Ok(Scored::failed(self.id(), why));
        let Some(paper) = rendered(text, Reads::All) else {
            return failed("it has no title and abstract to read".into());
        };
        let options = documents::ReadOptions::default();
        let document = match documents::read_bytes(paper.into_bytes(), "sample.md".as_ref(), &options) {
            Ok(document) => document,
            Err(e) => return failed(e.to_string()),
        };
        let panel = Panel { seed: self.panel.seed.wrapping_add(seed), ..self.panel.clone() };
        let mut pauses = Pauses::new(self.patience);
        let made = loop {
            match panel.review(&document, self.model.as_ref(), progress) {
                Err(ReviewError::Model(LmError::Remote(what))) => {
                    pauses.wait(&what, progress, &mut |text| tracing::warn!("{text}"))?;
                }
                other => break other,
            }
        };
        let review = match made {
            Ok(review) => {
                self.answered.set(true);
                review
            }
            Err(ReviewError::Model(LmError::Interrupted)) => return Err(ImproveError::Interrupted),
            Err(e @ ReviewError::Model(LmError::TooLong { .. })) => return failed(e.to_string()),
            Err(e @ ReviewError::Model(LmError::Refused(_))) if self.answered.get() => {
                return failed(e.to_string());
            }
            Err(e @ (ReviewError::Model(_) | ReviewError::Form(_) | ReviewError::Prompt(_))) => {
                return Err(e.into());
            }
            Err(e) => return failed(e.to_string()),
        };
        cost.prompt_tokens += review.usage.prompt_tokens;
        cost.prompt_tokens_reused += review.usage.prompt_tokens_reused;
        cost.generated_tokens += review.usage.generated_tokens;
        let main = &self.form().main_score;
        let scores: Vec<f64> = review
            .reviewers
            .iter()
            .filter_map(|r| r.scores.get(main))
            .map(|s| s.expected.unwrap_or(s.value))
            .collect();
        // The mean of those that happen to be readable is not that of the panel.
        let asked = self.panel.reviewers.max(review.reviewers.len());
        let Some(average) = mean(&scores).filter(|_| scores.len() == asked) else {
            return failed(format!("{} of {asked} reviewers gave a {main} that can be read", scores.len()));
        };
        let mut scored = Scored::of(self.id(), average);
        scored.std = deviation(&scores);
        scored.min = scores.iter().copied().reduce(f64::min);
        // Times would make two runs of the same loop differ.
        let mut kept = serde_json::to_value(&review).unwrap_or_default();
        if let Some(fields) = kept.as_object_mut() {
            fields.remove("usage");
            fields.remove("paper");
            fields.remove("sampling");
        }
        scored.review = Some(kept);
        Ok(scored)
    }
}

impl Judge for PanelJudge {
    fn id(&self) -> String {
        let info = self.model.info();
        let model = info.sha256.as_deref().unwrap_or(&info.reference);
        format!("{model} {}×{} seed {}", self.panel.reviewers, self.form().name, self.panel.seed)
    }

    fn units(&self) -> String {
        format!("expected {} of {}", self.form().main_score, self.form().title)
    }

    fn score(
        &self,
        papers: &[String],
        _against: Option<&[String]>,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<(Vec<Scored>, Cost), ImproveError> {
        let started = std::time::Instant::now();
        let mut cost = Cost::default();
        let scored =
            papers.iter().map(|p| self.one(p, seed, progress, &mut cost)).collect::<Result<_, _>>()?;
        cost.seconds = started.elapsed().as_secs_f64();
        Ok((scored, cost))
    }

    fn accepts(&self, mean: f64) -> Option<bool> {
        Some(mean >= self.form().decision.threshold)
    }
}
