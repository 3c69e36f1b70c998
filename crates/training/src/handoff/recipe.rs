//! From a recipe to what is handed over: every field is taken, or refused by its name.

use std::fs::File;
use std::path::Path;

use fs4::FileExt;
use models::{ModelSource, Outline};
use serde_json::Value;

use super::{HandoffError, Hardware, Job, Lora, Loss, Method, Precision, Reduction, Source, Written};
use crate::error::TrainError;
use crate::objectives::{self, Settings, table};
use crate::recipe::{
    Dtype, GateName, Kind, Objective, Recipe, Recompute, RewardName, RewardObjective, SftObjective, TokenLoss,
};

/// A refusal that names the field.
fn refuse<T>(field: &str, why: &str) -> Result<T, HandoffError> {
    Err(HandoffError::unsupported(
        format!("{field}: {why}"),
        "take it out of the recipe, or use --engine local",
    ))
}

const NEITHER: &str = "neither TRL nor OpenRLHF takes it";

impl Job {
    /// What this recipe trains, on the CPU and from its start; the caller says what it runs on.
    ///
    /// # Errors
    /// If a field means something that no engine can be told; it is named.
    pub fn of(recipe: &Recipe) -> Result<Self, HandoffError> {
        if recipe.degree.is_some() {
            return refuse("[degree]", NEITHER);
        }
        if recipe.reference.is_some() {
            return refuse("[reference]", NEITHER);
        }
        if recipe.recompute != Recompute::Auto {
            return refuse("recompute", "the engines decide that themselves");
        }
        let loss = match &recipe.objective {
            Objective::Sft(o) => supervised(o)?,
            Objective::Reward(o) => reward(o)?,
            Objective::Preference(o) => preference(o)?,
        };
        let lora = recipe.lora.as_ref().map(|l| Lora {
            r: l.r,
            lora_alpha: l.lora_alpha,
            use_rslora: l.use_rslora,
            target_modules: l.target_modules.as_slice().to_vec(),
            init: l.init.clone(),
        });
        let absolute = |path: &Path| std::path::absolute(path).map_err(HandoffError::io(path));
        Ok(Self {
            method: match recipe.kind {
                Kind::Sft => Method::Sft,
                Kind::Reward => Method::Reward,
                Kind::Preference => Method::Preference,
            },
            model: absolute(folder("model", &recipe.model)?)?,
            reference_model: match &recipe.reference_model {
                Some(other) => Some(absolute(folder("reference_model", other)?)?),
                None => None,
            },
            out: absolute(&recipe.out)?,
            seed: recipe.seed,
            max_length: recipe.data.max_length,
            overlong: recipe.data.overlong,
            shuffle: recipe.data.shuffle,
            loss,
            lora,
            optimizer: recipe.optimizer.clone(),
            save: recipe.save.clone(),
            precision: match recipe.dtype {
                Dtype::F32 => Precision::Float32,
                Dtype::Bf16 => Precision::Bfloat16,
            },
            hardware: Hardware::Cpu,
            resume: false,
        })
    }

    /// The output folder, for this process alone; the same lock as the local engine's.
    ///
    /// # Errors
    /// If another process trains there, it holds an earlier training, or cannot be made.
    pub fn lock(&self) -> Result<File, TrainError> {
        std::fs::create_dir_all(&self.out).map_err(TrainError::io(&self.out))?;
        let path = self.out.join("lock");
        let lock = File::create(&path).map_err(TrainError::io(&path))?;
        if FileExt::try_lock(&lock).is_err() {
            return Err(TrainError::Locked(self.out.clone()));
        }
        // Those of the local engine.
        if !self.resume && !crate::checkpoint::list(&self.out).is_empty() {
            return Err(TrainError::Occupied(self.out.clone()));
        }
        Ok(lock)
    }
}

/// The engines read Hugging Face folders.
fn folder<'a>(field: &str, reference: &'a str) -> Result<&'a Path, HandoffError> {
    let path = Path::new(reference);
    if path.join("config.json").is_file() {
        return Ok(path);
    }
    Err(HandoffError::unsupported(
        format!("{field}: {reference} is no Hugging Face folder"),
        "`cycle models merge` makes one of a GGUF file or of a model with an adapter",
    ))
}

fn supervised(o: &SftObjective) -> Result<Loss, HandoffError> {
    if o.loss_type != TokenLoss::Nll {
        return refuse("objective.loss_type", "supervised fine-tuning is handed over with nll alone");
    }
    if o.label_smoothing != 0.0 {
        return refuse("objective.label_smoothing", "supervised fine-tuning is handed over without it");
    }
    Ok(Loss { loss_on: o.loss_on, ..Loss::default() })
}

fn reward(o: &RewardObjective) -> Result<Loss, HandoffError> {
    let plain = RewardObjective::default();
    let given = [
        ("objective.name", o.name != RewardName::Bt),
        ("objective.dim", o.dim != plain.dim),
        ("objective.gate", o.gate != GateName::None),
        ("objective.l2", o.l2 != plain.l2),
        ("objective.scalar", o.scalar),
        ("objective.target", o.target.is_some()),
        ("objective.head_rate", o.head_rate != plain.head_rate),
        ("objective.freeze_trunk", o.freeze_trunk),
    ];
    if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
        return refuse(field, "the engines train a plain bt reward model alone");
    }
    let center = Some(o.center_rewards_coefficient).filter(|c| *c != 0.0);
    Ok(Loss { name: "bt".into(), tau: o.tau, center_rewards_coefficient: center, ..Loss::default() })
}

/// With our defaults spelled out: the engines have others.
fn preference(o: &Settings) -> Result<Loss, HandoffError> {
    let [name] = o.name.as_slice() else {
        return refuse("objective.name", "one objective is handed over, not a sum of several");
    };
    let given = [
        ("objective.loss_weights", o.loss_weights.is_some()),
        ("objective.alpha", o.alpha.is_some()),
        ("objective.eta", o.eta.is_some()),
        ("objective.f_alpha_divergence_coef", o.f_alpha_divergence_coef.is_some()),
        ("objective.reference_free", o.reference_free == Some(true)),
        ("objective.length_exponent", o.length_exponent.is_some()),
        ("objective.shift_decay", o.shift_decay.is_some()),
    ];
    if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
        return refuse(field, NEITHER);
    }
    let entry = table().iter().find(|e| e.name == name || e.aliases.contains(&name.as_str()));
    let default = |key: &str| entry.and_then(|e| e.default_of(key));
    let nll = o.nll_weight.or(default("nll_weight"));
    let name = entry.map_or(name.as_str(), |e| e.name);
    if ["rpo", "mpo"].contains(&name) && nll == Some(0.0) {
        return refuse(
            "objective.nll_weight = 0",
            "the engines take that for its default with this objective",
        );
    }
    if name == "mpo" && nll != Some(1.0) {
        return refuse("objective.nll_weight", "mpo is handed over with the weight 1");
    }
    let divergence = o.f_divergence_type.map(serde_json::to_value).and_then(Result::ok);
    Ok(Loss {
        name: name.into(),
        beta: o.beta.or(default("beta")),
        gamma: o.gamma.or(default("gamma")),
        nll_weight: nll.unwrap_or(0.0),
        nll_reduction: match o.nll_reduction.unwrap_or_default() {
            objectives::Reduction::Token => Reduction::Token,
            objectives::Reduction::Sequence => Reduction::Sequence,
        },
        label_smoothing: o.label_smoothing.or(default("label_smoothing")).unwrap_or(0.0),
        tau: o.tau.or(default("tau")),
        desirable_weight: o.desirable_weight.unwrap_or(1.0),
        undesirable_weight: o.undesirable_weight.unwrap_or(1.0),
        ld_alpha: o.ld_alpha,
        use_weighting: o.use_weighting.unwrap_or(false),
        f_divergence_type: divergence.as_ref().and_then(Value::as_str).map(String::from),
        ..Loss::default()
    })
}

/// Whose rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// TRL.
    Trl,
    /// OpenRLHF.
    Openrlhf,
}

/// Writes a recipe's rows for an engine. Supervised fine-tuning by TRL gets the ids our own reader makes: it then trains
/// on exactly the tokens that the local engine would.
///
/// # Errors
/// If a row or the model's tokenizer cannot be read, or the engine has no use for such rows.
pub fn write_rows(job: &Job, recipe: &Recipe, reader: Reader) -> Result<Vec<Written>, TrainError> {
    let data = &recipe.data;
    if (reader, job.method) == (Reader::Trl, Method::Sft) {
        let outline = Outline::of(&ModelSource::parse(&recipe.model))?;
        let reading = crate::rows::reading(recipe, &outline)?;
        let (train, held_out) = crate::rows::rows(recipe, &reading, outline.config.vocab_size)?;
        let held_out = data.eval.as_ref().map(|_| Source::Read(&held_out));
        return Ok(super::trl::rows(job, Source::Read(&train), held_out)?);
    }
    for path in [Some(&data.train), data.eval.as_ref()].into_iter().flatten() {
        if path.is_dir() || path.extension().is_some_and(|e| e == "parquet") {
            let what = format!("{}: rows are handed over from JSONL alone", path.display());
            return Err(HandoffError::unsupported(what, "convert them, or use --engine local").into());
        }
    }
    let (train, held_out) = (Source::File(&data.train), data.eval.as_deref().map(Source::File));
    Ok(match reader {
        Reader::Trl => super::trl::rows(job, train, held_out)?,
        Reader::Openrlhf => super::openrlhf::rows(job, train, held_out)?,
    })
}
