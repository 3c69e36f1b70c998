//! Micro checkpoints made by seed, and what a trained one says, read back from its folder.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use models::{
    Architecture, DecoderConfig, LoadOptions, Model, ModelSource, Rope, RopeScaling, SafetensorsFolder,
    Tokenizer, WeightSource, inventory,
};
use serde_json::json;

use super::runs::Random;
use crate::error::TrainError;
use crate::folder::Companions;
use crate::heads::normal;
use crate::tensors::write_tensors;

/// Size of a micro decoder of the llama family.
#[derive(Debug, Clone)]
pub(super) struct Micro {
    /// Words, by id. The first one ends a text if [`Micro::ends`].
    pub(super) words: Vec<String>,
    /// Whether there is an end of text; without one every id is a word.
    pub(super) ends: bool,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) context: usize,
    /// Deviation of the head's weights: how far the start is from uniform.
    pub(super) head: f64,
}

impl Micro {
    /// A vocabulary of ids alone, named `w0`, `w1`, …
    pub(super) fn of_ids(count: usize, hidden: usize, layers: usize, context: usize) -> Self {
        let words = (0..count).map(|i| format!("w{i}")).collect();
        Self { words, ends: false, hidden, layers, context, head: 0.02 }
    }

    fn config(&self) -> DecoderConfig {
        let (heads, head_dim) = (2, self.hidden / 2);
        DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size: self.words.len(),
            hidden_size: self.hidden,
            intermediate_size: 2 * self.hidden,
            num_layers: self.layers,
            num_heads: heads,
            num_kv_heads: heads,
            head_dim,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 10_000.0, rotary_dim: head_dim, scaling: RopeScaling::None },
            max_position_embeddings: self.context,
            sliding_window: vec![None; self.layers],
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tie_word_embeddings: false,
        }
    }

    /// Writes a whole checkpoint folder: weights N(0, 1/inputs), embeddings N(0, 0.1²), the head as asked.
    pub(super) fn write(&self, folder: &Path, seed: u64) -> Result<(), TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        let vocabulary: HashMap<&str, usize> =
            self.words.iter().enumerate().map(|(id, word)| (word.as_str(), id)).collect();
        let added = self.words.first().filter(|_| self.ends).map(|word| {
            json!({"id": 0, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added.into_iter().collect::<Vec<_>>(), "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": self.words.last()}});
        let tokenizer = Tokenizer::from_json(tokenizer.to_string().as_bytes())?;
        let config = self.config();
        let eos: &[u32] = if self.ends { &[0] } else { &[] };
        let chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}";
        Companions { config: &config, tokenizer: &tokenizer, chat_template, bos: None, eos }.write(folder)?;
        write_tensors(&folder.join("model.safetensors"), &self.tensors(seed)?)
    }

    fn tensors(&self, seed: u64) -> Result<HashMap<String, Tensor>, TrainError> {
        let mut tensors = HashMap::new();
        for (name, shape) in inventory(&self.config()) {
            let count = shape.iter().product();
            let deviation = match (name.as_str(), shape.get(1)) {
                ("model.embed_tokens.weight", _) => 0.1,
                ("lm_head.weight", _) => self.head,
                (_, Some(&inputs)) => 1.0 / (inputs as f64).sqrt(),
                // Norms begin as no norm at all.
                (_, None) => 0.0,
            };
            let values =
                if shape.len() == 1 { vec![1f32; count] } else { normal(seed, &name, count, deviation) };
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        Ok(tensors)
    }
}

/// A checkpoint as whoever uses it meets it.
pub(super) struct Reader {
    model: Model,
    head: Option<Vec<Vec<f32>>>,
}

impl Reader {
    /// Loads a folder, with the reward head that it may hold.
    pub(super) fn open(folder: &Path) -> Result<Self, TrainError> {
        let source = ModelSource { path: folder.into(), adapter: None };
        let model = Model::load(&source, &LoadOptions::default())?;
        let weights = SafetensorsFolder::open(folder)?;
        let head = ["value_head.weight", "score.weight"].iter().find_map(|name| weights.tensor(name).ok());
        let head = head.map(|h| h.to_vec2::<f32>()).transpose()?;
        Ok(Self { model, head })
    }

    /// Hidden states of the last tokens, `[sequences, hidden]`.
    fn last(&self, sequences: &[Vec<u32>]) -> Result<Tensor, TrainError> {
        let hidden = self.model.decoder.forward_packed(sequences)?.detach();
        let mut end = 0;
        let index: Vec<u32> = sequences
            .iter()
            .map(|s| {
                end += s.len();
                end as u32 - 1
            })
            .collect();
        Ok(hidden.index_select(&Tensor::new(index.as_slice(), hidden.device())?, 0)?)
    }

    /// log p of every word after each sequence, `[sequences][vocabulary]`, in nats.
    pub(super) fn next(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f64>>, TrainError> {
        let logits = self.model.decoder.logits(&self.last(sequences)?)?.to_vec2::<f32>()?;
        Ok(logits.iter().map(|row| log_softmax(row)).collect())
    }

    /// log p of every token of an answer after its prompt, `[rows][answer tokens]`, in nats.
    pub(super) fn answers(&self, rows: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut all = Vec::with_capacity(rows.len());
        // Logits of some thousand positions are held at once.
        for rows in rows.chunks(64) {
            let whole: Vec<Vec<u32>> = rows.iter().map(|(p, a)| [p.as_slice(), a].concat()).collect();
            let hidden = self.model.decoder.forward_packed(&whole)?.detach();
            let logits = self.model.decoder.logits(&hidden)?.to_vec2::<f32>()?;
            let mut first = 0;
            for (prompt, answer) in rows {
                let at = |t: usize| first + prompt.len() + t - 1;
                all.push(
                    answer
                        .iter()
                        .enumerate()
                        .map(|(t, id)| log_softmax(&logits[at(t)])[*id as usize])
                        .collect(),
                );
                first += prompt.len() + answer.len();
            }
        }
        Ok(all)
    }

    /// Continues each prompt by draws from the model at temperature 1 until the end of text (id 0, kept) or `most` tokens.
    pub(super) fn sample(
        &self,
        prompts: &[Vec<u32>],
        most: usize,
        random: &mut Random,
    ) -> Result<Vec<Vec<u32>>, TrainError> {
        let mut answers: Vec<Vec<u32>> = prompts.iter().map(|_| Vec::new()).collect();
        for _ in 0..most {
            let open: Vec<usize> = (0..prompts.len()).filter(|&i| answers[i].last() != Some(&0)).collect();
            if open.is_empty() {
                break;
            }
            let texts: Vec<Vec<u32>> =
                open.iter().map(|&i| [prompts[i].as_slice(), &answers[i]].concat()).collect();
            for (&i, logs) in open.iter().zip(self.next(&texts)?) {
                let mut left = random.uniform();
                let drawn = logs.iter().position(|l| {
                    left -= l.exp();
                    left < 0.0
                });
                answers[i].push(drawn.unwrap_or(logs.len() - 1) as u32);
            }
        }
        Ok(answers)
    }

    /// Ids of a text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        Ok(self.model.tokenizer.encode(text)?)
    }

    /// What the reward head says at the end of each sequence, `[sequences][outputs]`.
    pub(super) fn values(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f64>>, TrainError> {
        let Some(head) = &self.head else {
            return Err(TrainError::Recipe("the checkpoint has no reward head".into()));
        };
        let states = self.last(sequences)?.to_vec2::<f32>()?;
        let dot = |w: &[f32], s: &[f32]| w.iter().zip(s).map(|(w, s)| f64::from(*w) * f64::from(*s)).sum();
        Ok(states.iter().map(|s| head.iter().map(|w| dot(w, s)).collect()).collect())
    }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total = row.iter().map(|l| f64::from(l - largest).exp()).sum::<f64>().ln();
    row.iter().map(|l| f64::from(l - largest) - total).collect()
}
