//! The trait [`LanguageModel`] and the values that pass through it.

use std::collections::BTreeMap;

use inference::{Grammar, Sampling, Script};
use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The asker.
    User,
    /// The model.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }
    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }
    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into() }
    }
}

/// What the answer may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Any text.
    Free,
    /// Text within a grammar. A server that cannot enforce one gets the request without it; the caller parses.
    Constrained(Grammar),
    /// A form filled in part by part; only where [`Capabilities::scripts`] is true.
    Script(Script),
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The dialogue so far; it ends with a user turn.
    pub messages: Vec<Message>,
    /// How the answer begins: read by the model, not generated, and not part of [`Completion::text`].
    pub prefill: String,
    /// What the answer may be.
    pub output: Output,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The row's own seed.
    pub seed: u64,
    /// At most so many new tokens.
    pub max_tokens: usize,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
}

impl Request {
    /// A plain request: greedy, free text, seed 0.
    pub fn new(messages: Vec<Message>, max_tokens: usize) -> Self {
        Self {
            messages,
            prefill: String::new(),
            output: Output::Free,
            sampling: Sampling::default(),
            seed: 0,
            max_tokens,
            stop: Vec::new(),
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its turn.
    Eos,
    /// A stop string, or the end of a script or grammar.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// The outcome of a [`Part::Choice`](inference::Part::Choice).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceOutcome {
    /// The option that was drawn.
    pub value: String,
    /// Every option with its probability at temperature 1, renormalised over the options; sums to 1.
    pub distribution: Vec<(String, f64)>,
    /// The probability that the model gave to all options together before renormalising (how willing it was).
    pub mass: f64,
}

/// What one named part of a script became.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartOutcome {
    /// The text that stands there now.
    pub text: String,
    /// For a choice.
    pub choice: Option<ChoiceOutcome>,
    /// For free text: why it ended.
    pub finish: Finish,
}

/// Tokens and seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt that were computed.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not, because another row or an earlier call had them.
    pub prompt_tokens_reused: usize,
    /// New tokens.
    pub generated_tokens: usize,
    /// Wall time of this row's call.
    pub seconds: f64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.prompt_tokens_reused += other.prompt_tokens_reused;
        self.generated_tokens += other.generated_tokens;
        self.seconds += other.seconds;
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The answer's text, without prefill; for a script all of it, literals included.
    pub text: String,
    /// The named parts of a script.
    pub parts: BTreeMap<String, PartOutcome>,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
    /// SHA-256 (hex) of the rendered prompt, for the store.
    pub prompt_sha256: String,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Runs [`Output::Script`], with distributions.
    pub scripts: bool,
    /// Enforces [`Output::Constrained`].
    pub grammars: bool,
}

/// Which model this is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// As the user named it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Of the weights (and adapter); absent for a server.
    pub sha256: Option<String>,
    /// Tokens; absent where a server does not say.
    pub context: Option<usize>,
    /// True for the small models that ship in the binary, which say so to the user.
    pub builtin: bool,
    /// Weights; absent for a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
}

/// Weights from which on a model is trusted to keep a layout by itself and to fill longer texts.
const LARGE: u64 = 1_000_000_000;

impl ModelInfo {
    /// False for models so small that they ramble: these get short sections and a script for everything. Servers
    /// count as large.
    pub fn is_large(&self) -> bool {
        self.parameters.is_none_or(|n| n >= LARGE)
    }
}

/// Told about work as it happens; may ask for a stop.
pub trait Progress: Send + Sync {
    /// Prompt tokens were read, of so many in the batch.
    fn prefill(&self, _done: usize, _total: usize) {}
    /// New tokens were generated (all rows together), with an upper bound.
    fn decode(&self, _generated: usize, _bound: usize) {}
    /// True stops the batch soon: rows not finished end with [`LmError::Interrupted`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Says nothing, never stops.
pub struct Silent;
impl Progress for Silent {}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// The checkpoint, tokenizer or template cannot be used.
    #[error("{0}")]
    Model(String),
    /// The prompt does not fit.
    #[error("the prompt has {prompt} tokens, the model reads {context}")]
    TooLong {
        /// Tokens of the prompt and the room asked for.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A server failed after the last retry.
    #[error("{0}")]
    Remote(String),
    /// A server will not answer this request, however often it is asked; it may answer others.
    #[error("{0}")]
    Refused(String),
    /// A server lets nobody with this key in.
    #[error("{0}")]
    Denied(String),
    /// A server was needed under `--offline`.
    #[error("{0} needs the network, and --offline was given")]
    Offline(String),
    /// Memory or disk ran out.
    #[error("{0}")]
    Memory(String),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
}

/// A model that answers chat requests. Blocking; a batch is answered in the order of its requests.
pub trait LanguageModel: Send + Sync {
    /// Which model this is.
    fn info(&self) -> &ModelInfo;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Tokens of `text` as content, without template; `None` where the tokenizer is not at hand (a server).
    fn count_tokens(&self, text: &str) -> Option<usize>;

    /// Tokens of the rendered dialogue, template included; `None` for a server.
    fn count_prompt(&self, messages: &[Message]) -> Option<usize>;

    /// Answers every request. The outer error is for what concerns all of them.
    ///
    /// # Errors
    /// [`LmError`] for the whole batch (model, network) or, inside, for one row (too long, interrupted).
    fn complete(
        &self,
        requests: &[Request],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError>;
}
