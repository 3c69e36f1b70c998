//! What is said on the wire: the body of a request, and an answer put together from its events. No input or output
//! happens here.

use std::collections::BTreeSet;

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

/// Options beyond the oldest ones; a server that refuses one is asked without it. The last three are not in OpenAI's own
/// interface; vLLM, llama.cpp and others know them.
const EXTRAS: [&str; 7] =
    ["response_format", "logprobs", "stream_options", "seed", "top_k", "min_p", "repetition_penalty"];

/// Which dialect a server turned out to speak.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Terms {
    /// Of [`EXTRAS`], those it has refused.
    refused: BTreeSet<&'static str>,
    /// The limit is called `max_completion_tokens`.
    completion_tokens: bool,
}

impl Terms {
    /// Takes a refusal in: the options that it names are left out from now on, all of them if it names none. False if
    /// there is nothing left to give up.
    pub(crate) fn learn(&mut self, refusal: &str) -> bool {
        if refusal.contains("max_completion_tokens") && !self.completion_tokens {
            self.completion_tokens = true;
            return true;
        }
        let mut left: Vec<&str> = EXTRAS.into_iter().filter(|e| !self.refused.contains(e)).collect();
        let is_named = |extra: &&str| {
            refusal.contains(*extra) || (*extra == "response_format" && refusal.contains("json_schema"))
        };
        if left.iter().any(is_named) {
            left.retain(is_named);
        }
        self.refused.extend(&left);
        !left.is_empty()
    }

    /// Takes over what another request has learned; true if an option more is left out now.
    pub(crate) fn join(&mut self, other: Self) -> bool {
        let before = self.refused.len();
        self.refused.extend(other.refused);
        self.completion_tokens |= other.completion_tokens;
        self.refused.len() > before
    }
}

impl std::fmt::Display for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.refused.iter().copied().collect();
        f.write_str(&names.join(", "))
    }
}

/// The body of a request; with `top`, log-probabilities are asked for.
pub(crate) fn request_body(model: &str, request: &Request, terms: &Terms, top: Option<u8>) -> Value {
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
    let mut extra = |name: &'static str, value: Value| {
        if !terms.refused.contains(name) {
            body[name] = value;
        }
    };
    extra("stream_options", json!({"include_usage": true}));
    // Servers read a signed number.
    extra("seed", json!(request.seed >> 1));
    if sampling.top_k > 0 {
        extra("top_k", json!(sampling.top_k));
    }
    if sampling.min_p > 0.0 {
        extra("min_p", json!(sampling.min_p));
    }
    if sampling.repetition_penalty != 1.0 {
        extra("repetition_penalty", json!(sampling.repetition_penalty));
    }
    if let Output::Constrained(Grammar::JsonSchema(schema)) = &request.output {
        let named = json!({"name": "answer", "schema": schema, "strict": true});
        extra("response_format", json!({"type": "json_schema", "json_schema": named}));
    }
    if let Some(top) = top.filter(|_| !terms.refused.contains("logprobs")) {
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
    /// A part of an answer has come.
    pub(crate) begun: bool,
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
        self.begun |= !choice.is_null();
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
