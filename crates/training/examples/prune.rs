//! Makes a small start from SmolLM2-135M-Instruct: some of its layers, the tokens that a corpus uses.
//!
//!     cargo run -p training --example prune -- SmolLM2.gguf ROWS.jsonl OUT_DIR TOKENS LAYER,LAYER,...
//!
//! A byte-level BPE stays lossless when tokens are dropped, as long as all single bytes stay and every kept token's
//! merge has both of its parts: a dropped token is then spelled by its parts. Writes a Hugging Face folder.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use models::WeightSource;
use models::gguf::Gguf;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [gguf, rows, out, tokens, layers] = args.as_slice() else {
        return Err("usage: prune MODEL.gguf ROWS.jsonl OUT_DIR TOKENS LAYER,LAYER,...".into());
    };
    let (out, wanted): (&Path, usize) = (Path::new(out), tokens.parse()?);
    let layers: Vec<usize> = layers.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let gguf = Gguf::open(Path::new(gguf))?;
    let tokenizer = gguf.tokenizer()?;
    let mut config = gguf.config()?;

    let mut counts = vec![0u64; config.vocab_size];
    for line in BufReader::new(fs::File::open(rows)?).lines().step_by(3) {
        let row: Value = serde_json::from_str(&line?)?;
        for message in row["messages"].as_array().into_iter().flatten() {
            for id in tokenizer.encode(message["content"].as_str().unwrap_or_default())? {
                counts[id as usize] += 1;
            }
        }
    }
    let mut json: Value = serde_json::from_str(&tokenizer.to_json()?)?;
    let vocabulary: HashMap<String, u32> = serde_json::from_value(json["model"]["vocab"].clone())?;
    let merges: Vec<(String, String)> = json["model"]["merges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| match m {
            Value::Array(pair) => Some((pair[0].as_str()?.into(), pair[1].as_str()?.into())),
            other => other.as_str()?.split_once(' ').map(|(a, b)| (a.into(), b.into())),
        })
        .collect();
    let made: HashMap<String, (String, String)> =
        merges.iter().map(|(a, b)| (format!("{a}{b}"), (a.clone(), b.clone()))).collect();

    let mut kept: BTreeSet<u32> = BTreeSet::new();
    let special: Vec<u32> = (0..config.vocab_size as u32).filter(|&id| tokenizer.is_special(id)).collect();
    // Turn marks, beginning and end; the rest of SmolLM2's special tokens are for code and files.
    kept.extend(special.iter().filter(|&&id| id <= 2));
    kept.extend(
        vocabulary
            .iter()
            .filter(|(t, id)| t.chars().count() == 1 && !special.contains(id))
            .map(|(_, id)| *id),
    );
    let mut order: Vec<u32> = (0..config.vocab_size as u32).filter(|id| !special.contains(id)).collect();
    order.sort_by_key(|&id| std::cmp::Reverse((counts[id as usize], std::cmp::Reverse(id))));
    for id in order {
        if kept.len() >= wanted || counts[id as usize] == 0 {
            break;
        }
        let mut stack: Vec<String> = tokenizer.token(id).into_iter().collect();
        while let Some(token) = stack.pop() {
            let Some(&id) = vocabulary.get(&token) else { continue };
            if kept.insert(id) {
                if let Some((a, b)) = made.get(&token) {
                    stack.extend([a.clone(), b.clone()]);
                }
            }
        }
    }
    let old: Vec<u32> = kept.iter().copied().collect();
    let new: HashMap<u32, usize> = old.iter().enumerate().map(|(new, &old)| (old, new)).collect();
    let covered: u64 = old.iter().map(|&id| counts[id as usize]).sum();
    println!(
        "{} tokens kept; they are {:.2} % of the corpus",
        old.len(),
        100.0 * covered as f64 / counts.iter().sum::<u64>() as f64
    );

    let renamed: HashMap<&String, usize> =
        vocabulary.iter().filter_map(|(t, id)| Some((t, *new.get(id)?))).collect();
    json["model"]["merges"] = merges
        .iter()
        .filter(|(a, b)| [a, b, &format!("{a}{b}")].iter().all(|t| renamed.contains_key(*t)))
        .map(|(a, b)| json!([a, b]))
        .collect();
    json["model"]["vocab"] = json!(renamed);
    let added: Vec<Value> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|t| {
            let id = new.get(&(t["id"].as_u64()? as u32))?;
            let mut t = t.clone();
            t["id"] = json!(id);
            Some(t)
        })
        .collect();
    json["added_tokens"] = json!(added);

    fs::create_dir_all(out)?;
    let index = Tensor::new(old.as_slice(), &Device::Cpu)?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let embedding = gguf.tensor("model.embed_tokens.weight")?.to_dtype(DType::F32)?;
    tensors.insert("model.embed_tokens.weight".into(), embedding.index_select(&index, 0)?);
    tensors.insert("model.norm.weight".into(), gguf.tensor("model.norm.weight")?);
    for name in gguf.names() {
        let Some((layer, rest)) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')) else {
            continue;
        };
        if let Some(place) = layers.iter().position(|l| l.to_string() == layer) {
            tensors.insert(format!("model.layers.{place}.{rest}"), gguf.tensor(&name)?.to_dtype(DType::F32)?);
        }
    }
    config.vocab_size = old.len();
    config.num_layers = layers.len();
    let parameters: usize = tensors.values().map(|t| t.elem_count()).sum();
    println!("{parameters} parameters");
    candle_core::safetensors::save(&tensors, out.join("model.safetensors"))?;
    let write = |name: &str, value: &Value| {
        fs::write(out.join(name), serde_json::to_string_pretty(value)?)
            .map_err(Box::<dyn std::error::Error>::from)
    };
    write("tokenizer.json", &json)?;
    write(
        "config.json",
        &json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
            "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope.theta, "max_position_embeddings": 2048,
            "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "torch_dtype": "float32"}),
    )?;
    write(
        "tokenizer_config.json",
        &json!({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>",
            "chat_template": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"}),
    )?;
    Ok(())
}
