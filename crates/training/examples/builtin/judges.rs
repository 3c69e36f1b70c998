//! Rows and starts of the score models that ship: title and abstract, and how people rated the paper.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use models::{Architecture, DecoderConfig, LoadOptions, Model, ModelSource, Rope, RopeScaling, inventory};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use training::Companions;

use crate::prepare::{HELD_OUT, text};
use crate::rows;

/// What a score model is asked, as `improve::judge::QUESTION` has it.
const QUESTION: &str = include_str!("../../../../prompts/judge/score.md");

/// Papers of each year that are held out, beside the last of the structured reviews.
const HELD_OUT_SHARE: u8 = 12; // of 256

/// Ratings of a pair that is worth learning from differ by this much, in standard deviations of their years.
const CLEAR: f64 = 0.5;

/// Writes `a.train.jsonl` and `b.train.jsonl`, which share no title, and `eval.jsonl`; scores are mean human ratings in
/// standard deviations of their year. `a.pairs.jsonl` and `eval.pairs.jsonl` are pairs of the same papers.
pub fn prepare(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let mut papers = Vec::new();
    for paper in rows::read(&from.join("papers_abs.jsonl.zst"))? {
        let ratings: Vec<f64> =
            paper["ratings"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        papers.push((paper, ratings, false));
    }
    let structured = rows::read(&from.join("reviews_structured.jsonl.zst"))?;
    let held_out = structured.len().saturating_sub(HELD_OUT);
    for (i, paper) in structured.into_iter().enumerate() {
        let reviews = paper["reviews"].as_array().into_iter().flatten();
        let ratings: Vec<f64> = reviews.filter_map(|r| r["rating"].as_f64()).collect();
        papers.push((paper, ratings, i >= held_out));
    }
    papers.retain(|(p, ratings, _)| ratings.len() >= 2 && text(p, "abstract").len() > 200);
    let mut years: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    let mean = |r: &[f64]| r.iter().sum::<f64>() / r.len() as f64;
    for (p, ratings, _) in &papers {
        years.entry(p["year"].as_i64().unwrap_or_default()).or_default().push(mean(ratings));
    }
    let moments: BTreeMap<i64, (f64, f64)> = years
        .iter()
        .map(|(year, means)| {
            let m = mean(means);
            (*year, (m, (means.iter().map(|x| (x - m).powi(2)).sum::<f64>() / means.len() as f64).sqrt()))
        })
        .collect();
    let (mut a, mut b, mut eval) = (Vec::new(), Vec::new(), Vec::new());
    for (p, ratings, held) in &papers {
        let (m, sd) = moments[&p["year"].as_i64().unwrap_or_default()];
        let summary = text(p, "abstract").split_whitespace().collect::<Vec<_>>().join(" ");
        let row = json!({
            "prompt": QUESTION,
            "completion": format!("# {}\n\n## Abstract\n\n{summary}", text(p, "title")),
            "score": (mean(ratings) - m) / sd,
        });
        // By title, so that a paper that was submitted twice is on one side.
        let normal: String =
            text(p, "title").to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
        let digest = Sha256::digest(normal.as_bytes());
        if *held || digest[0] < HELD_OUT_SHARE {
            eval.push(row);
        } else if digest[1] % 2 == 0 {
            a.push(row);
        } else {
            b.push(row);
        }
    }
    println!(
        "{} papers for a, {} for b, {} held out; years (mean, deviation): {moments:.3?}",
        a.len(),
        b.len(),
        eval.len()
    );
    rows::write(&to.join("a.pairs.jsonl"), &pairs(&a, 2))?;
    rows::write(&to.join("eval.pairs.jsonl"), &pairs(&eval, 1))?;
    rows::write(&to.join("a.train.jsonl"), &rows::shuffle(a))?;
    rows::write(&to.join("b.train.jsonl"), &rows::shuffle(b))?;
    rows::write(&to.join("eval.jsonl"), &eval)?;
    rows::write(&to.join("few.jsonl"), &rows::shuffle(eval).into_iter().take(200).collect::<Vec<_>>())?;
    Ok(())
}

/// Each paper in `rounds` pairs, the better rated one chosen; pairs that are rated alike are left out.
fn pairs(rows: &[Value], rounds: u64) -> Vec<Value> {
    let rating = |row: &Value| row["score"].as_f64().unwrap_or_default();
    let mut made = Vec::new();
    for round in 0..rounds {
        let order = training::order(rows.len(), true, round, 0);
        for two in order.chunks_exact(2) {
            let (x, y) = (&rows[two[0]], &rows[two[1]]);
            if (rating(x) - rating(y)).abs() < CLEAR {
                continue;
            }
            let (chosen, rejected) = if rating(x) > rating(y) { (x, y) } else { (y, x) };
            made.push(json!({
                "prompt": QUESTION,
                "chosen": chosen["completion"],
                "rejected": rejected["completion"],
            }));
        }
    }
    made
}

/// A decoder with random weights and the tokenizer of `vocabulary`: N(0, 1/inputs), embeddings N(0, 0.1²).
pub fn scratch(
    vocabulary: &Path,
    out: &Path,
    hidden: usize,
    layers: usize,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let donor =
        Model::load(&ModelSource { path: vocabulary.into(), adapter: None }, &LoadOptions::default())?;
    let config = DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size: donor.decoder.config().vocab_size,
        hidden_size: hidden,
        intermediate_size: 3 * hidden,
        num_layers: layers,
        num_heads: hidden / 32,
        num_kv_heads: hidden / 32,
        head_dim: 32,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, rotary_dim: 32, scaling: RopeScaling::None },
        max_position_embeddings: 1024,
        sliding_window: vec![None; layers],
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
    };
    std::fs::create_dir_all(out)?;
    let mut tensors = HashMap::new();
    for (i, (name, shape)) in inventory(&config).into_iter().enumerate() {
        let count: usize = shape.iter().product();
        let deviation = match (name.as_str(), shape.get(1)) {
            ("model.embed_tokens.weight", _) => 0.1,
            (_, Some(inputs)) => 1.0 / (*inputs as f64).sqrt(),
            (_, None) => 0.0,
        };
        let values = if shape.len() == 1 {
            vec![1f32; count]
        } else {
            normal(seed * 1000 + i as u64, count, deviation)
        };
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    candle_core::safetensors::save(&tensors, out.join("model.safetensors"))?;
    let companions = Companions {
        config: &config,
        tokenizer: &donor.tokenizer,
        chat_template: "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        bos: None,
        eos: &donor.eos,
    };
    companions.write(out)?;
    Ok(())
}

/// Box–Muller over SplitMix64.
fn normal(seed: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut state = seed ^ 0x6a09_e667_f3bc_c908;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    };
    (0..count)
        .map(|_| ((-2.0 * next().ln()).sqrt() * (std::f64::consts::TAU * next()).cos() * deviation) as f32)
        .collect()
}

/// Rank correlation (Spearman), and the mean squared error, of a score model on rows.
pub fn measure(model: &Path, file: &Path, limit: usize) -> Result<(), Box<dyn Error>> {
    let judge = training::RewardModel::open(&ModelSource::parse(&model.to_string_lossy()))?;
    let all: Vec<Value> = rows::read(file)?.into_iter().take(limit).collect();
    let mut predicted = Vec::new();
    for chunk in all.chunks(64) {
        let answers: Vec<Value> = chunk.iter().map(|r| r["completion"].clone()).collect();
        let training::Verdict::Scores(scores) = judge.judge(&json!(QUESTION), &answers)?.verdict else {
            return Err("this reward model compares; it does not score".into());
        };
        predicted.extend(scores);
    }
    let known: Vec<f64> = all.iter().filter_map(|r| r["score"].as_f64()).collect();
    let n = known.len() as f64;
    let mse = known.iter().zip(&predicted).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / n;
    println!(
        "{}: {} papers, Spearman {:.3}, mean squared error {mse:.3} (variance {:.3}), predictions' deviation {:.3}",
        model.display(),
        known.len(),
        correlation(&ranks(&known), &ranks(&predicted)),
        variance(&known),
        variance(&predicted).sqrt()
    );
    Ok(())
}

fn variance(values: &[f64]) -> f64 {
    let m = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / values.len() as f64
}

/// Ranks; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut i = 0;
    while i < order.len() {
        let same = order[i..].iter().take_while(|&&k| values[k] == values[order[i]]).count();
        for &k in &order[i..i + same] {
            ranks[k] = i as f64 + (same as f64 - 1.0) / 2.0;
        }
        i += same;
    }
    ranks
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (ma, mb) = (a.iter().sum::<f64>() / a.len() as f64, b.iter().sum::<f64>() / b.len() as f64);
    let covariance: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    covariance / (variance(a) * variance(b)).sqrt() / a.len() as f64
}

/// A trained score model as it ships: weights in bf16, its head and settings beside them.
pub fn ship(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu)?;
    let halves: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(candle_core::DType::BF16)?)))
        .collect::<Result<_, candle_core::Error>>()?;
    candle_core::safetensors::save(&halves, to.join("model.safetensors"))?;
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "reward.json"]
    {
        if from.join(name).is_file() {
            std::fs::copy(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}
