//! What a decoder is made of, whatever file said so.

use serde::{Deserialize, Serialize};

/// The families whose details differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2 and whatever else calls itself `llama`.
    Llama,
    /// Mistral: a `head_dim` that need not be hidden/heads, sliding window.
    Mistral,
    /// Qwen2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMS norms on q and k per head.
    Qwen3,
    /// Phi-3 and Phi-4: fused `qkv_proj` and `gate_up_proj`, partial rotary, longrope.
    Phi3,
}

/// How rotary frequencies are changed for contexts longer than those first trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth band between; independent of length.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Start of the smooth band.
        low_freq_factor: f64,
        /// End of the smooth band.
        high_freq_factor: f64,
        /// Context of the first training.
        original_max_position_embeddings: usize,
    },
    /// Phi: one factor per frequency, a short and a long set; the long one is used for *all* positions of a sequence as
    /// soon as its total length exceeds `original_max_position_embeddings`.
    LongRope {
        /// Factors up to the original context.
        short_factor: Vec<f64>,
        /// Factors beyond it.
        long_factor: Vec<f64>,
        /// Context of the first training.
        original_max_position_embeddings: usize,
        /// Multiplies cos and sin in both regimes.
        attention_factor: f64,
    },
}

/// Rotary position embedding (arXiv 2104.09864), half-split as in `transformers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// The first so many dimensions of a head turn.
    pub rotary_dim: usize,
    /// Scaling for long contexts.
    pub scaling: RopeScaling,
}

/// A decoder-only transformer: pre-norm blocks of grouped-query attention and SwiGLU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Per layer: key j is visible to query i iff i - w < j <= i; `None` is full causal attention.
    pub sliding_window: Vec<Option<usize>>,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention output.
    pub o_bias: bool,
    /// Biases on gate, up, down.
    pub mlp_bias: bool,
    /// RMS norms on each q and k head.
    pub qk_norm: bool,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
}

/// Far beyond any published model; what is larger is a damaged file, and nothing of that size may be allocated.
pub(crate) const MOST_LAYERS: usize = 4_096;
const LARGEST: [(&str, usize); 6] = [
    ("layers", MOST_LAYERS),
    ("attention heads", 65_536),
    ("wide heads", 65_536),
    ("wide hidden states", 1 << 20),
    ("wide feed-forward layers", 1 << 22),
    ("tokens in its vocabulary", 1 << 20),
];

impl DecoderConfig {
    /// What makes no sense about these sizes, whatever file they came from.
    pub(crate) fn nonsense(&self) -> Option<String> {
        let (heads, kv_heads, turned) = (self.num_heads, self.num_kv_heads, self.rope.rotary_dim);
        let sizes = [
            self.num_layers,
            heads,
            self.head_dim,
            self.hidden_size,
            self.intermediate_size,
            self.vocab_size,
        ];
        for ((what, largest), size) in LARGEST.into_iter().zip(sizes) {
            if size == 0 || size > largest {
                return Some(format!("{size} {what}; 1 to {largest} make sense"));
            }
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Some(format!("{heads} attention heads cannot share {kv_heads} key heads"));
        }
        if turned == 0 || !turned.is_multiple_of(2) || turned > self.head_dim {
            return Some(format!("rotary dimension {turned} of a head of {}", self.head_dim));
        }
        if self.max_position_embeddings == 0 {
            return Some("a context of 0 tokens".into());
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let scaling = match &self.rope.scaling {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } => positive(*factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                positive(*factor) && positive(*low_freq_factor) && high_freq_factor > low_freq_factor
            }
            RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } => {
                let mut all = short_factor.iter().chain(long_factor).chain([attention_factor]);
                all.all(|&x| positive(x))
            }
        };
        if !scaling || !positive(self.rope.theta) {
            return Some("rotary frequencies of a factor or base that is not above 0".into());
        }
        (!positive(self.rms_norm_eps)).then(|| format!("rms_norm_eps {}", self.rms_norm_eps))
    }
}
