//! A trained reward model at work: one pass an answer, then scores, or every answer against every other.

use std::path::Path;

use candle_core::{Device, Tensor};
use models::{LoadOptions, Model, ModelSource, SafetensorsFolder, WeightSource};
use serde_json::Value;

use crate::data::{Reading, Row, RowKind};
use crate::error::TrainError;
use crate::objectives::Needs;
use crate::recipe::{GateName, LossOn, Overlong, RewardName, RewardObjective};
use crate::rewards::gpm::{Gate, Gpm};

/// Tokens of one packed pass: bounds the memory of a batch.
const PASS: usize = 4096;

/// What a reward model says of one prompt's answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// A number an answer: the units of a regression's scores, or Bradley–Terry's (differences over τ are log-odds).
    Scores(Vec<f64>),
    /// P(i ≻ j), `[answers, answers]`, ½ on the diagonal (2410.02197 eq. 4).
    Wins(Vec<Vec<f64>>),
}

/// A verdict and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What the model says.
    pub verdict: Verdict,
    /// Tokens that were read.
    pub tokens: usize,
}

/// The head of a reward model as it was saved.
struct Heads {
    /// `[outputs, hidden]`.
    value: Vec<Vec<f32>>,
    /// `[blocks, hidden]`.
    gate: Option<Vec<Vec<f32>>>,
}

/// A decoder with a score head, as `cycle train reward` leaves it.
pub struct RewardModel {
    model: Model,
    heads: Heads,
    objective: RewardObjective,
    max_length: usize,
}

/// Whether a folder holds a reward model.
pub fn is_reward_model(folder: &Path) -> bool {
    folder.join("reward.json").is_file()
}

impl RewardModel {
    /// Opens what `cycle train reward` wrote as `final/`: a whole folder, or a base with `+ADAPTER_DIR`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the folder holds no reward model.
    pub fn open(source: &ModelSource) -> Result<Self, TrainError> {
        let folder = source.adapter.as_deref().unwrap_or(&source.path);
        let path = folder.join("reward.json");
        let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let bad = |what: String| TrainError::Recipe(format!("{}: {what}", path.display()));
        let saved: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let objective: RewardObjective =
            serde_json::from_value(saved["objective"].clone()).map_err(|e| bad(e.to_string()))?;
        let heads = Heads::read(folder, &objective)?;
        let model = Model::load(source, &LoadOptions::default())?;
        let width = model.decoder.config().hidden_size;
        if heads.value.iter().chain(heads.gate.iter().flatten()).any(|row| row.len() != width) {
            return Err(bad(format!("its head is not for hidden states of {width}")));
        }
        let max_length = model.context();
        Ok(Self { model, heads, objective, max_length })
    }

    /// SHA-256 (hex) of the weights and the adapter.
    pub fn sha256(&self) -> &str {
        &self.model.sha256
    }

    /// The loss it was trained with.
    pub fn objective(&self) -> &RewardObjective {
        &self.objective
    }

    /// Reads each answer once behind the prompt (texts, or messages) and says how they compare. Answers that do not
    /// fit the context lose their end.
    ///
    /// # Errors
    /// If the prompt is no text and no messages, or an answer is empty.
    pub fn judge(&self, prompt: &Value, answers: &[Value]) -> Result<Judged, TrainError> {
        let reading = Reading {
            kind: RowKind::Score,
            tokenizer: &self.model.tokenizer,
            chat: &self.model.chat,
            chat_is_fallback: self.model.chat_is_fallback,
            needs: Needs::default(),
            eos: self.model.eos.first().copied(),
            loss_on: LossOn::Completion,
            max_length: self.max_length,
            overlong: Overlong::Truncate,
        };
        let mut rows = Vec::with_capacity(answers.len());
        for (i, answer) in answers.iter().enumerate() {
            let row = serde_json::json!({"prompt": prompt, "completion": answer, "score": 0.0});
            let Row::Answer(row) = reading.row(i + 1, &row).map_err(TrainError::Recipe)? else { continue };
            rows.push(row);
        }
        let prompt_length = rows.first().map_or(0, |r| r.prompt.len());
        let sequences: Vec<Vec<u32>> =
            rows.iter().map(|r| [r.prompt.as_slice(), &r.completion].concat()).collect();
        let tokens = sequences.iter().map(Vec::len).sum();
        let states = self.states(&sequences, prompt_length)?;
        let (values, logits) = (self.heads.values(&states), self.heads.logits(&states));
        match self.objective.name {
            RewardName::Bt | RewardName::Regression => {
                Ok(Judged { verdict: Verdict::Scores(values.into_iter().map(|v| v[0]).collect()), tokens })
            }
            RewardName::Gpm => {
                let table = self.gpm().table(&values, &logits).map_err(TrainError::Recipe)?;
                let wins = |s: &f64| crate::objectives::math::sigmoid(*s);
                let wins = table.iter().map(|row| row.iter().map(wins).collect()).collect();
                Ok(Judged { verdict: Verdict::Wins(wins), tokens })
            }
        }
    }

    fn gpm(&self) -> Gpm {
        let o = &self.objective;
        let gate = match o.gate {
            GateName::None => Gate::None,
            GateName::Softmax => Gate::Softmax,
            GateName::SoftmaxScaled => {
                Gate::ScaledSoftmax { hidden: self.model.decoder.config().hidden_size }
            }
        };
        Gpm { blocks: o.dim / 2, gate, l2: o.l2, tau: o.tau.unwrap_or(0.1), scalar: o.scalar }
    }

    /// Hidden states of the last tokens, and of the prompt's last token.
    fn states(&self, sequences: &[Vec<u32>], prompt: usize) -> Result<States, TrainError> {
        let mut states = States::default();
        let mut from = 0;
        while from < sequences.len() {
            let mut upto = from + 1;
            let mut tokens = sequences[from].len();
            while upto < sequences.len() && tokens + sequences[upto].len() <= PASS {
                tokens += sequences[upto].len();
                upto += 1;
            }
            let hidden = self.model.decoder.forward_packed(&sequences[from..upto])?.detach();
            let mut end = 0;
            let mut index = Vec::new();
            for sequence in &sequences[from..upto] {
                if states.prompt.is_none() && index.is_empty() && prompt > 0 {
                    index.push(end + prompt as u32 - 1);
                }
                end += sequence.len() as u32;
                index.push(end - 1);
            }
            let with_prompt = index.len() > upto - from;
            let picked = hidden.index_select(&Tensor::new(index.as_slice(), &Device::Cpu)?, 0)?;
            let mut rows = picked.to_vec2::<f32>()?;
            if with_prompt {
                states.prompt = Some(rows.remove(0));
            }
            states.last.append(&mut rows);
            from = upto;
        }
        Ok(states)
    }
}

#[derive(Default)]
struct States {
    last: Vec<Vec<f32>>,
    prompt: Option<Vec<f32>>,
}

impl Heads {
    fn read(folder: &Path, objective: &RewardObjective) -> Result<Self, TrainError> {
        let name = if objective.name == RewardName::Gpm { "value_head.weight" } else { "score.weight" };
        let find = |name: &str| -> Result<Option<Vec<Vec<f32>>>, TrainError> {
            let adapter = folder.join("adapter_model.safetensors");
            let tensor = if adapter.is_file() {
                let files = models::AdapterFiles::read(folder)?;
                files.tensors.get(&format!("base_model.model.{name}")).cloned()
            } else {
                SafetensorsFolder::open(folder)?.tensor(name).ok()
            };
            Ok(tensor.map(|t| t.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()).transpose()?)
        };
        let value = find(name)?.ok_or_else(|| {
            TrainError::Recipe(format!("{} holds no {name}: it is no reward model", folder.display()))
        })?;
        let gated = objective.name == RewardName::Gpm && objective.gate != GateName::None;
        Ok(Self { value, gate: if gated { find("prompt_head.weight")? } else { None } })
    }

    fn values(&self, states: &States) -> Vec<Vec<f64>> {
        states.last.iter().map(|s| apply(&self.value, s)).collect()
    }

    fn logits(&self, states: &States) -> Vec<f64> {
        match (&self.gate, &states.prompt) {
            (Some(gate), Some(state)) => apply(gate, state),
            _ => Vec::new(),
        }
    }
}

fn apply(weight: &[Vec<f32>], state: &[f32]) -> Vec<f64> {
    let dot = |w: &Vec<f32>| w.iter().zip(state).map(|(w, s)| f64::from(*w) * f64::from(*s)).sum();
    weight.iter().map(dot).collect()
}
