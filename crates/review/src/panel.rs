//! The panel: N reviewers, strict to lenient, over one shared paper; then the meta-review and the decision.

use std::collections::BTreeMap;

use documents::{Document, TextBudget, reviewer_text};
use lm::{Completion, LanguageModel, Output, PartOutcome, Progress, Request, Sampling, Usage};

use crate::aggregate::{aggregate, decide, overlap};
use crate::anchor::anchor;
use crate::error::ReviewError;
use crate::form::{Field, Form};
use crate::meta::Meta;
use crate::points::points;
use crate::prompts;
use crate::review::{
    Mode, ModelUsed, NOTICE, PaperInfo, ParseCounts, Parsed, Review, Reviewer, ScoreRead, Weakness,
};
use crate::salvage::{Found, Salvaged, salvage};

/// Texts thrown away and drawn again, at most, for one reviewer.
const RESAMPLES: usize = 2;
/// What a server's model is assumed to read.
pub(crate) const SERVER_CONTEXT: usize = 32_000;

/// Who reviews, on which form, how.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is asked.
    pub form: Form,
    /// Reviewers.
    pub reviewers: usize,
    /// How much work.
    pub mode: Mode,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Of the whole panel; each reviewer's is derived from it.
    pub seed: u64,
    /// Most tokens that a reviewer writes; `None` leaves it to form, mode and context.
    pub max_tokens: Option<usize>,
}

/// The sampling that small and large reviewers do well with: the published temperature, and no loops.
pub fn default_sampling() -> Sampling {
    Sampling {
        temperature: 0.4,
        top_p: 0.95,
        repetition_penalty: 1.1,
        no_repeat_ngram: 5,
        ..Sampling::default()
    }
}

/// What the reviewers read.
pub(crate) struct Reading {
    /// The paper, scrubbed, as far as it fits.
    pub(crate) text: String,
    tokens: Option<usize>,
    wanted: Option<usize>,
    cut: Vec<String>,
    /// Scales the length of the form's sections to the context.
    room: f64,
}

impl Panel {
    /// Reviews a document.
    ///
    /// # Errors
    /// If there is nothing to read, the model fails, or nothing it wrote could be read.
    pub fn review(
        &self,
        document: &Document,
        model: &dyn LanguageModel,
        progress: &dyn Progress,
    ) -> Result<Review, ReviewError> {
        let reading = self.read(document, model)?;
        let mut usage = Usage::default();
        let outcome = if model.capabilities().scripts {
            self.by_script(document, &reading, model, progress, &mut usage)?
        } else {
            self.by_text(document, &reading, model, progress, &mut usage)?
        };
        let Outcome { reviewers, meta, written, resampled } = outcome;
        let scores = aggregate(&self.form, &reviewers);
        let decision = decide(&self.form, &reviewers, &scores, written);
        let count = |p: Parsed| reviewers.iter().filter(|r| r.parsed == p).count();
        let parse = ParseCounts {
            full: count(Parsed::Full),
            partial: count(Parsed::Partial),
            failed: count(Parsed::Failed),
            resampled,
        };
        Ok(Review {
            schema: "cycle.review/1".into(),
            id: String::new(),
            paper: PaperInfo {
                id: String::new(),
                title: document.title.clone(),
                sha256: document.sha256.clone(),
                pages: document.pages,
                tokens: reading.wanted,
                tokens_read: reading.tokens,
            },
            form: self.form.name.clone(),
            form_definition: (!self.form.is_shipped()).then(|| self.form.clone()),
            mode: self.mode,
            model: ModelUsed { info: model.info().clone(), calibration: None },
            seed: self.seed,
            sampling: self.sampling.clone(),
            overlap: overlap(&reviewers),
            reviewers,
            scores,
            meta_prompt_sha256: meta.as_ref().and_then(|m| m.prompt_sha256.clone()),
            meta_review: meta.map(|m| m.text),
            decision,
            parse,
            findings: document.findings.clone(),
            cut: reading.cut,
            usage,
            notice: NOTICE.into(),
        })
    }

    /// Fits the paper into the context beside the prompt and what will be written.
    fn read(&self, document: &Document, model: &dyn LanguageModel) -> Result<Reading, ReviewError> {
        let empty = prompts::reviewer("", &self.form, "constructive", self.quotes())?;
        let context = model.info().context.unwrap_or(SERVER_CONTEXT);
        let overhead = model.count_prompt(&empty).unwrap_or(600) + 16;
        let wanted: usize = self.form.sections.iter().map(|s| s.max_tokens).sum();
        let fixed = 24 * (self.form.sections.len() + self.form.scores.len());
        // At most two fifths of the context go to what is written. The form's lengths are those of a small model.
        let scale = match self.mode {
            Mode::Fast => 0.5,
            _ if model.info().is_large() => 2.5,
            _ => 1.0,
        };
        let room = (scale * wanted as f64).min(0.4 * context as f64 - fixed as f64).max(128.0);
        let room = self.max_tokens.map_or(room, |most| room.min(most as f64)) / wanted as f64;
        let writing = (wanted as f64 * room) as usize + fixed;
        let max_tokens = context.saturating_sub(overhead + writing);
        let count = |text: &str| model.count_tokens(text).unwrap_or(text.len() / 4);
        let budget =
            TextBudget { max_tokens: Some(max_tokens), count: &count, references: false, appendix: true };
        let fitted = reviewer_text(document, &budget);
        if fitted.text.split_whitespace().count() < 20 {
            return Err(ReviewError::Empty);
        }
        let known = model.count_tokens("").is_some();
        Ok(Reading {
            text: fitted.text,
            tokens: known.then_some(fitted.tokens),
            wanted: known.then_some(fitted.tokens_wanted),
            cut: fitted.cut,
            room,
        })
    }

    /// Whether weaknesses must quote the paper.
    fn quotes(&self) -> bool {
        self.mode == Mode::Best
    }

    pub(crate) fn request(
        &self,
        messages: Vec<lm::Message>,
        output: Output,
        seed: u64,
        max_tokens: usize,
    ) -> Request {
        let sampling = self.sampling.clone();
        Request { messages, prefill: String::new(), output, sampling, seed, max_tokens, stop: Vec::new() }
    }

    /// The form as a script: every field is there, every score with its distribution.
    fn by_script(
        &self,
        document: &Document,
        reading: &Reading,
        model: &dyn LanguageModel,
        progress: &dyn Progress,
        usage: &mut Usage,
    ) -> Result<Outcome, ReviewError> {
        let script = self.form.script(reading.room);
        let ask = |index: usize, attempt: usize| -> Result<Request, ReviewError> {
            let stance = prompts::stance(index, self.reviewers);
            let messages = prompts::reviewer(&reading.text, &self.form, stance, self.quotes())?;
            let seed = derive(self.seed, index, attempt);
            Ok(self.request(messages, Output::Script(script.clone()), seed, 0))
        };
        let mut reviewers: Vec<Option<Reviewer>> = vec![None; self.reviewers];
        let mut resampled = 0;
        let mut waiting: Vec<usize> = (0..self.reviewers).collect();
        for attempt in 0..=RESAMPLES {
            let requests = waiting.iter().map(|&i| ask(i, attempt)).collect::<Result<Vec<_>, _>>()?;
            let answers = model.complete(&requests, progress)?;
            let mut again = Vec::new();
            for (&index, answer) in waiting.iter().zip(answers) {
                let answer = answer?;
                *usage += answer.usage;
                let degenerate = self.is_degenerate(&answer);
                if degenerate && attempt < RESAMPLES {
                    resampled += 1;
                    again.push(index);
                }
                let mut reviewer = self.reviewer_of(index, &answer, document);
                reviewer.attempts = attempt + 1;
                reviewers[index] = Some(reviewer);
            }
            waiting = again;
            if waiting.is_empty() {
                break;
            }
        }
        let mut reviewers: Vec<Reviewer> = reviewers.into_iter().flatten().collect();
        if self.mode == Mode::Best {
            self.self_check(reading, &mut reviewers, model, progress, usage)?;
        }
        let meta = if self.mode == Mode::Fast {
            None
        } else {
            self.meta(reading, &reviewers, model, progress, usage)?
        };
        Ok(Outcome { reviewers, meta, written: None, resampled })
    }

    /// Empty or looping text; the scores would stand on nothing.
    fn is_degenerate(&self, answer: &Completion) -> bool {
        self.form.sections.iter().any(|s| {
            let text = answer.parts.get(&s.key).map_or("", |p| p.text.trim());
            let words: Vec<&str> = text.split_whitespace().collect();
            let distinct = words.iter().collect::<std::collections::BTreeSet<_>>().len();
            words.len() < 3 || (words.len() >= 30 && distinct * 5 < words.len())
        })
    }

    fn reviewer_of(&self, index: usize, answer: &Completion, document: &Document) -> Reviewer {
        let mut found = Found { raw: answer.text.clone(), ..Found::default() };
        for field in self.form.fields() {
            match field {
                Field::Section(s) => {
                    if let Some(text) =
                        answer.parts.get(&s.key).map(|p| p.text.trim()).filter(|t| !t.is_empty())
                    {
                        found.sections.insert(s.key.clone(), text.to_string());
                    }
                }
                Field::Score(s) => {
                    let read = answer.parts.get(&s.key).and_then(|p| score_of(p, s));
                    if let Some(score) = read {
                        found.scores.insert(s.key.clone(), score);
                    }
                }
            }
        }
        let mut reviewer = self.fill(index, found, document);
        reviewer.stance = Some(prompts::stance(index, self.reviewers).into());
        reviewer.prompt_sha256 = Some(answer.prompt_sha256.clone());
        reviewer
    }

    /// From fields to a reviewer; what is not there stays out.
    fn fill(&self, index: usize, mut found: Found, document: &Document) -> Reviewer {
        let expected: usize = self.form.sections.len() + self.form.scores.len();
        let there = self.form.sections.iter().filter(|s| found.sections.contains_key(&s.key)).count()
            + self.form.scores.iter().filter(|s| found.scores.contains_key(&s.key)).count();
        let parsed = match there {
            0 => Parsed::Failed,
            n if n == expected => Parsed::Full,
            _ => Parsed::Partial,
        };
        let points = |text: Option<String>| text.map(|t| points(&t)).unwrap_or_default();
        let confidence = found.scores.remove("confidence");
        let weaknesses = points(found.sections.remove("weaknesses"))
            .into_iter()
            .map(|text| Weakness { anchor: anchor(document, &text), text, support: None })
            .collect();
        Reviewer {
            index: index + 1,
            stance: None,
            parsed,
            attempts: 1,
            scores: found.scores,
            confidence,
            summary: found.sections.remove("summary"),
            strengths: points(found.sections.remove("strengths")),
            weaknesses,
            questions: points(found.sections.remove("questions")),
            raw: (parsed != Parsed::Full).then(|| std::mem::take(&mut found.raw)),
            other: found.sections,
            prompt_sha256: None,
        }
    }

    /// One answer with the whole panel, read by the salvage parser; unreadable answers are drawn again and counted.
    fn by_text(
        &self,
        document: &Document,
        reading: &Reading,
        model: &dyn LanguageModel,
        progress: &dyn Progress,
        usage: &mut Usage,
    ) -> Result<Outcome, ReviewError> {
        let messages = prompts::panel(&reading.text, &self.form, self.reviewers, self.quotes())?;
        let mut best: Option<(Salvaged, String, String)> = None;
        let mut resampled = 0;
        for attempt in 0..=RESAMPLES {
            let request = self.request(
                messages.clone(),
                Output::Free,
                derive(self.seed, 0, attempt),
                self.max_tokens.unwrap_or(7000),
            );
            let answer = match model.complete(&[request], progress)?.pop() {
                Some(answer) => answer?,
                None => break,
            };
            *usage += answer.usage;
            let found = salvage(&answer.text, &self.form);
            // Those with a main score count first.
            let rank = |s: &Salvaged| {
                let scored =
                    s.reviewers.iter().filter(|r| r.scores.contains_key(&self.form.main_score)).count();
                (scored, s.reviewers.len())
            };
            let (scored, all) = rank(&found);
            let whole = all >= self.reviewers && scored == all;
            let better = best.as_ref().is_none_or(|(b, ..)| whole || rank(&found) > rank(b));
            if better {
                best = Some((found, answer.text, answer.prompt_sha256));
            }
            if whole {
                break;
            }
            if attempt < RESAMPLES {
                resampled += 1;
            }
        }
        let Some((found, raw, prompt)) = best else { return Err(ReviewError::Unparsed { attempts: 1 }) };
        if found.reviewers.is_empty() {
            let failed = Reviewer {
                attempts: resampled + 1,
                prompt_sha256: Some(prompt),
                ..self.fill(0, Found { raw, ..Found::default() }, document)
            };
            return Ok(Outcome { reviewers: vec![failed], meta: None, written: None, resampled });
        }
        let reviewers = found
            .reviewers
            .into_iter()
            .enumerate()
            .map(|(i, f)| Reviewer {
                attempts: resampled + 1,
                prompt_sha256: Some(prompt.clone()),
                ..self.fill(i, f, document)
            })
            .collect();
        let meta = found.meta_review.map(|text| Meta { text, prompt_sha256: Some(prompt) });
        Ok(Outcome { reviewers, meta, written: found.decision, resampled })
    }
}

struct Outcome {
    reviewers: Vec<Reviewer>,
    meta: Option<Meta>,
    written: Option<String>,
    resampled: usize,
}

/// A seed for a reviewer's attempt.
pub(crate) fn derive(seed: u64, index: usize, attempt: usize) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(index as u64 * 1_000_003 + attempt as u64)
}

fn score_of(part: &PartOutcome, field: &crate::form::ScoreField) -> Option<ScoreRead> {
    let choice = part.choice.as_ref()?;
    let value = field.value_of(&choice.value)? as f64;
    let distribution: BTreeMap<String, f64> =
        choice.distribution.iter().filter_map(|(o, p)| Some((field.value_of(o)?.to_string(), *p))).collect();
    let expected = choice.distribution.iter().filter_map(|(o, p)| Some(field.value_of(o)? as f64 * p)).sum();
    Some(ScoreRead { value, expected: Some(expected), distribution: Some(distribution), off_scale: false })
}
