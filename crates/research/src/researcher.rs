//! The published dialogue in stages: references → first half → set-up → results → second half.

use lm::{LanguageModel, Message, Output, Progress, Request, Sampling, Script};
use serde_json::{Value, json};

use crate::error::ResearchError;
use crate::literature::Literature;
use crate::prompts;
use crate::scripts::{PROSE, Room, literal, rows_differ, second_script, setup_parts, shaped, words};
use crate::stage::filled_in;

/// Tries of a stage.
const ATTEMPTS: usize = 3;
/// What a server's model is assumed to read.
const SERVER_CONTEXT: usize = 32_000;
/// Most tokens of a freely written second half.
pub(crate) const SECOND_TOKENS: usize = 8000;

/// Where results come from.
#[derive(Debug, Clone)]
pub enum Results {
    /// The draft stops after the set-up.
    Stop,
    /// The user's.
    Given(Value),
    /// The user's command: reads the set-up on its standard input, prints results.
    Command(String),
    /// Invented by the model, and marked.
    Simulate,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Brief {
    /// What about.
    pub topic: Option<String>,
    /// What may be cited.
    pub literature: Literature,
    /// Where results come from.
    pub results: Results,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Of everything.
    pub seed: u64,
    /// Most tokens of a half; `None` leaves it to the model's context.
    pub max_tokens: Option<usize>,
}

/// Keeps stages: each is stored before the next begins, and what is stored is not done again.
pub trait StageSink {
    /// A stage that an earlier run stored.
    fn stored(&self, name: &str) -> Option<Value>;
    /// Stores a stage.
    ///
    /// # Errors
    /// If it cannot be stored; the draft stops.
    fn store(&mut self, name: &str, value: &Value) -> Result<(), String>;
}

/// All that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The first half as the model wrote it.
    pub first: String,
    /// The set-up: a list of name and description.
    pub setup: Value,
    /// Results: a list of name and result.
    pub results: Option<Value>,
    /// True if the model invented them.
    pub simulated: bool,
    /// The second half as the model wrote it.
    pub second: Option<String>,
    /// What of the literature the model did not read, in words.
    pub cut: Vec<String>,
    /// Stages with prompt hash and seed, for the record.
    pub stages: Vec<Value>,
}

/// The sampling that small models write least badly with.
pub fn default_sampling() -> Sampling {
    Sampling {
        temperature: 0.6,
        top_p: 0.92,
        repetition_penalty: 1.12,
        no_repeat_ngram: 4,
        ..Sampling::default()
    }
}

/// The beginning of a dialogue.
pub(crate) struct Asked {
    pub(crate) messages: Vec<Message>,
    /// What of the literature did not fit, in words.
    pub(crate) cut: Vec<String>,
    /// Tokens that may be written.
    pub(crate) writing: usize,
}

/// Writes papers with a model.
pub struct Researcher<'a> {
    /// The model.
    pub model: &'a dyn LanguageModel,
    /// Told about work.
    pub progress: &'a dyn Progress,
}

impl Researcher<'_> {
    /// Writes a paper, stage by stage.
    ///
    /// # Errors
    /// If the model fails, a stage gives nothing usable, the results are malformed, or a stage cannot be stored.
    pub fn write(&self, brief: &Brief, sink: &mut dyn StageSink) -> Result<Draft, ResearchError> {
        // What the user gave is looked at before a model works on it for an hour.
        if let Results::Given(value) = &brief.results {
            check_results(value)?;
        }
        let mut stages = Vec::new();
        let Asked { messages, cut, writing } = self.asked(brief)?;

        let first = self.stage(sink, &mut stages, "first", &mut |attempt| {
            self.first_half(brief, &messages, writing, attempt)
        })?;
        let setup = self.stage(sink, &mut stages, "setup", &mut |attempt| {
            let text = first["text"].as_str().unwrap_or_default();
            self.setup(brief, &messages, text, attempt)
        })?;
        let setup = setup["setup"].clone();
        let first = first["text"].as_str().unwrap_or_default().to_string();
        let simulated = matches!(brief.results, Results::Simulate);
        let results = match &brief.results {
            Results::Stop => None,
            Results::Given(value) => Some(check_results(value)?),
            Results::Command(command) => {
                let value = self.stage(sink, &mut stages, "results", &mut |_| {
                    Ok(Some(json!({"results": crate::experiment::run(command, &setup, self.progress)?})))
                })?;
                Some(check_results(&value["results"])?)
            }
            Results::Simulate => {
                let value = self.stage(sink, &mut stages, "results", &mut |attempt| {
                    self.simulate(brief, &first, &setup, attempt)
                })?;
                Some(check_results(&value["results"])?)
            }
        };
        let second = match &results {
            None => None,
            Some(results) => {
                let value = self.stage(sink, &mut stages, "second", &mut |attempt| {
                    self.second_half(brief, &messages, &first, results, attempt)
                })?;
                value["text"].as_str().map(String::from)
            }
        };
        Ok(Draft { first, setup, results, simulated, second, cut, stages })
    }

    /// The first turns: as many references as fit, and what of the context is left to write in.
    pub(crate) fn asked(&self, brief: &Brief) -> Result<Asked, ResearchError> {
        let context = self.context();
        let first_messages = |references: &str| -> Result<Vec<Message>, ResearchError> {
            let user = prompts::first(brief.topic.as_deref(), references).map_err(ResearchError::Prompt)?;
            Ok(vec![Message::system(prompts::system()), Message::user(user)])
        };
        // Two fifths of the context are for references, the rest for what is written.
        let room = context * 2 / 5;
        let fits = |references: &str| match first_messages(references) {
            Ok(m) => self.model.count_prompt(&m).unwrap_or(references.len() / 4) <= room,
            Err(_) => false,
        };
        let (references, cut) = brief.literature.told(brief.topic.as_deref(), &fits);
        let messages = first_messages(&references)?;
        let writing =
            context.saturating_sub(self.model.count_prompt(&messages).unwrap_or(references.len() / 4) + 200);
        let writing = brief.max_tokens.map_or(writing, |most| writing.min(most));
        Ok(Asked { messages, cut, writing })
    }

    /// Takes a stage from the sink or works it out, several times if need be, and stores it.
    fn stage(
        &self,
        sink: &mut dyn StageSink,
        record: &mut Vec<Value>,
        name: &str,
        work: &mut dyn FnMut(usize) -> Result<Option<Value>, ResearchError>,
    ) -> Result<Value, ResearchError> {
        if let Some(value) = sink.stored(name) {
            record.push(json!({"name": name, "value": value}));
            return Ok(value);
        }
        for attempt in 0..ATTEMPTS {
            if let Some(mut value) = work(attempt)? {
                value["attempts"] = json!(attempt + 1);
                sink.store(name, &value).map_err(ResearchError::Sink)?;
                record.push(json!({"name": name, "value": value}));
                return Ok(value);
            }
        }
        let missing =
            if name == "setup" || name == "results" { "JSON that can be read" } else { "title and sections" };
        Err(ResearchError::Stage { stage: name.into(), missing: missing.into(), attempts: ATTEMPTS })
    }

    fn ask(
        &self,
        brief: &Brief,
        messages: &[Message],
        output: Output,
        max_tokens: usize,
        salt: u64,
    ) -> Result<lm::Completion, ResearchError> {
        let request = Request {
            messages: messages.to_vec(),
            prefill: String::new(),
            output,
            sampling: brief.sampling.clone(),
            seed: brief.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt),
            max_tokens,
            stop: Vec::new(),
        };
        let answer = self.model.complete(&[request], self.progress)?.pop();
        Ok(answer.unwrap_or(Err(lm::LmError::Interrupted))?)
    }

    /// Fills a script in. A part that ran into its limit loses the sentence that it did not finish.
    fn fill_in(
        &self,
        brief: &Brief,
        messages: &[Message],
        script: Script,
        salt: u64,
    ) -> Result<lm::Completion, ResearchError> {
        let mut answer = self.ask(brief, messages, Output::Script(script.clone()), 0, salt)?;
        answer.text = filled_in(&script, &answer).text;
        Ok(answer)
    }

    /// Whether a half is filled into a script: a small model keeps the layout of a paper in no other way. A large one
    /// writes freely, at its own length, and gets the script where that gave nothing usable.
    pub(crate) fn by_script(&self, attempt: usize) -> bool {
        self.model.capabilities().scripts && (attempt > 0 || !self.model.info().is_large())
    }

    /// Tokens of a freely written half: what is wanted, and for a model whose context is known what there is.
    pub(crate) fn free_tokens(&self, room: usize, wanted: usize) -> usize {
        if self.model.info().context.is_some() { wanted.min(room.max(16)) } else { wanted }
    }

    fn first_half(
        &self,
        brief: &Brief,
        messages: &[Message],
        writing: usize,
        attempt: usize,
    ) -> Result<Option<Value>, ResearchError> {
        let salt = 100 + attempt as u64;
        let answer = if self.by_script(attempt) {
            self.fill_in(brief, messages, self.first_script(brief, writing, Room::DRAFT), salt)?
        } else {
            self.ask(
                brief,
                messages,
                Output::Free,
                self.free_tokens(writing, brief.max_tokens.unwrap_or(12_000)),
                salt,
            )?
        };
        let text = answer.text;
        let usable = crate::latex::title(&text).is_some() && text.contains("\\section");
        let record = json!({"text": text, "prompt_sha256": answer.prompt_sha256, "usage": answer.usage});
        Ok(usable.then_some(record))
    }

    fn setup(
        &self,
        brief: &Brief,
        messages: &[Message],
        first: &str,
        attempt: usize,
    ) -> Result<Option<Value>, ResearchError> {
        // A server's answer, and a large model's, holds the set-up already.
        if let Some(setup) = json_after(first, "## Experimental Setup").filter(is_setup) {
            return Ok(Some(json!({ "setup": setup })));
        }
        let salt = 200 + attempt as u64;
        if !self.model.capabilities().scripts {
            let mut messages = messages.to_vec();
            messages.push(Message::assistant(first));
            messages.push(Message::user(prompts::setup(None).map_err(ResearchError::Prompt)?));
            let text = self.ask(brief, &messages, Output::Free, 2000, salt)?.text;
            return Ok(json_after(&text, "").filter(is_setup).map(|setup| json!({ "setup": setup })));
        }
        let parts = setup_parts();
        let shown = self.shortened(first);
        let mut messages = messages[..1].to_vec();
        messages.push(Message::user(prompts::setup(Some(&shown)).map_err(ResearchError::Prompt)?));
        let answer = self.ask(brief, &messages, Output::Script(Script { parts }), 0, salt)?;
        let mut setup: Vec<Value> = Vec::new();
        for i in 0..2 {
            let part =
                |name: String| answer.parts.get(&name).map(|p| p.text.trim_matches(['"', ' ']).to_string());
            let (Some(name), Some(description)) = (part(format!("name{i}")), part(format!("description{i}")))
            else {
                continue;
            };
            // An experiment that the model only names again is no second one.
            if !name.is_empty() && setup.iter().all(|s| s["name"] != json!(name)) {
                setup.push(json!({"name": name, "description": description}));
            }
        }
        let record = json!({"setup": setup, "prompt_sha256": answer.prompt_sha256});
        Ok((!setup.is_empty()).then_some(record))
    }

    /// Title and abstract: what a small context needs of the first half.
    fn shortened(&self, first: &str) -> String {
        let title = crate::latex::title(first).unwrap_or_default();
        let summary = crate::latex::environment(first, "abstract").unwrap_or_default();
        format!("\\title{{{title}}}\n\n\\begin{{abstract}}\n{summary}\n\\end{{abstract}}")
    }

    fn simulate(
        &self,
        brief: &Brief,
        first: &str,
        setup: &Value,
        attempt: usize,
    ) -> Result<Option<Value>, ResearchError> {
        let salt = 300 + attempt as u64;
        let user = format!("{}\n\nSet-up: {setup}\n\n{}", self.shortened(first), prompts::simulate());
        let messages = [Message::system(prompts::system()), Message::user(user)];
        if !self.model.capabilities().scripts {
            let text = self.ask(brief, &messages, Output::Free, 3000, salt)?.text;
            let found = json_after(&text, "").filter(|v| check_results(v).is_ok());
            return Ok(found.map(|results| json!({ "results": results })));
        }
        let names: Vec<&str> =
            setup.as_array().into_iter().flatten().filter_map(|s| s["name"].as_str()).collect();
        let mut parts = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let open = if i == 0 { "[" } else { ", " };
            let name = serde_json::to_string(name).unwrap_or_default();
            parts.push(literal(format!(
                "{open}{{\"name\": {name}, \"result\": {{\"table\": [[\"Method\", \""
            )));
            parts.push(shaped(&format!("m{i}a"), "[A-Z][A-Za-z]{2,12}\"", 16));
            parts.push(literal(", \""));
            parts.push(shaped(&format!("m{i}b"), "[A-Z][A-Za-z]{2,12}\"", 16));
            parts.push(literal("]"));
            for row in 0..3 {
                parts.push(literal(", [\""));
                parts.push(shaped(&format!("r{i}{row}"), "[A-Z][A-Za-z]{2,14}( [A-Za-z]{2,10})?\"", 30));
                for column in 0..2 {
                    parts.push(literal(if column == 0 { ", \"" } else { "\", \"" }));
                    parts.push(shaped(&format!("v{i}{row}{column}"), "[1-9][0-9][.][0-9]", 8));
                }
                parts.push(literal("\"]"));
            }
            parts.push(literal("], \"description\": \""));
            parts.push(shaped(&format!("d{i}"), &format!("[A-Z][a-z]*{}[.]", words(PROSE, 4, 20)), 90));
            parts.push(literal("\"}}"));
        }
        parts.push(literal("]"));
        // Drawn more freely than prose: the likeliest numbers are the same in every row.
        let temperature = brief.sampling.temperature.max(0.9);
        let sampling =
            Sampling { temperature, min_p: brief.sampling.min_p.max(0.05), ..brief.sampling.clone() };
        let free = Brief { sampling, ..brief.clone() };
        let answer = self.ask(&free, &messages, Output::Script(Script { parts }), 0, salt)?;
        let found = serde_json::from_str::<Value>(answer.text.trim())
            .ok()
            .filter(|v| check_results(v).is_ok() && (rows_differ(v) || attempt + 1 == ATTEMPTS));
        Ok(found.map(|results| json!({"results": results, "prompt_sha256": answer.prompt_sha256})))
    }

    fn second_half(
        &self,
        brief: &Brief,
        messages: &[Message],
        first: &str,
        results: &Value,
        attempt: usize,
    ) -> Result<Option<Value>, ResearchError> {
        let (dialogue, room) = self.second_dialogue(brief, messages, first, results)?;
        let salt = 400 + attempt as u64;
        let answer = if self.by_script(attempt) {
            self.fill_in(brief, &dialogue, second_script(room), salt)?
        } else {
            let most = self.free_tokens(room, brief.max_tokens.unwrap_or(SECOND_TOKENS));
            self.ask(brief, &dialogue, Output::Free, most, salt)?
        };
        let usable = answer.text.contains("\\section");
        Ok(usable.then(
            || json!({"text": answer.text, "prompt_sha256": answer.prompt_sha256, "usage": answer.usage}),
        ))
    }

    /// The dialogue up to the results, and the tokens that may be written. Where the whole does not fit, title and
    /// abstract stand for the first half.
    pub(crate) fn second_dialogue(
        &self,
        brief: &Brief,
        messages: &[Message],
        first: &str,
        results: &Value,
    ) -> Result<(Vec<Message>, usize), ResearchError> {
        const NEEDED: usize = 500;
        let context = self.context();
        let told = serde_json::to_string(results).unwrap_or_default();
        let user = prompts::second(&told).map_err(ResearchError::Prompt)?;
        let mut dialogue = messages.to_vec();
        dialogue.push(Message::assistant(first));
        dialogue.push(Message::user(user.clone()));
        if self.model.count_prompt(&dialogue).is_some_and(|n| n + NEEDED > context) {
            dialogue =
                vec![messages[0].clone(), Message::user(format!("{}\n\n{user}", self.shortened(first)))];
        }
        let room = context.saturating_sub(self.model.count_prompt(&dialogue).unwrap_or(0) + 120);
        Ok((dialogue, brief.max_tokens.map_or(room, |most| room.min(most))))
    }

    fn context(&self) -> usize {
        self.model.info().context.unwrap_or(SERVER_CONTEXT)
    }
}

pub(crate) fn is_setup(value: &Value) -> bool {
    value.as_array().is_some_and(|a| !a.is_empty() && a.iter().all(|s| s["name"].is_string()))
}

/// `[{"name": …, "result": {"table": [[…]], …}}]`, the form of the published data; every key of `result` is optional.
pub(crate) fn check_results(value: &Value) -> Result<Value, ResearchError> {
    let bad = |what: &str| Err(ResearchError::Results(what.into()));
    let Some(list) = value.as_array().filter(|l| !l.is_empty()) else {
        return bad("a JSON list of {\"name\", \"result\"} is needed");
    };
    for item in list {
        if !item["name"].is_string() || !item["result"].is_object() {
            return bad("every item needs a name and a result object");
        }
        if let Some(table) = item["result"].get("table") {
            let rows = table.as_array().is_some_and(|t| !t.is_empty() && t.iter().all(Value::is_array));
            if !rows {
                return bad("a table is a list of rows, the first one the header");
            }
        }
    }
    Ok(value.clone())
}

/// The first JSON list after a heading, fenced or not.
pub(crate) fn json_after(text: &str, heading: &str) -> Option<Value> {
    let rest = if heading.is_empty() { text } else { &text[text.find(heading)? + heading.len()..] };
    let start = rest.find('[')?;
    serde_json::Deserializer::from_str(&rest[start..]).into_iter::<Value>().next()?.ok()
}
