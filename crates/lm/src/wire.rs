//! What is said on the wire: the body of a request, and an answer put together from its events. No input or output
//! happens here.

use inference::Grammar;
use serde_json::{Value, json};

use crate::types::{Finish, Message, Output, Request, Usage};

/// One token of a server's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerToken {
    /// Its text, as the server spells it.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// The likeliest tokens in its place, as many as were asked for, with theirs.
    pub top: Vec<(String, f64)>,
}

/// Which dialect a server turned out to speak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Options beyond the oldest ones: seed, schema, log-probabilities, usage, samplers of its own.
    pub(crate) extras: bool,
    /// The limit is called `max_completion_tokens`.
    pub(crate) completion_tokens: bool,
}

/// The body of a request; with `top`, log-probabilities are asked for.
pub(crate) fn request_body(model: &str, request: &Request, terms: Terms, top: Option<u8>) -> Value {
    let mut messages = request.messages.clone();
    if !request.prefill.is_empty() {
        messages.push(Message::assistant(request.prefill.clone()));
    }
    let sampling = &request.sampling;
    let mut body = json!({
        "model": model, "messages": messages, "stream": true,
        "temperature": sampling.temperature, "top_p": sampling.top_p,
    });
    body[if terms.completion_tokens { "max_completion_tokens" } else { "max_tokens" }] =
        json!(request.max_tokens);
    if !request.stop.is_empty() {
        body["stop"] = json!(request.stop);
    }
    if !terms.extras {
        return body;
    }
    body["stream_options"] = json!({"include_usage": true});
    // Servers read a signed number.
    body["seed"] = json!(request.seed >> 1);
    // Not in OpenAI's own interface; vLLM, llama.cpp and others know them.
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if sampling.min_p > 0.0 {
        body["min_p"] = json!(sampling.min_p);
    }
    if sampling.repetition_penalty != 1.0 {
        body["repetition_penalty"] = json!(sampling.repetition_penalty);
    }
    if let Output::Constrained(Grammar::JsonSchema(schema)) = &request.output {
        body["response_format"] = json!({"type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": true}});
    }
    if let Some(top) = top {
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(top.min(20));
    }
    body
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<ServerToken>,
    pub(crate) usage: Usage,
    ending: Option<Finish>,
    whole: bool,
}

impl Answer {
    /// Takes one line of an event stream.
    ///
    /// # Errors
    /// The server's own message, or that its JSON does not parse.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), String> {
        match line.trim().strip_prefix("data:").map(str::trim) {
            None => Ok(()),
            Some("[DONE]") => {
                self.whole = true;
                Ok(())
            }
            Some(data) => self.event(data, "delta"),
        }
    }

    /// Takes an answer that came whole although a stream was asked for.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(crate) fn body(&mut self, body: &str) -> Result<(), String> {
        self.event(body, "message")
    }

    fn event(&mut self, json: &str, part: &str) -> Result<(), String> {
        let event: Value =
            serde_json::from_str(json).map_err(|e| format!("the server sent malformed JSON ({e})"))?;
        if let Some(message) = error_message(&event) {
            return Err(message);
        }
        let choice = &event["choices"][0];
        self.text.push_str(choice[part]["content"].as_str().unwrap_or_default());
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            self.tokens.extend(server_token(token));
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.ending = Some(if reason == "length" { Finish::Length } else { Finish::Eos });
        }
        if let Some(n) = event["usage"]["prompt_tokens"].as_u64() {
            let cached =
                event["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0).min(n);
            self.usage.prompt_tokens = (n - cached) as usize;
            self.usage.prompt_tokens_reused = cached as usize;
            self.usage.generated_tokens = event["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize;
        }
        Ok(())
    }

    /// Why it ended; `None` if it was cut.
    pub(crate) fn finish(&self) -> Option<Finish> {
        self.ending.or(self.whole.then_some(Finish::Eos))
    }
}

/// The message of an error object.
pub(crate) fn error_message(value: &Value) -> Option<String> {
    let error = &value["error"];
    error["message"].as_str().or(error.as_str()).map(str::to_string)
}

fn server_token(value: &Value) -> Option<ServerToken> {
    let one = |v: &Value| Some((v["token"].as_str()?.to_string(), v["logprob"].as_f64()?));
    let (text, logprob) = one(value)?;
    let top = value["top_logprobs"].as_array().into_iter().flatten().filter_map(one).collect();
    Some(ServerToken { text, logprob, top })
}
