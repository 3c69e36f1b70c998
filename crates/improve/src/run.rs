//! The [`Loop`] itself: what follows what. Each phase of an iteration is a file of its own.

mod judging;
mod learning;
mod sampling;

use std::fs::File;
use std::path::{Path, PathBuf};

use fs4::FileExt;
use lm::{LanguageModel, LmError, Local, OpenOptions, Progress, Request, Sampling};
use models::ModelSource;
use research::{Brief, Researcher, Results};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{Engine, LoopConfig, Method};
use crate::error::ImproveError;
use crate::judge::{Judge, JudgeConfig, ModelJudge, PanelJudge, PhraseJudge};
use crate::ledger::{self, Kind, Ledger};
use crate::policy::{Policy, placed, write};
use crate::prompts::{Prompt, PromptSets};
use crate::rows::{Cost, Decision, Sample, Scored, Trained};

/// Told about a loop as it goes; may stop it.
pub trait Observer: Progress {
    /// A phase begins: of an iteration, with so many things to do.
    fn phase(&self, _iteration: usize, _what: &str, _total: usize) {}
    /// So many of them are done.
    fn advance(&self, _done: usize) {}
    /// Something the user should know.
    fn note(&self, _text: &str) {}
    /// A line of a training's metrics.
    fn step(&self, _metrics: &Value, _total: usize) {}
    /// A training stops and writes its last checkpoint now.
    fn stopping(&self) {}
    /// As a model sees it.
    fn progress(&self) -> &dyn Progress;
}

/// How a loop ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// After its last iteration.
    Done,
    /// Guards went off in this iteration; the policy before it is in force.
    Stopped {
        /// Which.
        iteration: usize,
        /// Why, in words.
        alarms: Vec<String>,
    },
}

/// An iterative preference training.
pub struct Loop<'a> {
    config: LoopConfig,
    options: OpenOptions,
    prompts: PromptSets,
    start: Policy,
    judge: Box<dyn Judge>,
    second: Box<dyn Judge>,
    ledger: &'a mut dyn Ledger,
    observer: &'a dyn Observer,
    /// The policy that is open, by its hash: opening a large one takes a while.
    open: Option<(String, Local)>,
    _lock: File,
}

/// Opens any model for a panel; `cli` records what it writes.
pub type OpenModel<'a> = &'a dyn Fn(&str) -> Result<Box<dyn LanguageModel>, LmError>;

impl<'a> Loop<'a> {
    /// Checks everything that can be wrong before the first token: prompts, judges, models, that nobody else runs it.
    ///
    /// # Errors
    /// If something is.
    pub fn new(
        config: LoopConfig,
        options: OpenOptions,
        ledger: &'a mut dyn Ledger,
        observer: &'a dyn Observer,
        open_model: OpenModel<'_>,
    ) -> Result<Self, ImproveError> {
        let prompts = PromptSets::read(&config.prompts, config.sample.stage)?;
        if config.prompts.per_iteration.is_some_and(|n| n == 0 || n > prompts.train.len()) {
            return Err(ImproveError::Config(format!(
                "prompts.per_iteration is {}, there are {} prompts",
                config.prompts.per_iteration.unwrap_or_default(),
                prompts.train.len()
            )));
        }
        std::fs::create_dir_all(&config.out).map_err(ImproveError::io(&config.out))?;
        let path = config.out.join("lock");
        let lock = File::create(&path).map_err(ImproveError::io(&path))?;
        if FileExt::try_lock(&lock).is_err() {
            return Err(ImproveError::Locked(config.out.clone()));
        }
        let place = config.out.join("start");
        let patience = config.sample.patience;
        let judge = open_judge(&config.judge, &place, &options, open_model, patience)?;
        let second = open_judge(&config.second_judge, &place, &options, open_model, patience)?;
        if judge.id() == second.id() {
            let what = "judge and second_judge are the same weights: one could not watch the other";
            return Err(ImproveError::Config(what.into()));
        }
        let start = Policy::of("start", placed(&config.model, &place, &options)?)?;
        if config.train.engine == Engine::Trl && config.train.method != Method::None {
            let rows = config.out.join("rows.jsonl");
            let recipe = config
                .recipe_of(&start.source.path, &rows, &config.out, start.source.adapter.as_ref())
                .map_err(ImproveError::Config)?;
            crate::handoff::possible(&recipe)?;
        }
        Ok(Self { config, options, prompts, start, judge, second, ledger, observer, open: None, _lock: lock })
    }

    /// Runs, or goes on, to the end.
    ///
    /// # Errors
    /// If something fails or the user stops it; what was done is in the ledger.
    pub fn run(&mut self) -> Result<Ending, ImproveError> {
        self.same_prompts()?;
        self.same_models()?;
        let baseline = self.baseline()?;
        self.both_speak()?;
        let mut policy = self.start.clone();
        for iteration in 1..=self.config.iterations {
            let decision = self.iteration(iteration, &policy, &baseline)?;
            if !decision.accepted {
                self.finish(&policy)?;
                return Ok(Ending::Stopped { iteration, alarms: decision.alarms });
            }
            policy = self.policy_of(iteration)?.unwrap_or(policy);
        }
        self.finish(&policy)?;
        Ok(Ending::Done)
    }

    /// What the judges' scores are in, for people.
    pub fn units(&self) -> (String, String) {
        (self.judge.units(), self.second.units())
    }

    fn stop_if_asked(&self) -> Result<(), ImproveError> {
        if self.observer.cancelled() { Err(ImproveError::Interrupted) } else { Ok(()) }
    }

    /// The start on the held-out prompts.
    fn baseline(&mut self) -> Result<Decision, ImproveError> {
        let start = self.start.clone();
        self.evaluation(0, &start, None)
    }

    /// Refuses to go on with a loop whose judges or start were changed under it: its scores would not be comparable.
    fn same_models(&self) -> Result<(), ImproveError> {
        let other = |what: &str| {
            Err(ImproveError::Config(format!(
                "{what} than when this loop was begun: put it back, or begin another loop (--out)"
            )))
        };
        for iteration in 0..=self.config.iterations {
            for (kind, judge, name) in
                [(Kind::Score, &self.judge, "judge"), (Kind::SecondScore, &self.second, "second_judge")]
            {
                let scored = ledger::read::<Scored>(self.ledger, kind, iteration)?;
                if scored.values().any(|s| s.judge != judge.id()) {
                    return other(&format!("{name} is another"));
                }
            }
        }
        let start = ledger::read::<Sample>(self.ledger, Kind::HeldOut, 0)?;
        if self.config.sample.server.is_none() && start.values().any(|s| s.policy != self.start.sha256) {
            return other("the model is another");
        }
        Ok(())
    }

    /// Ends a loop whose judges say nothing of the start: no gain could ever be seen.
    fn both_speak(&self) -> Result<(), ImproveError> {
        for (kind, name) in [(Kind::Score, "the judge"), (Kind::SecondScore, "the second judge")] {
            let scored = ledger::read::<Scored>(self.ledger, kind, 0)?;
            if !scored.is_empty() && scored.values().all(|s| s.mean.is_none()) {
                let first = scored.values().find_map(|s| s.failed.clone()).unwrap_or_default();
                return Err(ImproveError::Nothing {
                    iteration: 0,
                    what: format!(
                        "{name} scored none of the start's {} papers (the first: {first})",
                        scored.len()
                    ),
                });
            }
        }
        Ok(())
    }

    fn iteration(
        &mut self,
        iteration: usize,
        policy: &Policy,
        baseline: &Decision,
    ) -> Result<Decision, ImproveError> {
        if let Some(decision) = self.decided(iteration)? {
            return Ok(decision);
        }
        if self.config.train.method != Method::None && self.policy_of(iteration)?.is_none() {
            let chosen = self.prompts_of(iteration);
            let count = self.config.sample.per_prompt;
            self.sample(iteration, Kind::Sample, &chosen, count, policy)?;
            self.score(iteration, Kind::Sample, Kind::Score, &chosen)?;
            self.check(iteration, Kind::Sample, &chosen, policy)?;
            let noise = self.noise(iteration)?;
            let counts = self.pair(iteration, noise)?;
            self.train(iteration, policy, counts)?;
        }
        let now = self.policy_of(iteration)?.unwrap_or_else(|| policy.clone());
        self.evaluation(iteration, &now, Some((baseline, policy)))
    }

    fn decided(&self, iteration: usize) -> Result<Option<Decision>, ImproveError> {
        let rows = ledger::read::<Decision>(self.ledger, Kind::Decision, iteration)?;
        Ok(rows.into_values().next())
    }

    /// The policy that an iteration trained, where it did.
    fn policy_of(&self, iteration: usize) -> Result<Option<Policy>, ImproveError> {
        let rows = ledger::read::<Trained>(self.ledger, Kind::Policy, iteration)?;
        let Some(trained) = rows.into_values().next() else { return Ok(None) };
        let Some(path) = trained.path else { return Ok(Some(self.start.clone())) };
        let source = self.trained(&self.config.out.join(path));
        let policy = Policy::of(format!("iteration-{iteration}"), source)?;
        if policy.sha256 != trained.policy {
            return Err(ImproveError::Config(format!(
                "{}: the checkpoint of iteration {iteration} was changed since it was trained",
                self.config.out.display()
            )));
        }
        Ok(Some(policy))
    }

    /// What came out of a training: an adapter over the base, or a whole folder.
    fn trained(&self, folder: &Path) -> ModelSource {
        if self.config.train.lora.is_some() {
            ModelSource { path: self.start.source.path.clone(), adapter: Some(folder.into()) }
        } else {
            ModelSource { path: folder.into(), adapter: None }
        }
    }

    /// The prompts of an iteration: iterations take turns, in an order that the seed decides.
    fn prompts_of(&self, iteration: usize) -> Vec<Prompt> {
        let all = &self.prompts.train;
        let count = self.config.prompts.per_iteration.unwrap_or(all.len());
        let from = (iteration - 1) * count;
        let mut chosen: Vec<Prompt> = Vec::with_capacity(count);
        for i in from..from + count {
            let order = training::order(all.len(), true, self.config.seed, i / all.len());
            let prompt = &all[order[i % all.len()]];
            // Where a new order begins within an iteration, its first prompts may be those just taken.
            if chosen.iter().all(|p| p.id != prompt.id) {
                chosen.push(prompt.clone());
            }
        }
        chosen
    }

    fn local(&mut self, policy: &Policy) -> Result<&Local, ImproveError> {
        if self.open.as_ref().is_none_or(|(hash, _)| *hash != policy.sha256) {
            // The old one goes before the new one comes.
            self.open = None;
            self.open = Some((policy.sha256.clone(), policy.open(&self.options)?));
        }
        match &self.open {
            Some((_, model)) => Ok(model),
            None => Err(ImproveError::Config("no policy is open".into())),
        }
    }

    fn spent(&mut self, iteration: usize, phase: &str, cost: Cost, key: &str) -> Result<(), ImproveError> {
        ledger::put(self.ledger, Kind::Cost, iteration, &[(format!("{phase} {key}"), cost)])
    }

    fn prompt(&self, id: &str) -> Option<&Prompt> {
        self.prompts.train.iter().chain(&self.prompts.held_out).find(|p| p.id == id)
    }

    /// The request for one paper of a prompt.
    fn request(
        &self,
        model: &dyn LanguageModel,
        prompt: &Prompt,
        seed: u64,
    ) -> Result<Request, ImproveError> {
        let s = &self.config.sample;
        let sampling = Sampling {
            temperature: s.temperature,
            top_p: s.top_p,
            repetition_penalty: s.repetition_penalty,
            ..Sampling::default()
        };
        let brief = Brief {
            topic: prompt.topic.clone(),
            literature: prompt.literature.clone(),
            results: Results::Stop,
            sampling,
            seed,
            max_tokens: s.max_tokens,
        };
        let researcher = Researcher { model, progress: self.observer.progress() };
        Ok(researcher.request(s.stage, &brief, prompt.given.as_ref())?.0)
    }

    fn folder(&self, iteration: usize) -> PathBuf {
        self.config.out.join(format!("iteration-{iteration}"))
    }

    /// Says where the policy in force lies.
    fn finish(&self, policy: &Policy) -> Result<(), ImproveError> {
        let s = &policy.source;
        let document = json!({"model": s.path, "adapter": s.adapter, "sha256": policy.sha256});
        write(&self.config.out.join("policy.json"), format!("{document:#}\n").as_bytes())
    }
}

/// Opens a judge; files of one that ships are put below `place`. A panel's server that does not answer is asked again for
/// `patience` seconds.
///
/// # Errors
/// If it cannot be used.
pub fn open_judge(
    config: &JudgeConfig,
    place: &Path,
    options: &OpenOptions,
    open_model: OpenModel<'_>,
    patience: u64,
) -> Result<Box<dyn Judge>, ImproveError> {
    Ok(match config {
        JudgeConfig::Phrase { phrase } if phrase.trim().is_empty() => {
            return Err(ImproveError::Config("the judge's phrase is empty".into()));
        }
        JudgeConfig::Phrase { phrase } => Box::new(PhraseJudge::new(phrase)),
        JudgeConfig::Model { model, reads, units, accept_at } => {
            let source = match model.strip_prefix("builtin:") {
                Some(name) => crate::judge::shipped(name, place)?,
                None => placed(model, place, options)?,
            };
            Box::new(ModelJudge::open(&source, *reads, units.clone(), *accept_at)?)
        }
        JudgeConfig::Panel { model, form, reviewers, mode, seed, max_tokens } => {
            let panel = review::Panel {
                form: review::Form::named(form)?,
                reviewers: (*reviewers).max(1),
                mode: *mode,
                sampling: review::default_sampling(),
                seed: *seed,
                max_tokens: *max_tokens,
            };
            Box::new(PanelJudge::new(open_model(model)?, panel, patience))
        }
    })
}

/// A number that is a function of the seed and a place.
fn derive(seed: u64, place: &str) -> u64 {
    let digest = Sha256::digest(format!("{seed}\n{place}").as_bytes());
    digest[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
