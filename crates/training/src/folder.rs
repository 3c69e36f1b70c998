//! The small files that make weights a Hugging Face folder, where a training did not start from one.

use std::fs;
use std::path::Path;

use candle_core::DType;
use models::{Architecture, Decoder, DecoderConfig, Model, RopeScaling, Tokenizer, TrainableDecoder};
use serde_json::{Value, json};

use crate::error::TrainError;

/// What stands in a folder beside the weights.
#[derive(Clone, Copy)]
pub struct Companions<'a> {
    /// The decoder.
    pub config: &'a DecoderConfig,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Source of the chat template.
    pub chat_template: &'a str,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: &'a [u32],
}

/// A decoder that says what it is made of.
pub trait Described {
    /// Its configuration.
    fn config(&self) -> &DecoderConfig;
}

impl Described for Decoder {
    fn config(&self) -> &DecoderConfig {
        self.config()
    }
}

impl Described for TrainableDecoder {
    fn config(&self) -> &DecoderConfig {
        self.config()
    }
}

/// Lets a folder's `config.json` say in which type most of its weights are.
pub(crate) fn name_dtype(folder: &Path, dtype: DType) -> Result<(), TrainError> {
    let path = folder.join("config.json");
    let bytes = fs::read(&path).map_err(TrainError::io(&path))?;
    let bad = |e: serde_json::Error| TrainError::Recipe(format!("{}: {e}", path.display()));
    let mut config: Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::F64 => "float64",
        _ => "float32",
    };
    // transformers 5 calls it dtype; what is there already is renamed by nobody.
    let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
    config[key] = json!(name);
    let text = serde_json::to_string_pretty(&config).map_err(bad)?;
    fs::write(&path, text).map_err(TrainError::io(&path))
}

impl<'a> Companions<'a> {
    /// Those of a loaded model.
    pub fn of<D: Described>(model: &'a Model<D>) -> Self {
        Self {
            config: model.decoder.config(),
            tokenizer: &model.tokenizer,
            chat_template: model.chat.source(),
            bos: model.bos,
            eos: &model.eos,
        }
    }

    /// Writes `config.json`, `generation_config.json`, `tokenizer_config.json` and `tokenizer.json`.
    ///
    /// # Errors
    /// If `config.json` cannot say what the decoder is (phi3's fused weights, scaled rotary frequencies), or the disk
    /// is full.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let eos = match self.eos {
            [] => Value::Null,
            [one] => json!(one),
            more => json!(more),
        };
        let spelled = |id: Option<u32>| id.and_then(|id| self.tokenizer.token(id));
        let generation = json!({"bos_token_id": self.bos, "eos_token_id": eos});
        let about = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": spelled(self.bos),
            "eos_token": spelled(self.eos.first().copied()), "chat_template": self.chat_template,
            "clean_up_tokenization_spaces": false, "model_max_length": self.config.max_position_embeddings});
        let mut config = self.config_json()?;
        config["bos_token_id"] = json!(self.bos);
        config["eos_token_id"] = eos;
        for (name, value) in [
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer_config.json", about),
        ] {
            let path = folder.join(name);
            let text = serde_json::to_string_pretty(&value).map_err(|e| TrainError::Recipe(e.to_string()))?;
            fs::write(&path, text).map_err(TrainError::io(&path))?;
        }
        let path = folder.join("tokenizer.json");
        fs::write(&path, self.tokenizer.to_json()?).map_err(TrainError::io(&path))
    }

    /// Whether [`Self::write`] can say what the decoder is: to be asked before a training, not after it.
    ///
    /// # Errors
    /// If it cannot.
    pub(crate) fn can_write(&self) -> Result<(), TrainError> {
        self.config_json().map(drop)
    }

    fn config_json(&self) -> Result<Value, TrainError> {
        let c = self.config;
        let (kind, class) = match (c.architecture, &c.rope.scaling) {
            (Architecture::Llama, RopeScaling::None) => ("llama", "LlamaForCausalLM"),
            (Architecture::Mistral, RopeScaling::None) => ("mistral", "MistralForCausalLM"),
            (Architecture::Qwen2, RopeScaling::None) => ("qwen2", "Qwen2ForCausalLM"),
            (Architecture::Qwen3, RopeScaling::None) => ("qwen3", "Qwen3ForCausalLM"),
            (other, _) => {
                return Err(TrainError::Recipe(format!(
                    "a config.json cannot be written for {other:?} with its rotary scaling; start from a Hugging Face \
                     folder instead"
                )));
            }
        };
        let mut config = json!({"architectures": [class], "model_type": kind, "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
            "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
            "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
            "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope.theta,
            "max_position_embeddings": c.max_position_embeddings,
            "tie_word_embeddings": c.tie_word_embeddings, "dtype": "float32"});
        if c.architecture == Architecture::Llama {
            config["attention_bias"] = json!(c.qkv_bias);
            config["mlp_bias"] = json!(c.mlp_bias);
        }
        if let Some(window) = c.sliding_window.iter().flatten().next() {
            config["sliding_window"] = json!(window);
        }
        Ok(config)
    }
}
