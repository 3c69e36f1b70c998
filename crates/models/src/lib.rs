//! Decoders from a checkpoint on disk: configuration, weights, tokenizer, chat template, cache.
//!
//! A [`Model`] is a Hugging Face folder or a GGUF file made ready: its [`Decoder`] runs llama, mistral, qwen2, qwen3 and
//! phi3 from one description, its [`Tokenizer`] and [`ChatTemplate`] turn messages into ids and back. What is wrong
//! with a checkpoint is said by name ([`ModelError`]) before anything is computed.

mod adapter;
mod cache;
mod chat;
mod config;
mod decoder;
mod error;
pub mod gguf;
mod hf_config;
mod model;
mod tokenizer;
mod weights;

pub use adapter::Adapted;
pub use cache::{KvCache, RopeRegime, SequenceId};
pub use chat::{ChatTemplate, Moment, TemplateTokens};
pub use config::{Architecture, DecoderConfig, Rope, RopeScaling};
pub use decoder::{Decoder, DecoderOptions, Segment, Step};
pub use error::ModelError;
pub use hf_config::parse as parse_config;
pub use model::{Description, LoadOptions, Model, ModelSource, describe, verify};
pub use tokenizer::Tokenizer;
pub use weights::{SafetensorsFolder, WeightSource};
