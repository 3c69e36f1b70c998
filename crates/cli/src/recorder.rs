//! A model whose every answer is a row of the store: model, prompt, seed, sampler, text.

use lm::{Capabilities, Completion, LanguageModel, LmError, Message, ModelInfo, Progress, Request};
use serde_json::json;
use store::{NewGeneration, Store};

/// Passes everything on to a model and stores what it answers before anyone reads it.
pub struct Recorder {
    model: Box<dyn LanguageModel>,
    store: Store,
}

impl Recorder {
    /// Records `model` in `store`.
    pub fn new(model: Box<dyn LanguageModel>, store: Store) -> Self {
        Self { model, store }
    }

    fn row(&self, request: &Request, answer: &Completion) -> NewGeneration {
        let info = self.model.info();
        let dialogue = json!({"messages": request.messages, "prefill": request.prefill});
        NewGeneration {
            model: info.sha256.clone().unwrap_or_else(|| info.reference.clone()),
            reference: info.reference.clone(),
            prompt_sha256: answer.prompt_sha256.clone(),
            dialogue: Some(dialogue.to_string()),
            // SQLite's integers have a sign; the bits are the same.
            seed: request.seed as i64,
            sampling: serde_json::to_string(&request.sampling).unwrap_or_default(),
            output: answer.text.clone(),
            tokens: answer.usage.generated_tokens as i64,
        }
    }
}

impl LanguageModel for Recorder {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn capabilities(&self) -> Capabilities {
        self.model.capabilities()
    }

    fn count_tokens(&self, text: &str) -> Option<usize> {
        self.model.count_tokens(text)
    }

    fn count_prompt(&self, messages: &[Message]) -> Option<usize> {
        self.model.count_prompt(messages)
    }

    fn complete(
        &self,
        requests: &[Request],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError> {
        let answers = self.model.complete(requests, progress)?;
        let rows: Vec<NewGeneration> = requests
            .iter()
            .zip(&answers)
            .filter_map(|(request, answer)| Some(self.row(request, answer.as_ref().ok()?)))
            .collect();
        // Of an agent's errors this is the one that says: out of memory, disk or time.
        self.store.put_generations(&rows).map_err(|e| LmError::Memory(e.to_string()))?;
        Ok(answers)
    }
}
