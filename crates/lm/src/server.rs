//! Any OpenAI-compatible server behind [`LanguageModel`]: `/chat/completions`, streamed, with retries.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::{FutureExt, StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::types::{
    Capabilities, Completion, LanguageModel, LmError, Message, ModelInfo, Output, Progress, Request,
};
use crate::wire::{Answer, ServerToken, Terms, error_message, request_body};

/// How long and how often a server is asked.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Tries of one request.
    pub tries: u32,
    /// First pause between tries; doubled each time, up to a minute, with jitter. A server's own `Retry-After` counts
    /// instead.
    pub pause: Duration,
    /// A stream that says nothing for so long is cut.
    pub silence: Duration,
    /// One request, all its tries and pauses together, takes no longer.
    pub deadline: Duration,
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
            deadline: Duration::from_secs(1800),
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
    /// What it has refused so far; later requests are asked without it at once.
    terms: Mutex<Terms>,
    /// There until the drop.
    runtime: Option<tokio::runtime::Runtime>,
    info: ModelInfo,
}

/// Bytes after which an answer is no answer any more.
const LARGEST_ANSWER: usize = 256 << 20;

/// What came of one try.
enum Failure {
    /// Another try may help; the server may have said when.
    Passing(String, Option<Duration>),
    /// The server does not know an option we sent.
    Refused(String),
    /// No use in trying again.
    Final(String),
    /// The key is wrong, or missing.
    Denied(String),
}

fn passing(what: String) -> Failure {
    Failure::Passing(what, None)
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
            // A server that points elsewhere is not followed: the user named this one.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cycle/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| fail(&e))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| fail(&e))?;
        let info = ModelInfo {
            reference: format!("{base}#{model}"),
            sha256: None,
            context: None,
            builtin: false,
            parameters: None,
        };
        let (base, model, terms) = (base.into(), model.into(), Mutex::default());
        Ok(Self { base, model, options, client, terms, runtime: Some(runtime), info })
    }

    /// One request, with the log-probability of every token of the answer and of the `top` (0 to 20) likeliest in its
    /// place. From a server that offers none the list is empty.
    ///
    /// # Errors
    /// As [`LanguageModel::complete`].
    pub fn complete_with_logprobs(
        &self,
        request: &Request,
        top: u8,
        progress: &dyn Progress,
    ) -> Result<(Completion, Vec<ServerToken>), LmError> {
        self.block_on(self.ask(request, Some(top), progress).boxed())?
    }

    /// Runs to the end; also where the caller is itself within a runtime, which must not be blocked from inside.
    fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> Result<T, LmError> {
        let closed = || LmError::Remote(format!("{}: the client has ended", self.base));
        let runtime = self.runtime.as_ref().ok_or_else(closed)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Ok(runtime.block_on(work));
        }
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join()).map_err(|_| closed())
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the terms on which the server has answered. Only then: a request that fails on any terms was refused for
    /// something else.
    fn agree(&self, terms: Terms) {
        let mut known = self.terms();
        if known.join(terms) {
            tracing::warn!("{}: this server refuses {known}; it is asked without", self.base);
        }
    }

    fn failed(&self, what: &str) -> LmError {
        LmError::Remote(format!("{}: {what}", self.base))
    }

    /// Ends when the user or the deadline wants an end.
    async fn enough(&self, deadline: Instant, progress: &dyn Progress) -> LmError {
        loop {
            if progress.cancelled() {
                return LmError::Interrupted;
            }
            if Instant::now() >= deadline {
                return self.failed(&format!("no whole answer within {:?}", self.options.deadline));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Tries until there is an answer, or no hope of one.
    async fn ask(
        &self,
        request: &Request,
        top: Option<u8>,
        progress: &dyn Progress,
    ) -> Result<(Completion, Vec<ServerToken>), LmError> {
        let deadline = Instant::now() + self.options.deadline;
        let mut terms = self.terms().clone();
        let mut attempt = 0;
        loop {
            let outcome = tokio::select! {
                outcome = self.once(request, &terms, top) => outcome,
                why = self.enough(deadline, progress) => return Err(why),
            };
            let (what, wait) = match outcome {
                Ok(answer) => {
                    self.agree(terms);
                    return Ok(answer);
                }
                Err(Failure::Final(what)) => return Err(self.failed(&what)),
                Err(Failure::Denied(what)) => return Err(LmError::Denied(format!("{}: {what}", self.base))),
                Err(Failure::Refused(what)) => {
                    if !terms.learn(&what) {
                        return Err(LmError::Refused(format!("{}: {what}", self.base)));
                    }
                    continue;
                }
                Err(Failure::Passing(what, wait)) => (what, wait),
            };
            attempt += 1;
            if attempt >= self.options.tries {
                return Err(self.failed(&format!("{what} (tried {attempt} times)")));
            }
            let pause = self.pause(attempt, wait, request.seed);
            if Instant::now() + pause >= deadline {
                return Err(
                    self.failed(&format!("{what}; another try in {} s would be too late", pause.as_secs()))
                );
            }
            tracing::warn!("{}: {what}; another try in {:.1} s", self.base, pause.as_secs_f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                why = self.enough(deadline, progress) => return Err(why),
            }
        }
    }

    /// What the server asked for, or 2^attempt times the first pause; either with jitter on top, drawn from the row's
    /// seed, so that the rows of a batch do not come back all at once.
    fn pause(&self, attempt: u32, wait: Option<Duration>, seed: u64) -> Duration {
        let backoff = self.options.pause * 2u32.pow(attempt.min(7) - 1);
        let jitter = inference::random::Random::new(seed ^ u64::from(attempt)).uniform();
        wait.unwrap_or(backoff.min(Duration::from_secs(60)))
            + backoff.min(Duration::from_secs(5)).mul_f64(jitter)
    }

    async fn once(
        &self,
        request: &Request,
        terms: &Terms,
        top: Option<u8>,
    ) -> Result<(Completion, Vec<ServerToken>), Failure> {
        let started = Instant::now();
        let body = request_body(&self.model, request, terms, top);
        let mut call = self.client.post(format!("{}/chat/completions", self.base)).json(&body);
        if let Some(key) = &self.options.key {
            call = call.bearer_auth(key);
        }
        let response = tokio::time::timeout(self.options.silence, call.send())
            .await
            .map_err(|_| passing(format!("no answer within {:?}", self.options.silence)))?
            .map_err(|e| passing(reason(&e)))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        let answer = self.read(response).await?;
        let Some(finish) = answer.finish() else {
            let what =
                if answer.begun { "the stream ended in the middle" } else { "the answer holds no choices" };
            return Err(passing(what.into()));
        };
        let Answer { mut text, tokens, mut usage, .. } = answer;
        usage.seconds = started.elapsed().as_secs_f64();
        // Some servers repeat the beginning they were given.
        if let Some(rest) = text.strip_prefix(&request.prefill) {
            text = rest.to_string();
        }
        let prompt = serde_json::to_string(&request.messages).unwrap_or_default();
        let prompt_sha256 = Sha256::digest(prompt.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        Ok((Completion { text, parts: Default::default(), finish, usage, prompt_sha256 }, tokens))
    }

    /// What an answer other than 200 means.
    async fn refusal(&self, response: reqwest::Response) -> Failure {
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(retry_after);
        let text = tokio::time::timeout(self.options.silence, response.text()).await;
        let text = text.ok().and_then(Result::ok).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let message =
            error_message(&value).or_else(|| value["message"].as_str().map(str::to_string)).unwrap_or_else(
                || text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect(),
            );
        let what = format!("HTTP {status} {message}");
        match status {
            408 | 409 | 425 | 429 | 500..=599 => Failure::Passing(what, wait),
            400 | 422 => Failure::Refused(what),
            401 | 403 => Failure::Denied(format!("{what} (is CYCLE_API_KEY right?)")),
            404 => Failure::Final(format!("{what} (is the address right, and the model {}?)", self.model)),
            300..=399 => Failure::Final(format!("{what} (the server points elsewhere; name that address)")),
            _ => Failure::Final(what),
        }
    }

    async fn read(&self, response: reqwest::Response) -> Result<Answer, Failure> {
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let streamed = !kind.starts_with("application/json");
        let mut answer = Answer::default();
        let mut pending: Vec<u8> = Vec::new();
        let mut read = 0;
        let mut parts = response.bytes_stream();
        loop {
            let part = match tokio::time::timeout(self.options.silence, parts.next()).await {
                Err(_) => return Err(passing("the stream fell silent".into())),
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(passing(format!("the stream was cut ({})", reason(&e)))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            read += part.len();
            if read > LARGEST_ANSWER {
                return Err(Failure::Final(format!("an answer of more than {LARGEST_ANSWER} bytes")));
            }
            pending.extend_from_slice(&part);
            while let Some(end) = pending.iter().position(|b| *b == b'\n').filter(|_| streamed) {
                let line: Vec<u8> = pending.drain(..=end).collect();
                answer.line(&String::from_utf8_lossy(&line)).map_err(passing)?;
            }
        }
        let rest = String::from_utf8_lossy(&pending);
        if streamed { answer.line(&rest) } else { answer.body(&rest) }.map_err(passing)?;
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An ordinary drop would block, which is forbidden within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
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
        let calls: Vec<_> = requests.iter().map(|r| self.ask(r, None, progress).boxed()).collect();
        let all = stream::iter(calls).buffered(self.options.parallel.max(1)).collect::<Vec<_>>();
        let answers = self.block_on(all.boxed())?;
        Ok(answers.into_iter().map(|answer| answer.map(|(completion, _)| completion)).collect())
    }
}
