//! The tensors that a configuration calls for.

use crate::config::{Architecture, DecoderConfig};

/// Name and shape of every tensor a decoder of this configuration reads, in the order of its layers.
pub fn inventory(c: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let (q, kv, hidden, inner) =
        (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.hidden_size, c.intermediate_size);
    let mut list = vec![("model.embed_tokens.weight".to_string(), vec![c.vocab_size, hidden])];
    for layer in 0..c.num_layers {
        let mut add =
            |name: &str, shape: Vec<usize>| list.push((format!("model.layers.{layer}.{name}"), shape));
        let mut linear = |name: &str, out: usize, inputs: usize, bias: bool| {
            add(&format!("{name}.weight"), vec![out, inputs]);
            if bias {
                add(&format!("{name}.bias"), vec![out]);
            }
        };
        if c.architecture == Architecture::Phi3 {
            linear("self_attn.qkv_proj", q + 2 * kv, hidden, c.qkv_bias);
            linear("mlp.gate_up_proj", 2 * inner, hidden, c.mlp_bias);
        } else {
            linear("self_attn.q_proj", q, hidden, c.qkv_bias);
            linear("self_attn.k_proj", kv, hidden, c.qkv_bias);
            linear("self_attn.v_proj", kv, hidden, c.qkv_bias);
            linear("mlp.gate_proj", inner, hidden, c.mlp_bias);
            linear("mlp.up_proj", inner, hidden, c.mlp_bias);
        }
        linear("self_attn.o_proj", hidden, q, c.o_bias);
        linear("mlp.down_proj", hidden, inner, c.mlp_bias);
        add("input_layernorm.weight", vec![hidden]);
        add("post_attention_layernorm.weight", vec![hidden]);
        if c.qk_norm {
            add("self_attn.q_norm.weight", vec![c.head_dim]);
            add("self_attn.k_norm.weight", vec![c.head_dim]);
        }
    }
    list.push(("model.norm.weight".into(), vec![hidden]));
    if !c.tie_word_embeddings {
        list.push(("lm_head.weight".into(), vec![c.vocab_size, hidden]));
    }
    list
}

/// Weights of a decoder of this configuration.
pub(crate) fn parameters(c: &DecoderConfig) -> u64 {
    inventory(c).iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
}
