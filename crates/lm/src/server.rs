//! Any OpenAI-compatible server behind [`LanguageModel`]: `/chat/completions`, streamed, with retries.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use inference::Grammar;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::types::{
    Capabilities, Completion, Finish, LanguageModel, LmError, Message, ModelInfo, Output, Progress, Request, Usage,
};

/// How long and how often a server is asked.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Tries of one request.
    pub tries: u32,
    /// First pause between tries; doubled each time, up to a minute, with jitter.
    pub pause: Duration,
    /// A stream that says nothing for so long is cut.
    pub silence: Duration,
    /// Requests at the same time.
    pub parallel: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            key: std::env::var("CYCLE_API_KEY").ok().filter(|k| !k.is_empty()),
            tries: 6,
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(180),
            parallel: 8,
        }
    }
}

/// A server and one of its models.
pub struct Server {
    base: String,
    model: String,
    options: ServerOptions,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    info: ModelInfo,
}

/// What came of one try.
enum Failure {
    /// Another try may help; the server may have said when.
    Passing(String, Option<Duration>),
    /// The server does not know an option we sent.
    Refused(String),
    /// No use in trying again.
    Final(String),
    Interrupted,
}

impl Server {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// If the runtime or the TLS library cannot be set up.
    pub fn new(base: &str, model: &str, options: ServerOptions) -> Result<Self, LmError> {
        let fail = |e: &dyn std::fmt::Display| LmError::Remote(format!("{base}: {e}"));
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("cycle/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| fail(&e))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| fail(&e))?;
        let info =
            ModelInfo { reference: format!("{base}#{model}"), sha256: None, context: None, builtin: false };
        Ok(Self { base: base.into(), model: model.into(), options, client, runtime, info })
    }

    fn body(&self, request: &Request, plain: bool) -> Value {
        let mut messages = request.messages.clone();
        if !request.prefill.is_empty() {
            messages.push(Message::assistant(request.prefill.clone()));
        }
        let mut body = json!({
            "model": self.model, "messages": messages, "stream": true, "max_tokens": request.max_tokens,
            "temperature": request.sampling.temperature, "top_p": request.sampling.top_p, "seed": request.seed >> 1,
        });
        if !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        if !plain {
            body["stream_options"] = json!({"include_usage": true});
            if let Output::Constrained(Grammar::JsonSchema(schema)) = &request.output {
                body["response_format"] = json!({"type": "json_schema",
                    "json_schema": {"name": "answer", "schema": schema, "strict": true}});
            }
        }
        body
    }

    async fn ask(&self, request: &Request, progress: &dyn Progress) -> Result<Completion, LmError> {
        let mut plain = false;
        let mut attempt = 0;
        loop {
            let error = match self.once(request, plain, progress).await {
                Ok(completion) => return Ok(completion),
                Err(Failure::Interrupted) => return Err(LmError::Interrupted),
                Err(Failure::Final(what)) => return Err(LmError::Remote(format!("{}: {what}", self.base))),
                Err(Failure::Refused(_)) if !plain => {
                    plain = true;
                    continue;
                }
                Err(Failure::Refused(what)) => {
                    return Err(LmError::Remote(format!("{}: {what}", self.base)));
                }
                Err(Failure::Passing(what, wait)) => (what, wait),
            };
            attempt += 1;
            if attempt >= self.options.tries {
                return Err(LmError::Remote(format!("{}: {} (tried {attempt} times)", self.base, error.0)));
            }
            let base = self.options.pause * 2u32.pow(attempt.min(7) - 1);
            // Jitter from the row's seed: rows of one batch do not come back all at once.
            let jitter = inference::random::Random::new(request.seed ^ u64::from(attempt)).uniform();
            let pause = error.1.unwrap_or(base.min(Duration::from_secs(60))).min(Duration::from_secs(120));
            let until = Instant::now() + pause + base.min(Duration::from_secs(5)).mul_f64(jitter);
            while Instant::now() < until {
                if progress.cancelled() {
                    return Err(LmError::Interrupted);
                }
                tokio::time::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())))
                    .await;
            }
        }
    }

    async fn once(&self, request: &Request, plain: bool, progress: &dyn Progress) -> Result<Completion, Failure> {
        let started = Instant::now();
        let body = self.body(request, plain);
        let mut call = self.client.post(format!("{}/chat/completions", self.base)).json(&body);
        if let Some(key) = &self.options.key {
            call = call.bearer_auth(key);
        }
        let passing = |what: String| Failure::Passing(what, None);
        let response = tokio::time::timeout(self.options.silence, call.send())
            .await
            .map_err(|_| passing(format!("no answer within {} s", self.options.silence.as_secs())))?
            .map_err(|e| passing(reason(&e)))?;
        let status = response.status().as_u16();
        if status != 200 {
            let wait = response
                .headers()
                .get("retry-after")
                .and_then(|v| v.to_str().ok())
                .and_then(|v| v.trim().parse::<f64>().ok())
                .filter(|s| s.is_finite() && *s >= 0.0)
                .map(Duration::from_secs_f64);
            let text = response.text().await.unwrap_or_default();
            let message = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|v| v["error"]["message"].as_str().or(v["message"].as_str()).map(str::to_string))
                .unwrap_or_else(|| text.chars().take(200).collect());
            let what = format!("HTTP {status} {message}");
            return Err(match status {
                408 | 409 | 425 | 429 | 500..=599 => Failure::Passing(what, wait),
                400 | 422 => Failure::Refused(what),
                401 | 403 => Failure::Final(format!("{what} (is CYCLE_API_KEY set?)")),
                _ => Failure::Final(what),
            });
        }
        let mut text = String::new();
        let mut ending = None;
        let mut usage = Usage::default();
        let mut pending: Vec<u8> = Vec::new();
        let mut parts = response.bytes_stream();
        let mut whole = false;
        loop {
            if progress.cancelled() {
                return Err(Failure::Interrupted);
            }
            let part = match tokio::time::timeout(self.options.silence, parts.next()).await {
                Err(_) => return Err(passing("the stream fell silent".into())),
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(passing(format!("the stream was cut ({})", reason(&e)))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            pending.extend_from_slice(&part);
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let Some(data) = line.trim().strip_prefix("data:").map(str::trim) else { continue };
                if data == "[DONE]" {
                    whole = true;
                    continue;
                }
                let event: Value = serde_json::from_str(data)
                    .map_err(|e| passing(format!("the server sent malformed JSON ({e})")))?;
                if let Some(message) = event["error"]["message"].as_str() {
                    return Err(passing(message.to_string()));
                }
                let choice = &event["choices"][0];
                text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
                if let Some(reason) = choice["finish_reason"].as_str() {
                    ending = Some(if reason == "length" { Finish::Length } else { Finish::Eos });
                }
                if let Some(n) = event["usage"]["prompt_tokens"].as_u64() {
                    usage.prompt_tokens = n as usize;
                    usage.generated_tokens = event["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize;
                }
            }
        }
        let Some(finish) = ending.or(whole.then_some(Finish::Eos)) else {
            return Err(passing("the stream ended in the middle".into()));
        };
        usage.seconds = started.elapsed().as_secs_f64();
        // Some servers repeat the beginning they were given.
        if !request.prefill.is_empty() {
            if let Some(rest) = text.strip_prefix(&request.prefill) {
                text = rest.to_string();
            }
        }
        let prompt = serde_json::to_string(&request.messages).unwrap_or_default();
        let prompt_sha256 = Sha256::digest(prompt.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Completion { text, parts: Default::default(), finish, usage, prompt_sha256 })
    }
}

/// The innermost cause of a transport error: "connection refused" rather than "error sending request".
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl LanguageModel for Server {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { scripts: false, grammars: false }
    }

    fn count_tokens(&self, _: &str) -> Option<usize> {
        None
    }

    fn count_prompt(&self, _: &[Message]) -> Option<usize> {
        None
    }

    fn complete(
        &self,
        requests: &[Request],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError> {
        if requests.iter().any(|r| matches!(r.output, Output::Script(_))) {
            return Err(LmError::Model("a server cannot fill in a script".into()));
        }
        Ok(self.runtime.block_on(async {
            stream::iter(requests.iter().map(|r| self.ask(r, progress)))
                .buffered(self.options.parallel.max(1))
                .collect()
                .await
        }))
    }
}
