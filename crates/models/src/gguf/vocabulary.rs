//! The tokenizer and the chat template of a GGUF file's metadata.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;

use super::{Gguf, integer};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

impl Gguf {
    /// Beginning and end of sequence, and whether the former is to be put before plain text.
    pub fn special_ids(&self) -> (Option<u32>, Vec<u32>, bool) {
        let id = |key: &str| self.count(&format!("tokenizer.ggml.{key}")).map(|n| n as u32);
        let eos = ["eos_token_id", "eot_token_id", "eom_token_id"].into_iter().filter_map(id);
        let mut ends: Vec<u32> = eos.collect();
        ends.dedup();
        let add = match self.content.metadata.get("tokenizer.ggml.add_bos_token") {
            Some(Value::Bool(add)) => *add,
            // What llama.cpp does where the file is silent.
            _ => {
                self.text("tokenizer.ggml.model") == Some("llama")
                    || matches!(
                        self.text("tokenizer.ggml.pre"),
                        Some("llama-bpe" | "llama3" | "llama-v3" | "tekken")
                    )
            }
        };
        (id("bos_token_id"), ends, add)
    }

    /// The chat template, where the file has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.text("tokenizer.chat_template")
    }

    /// True if the file has a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.content.metadata.contains_key("tokenizer.ggml.tokens")
    }

    /// Builds the tokenizer from the metadata.
    ///
    /// # Errors
    /// If a part is missing or its kind is not known.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let bad = |what: String| ModelError::invalid(&self.path, what);
        let strings = |key: &str| -> Result<Vec<String>, ModelError> {
            let values = self
                .content
                .metadata
                .get(key)
                .and_then(|v| v.to_vec().ok())
                .ok_or_else(|| bad(format!("has no {key}")))?;
            Ok(values.iter().filter_map(|v| v.to_string().ok().cloned()).collect())
        };
        let tokens = strings("tokenizer.ggml.tokens")?;
        let types: Vec<i64> = self
            .content
            .metadata
            .get("tokenizer.ggml.token_type")
            .and_then(|v| v.to_vec().ok())
            .map(|v| v.iter().map(|v| integer(v).unwrap_or(1)).collect())
            .unwrap_or_default();
        let model = self.text("tokenizer.ggml.model").unwrap_or("");
        let vocabulary: HashMap<&str, usize> =
            tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
        // 3: control, 4: user defined.
        let added: Vec<serde_json::Value> = tokens
            .iter()
            .enumerate()
            .filter(|(i, _)| matches!(types.get(*i), Some(3 | 4)))
            .map(|(i, t)| {
                let special = types[i] == 3;
                json!({"id": i, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": special})
            })
            .collect();
        let json = match model {
            "gpt2" => {
                let merges = strings("tokenizer.ggml.merges")?;
                let kind = self.text("tokenizer.ggml.pre").unwrap_or("default");
                let (pre, ignore_merges, normalizer) = pre_tokenizer(kind).ok_or_else(|| {
                    bad(format!(
                        "the pre-tokenizer {kind:?} is not supported; use the Hugging Face folder instead"
                    ))
                })?;
                json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                    "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": null,
                    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                        "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges}})
            }
            "llama" => {
                let scores: Vec<f64> = self
                    .content
                    .metadata
                    .get("tokenizer.ggml.scores")
                    .and_then(|v| v.to_vec().ok())
                    .map(|v| v.iter().map(|v| v.to_f32().map_or(0.0, f64::from)).collect())
                    .ok_or_else(|| bad("has no tokenizer.ggml.scores".into()))?;
                let unknown = types.iter().position(|&t| t == 2).and_then(|i| tokens.get(i));
                let prefixed = !matches!(
                    self.content.metadata.get("tokenizer.ggml.add_space_prefix"),
                    Some(Value::Bool(false))
                );
                let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
                let mut decoders = vec![
                    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if prefixed {
                    steps.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                    "normalizer": {"type": "Sequence", "normalizers": steps},
                    "pre_tokenizer": null, "post_processor": null,
                    "decoder": {"type": "Sequence", "decoders": decoders},
                    "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                        "vocab": vocabulary, "merges": merges_from_scores(&tokens, &scores, &vocabulary)}})
            }
            other => return Err(bad(format!("the tokenizer model {other:?} is not supported"))),
        };
        Tokenizer::from_json(json.to_string().as_bytes()).map_err(|e| bad(e.to_string()))
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Pre-tokenizer, `ignore_merges` and normaliser for a value of `tokenizer.ggml.pre`.
fn pre_tokenizer(kind: &str) -> Option<(serde_json::Value, bool, serde_json::Value)> {
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, bytes]})
    };
    let none = serde_json::Value::Null;
    Some(match kind {
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let whole = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, whole]}), false, none)
        }
        "default" | "gpt-2" | "gpt2" => (split(GPT2), false, none),
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA3), true, none),
        "dbrx" | "phi-4" => (split(LLAMA3), false, none),
        "qwen2" | "deepseek-r1-qwen" => (split(QWEN2), false, json!({"type": "NFC"})),
        "tekken" => (split(TEKKEN), true, none),
        "gpt-4o" => (split(GPT4O), false, none),
        _ => return None,
    })
}

/// SentencePiece's scores as BPE merges: a piece may be made from any two pieces, better scores first.
fn merges_from_scores(tokens: &[String], scores: &[f64], ids: &HashMap<&str, usize>) -> Vec<String> {
    let mut merges: Vec<(f64, usize, usize, String)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, l, r, format!("{left} {right}")));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    merges.into_iter().map(|m| m.3).collect()
}

/// Names in `tokenizer.ggml.pre` that are written, one per kind.
const WRITTEN: [&str; 7] = ["smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"];

/// The `tokenizer.ggml.pre` of a `tokenizer.json`; `None` if a GGUF file cannot say what it does.
pub(super) fn kind_of(tokenizer: &serde_json::Value) -> Option<&'static str> {
    // Through the library and back, so that spelled-out defaults do not count as differences.
    let plain = |value: &serde_json::Value| {
        let parsed: tokenizers::PreTokenizerWrapper = serde_json::from_value(value.clone()).ok()?;
        serde_json::to_value(parsed).ok()
    };
    let ours = plain(&tokenizer["pre_tokenizer"])?;
    WRITTEN.into_iter().find(|kind| {
        pre_tokenizer(kind).is_some_and(|(pre, ignore_merges, normalizer)| {
            plain(&pre).as_ref() == Some(&ours)
                && (tokenizer["model"]["ignore_merges"] == true) == ignore_merges
                && tokenizer["normalizer"]["type"] == normalizer["type"]
        })
    })
}
