//! Decoders from a checkpoint on disk: configuration, weights, tokenizer, chat template, cache.
//!
//! A [`Model`] is a Hugging Face folder or a GGUF file made ready: its [`Decoder`] runs llama, mistral, qwen2, qwen3 and
//! phi3 from one description, its [`Tokenizer`] and [`ChatTemplate`] turn messages into ids and back. What is wrong
//! with a checkpoint is said by name ([`ModelError`]) before anything is computed.

mod adapter;
mod base_sample;
mod bert;
mod cache;
mod chat;
mod config;
mod decoder;
mod error;
pub mod gguf;
mod hash;
mod hf_config;
mod inventory;
mod model;
mod moment;
mod outline;
mod tokenizer;
mod trainable;
mod verify;
mod weights;

pub use adapter::{Adapted, HEADS};
pub use base_sample::BaseSample;
pub use bert::TextEncoder;
pub use cache::{KvCache, RopeRegime, SequenceId};
pub use chat::{ChatTemplate, TemplateTokens};
pub use config::{Architecture, DecoderConfig, Rope, RopeScaling};
pub use decoder::{Decoder, DecoderOptions, Segment, Step};
pub use error::ModelError;
pub use hash::sha256_of_files;
pub use hf_config::parse as parse_config;
pub use inventory::inventory;
pub use model::{LoadOptions, Model, ModelSource, config_of, open_weights, tensors_of};
pub use moment::Moment;
pub use outline::Outline;
pub use tokenizer::{TextStream, Tokenizer};
pub use trainable::{
    AdapterFiles, Gradients, Keep, LoraSettings, PackedBatch, Pass, Train, TrainableDecoder,
    TrainableOptions, linear_modules,
};
pub use verify::{
    Description, Memory, Verification, describe, describe_bytes, is_text_encoder, verify, verify_bytes,
};
pub use weights::{SafetensorsFolder, WeightSource};
