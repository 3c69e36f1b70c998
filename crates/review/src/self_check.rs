//! The self-check of `best` mode: every weakness goes back to the model with the paper, and the probability of "yes" to
//! whether the paper bears it out is kept beside it. All questions share the paper, so it is read once.

use lm::{LanguageModel, Output, Part, Progress, Request, Script, Usage};

use crate::error::ReviewError;
use crate::panel::{Panel, Reading, derive};
use crate::prompts;
use crate::review::Reviewer;

/// Seeds of the check stand apart from those of reviewers and meta-review.
const SALT: usize = 1 << 21;

impl Panel {
    /// Fills in [`Weakness::support`](crate::Weakness::support) for every weakness.
    ///
    /// # Errors
    /// If the model fails.
    pub(crate) fn self_check(
        &self,
        reading: &Reading,
        reviewers: &mut [Reviewer],
        model: &dyn LanguageModel,
        progress: &dyn Progress,
        usage: &mut Usage,
    ) -> Result<(), ReviewError> {
        let script = Script {
            parts: vec![Part::Choice {
                name: "borne_out".into(),
                options: vec!["yes".into(), "no".into()],
                terminator: "\n".into(),
            }],
        };
        let mut requests: Vec<Request> = Vec::new();
        for weakness in reviewers.iter().flat_map(|r| &r.weaknesses) {
            let messages = prompts::check(&reading.text, &weakness.text)?;
            let seed = derive(self.seed, SALT, requests.len());
            requests.push(self.request(messages, Output::Script(script.clone()), seed, 0));
        }
        if requests.is_empty() {
            return Ok(());
        }
        let answers = model.complete(&requests, progress)?;
        for (weakness, answer) in reviewers.iter_mut().flat_map(|r| &mut r.weaknesses).zip(answers) {
            let answer = answer?;
            *usage += answer.usage;
            let choice = answer.parts.get("borne_out").and_then(|p| p.choice.as_ref());
            weakness.support =
                choice.and_then(|c| c.distribution.iter().find(|(o, _)| o == "yes").map(|(_, p)| *p));
        }
        Ok(())
    }
}
