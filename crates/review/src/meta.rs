//! The meta-review over what a panel said.

use lm::{LanguageModel, LmError, Output, Part, Progress, Script, Usage};

use crate::error::ReviewError;
use crate::form::Form;
use crate::panel::{Panel, Reading, SERVER_CONTEXT, derive};
use crate::prompts;
use crate::review::Reviewer;

/// A meta-review and what it answers.
pub(crate) struct Meta {
    pub(crate) text: String,
    /// SHA-256 of the prompt.
    pub(crate) prompt_sha256: Option<String>,
}

impl Panel {
    /// The meta-review over what the reviewers said; the paper comes first, so that its cache is used again.
    pub(crate) fn meta(
        &self,
        reading: &Reading,
        reviewers: &[Reviewer],
        model: &dyn LanguageModel,
        progress: &dyn Progress,
        usage: &mut Usage,
    ) -> Result<Option<Meta>, ReviewError> {
        let length = 220;
        let script = Script {
            parts: vec![
                Part::Literal("## Meta Review\n\n".into()),
                Part::Free {
                    name: "meta".into(),
                    stop: vec!["\n#".into(), "**********".into(), "\n\n\n".into()],
                    max_tokens: length,
                    min_tokens: 12,
                    grammar: None,
                },
            ],
        };
        // Reviews are shortened until they fit: first their tails go, at last only scores and summaries stay.
        for words in [160, 80, 40, 15] {
            let told = told(reviewers, &self.form, words);
            let messages = prompts::meta(&reading.text, &self.form, &told)?;
            let context = model.info().context.unwrap_or(SERVER_CONTEXT);
            if model.count_prompt(&messages).unwrap_or(0) + length + 32 > context {
                continue;
            }
            let output =
                if model.capabilities().scripts { Output::Script(script.clone()) } else { Output::Free };
            let request = self.request(messages, output, derive(self.seed, 1 << 20, 0), length * 2);
            let answer = match model.complete(&[request], progress)?.pop() {
                Some(Ok(answer)) => answer,
                Some(Err(LmError::TooLong { .. })) | None => continue,
                Some(Err(e)) => return Err(e.into()),
            };
            *usage += answer.usage;
            let text = answer.parts.get("meta").map_or(answer.text.as_str(), |p| p.text.as_str());
            let text = text.trim().trim_start_matches("## Meta Review").trim();
            return Ok((!text.is_empty()).then(|| Meta {
                text: text.to_string(),
                prompt_sha256: Some(answer.prompt_sha256.clone()),
            }));
        }
        Ok(None)
    }
}

/// The reviews as the meta-reviewer reads them, each section cut to so many words.
fn told(reviewers: &[Reviewer], form: &Form, words: usize) -> String {
    let cut = |text: &str| text.split_whitespace().take(words).collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    for r in reviewers {
        out += &format!("Reviewer {}", r.index);
        if let Some(score) = r.scores.get(&form.main_score) {
            out += &format!(", {} {}", form.main_score, score.value);
        }
        out += ".\n";
        if let Some(summary) = &r.summary {
            out += &format!("{}\n", cut(summary));
        }
        let weaknesses: Vec<&str> = r.weaknesses.iter().map(|w| w.text.as_str()).collect();
        out += &format!(
            "Strengths: {}\nWeaknesses: {}\n\n",
            cut(&r.strengths.join(" ")),
            cut(&weaknesses.join(" "))
        );
    }
    out.trim_end().to_string()
}
