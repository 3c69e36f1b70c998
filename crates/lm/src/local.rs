//! Our own engine behind [`LanguageModel`].

use std::sync::Arc;
use std::time::Instant;

use inference::{Engine, EngineError, EngineOptions, Observer, Plan, Row, RowError, RowOutput};
use models::Model;
use sha2::{Digest, Sha256};

use crate::types::{
    Capabilities, ChoiceOutcome, Completion, Finish, LanguageModel, LmError, Message, ModelInfo, Output,
    PartOutcome, Progress, Request, Role, Usage,
};

/// A checkpoint on this machine.
pub struct Local {
    engine: Engine,
    info: ModelInfo,
}

impl Local {
    /// An engine over a loaded model. Keys and values of rows in flight may take half of the memory that is free now.
    pub fn new(model: Arc<Model>, reference: String, builtin: bool) -> Self {
        let info = ModelInfo {
            reference,
            sha256: Some(model.sha256.clone()),
            context: Some(model.context()),
            builtin,
            parameters: Some(model.parameters()),
        };
        // What a GPU has free is not known here.
        let free = free_memory().filter(|_| model.decoder.device().is_cpu());
        let options = EngineOptions { cache_bytes: free.map(|b| b / 2), ..EngineOptions::default() };
        Self { engine: Engine::new(model, options), info }
    }

    /// The engine itself, for `cycle generate` and `cycle logprobs`.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The prompt as text: template, then prefill. A template that refuses system turns gets them inside the first
    /// user turn.
    ///
    /// # Errors
    /// If the template fails.
    pub fn render(&self, messages: &[Message], prefill: &str) -> Result<String, LmError> {
        let chat = &self.engine.model().chat;
        let rendered = match chat.render(&messages, true) {
            Err(_) if messages.iter().any(|m| m.role == Role::System) => {
                chat.render(&without_system(messages), true)
            }
            other => other,
        };
        Ok(rendered.map_err(|e| LmError::Model(e.to_string()))? + prefill)
    }

    fn row(&self, request: &Request) -> Result<(Row, String), LmError> {
        let model = self.engine.model();
        let rendered = self.render(&request.messages, &request.prefill)?;
        let prompt = model.encode_chat(&rendered).map_err(|e| LmError::Model(e.to_string()))?;
        let text = |grammar| Plan::Text {
            max_tokens: request.max_tokens,
            stop: request.stop.clone(),
            grammar,
            ignore_eos: false,
        };
        let plan = match &request.output {
            Output::Free => text(None),
            Output::Constrained(grammar) => text(Some(grammar.clone())),
            Output::Script(script) => Plan::Script(script.clone()),
        };
        let row =
            Row { prompt, plan, sampling: request.sampling.clone(), seed: request.seed, logprobs: false };
        let hash = Sha256::digest(rendered.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        Ok((row, hash))
    }
}

fn without_system(messages: &[Message]) -> Vec<Message> {
    let system: Vec<&str> =
        messages.iter().filter(|m| m.role == Role::System).map(|m| m.content.as_str()).collect();
    let mut rest: Vec<Message> = messages.iter().filter(|m| m.role != Role::System).cloned().collect();
    if let Some(first) = rest.first_mut() {
        first.content = format!("{}\n\n{}", system.join("\n\n"), first.content);
    }
    rest
}

/// Bytes that the kernel says can be had without swapping.
pub(crate) fn free_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

struct Watch<'a> {
    progress: &'a dyn Progress,
    bound: usize,
}

impl Observer for Watch<'_> {
    fn prefill(&mut self, done: usize, total: usize) {
        self.progress.prefill(done, total);
    }
    fn decode(&mut self, generated: usize) {
        self.progress.decode(generated, self.bound);
    }
    fn cancelled(&mut self) -> bool {
        self.progress.cancelled()
    }
}

impl LanguageModel for Local {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { scripts: true, grammars: true }
    }

    fn count_tokens(&self, text: &str) -> Option<usize> {
        self.engine.model().tokenizer.encode(text).ok().map(|ids| ids.len())
    }

    fn count_prompt(&self, messages: &[Message]) -> Option<usize> {
        self.count_tokens(&self.render(messages, "").ok()?)
    }

    fn complete(
        &self,
        requests: &[Request],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError> {
        let started = Instant::now();
        let bound = requests.iter().map(longest).sum();
        let (mut rows, mut hashes) = (Vec::new(), Vec::new());
        for request in requests {
            let (row, hash) = self.row(request)?;
            rows.push(row);
            hashes.push(hash);
        }
        let results = self.engine.run(rows, &mut Watch { progress, bound }).map_err(|e| match e {
            EngineError::Prompt(what) => LmError::Model(what),
            EngineError::Tensor(e) => {
                let first = e.to_string().lines().next().unwrap_or_default().to_string();
                if first.contains("memory") { LmError::Memory(first) } else { LmError::Model(first) }
            }
        })?;
        // Rows run side by side: each is charged its share of the wall time.
        let seconds = started.elapsed().as_secs_f64() / requests.len().max(1) as f64;
        Ok(results
            .into_iter()
            .zip(hashes)
            .map(|(result, hash)| result.map(|o| completion(o, hash, seconds)).map_err(row_error))
            .collect())
    }
}

/// Upper bound on drawn tokens of a request.
fn longest(request: &Request) -> usize {
    match &request.output {
        Output::Script(script) => script
            .parts
            .iter()
            .map(|p| match p {
                inference::Part::Free { max_tokens, .. } => *max_tokens,
                inference::Part::Choice { .. } => 1,
                inference::Part::Literal(_) => 0,
            })
            .sum(),
        _ => request.max_tokens,
    }
}

fn row_error(error: RowError) -> LmError {
    match error {
        RowError::TooLong { prompt, context } => LmError::TooLong { prompt, context },
        RowError::Interrupted => LmError::Interrupted,
        RowError::Memory { .. } => LmError::Memory(error.to_string()),
        RowError::Grammar(what) => LmError::Model(what),
        RowError::NotFinite => LmError::Model(RowError::NotFinite.to_string()),
    }
}

fn finish(finish: inference::Finish) -> Finish {
    match finish {
        inference::Finish::Eos => Finish::Eos,
        inference::Finish::Stop => Finish::Stop,
        inference::Finish::Length => Finish::Length,
    }
}

fn completion(output: RowOutput, prompt_sha256: String, seconds: f64) -> Completion {
    let parts = output.parts.into_iter().map(|(name, part)| {
        let choice =
            part.chosen.map(|c| ChoiceOutcome { value: c.value, distribution: c.distribution, mass: c.mass });
        (name, PartOutcome { text: part.text, choice, finish: finish(part.finish) })
    });
    Completion {
        text: output.text,
        parts: parts.collect(),
        finish: finish(output.finish),
        usage: Usage {
            prompt_tokens: output.prompt_tokens - output.reused,
            prompt_tokens_reused: output.reused,
            generated_tokens: output.generated,
            seconds,
        },
        prompt_sha256,
    }
}
