//! A checkpoint without its weights: enough to count tokens, to plan, and to write it in another form.

use crate::chat::{ChatTemplate, FALLBACK_TEMPLATE};
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::model::{ModelSource, Parts, folder_parts, gguf_parts};
use crate::tokenizer::Tokenizer;

/// All of a [`crate::Model`] but its weights, read in milliseconds whatever their size.
pub struct Outline {
    /// What the decoder is made of.
    pub config: DecoderConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, or the fallback.
    pub chat: ChatTemplate,
    /// True if the checkpoint has no template of its own.
    pub chat_is_fallback: bool,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
}

impl Outline {
    /// Reads what a folder or a GGUF file says of itself.
    ///
    /// # Errors
    /// As [`crate::Model::load`], for everything but the weights' values.
    pub fn of(source: &ModelSource) -> Result<Self, ModelError> {
        let parts = if source.is_gguf()? {
            gguf_parts(&Gguf::open(&source.path)?)?
        } else {
            folder_parts(&source.path)?
        };
        parts.check()?;
        let Parts { config, tokenizer, chat, tokens, bos, eos } = parts;
        let chat_is_fallback = chat.is_none();
        let text = chat.as_deref().unwrap_or(FALLBACK_TEMPLATE);
        let chat = ChatTemplate::new(text, tokens)
            .map_err(|e| ModelError::invalid(&source.path, format!("chat template: {e}")))?;
        Ok(Self { config, tokenizer, chat, chat_is_fallback, bos, eos })
    }

    /// Longest sequence in tokens.
    pub fn context(&self) -> usize {
        self.config.max_position_embeddings
    }
}
