//! The [`Loop`] itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use fs4::FileExt;
use lm::{Completion, LanguageModel, LmError, Local, OpenOptions, Output, Part, Progress, Request, Sampling};
use models::ModelSource;
use research::{Brief, Researcher, Results};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{Engine, LoopConfig, Method, TermName};
use crate::error::ImproveError;
use crate::evaluate::{self, HeldOut};
use crate::judge::{Judge, JudgeConfig, ModelJudge, PanelJudge, PhraseJudge};
use crate::ledger::{self, Kind, Ledger, hex, id};
use crate::pairs::{self, Candidate};
use crate::policy::{Policy, ask, log_probability, placed, write};
use crate::prompts::{Prompt, PromptSets};
use crate::reward::reward;
use crate::rows::{Checked, Cost, Decision, Pair, PairCounts, Sample, Scored, Trained};
use crate::{checks, guards, stats};

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

/// A batch of samples.
struct Drawn {
    rows: Vec<(String, Sample)>,
    /// By prompt.
    asked: Vec<(String, Value)>,
    cost: Cost,
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
        let prompts = PromptSets::read(&config.prompts)?;
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
        let judge = open_judge(&config.judge, &place, &options, open_model)?;
        let second = open_judge(&config.second_judge, &place, &options, open_model)?;
        if judge.id() == second.id() {
            let what = "judge and second_judge are the same weights: one could not watch the other";
            return Err(ImproveError::Config(what.into()));
        }
        let start = Policy::of("start", placed(&config.model, &place, &options)?)?;
        Ok(Self { config, options, prompts, start, judge, second, ledger, observer, open: None, _lock: lock })
    }

    /// Runs, or goes on, to the end.
    ///
    /// # Errors
    /// If something fails or the user stops it; what was done is in the ledger.
    pub fn run(&mut self) -> Result<Ending, ImproveError> {
        let baseline = self.baseline()?;
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
    fn trained(&self, folder: &std::path::Path) -> ModelSource {
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
        (from..from + count)
            .map(|i| {
                let order = training::order(all.len(), true, self.config.seed, i / all.len());
                all[order[i % all.len()]].clone()
            })
            .collect()
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

    /// Draws `count` papers for each prompt that has none yet, a batch of prompts at a time.
    fn sample(
        &mut self,
        iteration: usize,
        kind: Kind,
        prompts: &[Prompt],
        count: usize,
        policy: &Policy,
    ) -> Result<(), ImproveError> {
        let there = ledger::read::<Sample>(self.ledger, kind, iteration)?;
        let done: BTreeSet<&str> = there.values().map(|s| s.prompt.as_str()).collect();
        let missing: Vec<&Prompt> = prompts.iter().filter(|p| !done.contains(p.id.as_str())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = if kind == Kind::HeldOut { "sampling held-out prompts" } else { "sampling" };
        self.observer.phase(iteration, what, prompts.len());
        let remote = match &self.config.sample.server {
            None => None,
            Some(template) => {
                let reference = template.replace("{policy}", &policy.name);
                Some(lm::open(&reference.parse()?, &self.options)?)
            }
        };
        let mut finished = prompts.len() - missing.len();
        for batch in missing.chunks(self.config.sample.batch) {
            self.stop_if_asked()?;
            self.observer.advance(finished);
            let drawn = match &remote {
                Some(model) => self.draw(iteration, kind, batch, count, model.as_ref(), policy)?,
                None => {
                    self.local(policy)?;
                    let Some((_, model)) = &self.open else { continue };
                    self.draw(iteration, kind, batch, count, model, policy)?
                }
            };
            let Drawn { rows, asked, cost } = drawn;
            ledger::put(self.ledger, Kind::Prompt, iteration, &asked)?;
            ledger::put(self.ledger, kind, iteration, &rows)?;
            self.spent(iteration, kind.name(), cost, &rows[0].0)?;
            finished += batch.len();
        }
        self.observer.advance(finished);
        Ok(())
    }

    fn draw(
        &self,
        iteration: usize,
        kind: Kind,
        prompts: &[&Prompt],
        count: usize,
        model: &dyn LanguageModel,
        policy: &Policy,
    ) -> Result<Drawn, ImproveError> {
        let started = Instant::now();
        let s = &self.config.sample;
        let sampling = Sampling {
            temperature: s.temperature,
            top_p: s.top_p,
            repetition_penalty: s.repetition_penalty,
            ..Sampling::default()
        };
        let researcher = Researcher { model, progress: self.observer.progress() };
        let info = model.info();
        let hash = info.sha256.clone().unwrap_or_else(|| info.reference.clone());
        // A policy that was opened from files is called by them.
        let hash = if s.server.is_none() { policy.sha256.clone() } else { hash };
        let (mut requests, mut keys, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            for index in 0..count {
                // Held-out papers are drawn with the same seeds in every iteration: what differs is the policy.
                let place = if kind == Kind::HeldOut { 0 } else { iteration };
                let seed =
                    derive(self.config.seed, &format!("{}\n{place}\n{}\n{index}", kind.name(), prompt.id));
                let brief = Brief {
                    topic: prompt.topic.clone(),
                    literature: prompt.literature.clone(),
                    results: Results::Stop,
                    sampling: sampling.clone(),
                    seed,
                    max_tokens: s.max_tokens,
                };
                let (request, _) = researcher.request(s.stage, &brief)?;
                let key = id('s', &format!("{hash}\n{}\n{index}\n{seed}\n{}", prompt.id, kind.name()));
                keys.push((key, prompt.id.clone(), index, seed));
                if index == 0 {
                    asked.push((prompt.id.clone(), json!(request.messages)));
                }
                requests.push(request);
            }
        }
        let observer = self.observer;
        let mut note = |text: &str| observer.note(text);
        let answers = ask(model, &requests, observer.progress(), s.patience, &mut note)?;
        let mut cost = Cost::default();
        let mut rows = Vec::new();
        for ((request, answer), (key, prompt, index, seed)) in requests.iter().zip(answers).zip(keys) {
            let answer = match answer {
                Err(LmError::Interrupted) => return Err(ImproveError::Interrupted),
                Err(e @ (LmError::Remote(_) | LmError::Offline(_))) => return Err(e.into()),
                other => other,
            };
            if let Ok(answer) = &answer {
                cost.prompt_tokens += answer.usage.prompt_tokens;
                cost.prompt_tokens_reused += answer.usage.prompt_tokens_reused;
                cost.generated_tokens += answer.usage.generated_tokens;
            }
            rows.push((key, sample(request, answer, prompt, index, seed, &hash)));
        }
        cost.seconds = started.elapsed().as_secs_f64();
        Ok(Drawn { rows, asked, cost })
    }

    fn spent(&mut self, iteration: usize, phase: &str, cost: Cost, key: &str) -> Result<(), ImproveError> {
        ledger::put(self.ledger, Kind::Cost, iteration, &[(format!("{phase} {key}"), cost)])
    }

    /// Scores the samples of these prompts that have no score yet, prompt by prompt.
    fn score(
        &mut self,
        iteration: usize,
        of: Kind,
        by: Kind,
        prompts: &[Prompt],
    ) -> Result<(), ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, of, iteration)?;
        let there = ledger::read::<Scored>(self.ledger, by, iteration)?;
        // What a judge that compares holds held-out papers against: those of the start.
        let start = match of {
            Kind::HeldOut => Some(ledger::read::<Sample>(self.ledger, Kind::HeldOut, 0)?),
            _ => None,
        };
        let what = if by == Kind::SecondScore { "second judge" } else { "judge" };
        let mut announced = false;
        for (done, prompt) in prompts.iter().enumerate() {
            let mut own: Vec<(&String, &Sample)> = samples
                .iter()
                .filter(|(key, s)| s.prompt == prompt.id && !there.contains_key(*key))
                .collect();
            if own.is_empty() {
                continue;
            }
            if !announced {
                self.observer.phase(iteration, what, prompts.len());
                announced = true;
            }
            self.stop_if_asked()?;
            self.observer.advance(done);
            own.sort_by_key(|(_, s)| s.index);
            let judge = if by == Kind::SecondScore { &self.second } else { &self.judge };
            let texts: Vec<&str> = own.iter().filter_map(|(_, s)| s.text.as_deref()).collect();
            let others: Option<Vec<&str>> = start.as_ref().map(|rows| {
                rows.values().filter(|s| s.prompt == prompt.id).filter_map(|s| s.text.as_deref()).collect()
            });
            let seed = derive(self.config.seed, &format!("review\n{}\n{}", by.name(), prompt.id));
            let (scored, cost) = judge.score(&texts, others.as_deref(), seed, self.observer.progress())?;
            let mut scored = scored.into_iter();
            let rows: Vec<(String, Scored)> = own
                .iter()
                .map(|(key, s)| {
                    let row = s.text.as_ref().and_then(|_| scored.next());
                    let none = || Scored::failed(judge.id(), "there is no text to judge");
                    ((*key).clone(), row.unwrap_or_else(none))
                })
                .collect();
            ledger::put(self.ledger, by, iteration, &rows)?;
            self.spent(iteration, by.name(), cost, &prompt.id)?;
        }
        Ok(())
    }

    /// Looks at the samples that were not looked at, and at what the start thinks of them.
    fn check(
        &mut self,
        iteration: usize,
        of: Kind,
        prompts: &[Prompt],
        policy: &Policy,
    ) -> Result<(), ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, of, iteration)?;
        let there = ledger::read::<Checked>(self.ledger, Kind::Check, iteration)?;
        let missing: Vec<(String, Sample)> =
            samples.into_iter().filter(|(key, _)| !there.contains_key(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let wants_fluency = self.config.reward.terms.iter().any(|t| t.name == TermName::Fluency);
        let local = self.config.sample.server.is_none();
        let probabilities = (of == Kind::HeldOut || wants_fluency) && local;
        let same = *policy == self.start;
        let stage = self.config.sample.stage;
        self.observer.phase(iteration, "checks", missing.len());
        let own = if probabilities && !same { self.probabilities(policy, &missing)? } else { Vec::new() };
        let start = self.start.clone();
        let base = if probabilities { self.probabilities(&start, &missing)? } else { Vec::new() };
        let mut rows = Vec::with_capacity(missing.len());
        for (i, (key, sample)) in missing.iter().enumerate() {
            let prompt = prompts.iter().find(|p| p.id == sample.prompt);
            let none = research::Literature::default();
            let literature = prompt.map_or(&none, |p| &p.literature);
            let mut checked = checks::check(sample, stage, literature, None);
            let base = base.get(i).copied().flatten();
            if let Some(base) = base {
                checked.terms.insert(TermName::Fluency, base);
                let own = if same { Some(base) } else { own.get(i).copied().flatten() };
                checked.log_ratio = own.map(|own| own - base);
            }
            rows.push((key.clone(), checked));
        }
        ledger::put(self.ledger, Kind::Check, iteration, &rows)
    }

    /// Mean log-probability per token of each sample under a policy; `None` for those without a text.
    fn probabilities(
        &mut self,
        policy: &Policy,
        samples: &[(String, Sample)],
    ) -> Result<Vec<Option<f64>>, ImproveError> {
        self.local(policy)?;
        let Some((_, model)) = &self.open else { return Ok(vec![None; samples.len()]) };
        let mut values = Vec::with_capacity(samples.len());
        for (i, (_, sample)) in samples.iter().enumerate() {
            self.stop_if_asked()?;
            self.observer.advance(i);
            values.push(match (&sample.text, self.prompt(&sample.prompt)) {
                (Some(text), Some(prompt)) => {
                    let messages = self.request(model, prompt)?.messages;
                    log_probability(model, &messages, text)?
                }
                _ => None,
            });
        }
        Ok(values)
    }

    fn prompt(&self, id: &str) -> Option<&Prompt> {
        self.prompts.train.iter().chain(&self.prompts.held_out).find(|p| p.id == id)
    }

    /// The request of a prompt, for what is asked in it.
    fn request(&self, model: &dyn LanguageModel, prompt: &Prompt) -> Result<Request, ImproveError> {
        let brief = Brief {
            topic: prompt.topic.clone(),
            literature: prompt.literature.clone(),
            results: Results::Stop,
            sampling: Sampling::default(),
            seed: 0,
            max_tokens: self.config.sample.max_tokens,
        };
        let researcher = Researcher { model, progress: self.observer.progress() };
        Ok(researcher.request(self.config.sample.stage, &brief)?.0)
    }

    /// The first judge's standard deviation over repeated reviews of the same papers, pooled.
    fn noise(&mut self, iteration: usize) -> Result<f64, ImproveError> {
        let repeats = self.config.pairs.repeats;
        if repeats < 2 {
            return Ok(0.0);
        }
        let there = ledger::read::<f64>(self.ledger, Kind::Noise, iteration)?;
        if let Some(noise) = there.values().next() {
            return Ok(*noise);
        }
        const PAPERS: usize = 8;
        let samples = ledger::read::<Sample>(self.ledger, Kind::Sample, iteration)?;
        let texts: Vec<&str> = samples.values().filter_map(|s| s.text.as_deref()).take(PAPERS).collect();
        self.observer.phase(iteration, "the judge's own noise", repeats);
        let mut by_paper: Vec<Vec<f64>> = vec![Vec::new(); texts.len()];
        for repeat in 0..repeats {
            self.stop_if_asked()?;
            self.observer.advance(repeat);
            let seed = derive(self.config.seed, &format!("noise\n{iteration}\n{repeat}"));
            let (scored, _) = self.judge.score(&texts, None, seed, self.observer.progress())?;
            for (scores, s) in by_paper.iter_mut().zip(scored) {
                scores.extend(s.mean);
            }
        }
        let variances: Vec<f64> =
            by_paper.iter().filter_map(|s| stats::deviation(s)).map(|d| d * d).collect();
        let noise = stats::mean(&variances).unwrap_or(0.0).sqrt();
        ledger::put(self.ledger, Kind::Noise, iteration, &[("noise".into(), noise)])?;
        Ok(noise)
    }

    /// Makes the pairs of an iteration, with those of earlier ones, and the file that is trained on.
    fn pair(&mut self, iteration: usize, noise: f64) -> Result<PairCounts, ImproveError> {
        let samples = ledger::read::<Sample>(self.ledger, Kind::Sample, iteration)?;
        let scores = ledger::read::<Scored>(self.ledger, Kind::Score, iteration)?;
        let checks = ledger::read::<Checked>(self.ledger, Kind::Check, iteration)?;
        let silent = Scored::failed(String::new(), "not scored");
        let unchecked = Checked::default();
        let rewards: Vec<_> = samples
            .keys()
            .map(|key| {
                let scored = scores.get(key).unwrap_or(&silent);
                reward(&self.config.reward, scored, checks.get(key).unwrap_or(&unchecked))
            })
            .collect();
        let totals: Vec<f64> = rewards.iter().filter_map(|r| r.total).collect();
        let nothing = |what: String| Err(ImproveError::Nothing { iteration, what });
        if totals.is_empty() {
            let first =
                scores.values().find_map(|s| s.failed.clone()).unwrap_or_else(|| "no reason given".into());
            return nothing(format!("none of {} samples has a reward (the first: {first})", samples.len()));
        }
        let (low, high) =
            totals.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), t| (l.min(*t), h.max(*t)));
        if totals.len() > 1 && high - low <= 1e-12 {
            return nothing(format!(
                "all {} samples have the reward {low}: there is nothing to prefer",
                totals.len()
            ));
        }
        let candidates: Vec<Candidate<'_>> = samples
            .iter()
            .zip(&rewards)
            .map(|((id, sample), reward)| Candidate { id, sample, reward })
            .collect();
        let mut made = pairs::pairs(&self.config.pairs, &candidates, noise);
        if made.pairs.is_empty() {
            let c = &made.counts;
            return nothing(format!(
                "no pair is left of {} samples ({} failed, {} without a score, {} kept back by gates, {} twice, \
                 {} pairs too close, {} of too different lengths)",
                samples.len(),
                c.failed,
                c.unscored,
                c.gated,
                c.duplicates,
                c.close,
                c.lengths
            ));
        }
        let new = made.pairs.len();
        let mut taken: BTreeSet<String> = made.pairs.iter().map(|(id, _)| id.clone()).collect();
        for (back, share) in self.config.pairs.replay.iter().enumerate() {
            let Some(earlier) = iteration.checked_sub(back + 1).filter(|i| *i > 0) else { break };
            let rows: Vec<(String, Pair)> =
                ledger::read::<Pair>(self.ledger, Kind::Pair, earlier)?.into_iter().collect();
            let again = pairs::replayed(&rows, earlier, new, *share, &taken);
            taken.extend(again.iter().map(|(id, _)| id.clone()));
            made.counts.replayed += again.len();
            made.pairs.extend(again);
        }
        ledger::put(self.ledger, Kind::Pair, iteration, &made.pairs)?;
        Ok(made.counts)
    }

    fn folder(&self, iteration: usize) -> PathBuf {
        self.config.out.join(format!("iteration-{iteration}"))
    }

    /// Trains on the pairs of an iteration, or goes on with it.
    fn train(&mut self, iteration: usize, policy: &Policy, counts: PairCounts) -> Result<(), ImproveError> {
        self.stop_if_asked()?;
        let started = Instant::now();
        let folder = self.folder(iteration);
        let degree = self.config.train.degree.is_some();
        if degree {
            self.local(policy)?;
        }
        let rows = crate::export::rows(self.ledger, iteration, self.config.train.method, &|asked| {
            // SPO's degrees read texts; everything else learns from messages.
            let Some((_, model)) = self.open.as_ref().filter(|_| degree) else { return Ok(asked) };
            let messages: Vec<lm::Message> =
                serde_json::from_value(asked).map_err(|e| ImproveError::Ledger(e.to_string()))?;
            Ok(Value::String(model.render(&messages, "")?))
        })?;
        let path = folder.join("rows.jsonl");
        let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
        write(&path, text.as_bytes())?;
        // The model is loaded again by the trainer, in another shape.
        self.open = None;
        let out = folder.join("train");
        let source = &policy.source;
        let lora = self.config.train.lora.is_some();
        let whole = |s: &ModelSource| match (&s.adapter, lora) {
            (Some(adapter), false) => PathBuf::from(format!("{}+{}", s.path.display(), adapter.display())),
            _ => s.path.clone(),
        };
        let recipe = self
            .config
            .recipe_of(&whole(source), &path, &out, source.adapter.as_ref())
            .map_err(ImproveError::Config)?;
        self.observer.phase(iteration, "training", recipe.optimizer.steps(rows.len()));
        let result = match self.config.train.engine {
            Engine::Local => {
                let start = training::Start { resume: true, cache: None };
                let mut watch = Watcher { observer: self.observer };
                training::Trainer::new(recipe, &start, &mut watch)?.run(&mut watch)
            }
            Engine::Trl => crate::handoff::train(&recipe, self.config.train.python.as_deref(), self.observer),
        };
        let done = match result {
            Err(training::TrainError::Interrupted(_)) => return Err(ImproveError::Interrupted),
            other => other?,
        };
        let trained = Policy::of(format!("iteration-{iteration}"), self.trained(&done))?;
        let (metrics, tokens) = last_metrics(&out.join("metrics.jsonl"));
        let row = Trained {
            policy: trained.sha256,
            path: Some(format!("iteration-{iteration}/train/final")),
            parent: policy.sha256.clone(),
            rows_sha256: hex(&Sha256::digest(text.as_bytes())),
            rows: rows.len(),
            metrics,
            pairs: counts,
        };
        ledger::put(self.ledger, Kind::Policy, iteration, &[("policy".into(), row)])?;
        let cost =
            Cost { trained_tokens: tokens, seconds: started.elapsed().as_secs_f64(), ..Cost::default() };
        self.spent(iteration, "train", cost, "train")
    }

    /// Samples, scores and checks the held-out prompts, and decides.
    fn evaluation(
        &mut self,
        iteration: usize,
        now: &Policy,
        before: Option<(&Decision, &Policy)>,
    ) -> Result<Decision, ImproveError> {
        if let Some(decision) = self.decided(iteration)? {
            return Ok(decision);
        }
        let prompts = self.prompts.held_out.clone();
        let count = self.config.sample.held_out_per_prompt;
        self.sample(iteration, Kind::HeldOut, &prompts, count, now)?;
        self.score(iteration, Kind::HeldOut, Kind::Score, &prompts)?;
        self.score(iteration, Kind::HeldOut, Kind::SecondScore, &prompts)?;
        self.check(iteration, Kind::HeldOut, &prompts, now)?;
        let held_out = HeldOut::read(self.ledger, iteration)?;
        let start = if iteration == 0 { None } else { Some(HeldOut::read(self.ledger, 0)?) };
        // Best-of-K belongs to what is tried: the start is taken as it comes.
        let best_of = if iteration == 0 { 1 } else { self.config.sample.best_of };
        let accepts = |mean: f64| self.judge.accepts(mean);
        let confidence = self.config.guards.confidence;
        let evaluation = evaluate::figures(&held_out, start.as_ref(), best_of, confidence, &accepts);
        let alarms = match before {
            Some((baseline, _)) => guards::alarms(&self.config.guards, &baseline.evaluation, &evaluation),
            None => Vec::new(),
        };
        let accepted = alarms.is_empty();
        let kept = before.filter(|_| !accepted).map_or(&now.sha256, |(_, policy)| &policy.sha256);
        let decision = Decision { evaluation, alarms, policy: kept.clone(), accepted };
        ledger::put(self.ledger, Kind::Decision, iteration, &[("decision".into(), &decision)])?;
        Ok(decision)
    }

    /// Says where the policy in force lies.
    fn finish(&self, policy: &Policy) -> Result<(), ImproveError> {
        let s = &policy.source;
        let document = json!({"model": s.path, "adapter": s.adapter, "sha256": policy.sha256});
        write(&self.config.out.join("policy.json"), format!("{document:#}\n").as_bytes())
    }
}

fn open_judge(
    config: &JudgeConfig,
    place: &std::path::Path,
    options: &OpenOptions,
    open_model: OpenModel<'_>,
) -> Result<Box<dyn Judge>, ImproveError> {
    Ok(match config {
        JudgeConfig::Phrase { phrase } if phrase.trim().is_empty() => {
            return Err(ImproveError::Config("the judge's phrase is empty".into()));
        }
        JudgeConfig::Phrase { phrase } => Box::new(PhraseJudge::new(phrase)),
        JudgeConfig::Model { model, reads, accept_at } => {
            let source = match model.strip_prefix("builtin:") {
                Some(name) => crate::judge::shipped(name, place)?,
                None => placed(model, place, options)?,
            };
            Box::new(ModelJudge::open(&source, *reads, *accept_at)?)
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
            Box::new(PanelJudge::new(open_model(model)?, panel))
        }
    })
}

/// A number that is a function of the seed and a place.
fn derive(seed: u64, place: &str) -> u64 {
    let digest = Sha256::digest(format!("{seed}\n{place}").as_bytes());
    digest[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn sample(
    request: &Request,
    answer: Result<Completion, LmError>,
    prompt: String,
    index: usize,
    seed: u64,
    policy: &str,
) -> Sample {
    let parts = match &request.output {
        Output::Script(script) => script.parts.iter().filter(|p| matches!(p, Part::Free { .. })).count(),
        _ => 1,
    };
    let mut sample = Sample {
        prompt,
        index,
        policy: policy.into(),
        seed,
        prompt_sha256: String::new(),
        text: None,
        failed: None,
        unfinished: Vec::new(),
        parts,
        tokens: 0,
    };
    match answer {
        Ok(answer) => {
            let written = research::written(request, &answer);
            sample.prompt_sha256 = answer.prompt_sha256;
            sample.tokens = answer.usage.generated_tokens;
            sample.unfinished = written.unfinished;
            if written.text.trim().is_empty() {
                sample.failed = Some("the model wrote nothing".into());
            } else {
                sample.text = Some(written.text);
            }
        }
        Err(e) => sample.failed = Some(e.to_string()),
    }
    sample
}

/// The last line of a training's metrics without its times, and the tokens of all lines.
fn last_metrics(path: &std::path::Path) -> (Value, usize) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let tokens = lines.iter().filter_map(|l| l["tokens"].as_u64()).sum::<u64>() as usize;
    let mut last: BTreeMap<String, Value> = lines
        .into_iter()
        .rev()
        .find(|l| l.get("loss").is_some())
        .and_then(|l| serde_json::from_value(l).ok())
        .unwrap_or_default();
    last.remove("tokens_per_second");
    (json!(last), tokens)
}

struct Watcher<'a> {
    observer: &'a dyn Observer,
}

impl training::Watch for Watcher<'_> {
    fn step(&mut self, metrics: &Value, total: usize) {
        self.observer.step(metrics, total);
    }
    fn note(&mut self, text: &str) {
        // A training inside a loop always goes on from where it is.
        if !text.starts_with("no checkpoint yet") {
            self.observer.note(text);
        }
    }
    fn cancelled(&mut self) -> bool {
        self.observer.cancelled()
    }
    fn stopping(&mut self) {
        self.observer.stopping();
    }
}
