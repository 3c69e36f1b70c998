//! Where the prompts of `cycle generate`, `logprobs` and `embed` come from.

use std::path::Path;

use lm::{Local, Message};
use models::ModelError;
use serde::Deserialize;

use crate::args::PromptArgs;
use crate::failure::{Code, Failure};

/// A prompt as it was given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// Text; a model gets it as the user's turn.
    Prompt(String),
    /// A dialogue.
    Messages(Vec<Message>),
    /// Ids as they are.
    Tokens(Vec<u32>),
}

/// A prompt as ids, and as the text that they stand for.
pub struct Prompt {
    /// The ids.
    pub ids: Vec<u32>,
    /// Their text.
    pub text: String,
}

/// All prompts of a command line: options first, then the lines of `--input`.
///
/// # Errors
/// If there is none, or a file is missing or says something else.
pub fn asked(args: &PromptArgs) -> Result<Vec<Asked>, Failure> {
    let mut all: Vec<Asked> = args.prompt.iter().cloned().map(Asked::Prompt).collect();
    if let Some(path) = &args.messages {
        let messages = serde_json::from_slice(&read(path)?).map_err(|e| {
            let what = format!("{}: {e}", path.display());
            Failure::new(Code::Input, what).advise("a dialogue is a JSON list of {\"role\", \"content\"}")
        })?;
        all.push(Asked::Messages(messages));
    }
    if !args.tokens.is_empty() {
        all.push(Asked::Tokens(args.tokens.clone()));
    }
    all.extend(args.input.as_deref().map(lines).transpose()?.into_iter().flatten());
    if all.is_empty() {
        let what = "no prompt: give --prompt, --messages, --tokens or --input";
        return Err(Failure::new(Code::Usage, what));
    }
    Ok(all)
}

/// A prompt a line, each an object with `prompt`, `messages` or `tokens`; further keys are the user's own.
///
/// # Errors
/// If the file is missing or a line says something else.
pub fn lines(path: &Path) -> Result<Vec<Asked>, Failure> {
    let bytes = read(path)?;
    let fail = |line: usize, what: &dyn std::fmt::Display| {
        Failure::new(Code::Input, format!("{}, line {}: {what}", path.display(), line + 1))
            .advise("each line is an object with \"prompt\", \"messages\" or \"tokens\"")
    };
    let mut all = Vec::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(line).map_err(|e| fail(i, &e))?;
        let mut known = object.into_iter().filter(|(k, _)| matches!(&**k, "prompt" | "messages" | "tokens"));
        let (Some((kind, value)), None) = (known.next(), known.next()) else {
            return Err(fail(i, &"one of prompt, messages and tokens is needed"));
        };
        all.push(serde_json::from_value(serde_json::json!({ kind: value })).map_err(|e| fail(i, &e))?);
    }
    Ok(all)
}

impl Asked {
    /// As this model reads it: through its chat template, unless `raw`.
    ///
    /// # Errors
    /// If the template or the tokenizer fails, or an id is outside the vocabulary.
    pub fn prompt(self, raw: bool, model: &Local) -> Result<Prompt, Failure> {
        let engine = model.engine().model();
        let chat = |messages: &[Message]| -> Result<Prompt, Failure> {
            let text = model.render(messages, "")?;
            Ok(Prompt { ids: engine.encode_chat(&text)?, text })
        };
        let prompt = match self {
            Self::Prompt(text) if raw => Prompt { ids: engine.encode_plain(&text)?, text },
            Self::Prompt(text) => chat(&[Message::user(text)])?,
            Self::Messages(messages) => chat(&messages)?,
            Self::Tokens(ids) => {
                let text = engine.tokenizer.decode(&ids, false).unwrap_or_default();
                Prompt { ids, text }
            }
        };
        let vocabulary = engine.decoder.config().vocab_size;
        match prompt.ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => {
                let what = format!("token {id} is outside the vocabulary of {vocabulary}");
                Err(Failure::new(Code::Usage, what))
            }
            None if prompt.ids.is_empty() => {
                Err(Failure::new(Code::Usage, "an empty prompt; at least one token is needed"))
            }
            None => Ok(prompt),
        }
    }

    /// As a server reads it: messages only, since templates and tokens are the server's.
    ///
    /// # Errors
    /// If it is given as ids.
    pub fn messages(self) -> Result<Vec<Message>, Failure> {
        match self {
            Self::Prompt(text) => Ok(vec![Message::user(text)]),
            Self::Messages(messages) => Ok(messages),
            Self::Tokens(_) => Err(Failure::new(Code::Usage, "a server reads text, not token ids")),
        }
    }

    /// As a text encoder reads it.
    ///
    /// # Errors
    /// If it is a dialogue, or the encoder fails.
    pub fn encoded(self, encoder: &models::TextEncoder) -> Result<(Vec<u32>, bool), Failure> {
        match self {
            Self::Prompt(text) => encoder.tokens(&text).map_err(|e: ModelError| e.into()),
            Self::Tokens(ids) => Ok((ids, false)),
            Self::Messages(_) => Err(Failure::new(Code::Usage, "a dialogue has no embedding; give texts")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::io(path, &e))
}
