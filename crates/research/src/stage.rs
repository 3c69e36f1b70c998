//! A stage of a paper by itself: what the loop samples, scores and trains on.

use lm::{Completion, Finish, Output, Part, Request, Script};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ResearchError;
use crate::latex;
use crate::researcher::{Asked, Brief, Researcher, SECOND_TOKENS, check_results};
use crate::scripts::{Room, finished_sentences, opening_script, second_script};

/// Which part of a paper is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Motivation, main idea, title, abstract and experimental set-up.
    #[default]
    Opening,
    /// Motivation, main idea, title, abstract, introduction, related work and method.
    FirstHalf,
    /// Results, discussion and conclusion, after a first half and results that are given.
    SecondHalf,
}

/// What stands before a second half.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The first half, in the layout of the published dialogue.
    pub first: String,
    /// A list of name and result.
    pub results: Value,
}

impl Given {
    /// Checks both.
    ///
    /// # Errors
    /// If the first half has no title and abstract, or the results are malformed.
    pub fn new(first: String, results: Value) -> Result<Self, ResearchError> {
        let outline = Outline::of(&first);
        if outline.title.is_none() || outline.summary.is_none() {
            return Err(ResearchError::FirstHalf);
        }
        Ok(Self { first, results: check_results(&results)? })
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, in the layout of the published dialogue.
    pub text: String,
    /// Parts that ran into their limit and lost the sentence in hand; `answer` for a text without parts.
    pub unfinished: Vec<String>,
    /// Bytes of the text up to where the first of these stops.
    pub cut_at: Option<usize>,
}

impl Researcher<'_> {
    /// The request for one draft of a stage; what of the literature did not fit is told in words. A second half comes
    /// after what is `given`, the other stages after nothing.
    ///
    /// # Errors
    /// If a template fails, or what a second half needs is not given.
    pub fn request(
        &self,
        stage: Stage,
        brief: &Brief,
        given: Option<&Given>,
    ) -> Result<(Request, Vec<String>), ResearchError> {
        let Asked { mut messages, cut, mut writing } = self.asked(brief)?;
        if stage == Stage::SecondHalf {
            let Given { first, results } = given.ok_or(ResearchError::FirstHalf)?;
            (messages, writing) = self.second_dialogue(brief, &messages, first, results)?;
        }
        let (output, max_tokens) = match (self.by_script(0), stage) {
            (true, Stage::SecondHalf) => (Output::Script(second_script(writing)), 0),
            (false, Stage::SecondHalf) => {
                (Output::Free, self.free_tokens(writing, brief.max_tokens.unwrap_or(SECOND_TOKENS)))
            }
            (true, Stage::Opening) => (Output::Script(opening_script(writing)), 0),
            (true, Stage::FirstHalf) => (Output::Script(self.first_script(brief, writing, Room::STAGE)), 0),
            (false, Stage::Opening) => {
                (Output::Free, self.free_tokens(writing, brief.max_tokens.unwrap_or(1500)))
            }
            (false, Stage::FirstHalf) => {
                (Output::Free, self.free_tokens(writing, brief.max_tokens.unwrap_or(12_000)))
            }
        };
        let sampling = brief.sampling.clone();
        let request = Request {
            messages,
            prefill: String::new(),
            output,
            sampling,
            seed: brief.seed,
            max_tokens,
            stop: Vec::new(),
        };
        Ok((request, cut))
    }
}

/// The text of an answer: a script's parts without the sentences that ran into a limit, a free text as it is.
pub fn written(request: &Request, answer: &Completion) -> Written {
    match &request.output {
        Output::Script(script) => filled_in(script, answer),
        _ => {
            let whole = answer.finish != Finish::Length;
            let unfinished = if whole { Vec::new() } else { vec!["answer".into()] };
            let cut_at = (!whole).then_some(answer.text.len());
            Written { text: answer.text.clone(), unfinished, cut_at }
        }
    }
}

/// A filled-in script. A part that ran into its limit loses the sentence that it did not finish.
pub(crate) fn filled_in(script: &Script, answer: &Completion) -> Written {
    let (mut text, mut unfinished, mut cut_at) = (String::new(), Vec::new(), None);
    for part in &script.parts {
        match part {
            Part::Literal(literal) => text += literal,
            Part::Choice { name, terminator, .. } => {
                text += answer.parts.get(name).map_or("", |p| p.text.as_str());
                text += terminator;
            }
            Part::Free { name, .. } => {
                let Some(part) = answer.parts.get(name) else { continue };
                if part.finish == Finish::Length {
                    unfinished.push(name.clone());
                    text += finished_sentences(&part.text);
                    cut_at.get_or_insert(text.len());
                } else {
                    text += &part.text;
                }
            }
        }
    }
    Written { text, unfinished, cut_at }
}

/// A stage taken apart again: what of it is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// Under "## Motivation".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub motivation: Option<String>,
    /// Under "## Main Idea".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idea: Option<String>,
    /// `\\title`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The abstract.
    #[serde(rename = "abstract", skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Headings of its sections.
    pub sections: Vec<String>,
    /// The experimental set-up, where it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<Value>,
}

/// What a second half says, and words of the headings under which papers say it.
const SECOND_HALF: [(&str, &[&str]); 2] = [
    ("results", &["result", "experiment", "evaluation", "analysis"]),
    ("conclusion", &["conclu", "discussion", "summary"]),
];

impl Outline {
    /// Reads a stage's text, whoever wrote it.
    pub fn of(text: &str) -> Self {
        let under = |heading: &str| -> Option<String> {
            let start = text.find(heading)? + heading.len();
            let rest = &text[start..];
            let end =
                ["\n#", "```", "\\title"].iter().filter_map(|s| rest.find(s)).min().unwrap_or(rest.len());
            let inner = rest[..end].trim();
            (!inner.is_empty()).then(|| inner.to_string())
        };
        let heading = |line: &str| {
            let rest = line.trim().strip_prefix("\\section{")?;
            Some(rest.split('}').next().unwrap_or_default().to_string())
        };
        Self {
            motivation: under("## Motivation"),
            idea: under("## Main Idea"),
            title: latex::title(text),
            summary: latex::environment(text, "abstract").filter(|s| !s.is_empty()).map(String::from),
            sections: text.lines().filter_map(heading).collect(),
            setup: crate::researcher::json_after(text, "## Experimental Setup")
                .filter(crate::researcher::is_setup),
        }
    }

    /// What the beginning of a first stage should hold, up to its abstract, and this one does not, by name.
    pub fn missing_head(&self) -> Vec<&'static str> {
        let parts = [
            ("motivation", self.motivation.is_some()),
            ("idea", self.idea.is_some()),
            ("title", self.title.is_some()),
            ("abstract", self.summary.is_some()),
        ];
        parts.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
    }

    /// What a stage should hold and this one does not, by name.
    pub fn missing(&self, stage: Stage) -> Vec<&'static str> {
        let mut missing = if stage == Stage::SecondHalf { Vec::new() } else { self.missing_head() };
        let mut want = |name, there: bool| {
            if !there {
                missing.push(name);
            }
        };
        match stage {
            Stage::Opening => {
                let two = |list: &Vec<Value>| list.len() >= 2;
                let list = self.setup.as_ref().and_then(Value::as_array);
                want("set-up", list.is_some_and(two));
            }
            Stage::FirstHalf => want("sections", self.sections.len() >= 2),
            Stage::SecondHalf => {
                for (name, words) in SECOND_HALF {
                    let is = |heading: &String| {
                        let heading = heading.to_lowercase();
                        words.iter().any(|w| heading.contains(w))
                    };
                    want(name, self.sections.iter().any(is));
                }
            }
        }
        missing
    }
}
