//! The judge of `cycle research --best-of`: a small panel that reads a draft as it would read anybody's paper.

use lm::LanguageModel;
use research::PaperFolder;
use review::{Form, Mode, Panel};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::progress::Reporter;

/// A model that reviews, and how.
pub struct Judge {
    model: Box<dyn LanguageModel>,
    panel: Panel,
}

impl Judge {
    /// Opens the judge.
    ///
    /// # Errors
    /// If the model cannot be used.
    pub fn open(context: &Context, reference: &str) -> Result<Self, Failure> {
        let model = context.open(&reference.parse()?)?;
        let form = Form::named("iclr2025")?;
        let sampling = review::default_sampling();
        let panel =
            Panel { form, reviewers: 2, mode: Mode::Fast, sampling, seed: context.seed()?, max_tokens: None };
        Ok(Self { model, panel })
    }

    /// The model, as the user named it.
    pub fn name(&self) -> &str {
        &self.model.info().reference
    }

    /// The panel's view of a draft: the expected main score and its interval.
    ///
    /// # Errors
    /// If the draft cannot be read, or the model fails.
    pub fn verdict(&self, context: &Context, draft: &PaperFolder, label: &str) -> Result<Value, Failure> {
        let source = draft.files.iter().find(|(name, _)| name == "paper.tex");
        let Some((name, bytes)) = source else {
            return Err(Failure::new(Code::Input, "the draft has no LaTeX to judge"));
        };
        let document =
            documents::read_bytes(bytes.clone(), name.as_ref(), &documents::ReadOptions::default())?;
        let reporter = Reporter::new(format!("{label}, judged"), context.loudness);
        let review = self.panel.review(&document, self.model.as_ref(), &reporter);
        reporter.done();
        let review = review?;
        let score = review.scores.get(&self.panel.form.main_score);
        Ok(json!({"judge": self.model.info(), "form": self.panel.form.name, "seed": self.panel.seed,
            "expected": score.map(|s| s.expected), "interval90": score.map(|s| s.interval90)}))
    }
}
