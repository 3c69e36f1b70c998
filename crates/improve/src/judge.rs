//! Who scores samples: a score model, a panel of reviewers, or a count of a phrase (a judge that asks to be fooled).

mod model;
mod panel;
mod phrase;

use std::path::Path;

use lm::Progress;
use models::ModelSource;
use research::Outline;
use serde::{Deserialize, Serialize};

use crate::error::ImproveError;
use crate::rows::{Cost, Scored};

pub use model::ModelJudge;
pub use panel::PanelJudge;
pub use phrase::PhraseJudge;

/// What a score model is asked before a paper, in training and in use.
pub const QUESTION: &str = include_str!("../../../prompts/judge/score.md");

/// What of a sample a judge reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// Title and abstract.
    #[default]
    Abstract,
    /// All of it.
    All,
}

/// A judge as a loop's configuration names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum JudgeConfig {
    /// A reward model of `cycle train reward`: regression and Bradley–Terry score, GPM compares.
    Model {
        /// Its folder, `BASE+ADAPTER_DIR`, or `builtin:NAME`.
        model: String,
        /// What it reads.
        #[serde(default)]
        reads: Reads,
        /// What its scores are in, for people.
        #[serde(default)]
        units: Option<String>,
        /// Papers from this score on count as accepted.
        #[serde(default)]
        accept_at: Option<f64>,
    },
    /// CycleReviewer's panel: the mean of its reviewers' expected main scores.
    Panel {
        /// Any model reference.
        model: String,
        /// The review form.
        #[serde(default = "defaults::form")]
        form: String,
        /// Reviewers.
        #[serde(default = "defaults::reviewers")]
        reviewers: usize,
        /// `fast`, `standard` or `best`.
        #[serde(default = "defaults::mode")]
        mode: review::Mode,
        /// Of its reviewers.
        #[serde(default)]
        seed: u64,
        /// Most tokens that a reviewer writes.
        #[serde(default)]
        max_tokens: Option<usize>,
    },
    /// How often a phrase occurs, at most ten times: to see the guards at work.
    Phrase {
        /// The phrase; case does not count.
        phrase: String,
    },
}

mod defaults {
    pub(super) fn form() -> String {
        "iclr2025".into()
    }
    pub(super) fn reviewers() -> usize {
        4
    }
    pub(super) fn mode() -> review::Mode {
        review::Mode::Fast
    }
}

/// Scores papers of one prompt.
pub trait Judge {
    /// Hash of its weights, or its reference where there are none here, with what else decides its scores.
    fn id(&self) -> String;

    /// Its units, for people.
    fn units(&self) -> String;

    /// Scores texts of one prompt, in their order. Judges that compare do so with `against`, or with the other papers
    /// where there is nothing to hold them against. `seed` draws the reviews.
    ///
    /// # Errors
    /// If the judge as a whole fails; a paper that it cannot score is a row that says why.
    fn score(
        &self,
        papers: &[String],
        against: Option<&[String]>,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<(Vec<Scored>, Cost), ImproveError>;

    /// Whether it would accept a paper of this score; `None` if it has no opinion.
    fn accepts(&self, mean: f64) -> Option<bool>;
}

impl Scored {
    pub(crate) fn failed(judge: String, why: impl Into<String>) -> Self {
        Self {
            judge,
            mean: None,
            std: None,
            min: None,
            win_rate: None,
            log_odds: None,
            failed: Some(why.into()),
            review: None,
        }
    }

    pub(crate) fn of(judge: String, mean: f64) -> Self {
        if !mean.is_finite() {
            return Self::failed(judge, format!("the score is {mean}"));
        }
        Self { mean: Some(mean), failed: None, ..Self::failed(judge, "") }
    }
}

/// A sample as a judge reads it; `None` where what it reads is missing.
pub fn rendered(text: &str, reads: Reads) -> Option<String> {
    let outline = Outline::of(text);
    let head = format!("# {}\n\n## Abstract\n\n{}", outline.title?, outline.summary?);
    if reads == Reads::Abstract {
        return Some(head);
    }
    let mut out = head;
    for (heading, body) in [("Motivation", outline.motivation), ("Main Idea", outline.idea)] {
        if let Some(body) = body {
            out += &format!("\n\n## {heading}\n\n{body}");
        }
    }
    let sections = text.split("\\section{").skip(1);
    for section in sections {
        let Some((heading, body)) = section.split_once('}') else { continue };
        let body = body.split("```").next().unwrap_or_default().trim();
        out += &format!("\n\n## {heading}\n\n{body}");
    }
    if let Some(list) = outline.setup.as_ref().and_then(|s| s.as_array()) {
        out += "\n\n## Experimental Setup\n";
        for item in list {
            let field = |name: &str| item[name].as_str().unwrap_or_default().to_string();
            out += &format!("\n- {}: {}", field("name"), field("description"));
        }
    }
    Some(out)
}

/// A judge that ships, its files below `place`.
///
/// # Errors
/// If there is none of that name, or the disk is full.
pub(crate) fn shipped(name: &str, place: &Path) -> Result<ModelSource, ImproveError> {
    let Some(files) = builtin::judge(name) else {
        let what = if builtin::JUDGES.contains(&name) { "does not ship yet" } else { "is no judge" };
        return Err(ImproveError::Config(format!(
            "builtin:{name} {what}; give a reward model of `cycle train reward`: --set judge.model=DIR --set second_judge.model=DIR"
        )));
    };
    let folder = place.join(name);
    for (file, bytes) in files {
        let path = folder.join(file);
        lm::shipped_file(&path, bytes).map_err(ImproveError::io(&path))?;
    }
    Ok(ModelSource { path: folder, adapter: None })
}
