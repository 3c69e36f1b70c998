//! `config.json` in both spellings (2024: `rope_theta`, `rope_scaling`, `torch_dtype`; transformers 5:
//! `rope_parameters`, `dtype`, `layer_types`) to [`DecoderConfig`].

use std::path::Path;

use serde_json::Value;

use crate::config::{Architecture, DecoderConfig, MOST_LAYERS, Rope, RopeScaling};
use crate::error::ModelError;

struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }
    fn count(&self, key: &str) -> Result<usize, ModelError> {
        self.optional(key)?.ok_or_else(|| ModelError::invalid(self.path, format!("has no {key}")))
    }
    fn optional(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.as_u64() {
                Some(n) if n < 1 << 40 => Ok(Some(n as usize)),
                _ => Err(ModelError::invalid(self.path, format!("{key} is {v}, a whole number is needed"))),
            },
        }
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }
    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }
}

/// Parses a configuration.
///
/// # Errors
/// If the architecture is not supported or a key is missing or out of range.
pub fn parse(value: &Value, path: &Path) -> Result<DecoderConfig, ModelError> {
    let f = Fields { path, value };
    let kind = f.get("model_type").and_then(Value::as_str).unwrap_or("");
    let architecture = match kind {
        "llama" => Architecture::Llama,
        "mistral" => Architecture::Mistral,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        "phi3" => Architecture::Phi3,
        other => {
            let named =
                f.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("none");
            let found = if other.is_empty() { named.to_string() } else { other.to_string() };
            return Err(ModelError::Architecture { found });
        }
    };
    if let Some(act) = f.get("hidden_act").and_then(Value::as_str).filter(|a| !matches!(*a, "silu" | "swish"))
    {
        return Err(ModelError::invalid(path, format!("hidden_act {act:?} is not supported, only silu")));
    }
    if let Some(q) = f.get("quantization_config") {
        let method = q.get("quant_method").and_then(Value::as_str).unwrap_or("in some way");
        return Err(ModelError::invalid(
            path,
            format!("the weights are quantised ({method}); take the original ones or a GGUF file"),
        ));
    }
    let hidden_size = f.count("hidden_size")?;
    let num_heads = f.count("num_attention_heads")?;
    let num_layers = f.count("num_hidden_layers")?;
    let num_kv_heads = f.optional("num_key_value_heads")?.unwrap_or(num_heads);
    // Before anything is sized by it.
    if num_heads == 0 || num_layers > MOST_LAYERS {
        return Err(ModelError::invalid(path, format!("has {num_heads} heads and {num_layers} layers")));
    }
    let default_dim = if architecture == Architecture::Qwen3 { 128 } else { hidden_size / num_heads };
    let head_dim = f.optional("head_dim")?.unwrap_or(default_dim);
    let max_position_embeddings = f.optional("max_position_embeddings")?.unwrap_or(2048);
    let rope = rope(&f, architecture, head_dim, max_position_embeddings)?;
    let biased = f.flag("attention_bias").unwrap_or(false);
    let qkv_bias = architecture == Architecture::Qwen2 || biased;
    let config = DecoderConfig {
        architecture,
        vocab_size: f.count("vocab_size")?,
        hidden_size,
        intermediate_size: f.count("intermediate_size")?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: f.number("rms_norm_eps").unwrap_or(1e-6),
        rope,
        max_position_embeddings,
        sliding_window: windows(&f, architecture, num_layers)?,
        qkv_bias,
        o_bias: biased && matches!(architecture, Architecture::Llama | Architecture::Qwen3),
        mlp_bias: f.flag("mlp_bias").unwrap_or(false),
        qk_norm: architecture == Architecture::Qwen3,
        tie_word_embeddings: f.flag("tie_word_embeddings").unwrap_or(false),
    };
    match config.nonsense() {
        Some(what) => Err(ModelError::invalid(path, what)),
        None => Ok(config),
    }
}

fn windows(
    f: &Fields<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    let window = f.optional("sliding_window")?.filter(|&w| w > 0);
    let uses = match architecture {
        // Qwen says separately whether its window counts, and from which layer on.
        Architecture::Qwen2 | Architecture::Qwen3 => f.flag("use_sliding_window").unwrap_or(false),
        Architecture::Mistral | Architecture::Phi3 => true,
        Architecture::Llama => false,
    };
    if !uses {
        return Ok(vec![None; layers]);
    }
    if let Some(types) = f.get("layer_types").and_then(Value::as_array) {
        return Ok((0..layers)
            .map(|i| match types.get(i).and_then(Value::as_str) {
                Some("sliding_attention") => window,
                _ => None,
            })
            .collect());
    }
    let full = match architecture {
        Architecture::Qwen2 | Architecture::Qwen3 => f.optional("max_window_layers")?.unwrap_or(28),
        _ => 0,
    };
    Ok((0..layers).map(|i| if i >= full { window } else { None }).collect())
}

fn rope(
    f: &Fields<'_>,
    architecture: Architecture,
    head_dim: usize,
    max_positions: usize,
) -> Result<Rope, ModelError> {
    // transformers 5 keeps everything in `rope_parameters`; before, theta stood apart and `rope_scaling` was optional.
    let parameters = f.get("rope_parameters").or_else(|| f.get("rope_scaling"));
    let inner = Fields { path: f.path, value: parameters.unwrap_or(&Value::Null) };
    let theta = inner.number("rope_theta").or_else(|| f.number("rope_theta")).unwrap_or(10_000.0);
    let partial =
        inner.number("partial_rotary_factor").or_else(|| f.number("partial_rotary_factor")).unwrap_or(1.0);
    let rotary_dim =
        if architecture == Architecture::Phi3 { (head_dim as f64 * partial) as usize } else { head_dim };
    let kind =
        inner.get("rope_type").or_else(|| inner.get("type")).and_then(Value::as_str).unwrap_or("default");
    let need = |key: &str| {
        inner
            .number(key)
            .ok_or_else(|| ModelError::invalid(f.path, format!("rope scaling {kind} has no {key}")))
    };
    let original = |fallback: Option<usize>| -> Result<usize, ModelError> {
        inner
            .optional("original_max_position_embeddings")?
            .or(f.optional("original_max_position_embeddings")?)
            .or(fallback)
            .ok_or_else(|| {
                ModelError::invalid(
                    f.path,
                    format!("rope scaling {kind} has no original_max_position_embeddings"),
                )
            })
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_position_embeddings: original(None)?,
        },
        // "su" is longrope's first name.
        "longrope" | "su" => {
            let original = original(Some(max_positions))?;
            let factors = |key: &str| -> Result<Vec<f64>, ModelError> {
                let list: Vec<f64> = inner
                    .get(key)
                    .and_then(Value::as_array)
                    .map(|a| a.iter().filter_map(Value::as_f64).collect())
                    .unwrap_or_default();
                if list.len() == rotary_dim / 2 {
                    Ok(list)
                } else {
                    let wanted = rotary_dim / 2;
                    Err(ModelError::invalid(
                        f.path,
                        format!("{key} has {} factors, {wanted} are needed", list.len()),
                    ))
                }
            };
            // arXiv 2402.13753: sqrt(1 + ln(max/original) / ln(original)), unless the file says otherwise.
            let ratio = inner.number("factor").unwrap_or(max_positions as f64 / original as f64);
            let computed =
                if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() };
            RopeScaling::LongRope {
                short_factor: factors("short_factor")?,
                long_factor: factors("long_factor")?,
                original_max_position_embeddings: original,
                attention_factor: inner.number("attention_factor").unwrap_or(computed),
            }
        }
        other => {
            return Err(ModelError::invalid(
                f.path,
                format!("rope scaling {other:?} is not supported; supported are linear, llama3 and longrope"),
            ));
        }
    };
    Ok(Rope { theta, rotary_dim, scaling })
}
