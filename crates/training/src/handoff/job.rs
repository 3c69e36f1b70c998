//! What is handed over, in the words of a recipe.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::recipe::{LossOn, Optimizer, Overlong, Save};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Supervised fine-tuning.
    Sft,
    /// A reward model.
    Reward,
    /// Preference training.
    Preference,
}

/// How the NLL beside a preference loss is averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Over all tokens of a batch.
    #[default]
    Token,
    /// Per answer, then over answers.
    Sequence,
}

/// The loss; `[objective]` of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// A name of the table of objectives; of no meaning for [`Method::Sft`].
    pub name: String,
    /// Which tokens count in supervised fine-tuning.
    pub loss_on: LossOn,
    /// Strength of the tie to the reference; the engine's default where absent.
    pub beta: Option<f64>,
    /// Margin of SimPO.
    pub gamma: Option<f64>,
    /// NLL of the chosen answer, added to the loss.
    pub nll_weight: f64,
    /// How that is averaged.
    pub nll_reduction: Reduction,
    /// Share of pairs taken to be flipped.
    pub label_smoothing: f64,
    /// Temperature: of discopop, of the Bradley-Terry loss.
    pub tau: Option<f64>,
    /// Pulls the rewards of a pair to a sum of zero.
    pub center_rewards_coefficient: Option<f64>,
    /// KTO: weight of the desirable rows.
    pub desirable_weight: f64,
    /// KTO: weight of the undesirable rows.
    pub undesirable_weight: f64,
    /// LD-DPO: weight of the tokens past the shorter answer.
    pub ld_alpha: Option<f64>,
    /// WPO weights.
    pub use_weighting: bool,
    /// `reverse_kl` where absent.
    pub f_divergence_type: Option<String>,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            name: "sigmoid".into(),
            loss_on: LossOn::default(),
            beta: None,
            gamma: None,
            nll_weight: 0.0,
            nll_reduction: Reduction::default(),
            label_smoothing: 0.0,
            tau: None,
            center_rewards_coefficient: None,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            ld_alpha: None,
            use_weighting: false,
            f_divergence_type: None,
        }
    }
}

/// Low-rank adapters; `[lora]` of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Rank.
    pub r: usize,
    /// Scale × r (or √r).
    pub lora_alpha: f64,
    /// Scale by √r.
    pub use_rslora: bool,
    /// Names of linear layers, or `all-linear` alone.
    pub target_modules: Vec<String>,
    /// An adapter to start from.
    pub init: Option<PathBuf>,
}

/// What weights are held and computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits throughout.
    Float32,
    /// Base weights in bfloat16, mixed precision.
    Bfloat16,
}

/// How weights and moments are spread over GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// Each GPU holds all.
    None,
    /// DeepSpeed: gradients and moments are spread.
    Zero2,
    /// DeepSpeed: weights too.
    Zero3,
    /// PyTorch's own, version 2: weights too.
    Fsdp,
}

/// What it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// One process on the CPU.
    Cpu,
    /// GPUs, one process each.
    Gpus {
        /// Of each machine.
        per_machine: usize,
        /// With that many each.
        machines: usize,
        /// Address of the first machine (`HOST:PORT`); the Ray dashboard's for OpenRLHF.
        main: Option<String>,
        /// How they share.
        sharding: Sharding,
    },
}

impl Hardware {
    /// Processes in all.
    pub fn processes(&self) -> usize {
        match self {
            Self::Cpu => 1,
            Self::Gpus { per_machine, machines, .. } => per_machine * machines,
        }
    }
}

/// A training to hand over.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What is trained.
    pub method: Method,
    /// A Hugging Face folder.
    pub model: PathBuf,
    /// The frozen model beside it; the model itself at the start where absent.
    pub reference_model: Option<PathBuf>,
    /// The output folder; what is handed over lies in its `handoff/`.
    pub out: PathBuf,
    /// Order of rows and first adapters.
    pub seed: u64,
    /// Tokens of the longest row.
    pub max_length: usize,
    /// What happens to longer ones.
    pub overlong: Overlong,
    /// A new order every epoch (the engine's, not ours).
    pub shuffle: bool,
    /// The loss.
    pub loss: Loss,
    /// Adapters; all parameters where absent.
    pub lora: Option<Lora>,
    /// AdamW and its schedule. `batch_size` × `gradient_accumulation_steps` are the rows of a step, over all processes.
    pub optimizer: Optimizer,
    /// Checkpoints.
    pub save: Save,
    /// Number format.
    pub precision: Precision,
    /// What it runs on.
    pub hardware: Hardware,
    /// Goes on from the engine's newest checkpoint.
    pub resume: bool,
}

impl Job {
    /// Where everything handed over lies.
    pub fn folder(&self) -> PathBuf {
        self.out.join("handoff")
    }

    /// The engine's own output.
    pub fn trained(&self) -> PathBuf {
        self.folder().join("trained")
    }

    /// Rows of a file of this job.
    pub(super) fn data(&self, name: &str) -> PathBuf {
        self.folder().join("data").join(name)
    }

    /// The engine's newest `checkpoint-N` or `global_stepN`.
    pub(super) fn newest_checkpoint(&self) -> Option<PathBuf> {
        let number = |p: &Path| {
            let name = p.file_name()?.to_str()?;
            let digits = name.strip_prefix("checkpoint-").or_else(|| name.strip_prefix("global_step"))?;
            digits.parse::<usize>().ok()
        };
        let entries =
            [self.trained(), self.folder().join("checkpoints")].into_iter().filter_map(|f| f.read_dir().ok());
        entries
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| number(p).is_some())
            .max_by_key(|p| number(p))
    }

    /// Makes room for rows: those of an earlier training go, its checkpoints stop a new one.
    pub(super) fn clear(&self) -> Result<(), HandoffError> {
        if let (false, Some(old)) = (self.resume, self.newest_checkpoint()) {
            return Err(HandoffError::unsupported(
                format!("{} is of an earlier training", old.display()),
                "give --resume to go on, or another --out",
            ));
        }
        // TRL reads whatever lies in the folder.
        match std::fs::remove_dir_all(self.data("")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HandoffError::io(self.data(""))(e)),
            _ => Ok(()),
        }
    }

    /// Rows of a micro-batch of one process, and micro-batches of a step.
    ///
    /// # Errors
    /// If the rows of a step cannot be shared evenly.
    pub fn share(&self) -> Result<(usize, usize), HandoffError> {
        let (processes, step) = (
            self.hardware.processes(),
            self.optimizer.batch_size * self.optimizer.gradient_accumulation_steps,
        );
        if processes == 0 || !step.is_multiple_of(processes) || step == 0 {
            return Err(HandoffError::Unsupported {
                what: format!("{step} rows of a step cannot be shared evenly by {processes} processes"),
                remedy: "choose batch_size × gradient_accumulation_steps as a multiple of the processes"
                    .into(),
            });
        }
        let mine = step / processes;
        let micro =
            (1..=self.optimizer.batch_size.min(mine)).rev().find(|m| mine.is_multiple_of(*m)).unwrap_or(1);
        Ok((micro, mine / micro))
    }
}

/// What stops a handing over.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The engine has nothing for this.
    #[error("{what}\n{remedy}")]
    Unsupported {
        /// What it lacks.
        what: String,
        /// What it has, what to do.
        remedy: String,
    },
    /// A row is not what the engine reads.
    #[error("{}, row {row}: {what}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// From 1.
        row: usize,
        /// What is wrong.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The program is not there.
    #[error("{program} is not installed{beside}\n{remedy}")]
    Missing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        beside: String,
        /// How to get it.
        remedy: String,
    },
    /// The program ended with an error.
    #[error("{program} ended with {status}: {last}\nits whole log: {}", log.display())]
    Failed {
        /// Its name.
        program: String,
        /// Exit status.
        status: String,
        /// What it said last.
        last: String,
        /// Where all of it is.
        log: PathBuf,
    },
    /// Stopped from outside, the program with it.
    #[error("interrupted; what {0} said is in handoff/log.txt, --resume goes on from its newest checkpoint")]
    Interrupted(&'static str),
}

impl HandoffError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(super) fn unsupported(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), remedy: remedy.into() }
    }
}

/// How the end of a text is spelled, from `tokenizer_config.json` or `special_tokens_map.json` of a model folder.
pub fn eos_token(model: &Path) -> Option<String> {
    ["tokenizer_config.json", "special_tokens_map.json"].iter().find_map(|name| {
        let value: Value = serde_json::from_slice(&std::fs::read(model.join(name)).ok()?).ok()?;
        let eos = value.get("eos_token")?;
        eos.as_str().or_else(|| eos.get("content")?.as_str()).map(String::from)
    })
}
