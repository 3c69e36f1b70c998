//! A model of thirty thousand weights and a few hundred rows, made by seed: something to train in seconds on any machine.
//!
//! The rows are ours, put together from a dozen words each: a review that names a table is preferred to one that only has
//! a feeling. The model starts at random and speaks no language at all.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use models::{Architecture, DecoderConfig, Rope, RopeScaling, Tokenizer, inventory};
use serde_json::{Value, json};

use crate::checkpoint::{beside, discard, whole};
use crate::error::TrainError;
use crate::folder::Companions;
use crate::tensors::write_tensors;

/// Changes whenever what [`ensure`] makes changes.
const VERSION: &str = "1";

const METHODS: [&str; 8] =
    ["pruning", "search", "distillation", "routing", "caching", "sampling", "tuning", "masking"];
const TASKS: [&str; 8] =
    ["parsing", "ranking", "planning", "tagging", "retrieval", "dialogue", "coding", "translation"];
const FEELINGS: [&str; 4] = ["nice", "odd", "fine", "strange"];
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + \
                        '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Makes a folder with `model/`, `pairs.jsonl`, `pairs.eval.jsonl` and `dialogues.jsonl`, unless it is there already.
/// Several processes may ask at once.
///
/// # Errors
/// If the disk is full or the place cannot be written.
pub fn ensure(folder: &Path) -> Result<(), TrainError> {
    let made = || fs::read_to_string(folder.join("version")).is_ok_and(|v| v == VERSION);
    if made() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above).map_err(TrainError::io(above))?;
    }
    let own = beside(folder, &format!(".{}", std::process::id()));
    write(&own)?;
    if folder.exists() && !made() {
        discard(folder)?;
    }
    match fs::rename(&own, folder) {
        // Another process was quicker, and made the same.
        Err(_) if made() => fs::remove_dir_all(&own).map_err(TrainError::io(&own)),
        other => other.map_err(TrainError::io(folder)),
    }
}

fn write(folder: &Path) -> Result<(), TrainError> {
    whole(folder, |folder| {
        let lines = |name: &str, rows: &[Value]| {
            let path = folder.join(name);
            let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
            fs::write(&path, text).map_err(TrainError::io(&path))
        };
        let all: Vec<(usize, usize)> = (0..64).map(|i| (i / 8, i % 8)).collect();
        // Every method and every task are met in training, these eight pairs of them are not.
        let (held_out, seen): (Vec<_>, Vec<_>) = all.into_iter().partition(|(m, t)| (m + t) % 8 == 3);
        let of = |pairs: &[(usize, usize)], versions: usize| -> Vec<Row> {
            (0..versions).flat_map(|v| pairs.iter().map(move |&(m, t)| Row::new(m, t, v))).collect()
        };
        let (train, eval) = (of(&seen, 4), of(&held_out, 3));
        lines("pairs.jsonl", &train.iter().map(Row::pair).collect::<Vec<_>>())?;
        lines("pairs.eval.jsonl", &eval.iter().map(Row::pair).collect::<Vec<_>>())?;
        lines("dialogues.jsonl", &train.iter().map(Row::dialogue).collect::<Vec<_>>())?;
        let model = folder.join("model");
        fs::create_dir(&model).map_err(TrainError::io(&model))?;
        checkpoint(&model)?;
        let path = folder.join("version");
        fs::write(&path, VERSION).map_err(TrainError::io(&path))
    })
}

struct Row {
    question: String,
    good: String,
    bad: String,
}

impl Row {
    fn new(method: usize, task: usize, version: usize) -> Self {
        let (m, t) = (METHODS[method], TASKS[task]);
        let (table, feeling) = ((method + version) % 4 + 1, FEELINGS[(task + version) % 4]);
        Self {
            question: format!("Review: {m} for {t}"),
            good: format!("Table {table} shows that {m} helps {t}."),
            bad: format!("I feel that {m} is {feeling}."),
        }
    }

    fn pair(&self) -> Value {
        let answer = |text: &str| json!([{"role": "assistant", "content": text}]);
        json!({"prompt": [{"role": "user", "content": self.question}], "chosen": answer(&self.good),
            "rejected": answer(&self.bad)})
    }

    fn dialogue(&self) -> Value {
        json!({"messages": [{"role": "user", "content": self.question},
            {"role": "assistant", "content": self.good}]})
    }
}

/// Every word the rows use, with the space before it where it has one.
fn words() -> Vec<String> {
    let frame = "user assistant Review: for Table shows that helps I feel is";
    let words = METHODS.iter().chain(&TASKS).chain(&FEELINGS).copied().chain(frame.split(' '));
    let marked = |word: &str| {
        let word = word.trim_end_matches(':');
        let first = ["user", "assistant", "Review", "Table", "I"].contains(&word);
        format!("{}{word}", if first { "" } else { "Ġ" })
    };
    words.map(marked).collect()
}

/// GPT-2's spelling of a byte as a character.
fn spelled(byte: u8) -> char {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !plain(*b)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

/// A byte-level BPE tokenizer whose merges grow each word from its beginning, letter by letter.
fn tokenizer() -> Result<Tokenizer, TrainError> {
    let mut vocabulary: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |token: String| {
        let next = vocabulary.len();
        *vocabulary.entry(token).or_insert(next) == next
    };
    for token in SPECIAL.map(str::to_string).into_iter().chain((0..=255u8).map(|b| spelled(b).to_string())) {
        add(token);
    }
    let mut merges = Vec::new();
    for word in words() {
        for (at, letter) in word.char_indices().skip(1) {
            if add(word[..at + letter.len_utf8()].to_string()) {
                merges.push(json!([word[..at], letter.to_string()]));
            }
        }
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, bytes(true)]},
        "post_processor": null, "decoder": bytes(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges}});
    Ok(Tokenizer::from_json(json.to_string().as_bytes())?)
}

fn checkpoint(folder: &Path) -> Result<(), TrainError> {
    let tokenizer = tokenizer()?;
    let config = DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size: tokenizer.size(),
        hidden_size: 32,
        intermediate_size: 64,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, rotary_dim: 8, scaling: RopeScaling::None },
        max_position_embeddings: 256,
        sliding_window: vec![None; 2],
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
    };
    let mut state = 0x6d69_6e69u64;
    let mut uniform = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut tensors = HashMap::new();
    for (name, shape) in inventory(&config) {
        let count: usize = shape.iter().product();
        // Sums over the inputs of a matrix begin near 1; norms begin as no norm at all.
        let bound = shape.get(1).map(|&inputs| (3.0 / inputs as f64).sqrt());
        let values: Vec<f32> =
            (0..count).map(|_| bound.map_or(1.0, |bound| ((2.0 * uniform() - 1.0) * bound) as f32)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    write_tensors(&folder.join("model.safetensors"), &tensors)?;
    Companions { config: &config, tokenizer: &tokenizer, chat_template: TEMPLATE, bos: None, eos: &[2, 0] }
        .write(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mini_folder_is_the_same_bytes_every_time_and_its_words_are_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        ensure(&a).unwrap();
        ensure(&a).unwrap();
        ensure(&b).unwrap();
        for file in ["pairs.jsonl", "dialogues.jsonl", "model/model.safetensors", "model/tokenizer.json"] {
            assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file}");
        }
        let tokenizer = Tokenizer::from_file(&a.join("model/tokenizer.json")).unwrap();
        let text = "Table 3 shows that pruning helps parsing.";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!((ids.len(), tokenizer.decode(&ids, false).unwrap().as_str()), (9, text));
    }
}
