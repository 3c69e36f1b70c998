//! BERT as a text encoder (arXiv 1810.04805; sentence embeddings as in arXiv 1908.10084): for `cycle embed`.
//!
//! Texts run one by one without padding, so that a text's vector does not depend on what is embedded beside it.

use std::path::Path;

use candle_core::{D, DType, Device, Result as Candle, Tensor};
use kernels::{PackedWeight, WeightType};
use serde_json::{Value, json};

use crate::error::ModelError;
use crate::hash::sha256_of_files;
use crate::tokenizer::Tokenizer;
use crate::weights::{SafetensorsFolder, WeightSource, read};

/// A BERT encoder with its tokenizer and pooling, on the CPU in f32.
pub struct TextEncoder {
    words: Tensor,
    positions: Tensor,
    kinds: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    tokenizer: Option<Tokenizer>,
    max_tokens: usize,
    pooling: Pooling,
    normalize: bool,
    sha256: String,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    /// Their mean, `[CLS]` and `[SEP]` included.
    Mean,
    /// The first one.
    Cls,
}

struct Linear {
    weight: PackedWeight,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Candle<Tensor> {
        self.weight.linear(x, Some(&self.bias))
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Candle<Tensor> {
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps)
    }
}

/// A post-norm block.
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// Sizes from `config.json`.
struct Sizes {
    vocabulary: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    positions: usize,
    kinds: usize,
    eps: f32,
}

struct Loader<'a> {
    source: &'a SafetensorsFolder,
    /// Some checkpoints put `bert.` before every name.
    prefix: &'static str,
    eps: f32,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.source.tensor(&name)?.to_dtype(DType::F32)?;
        if tensor.dims() != shape {
            let found = tensor.dims().to_vec();
            return Err(ModelError::Shape { name, found, expected: shape.to_vec() });
        }
        if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(ModelError::NotFinite(name));
        }
        Ok(tensor)
    }

    fn linear(&self, name: &str, out: usize, inputs: usize) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, inputs])?;
        let bias = self.tensor(&format!("{name}.bias"), &[out])?;
        Ok(Linear { weight: PackedWeight::pack(&weight, WeightType::F32)?, bias })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &[width])?;
        let bias = self.tensor(&format!("{name}.bias"), &[width])?;
        Ok(Norm { weight, bias, eps: self.eps })
    }

    fn layer(&self, at: usize, s: &Sizes) -> Result<Layer, ModelError> {
        let name = |part: &str| format!("encoder.layer.{at}.{part}");
        let square = |part: &str| self.linear(&name(part), s.hidden, s.hidden);
        Ok(Layer {
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            out: square("attention.output.dense")?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), s.hidden)?,
            up: self.linear(&name("intermediate.dense"), s.inner, s.hidden)?,
            down: self.linear(&name("output.dense"), s.hidden, s.inner)?,
            norm: self.norm(&name("output.LayerNorm"), s.hidden)?,
        })
    }
}

impl TextEncoder {
    /// Loads a Hugging Face or sentence-transformers folder.
    ///
    /// # Errors
    /// If it is no BERT with absolute positions and exact gelu, or a file or tensor is missing or damaged.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let sizes = sizes(folder)?;
        let source = SafetensorsFolder::open(folder)?;
        let prefixed = source.names().iter().any(|n| n.starts_with("bert.embeddings."));
        let load = Loader { source: &source, prefix: if prefixed { "bert." } else { "" }, eps: sizes.eps };
        let h = sizes.hidden;
        let tokenizer = tokenizer(folder)?;
        if let Some(t) = tokenizer.as_ref().filter(|t| t.size() > sizes.vocabulary) {
            return Err(ModelError::Vocabulary { tokenizer: t.size(), embedding: sizes.vocabulary });
        }
        let pooling = optional(folder, "1_Pooling/config.json")?;
        let modules = optional(folder, "modules.json")?;
        let limit = optional(folder, "sentence_bert_config.json")?["max_seq_length"].as_u64();
        Ok(Self {
            words: load.tensor("embeddings.word_embeddings.weight", &[sizes.vocabulary, h])?,
            positions: load.tensor("embeddings.position_embeddings.weight", &[sizes.positions, h])?,
            kinds: load.tensor("embeddings.token_type_embeddings.weight", &[sizes.kinds, h])?,
            norm: load.norm("embeddings.LayerNorm", h)?,
            layers: (0..sizes.layers).map(|i| load.layer(i, &sizes)).collect::<Result<_, _>>()?,
            heads: sizes.heads,
            tokenizer,
            max_tokens: limit.map_or(sizes.positions, |n| sizes.positions.min(n as usize)),
            pooling: if pooling["pooling_mode_cls_token"] == true { Pooling::Cls } else { Pooling::Mean },
            // A plain checkpoint says nothing; cosine similarity is what its vectors are for.
            normalize: modules.is_null() || modules.to_string().contains("Normalize"),
            sha256: sha256_of_files(&SafetensorsFolder::files(folder)?)?,
        })
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.words.dims().last().copied().unwrap_or(0)
    }

    /// Tokens of a text that are read; what is longer is cut.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// SHA-256 (hex) of the weight files.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Ids of a text, `[CLS]` and `[SEP]` included, and whether it was cut.
    ///
    /// # Errors
    /// If the checkpoint has no tokenizer.
    pub fn tokens(&self, text: &str) -> Result<(Vec<u32>, bool), ModelError> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| {
            ModelError::Tokenizer("the checkpoint has neither tokenizer.json nor vocab.txt".into())
        })?;
        let mut ids = tokenizer.encode_with_special(text)?;
        let cut = ids.len() > self.max_tokens;
        if let (true, Some(&last)) = (cut, ids.last()) {
            ids.truncate(self.max_tokens.saturating_sub(1));
            ids.push(last);
        }
        Ok((ids, cut))
    }

    /// One vector per text, pooled as the checkpoint says (by default the mean, of length 1).
    ///
    /// # Errors
    /// If the checkpoint has no tokenizer.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>, ModelError> {
        texts.iter().map(|text| self.pool(&self.tokens(text.as_ref())?.0)).collect()
    }

    /// The vector of one sequence of ids.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn pool(&self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        let hidden = self.hidden(ids, &vec![0; ids.len()])?;
        let pooled = match self.pooling {
            Pooling::Mean => hidden.mean(0)?,
            Pooling::Cls => hidden.get(0)?,
        };
        let mut vector = pooled.to_vec1::<f32>()?;
        if self.normalize {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            vector.iter_mut().for_each(|x| *x /= length);
        }
        Ok(vector)
    }

    /// Last hidden states `[tokens, hidden]` of one sequence; `kinds` are the token types (0, or 1 for a second text).
    ///
    /// # Errors
    /// If the sequence is empty or longer than the positions, or an id lies outside the vocabulary.
    pub fn hidden(&self, ids: &[u32], kinds: &[u32]) -> Result<Tensor, ModelError> {
        let (rows, positions) = (self.words.dim(0)?, self.positions.dim(0)?);
        if ids.is_empty() || ids.len() > positions || ids.len() != kinds.len() {
            return Err(ModelError::Tokenizer(format!(
                "{} tokens; 1 to {positions} can be embedded",
                ids.len()
            )));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(ModelError::Tokenizer(format!("token {id} is outside the vocabulary of {rows}")));
        }
        let words = self.words.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let kinds = self.kinds.index_select(&Tensor::new(kinds, &Device::Cpu)?, 0)?;
        let positions = self.positions.narrow(0, 0, ids.len())?;
        let mut h = self.norm.forward(&((words + kinds)? + positions)?)?;
        for layer in &self.layers {
            h = layer.forward(&h, self.heads)?;
        }
        Ok(h)
    }
}

impl Layer {
    fn forward(&self, h: &Tensor, heads: usize) -> Candle<Tensor> {
        let (tokens, width) = h.dims2()?;
        let dim = width / heads;
        // [tokens, width] → [heads, tokens, dim]
        let split = |x: Tensor| x.reshape((tokens, heads, dim))?.transpose(0, 1)?.contiguous();
        let (q, k, v) =
            (split(self.query.forward(h)?)?, split(self.key.forward(h)?)?, split(self.value.forward(h)?)?);
        let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (dim as f64).sqrt())?;
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let mixed = mixed.transpose(0, 1)?.contiguous()?.reshape((tokens, width))?;
        let h = self.attention_norm.forward(&(h + self.out.forward(&mixed)?)?)?;
        let inner = self.up.forward(&h)?.gelu_erf()?;
        self.norm.forward(&(&h + self.down.forward(&inner)?)?)
    }
}

fn optional(folder: &Path, name: &str) -> Result<Value, ModelError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(&path)?).map_err(|e| ModelError::invalid(&path, e))
}

fn sizes(folder: &Path) -> Result<Sizes, ModelError> {
    if folder.is_file() {
        return Err(ModelError::invalid(
            folder,
            "is a file; embedding needs the folder of a BERT checkpoint",
        ));
    }
    let path = folder.join("config.json");
    let config: Value = serde_json::from_slice(&read(&path)?).map_err(|e| ModelError::invalid(&path, e))?;
    if config["model_type"] != "bert" {
        let kind = config["model_type"].as_str().unwrap_or("of no kind");
        return Err(ModelError::invalid(&path, format!("the model is {kind}; embedding needs bert")));
    }
    if config["position_embedding_type"].as_str().is_some_and(|t| t != "absolute") {
        return Err(ModelError::invalid(&path, "only absolute positions are supported"));
    }
    if config["hidden_act"].as_str().is_some_and(|a| a != "gelu") {
        return Err(ModelError::invalid(
            &path,
            format!("hidden_act {} is not supported, only gelu", config["hidden_act"]),
        ));
    }
    let count = |key: &str| {
        config[key]
            .as_u64()
            .filter(|&n| n > 0 && n < 1 << 32)
            .map(|n| n as usize)
            .ok_or_else(|| ModelError::invalid(&path, format!("has no {key}")))
    };
    let sizes = Sizes {
        vocabulary: count("vocab_size")?,
        hidden: count("hidden_size")?,
        inner: count("intermediate_size")?,
        layers: count("num_hidden_layers")?,
        heads: count("num_attention_heads")?,
        positions: count("max_position_embeddings")?,
        kinds: count("type_vocab_size")?,
        eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32,
    };
    if !sizes.hidden.is_multiple_of(sizes.heads) {
        return Err(ModelError::invalid(
            &path,
            format!("{} heads cannot share {}", sizes.heads, sizes.hidden),
        ));
    }
    Ok(sizes)
}

/// `tokenizer.json`, or WordPiece over `vocab.txt`.
fn tokenizer(folder: &Path) -> Result<Option<Tokenizer>, ModelError> {
    let file = folder.join("tokenizer.json");
    if file.exists() {
        return Tokenizer::from_file(&file).map(Some);
    }
    let list = folder.join("vocab.txt");
    if !list.exists() {
        return Ok(None);
    }
    let about = optional(folder, "tokenizer_config.json")?;
    let text = String::from_utf8(read(&list)?).map_err(|e| ModelError::invalid(&list, e))?;
    let vocabulary: serde_json::Map<String, Value> =
        text.lines().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
    let special = |word: &str| -> Result<Value, ModelError> {
        let id = vocabulary.get(word).ok_or_else(|| ModelError::invalid(&list, format!("has no {word}")))?;
        Ok(json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}))
    };
    let marks =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].into_iter().map(special).collect::<Result<Vec<_>, _>>()?;
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": marks,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": about["strip_accents"], "lowercase": about["do_lower_case"].as_bool().unwrap_or(true)},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", vocabulary["[SEP]"]],
            "cls": ["[CLS]", vocabulary["[CLS]"]]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary}});
    Tokenizer::from_json(json.to_string().as_bytes()).map(Some).map_err(|e| ModelError::invalid(&list, e))
}
