//! The panel: N reviewers, strict to lenient, over one shared paper; then the meta-review and the decision.

use std::collections::BTreeMap;

use documents::{Document, TextBudget, reviewer_text};
use lm::{
    Completion, LanguageModel, LmError, Output, Part, PartOutcome, Progress, Request, Sampling, Script, Usage,
};

use crate::aggregate::{aggregate, decide, overlap};
use crate::anchor::anchor;
use crate::error::ReviewError;
use crate::form::{Field, Form};
use crate::prompts;
use crate::review::{
    Mode, ModelUsed, NOTICE, PaperInfo, ParseCounts, Parsed, Review, Reviewer, ScoreRead, Weakness,
};
use crate::salvage::{Found, Salvaged, salvage};

/// Texts thrown away and drawn again, at most, for one reviewer.
const RESAMPLES: usize = 2;
/// What a server's model is assumed to read.
const SERVER_CONTEXT: usize = 32_000;

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
struct Reading {
    text: String,
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
        let Outcome { reviewers, meta_review, written, resampled } = outcome;
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
            mode: self.mode,
            model: ModelUsed { info: model.info().clone(), calibration: None },
            seed: self.seed,
            sampling: self.sampling.clone(),
            overlap: overlap(&reviewers),
            reviewers,
            scores,
            meta_review,
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
        let empty = prompts::reviewer("", &self.form, "constructive")?;
        let context = model.info().context.unwrap_or(SERVER_CONTEXT);
        let overhead = model.count_prompt(&empty).unwrap_or(600) + 16;
        let wanted: usize = self.form.sections.iter().map(|s| s.max_tokens).sum();
        let fixed = 24 * (self.form.sections.len() + self.form.scores.len());
        // At most two fifths of the context go to what is written.
        let scale = if self.mode == Mode::Fast { 0.5 } else { 1.0 };
        let room =
            (scale * wanted as f64).min(0.4 * context as f64 - fixed as f64).max(128.0) / wanted as f64;
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

    fn request(&self, messages: Vec<lm::Message>, output: Output, seed: u64, max_tokens: usize) -> Request {
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
            let messages = prompts::reviewer(&reading.text, &self.form, stance)?;
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
        let reviewers: Vec<Reviewer> = reviewers.into_iter().flatten().collect();
        let meta_review = if self.mode == Mode::Fast {
            None
        } else {
            self.meta(reading, &reviewers, model, progress, usage)?
        };
        Ok(Outcome { reviewers, meta_review, written: None, resampled })
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
            .map(|text| Weakness { anchor: anchor(document, &text), text })
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

    /// The meta-review over what the reviewers said; the paper comes first, so that its cache is used again.
    fn meta(
        &self,
        reading: &Reading,
        reviewers: &[Reviewer],
        model: &dyn LanguageModel,
        progress: &dyn Progress,
        usage: &mut Usage,
    ) -> Result<Option<String>, ReviewError> {
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
            return Ok((!text.is_empty()).then(|| text.to_string()));
        }
        Ok(None)
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
        let messages = prompts::panel(&reading.text, &self.form, self.reviewers)?;
        let mut best: Option<(Salvaged, String)> = None;
        let mut resampled = 0;
        for attempt in 0..=RESAMPLES {
            let request = self.request(messages.clone(), Output::Free, derive(self.seed, 0, attempt), 7000);
            let answer = match model.complete(&[request], progress)?.pop() {
                Some(answer) => answer?,
                None => break,
            };
            *usage += answer.usage;
            let found = salvage(&answer.text, &self.form);
            let whole = found.reviewers.len() >= self.reviewers
                && found.reviewers.iter().all(|r| r.scores.contains_key(&self.form.main_score));
            let better = best.as_ref().is_none_or(|(b, _)| found.reviewers.len() > b.reviewers.len());
            if better {
                best = Some((found, answer.text));
            }
            if whole {
                break;
            }
            if attempt < RESAMPLES {
                resampled += 1;
            }
        }
        let Some((found, raw)) = best else { return Err(ReviewError::Unparsed { attempts: 1 }) };
        if found.reviewers.is_empty() {
            let failed = Reviewer {
                attempts: resampled + 1,
                ..self.fill(0, Found { raw, ..Found::default() }, document)
            };
            return Ok(Outcome { reviewers: vec![failed], meta_review: None, written: None, resampled });
        }
        let reviewers = found
            .reviewers
            .into_iter()
            .enumerate()
            .map(|(i, f)| Reviewer { attempts: resampled + 1, ..self.fill(i, f, document) })
            .collect();
        Ok(Outcome { reviewers, meta_review: found.meta_review, written: found.decision, resampled })
    }
}

struct Outcome {
    reviewers: Vec<Reviewer>,
    meta_review: Option<String>,
    written: Option<String>,
    resampled: usize,
}

/// A seed for a reviewer's attempt.
fn derive(seed: u64, index: usize, attempt: usize) -> u64 {
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

/// The points of a list, or the paragraphs of a text.
fn points(text: &str) -> Vec<String> {
    let mut points: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            open = false;
            continue;
        }
        let bare = trimmed.trim_start_matches(['-', '*', '•', '–']).trim_start();
        let numbered = bare.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_numbered = numbered.len() < bare.len() && numbered.starts_with(['.', ')']);
        let item = bare.len() < trimmed.len() && !trimmed.starts_with("**") || is_numbered;
        let content = if is_numbered {
            numbered[1..].trim_start()
        } else if item {
            bare
        } else {
            trimmed
        };
        match points.last_mut() {
            Some(last) if open && !item => {
                last.push(' ');
                last.push_str(content);
            }
            _ => points.push(content.to_string()),
        }
        open = true;
    }
    points.retain(|p| p.chars().any(char::is_alphanumeric));
    points
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
