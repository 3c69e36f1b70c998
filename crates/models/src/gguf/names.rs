//! Names of tensors in GGUF files and at Hugging Face.

/// Names of blocks in GGUF and at Hugging Face.
const BLOCK_NAMES: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a tensor. `fused` for phi3, whose `ffn_up` holds gate and up in one.
pub(super) fn hf_name(name: &str, fused: bool) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let mut parts = name.strip_prefix("blk.")?.splitn(3, '.');
    let (layer, block, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (_, ours) = BLOCK_NAMES.iter().find(|(theirs, _)| *theirs == block)?;
    let ours = if fused && block == "ffn_up" { "mlp.gate_up_proj" } else { ours };
    Some(format!("model.layers.{layer}.{ours}.{kind}"))
}

/// The GGUF name of a Hugging Face tensor.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (block, kind) = rest.rsplit_once('.')?;
    let (theirs, _) = BLOCK_NAMES.iter().find(|(_, ours)| *ours == block)?;
    Some(format!("blk.{layer}.{theirs}.{kind}"))
}
