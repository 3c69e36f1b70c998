//! Fewer layers and fewer tokens of a llama-architecture GGUF file, as a folder to train on; and back into GGUF.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use models::gguf::{Gguf, GgufHeader};
use models::{DecoderConfig, LoadOptions, Model, ModelSource, SafetensorsFolder, Tokenizer, WeightSource};
use serde_json::{Value, json};
use training::Companions;

use crate::rows;

/// Turn marks and nothing else: the source's template puts its own name into every dialogue.
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + \
                        '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Writes a Hugging Face folder with the given layers and about `vocabulary` tokens, those that `corpus` uses most.
pub fn run(
    model: &Path,
    corpus: &Path,
    out: &Path,
    layers: &[usize],
    vocabulary: usize,
) -> Result<(), Box<dyn Error>> {
    let gguf = Gguf::open(model)?;
    let (config, tokenizer) = (gguf.config()?, gguf.tokenizer()?);
    let (tokenizer, kept) = trim(&tokenizer, corpus, vocabulary)?;
    std::fs::create_dir_all(out)?;
    let mut tensors = HashMap::new();
    let rows = Tensor::new(kept.clone(), &Device::Cpu)?;
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        if gguf.names().iter().any(|n| n == name) {
            tensors
                .insert(name.to_string(), gguf.tensor(name)?.to_dtype(DType::F32)?.index_select(&rows, 0)?);
        }
    }
    tensors.insert("model.norm.weight".into(), gguf.tensor("model.norm.weight")?.to_dtype(DType::F32)?);
    for (new, old) in layers.iter().enumerate() {
        let (from, to) = (format!("model.layers.{old}."), format!("model.layers.{new}."));
        for name in gguf.names().iter().filter(|n| n.starts_with(&from)) {
            tensors.insert(name.replace(&from, &to), gguf.tensor(name)?.to_dtype(DType::F32)?);
        }
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(&tensors, Some(metadata), &out.join("model.safetensors"))?;
    let (bos, eos) = (tokenizer.id("<|im_start|>"), tokenizer.id("<|im_end|>"));
    let eos: Vec<u32> = eos.into_iter().collect();
    let pruned = DecoderConfig {
        vocab_size: kept.len(),
        num_layers: layers.len(),
        sliding_window: layers.iter().map(|&l| config.sliding_window[l]).collect(),
        ..config
    };
    Companions { config: &pruned, tokenizer: &tokenizer, chat_template: TEMPLATE, bos, eos: &eos }
        .write(out)?;
    let parameters: usize = tensors.values().map(Tensor::elem_count).sum();
    println!("{} tokens, {} layers, {parameters} parameters", kept.len(), layers.len());
    Ok(())
}

/// A byte-level BPE tokenizer with fewer tokens, and the old ids of those it keeps, in order.
///
/// All bytes and all added tokens stay, so every text can still be written; a token stays only together with the two
/// that its merge joins.
fn trim(tokenizer: &Tokenizer, corpus: &Path, size: usize) -> Result<(Tokenizer, Vec<u32>), Box<dyn Error>> {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    let mut seen = 0;
    for row in rows::read(corpus)? {
        for message in row["messages"].as_array().into_iter().flatten() {
            for id in tokenizer.encode(message["content"].as_str().unwrap_or_default())? {
                *counts.entry(id).or_default() += 1;
                seen += 1;
            }
        }
    }
    let mut json: Value = serde_json::from_str(&tokenizer.to_json()?)?;
    let pair = |merge: &Value| -> Option<(String, String)> {
        match merge {
            Value::Array(two) => Some((two.first()?.as_str()?.into(), two.get(1)?.as_str()?.into())),
            other => other.as_str()?.split_once(' ').map(|(a, b)| (a.into(), b.into())),
        }
    };
    let merges: Vec<(String, String)> =
        json["model"]["merges"].as_array().into_iter().flatten().filter_map(pair).collect();
    let mut parts: HashMap<String, (String, String)> = HashMap::new();
    for (a, b) in &merges {
        // The first merge that makes a token is the one that applies.
        parts.entry(format!("{a}{b}")).or_insert_with(|| (a.clone(), b.clone()));
    }
    let vocab: HashMap<String, u32> = serde_json::from_value(json["model"]["vocab"].clone())?;
    let mut kept: BTreeSet<u32> =
        vocab.iter().filter(|(t, _)| !parts.contains_key(*t)).map(|(_, id)| *id).collect();
    let mut order: Vec<(u64, u32)> = counts.iter().map(|(id, n)| (*n, *id)).collect();
    order.sort_by_key(|(n, id)| (std::cmp::Reverse(*n), *id));
    for (_, id) in order {
        let mut needed = BTreeSet::new();
        let mut open: Vec<String> = tokenizer.token(id).into_iter().collect();
        while let Some(token) = open.pop() {
            if let Some(id) = vocab.get(&token)
                && needed.insert(*id)
                && let Some((a, b)) = parts.get(&token)
            {
                open.extend([a.clone(), b.clone()]);
            }
        }
        if kept.union(&needed).count() <= size {
            kept.extend(needed);
        }
        if kept.len() == size {
            break;
        }
    }
    let kept: Vec<u32> = kept.into_iter().collect();
    let new: HashMap<u32, usize> = kept.iter().enumerate().map(|(new, old)| (*old, new)).collect();
    let place = |token: &str| vocab.get(token).and_then(|id| new.get(id)).copied();
    let slim: serde_json::Map<String, Value> =
        vocab.keys().filter_map(|t| Some((t.clone(), json!(place(t)?)))).collect();
    let all_there =
        |a: &str, b: &str| place(a).is_some() && place(b).is_some() && place(&format!("{a}{b}")).is_some();
    json["model"]["merges"] =
        merges.iter().filter(|(a, b)| all_there(a, b)).map(|(a, b)| json!([a, b])).collect();
    json["model"]["vocab"] = Value::Object(slim);
    for added in json["added_tokens"].as_array_mut().into_iter().flatten() {
        let old = added["id"].as_u64().unwrap_or_default() as u32;
        added["id"] = json!(new.get(&old).ok_or("an added token was lost")?);
    }
    let covered: u64 = kept.iter().filter_map(|id| counts.get(id)).sum();
    println!("{:.2} % of {seen} tokens are kept as they are", 100.0 * covered as f64 / seen as f64);
    Ok((Tokenizer::from_json(json.to_string().as_bytes())?, kept))
}

/// Matrices of `kind`, the embedding (which is the head too) in Q8_0.
pub fn quantize(folder: &Path, out: &Path, name: &str, kind: &str) -> Result<(), Box<dyn Error>> {
    let kind = match kind {
        "q4_1" => GgmlDType::Q4_1,
        "q5_0" => GgmlDType::Q5_0,
        "q5_1" => GgmlDType::Q5_1,
        "q8_0" => GgmlDType::Q8_0,
        other => return Err(format!("{other}: one of q4_1, q5_0, q5_1, q8_0").into()),
    };
    let source = ModelSource { path: folder.into(), adapter: None };
    let model = Model::load(&source, &LoadOptions::default())?;
    let header = GgufHeader {
        name,
        config: model.decoder.config(),
        tokenizer: &model.tokenizer,
        chat_template: Some(model.chat.source()),
        bos: model.bos,
        eos: model.eos.first().copied(),
    };
    let weights = SafetensorsFolder::open(folder)?;
    let of = |name: &str| if name.contains("embed_tokens") { GgmlDType::Q8_0 } else { kind };
    models::gguf::write_mixed(out, &header, &weights, &of)?;
    println!("{} bytes", std::fs::metadata(out)?.len());
    Ok(())
}
