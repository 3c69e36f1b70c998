//! The training itself: rows → packed batch → loss → gradients → AdamW → a line of metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fs4::FileExt;
use models::Gradients;
use serde_json::{Value, json};

use crate::adamw::AdamW;
use crate::checkpoint::{self, Position};
use crate::curves;
use crate::data::{self, Row};
use crate::error::TrainError;
use crate::evaluation::Evaluation;
use crate::folder::Companions;
use crate::network::{Network, Reference};
use crate::pass::{self, Degradation, Loss, Means, Outcome, Step};
use crate::recipe::{Objective, Recipe};
use crate::reference::{ReferenceCache, ids_sha256};
use crate::rows::read;
use crate::schedule::learning_rate;

/// What a training is told and asked while it runs.
pub trait Watch {
    /// A line of `metrics.jsonl`.
    fn step(&mut self, _metrics: &serde_json::Value, _total: usize) {}
    /// Something the user should know.
    fn note(&mut self, _text: &str) {}
    /// True stops soon: the step in hand is given up, a checkpoint of the one before is written.
    fn cancelled(&mut self) -> bool {
        false
    }
    /// The training stops and writes its last checkpoint now.
    fn stopping(&mut self) {}
}

impl Watch for () {}

/// How a training starts.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Go on from the newest whole checkpoint.
    pub resume: bool,
    /// Where reference log-probabilities are kept between runs; beside the checkpoints if absent.
    pub cache: Option<PathBuf>,
}

/// What [`Trainer::measure`] finds.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The loss.
    pub loss: f64,
    /// By the name of what is trained.
    pub gradients: Gradients,
    /// Means over the rows.
    pub metrics: BTreeMap<String, f64>,
    /// Tokens that counted.
    pub counted: usize,
}

/// A model in training.
pub struct Trainer {
    recipe: Recipe,
    network: Arc<Network>,
    loss: Arc<Loss>,
    degradation: Option<Arc<Degradation>>,
    train: Vec<Row>,
    eval: Vec<Row>,
    cache: Arc<ReferenceCache>,
    adamw: AdamW,
    position: Position,
    total: usize,
    _lock: fs::File,
}

impl Trainer {
    /// Reads model and data; with `resume`, goes on from the newest whole checkpoint.
    ///
    /// # Errors
    /// If the recipe, the model or the data cannot be used, or another process trains into the same folder,
    /// or it holds an earlier training that is not to be resumed.
    pub fn new(recipe: Recipe, start: &Start, watch: &mut dyn Watch) -> Result<Self, TrainError> {
        fs::create_dir_all(&recipe.out).map_err(TrainError::io(&recipe.out))?;
        let path = recipe.out.join("lock");
        let lock = fs::File::create(&path).map_err(TrainError::io(&path))?;
        if FileExt::try_lock(&lock).is_err() {
            return Err(TrainError::Locked(recipe.out.clone()));
        }
        if !start.resume && !checkpoint::list(&recipe.out).is_empty() {
            return Err(TrainError::Occupied(recipe.out.clone()));
        }
        let loss = Loss::new(&recipe.objective)?;
        let network = Network::load(&recipe)?;
        if recipe.lora.is_none() && !models::ModelSource::parse(&recipe.model).path.is_dir() {
            Companions::of(&network.model).can_write()?;
        }
        let (train, eval) = read(&recipe, &network, watch)?;
        let total = recipe.optimizer.steps(train.len());
        let per_step = recipe.optimizer.batch_size * recipe.optimizer.gradient_accumulation_steps;
        if per_step > train.len() {
            let rows = train.len();
            watch.note(&format!(
                "a step takes {per_step} rows and the file has {rows}: rows come again within a step"
            ));
        }
        let mut adamw = AdamW::default();
        let mut position = Position {
            model_sha256: network.model.sha256.clone(),
            data_sha256: data::sha256(&recipe.data.train)?,
            made_with: made_with(&recipe, &network, &train)?,
            ..Position::default()
        };
        if start.resume {
            match checkpoint::list(&recipe.out).last() {
                Some((_, folder)) => {
                    let notes;
                    (adamw, position, notes) = checkpoint::restore(folder, &network, position)?;
                    notes.iter().for_each(|note| watch.note(note));
                    watch.note(&format!("going on from {}", folder.display()));
                }
                None => watch.note("no checkpoint yet: starting at step 0"),
            }
        }
        let cache = ReferenceCache::of(&recipe, &network, &train, start.cache.as_deref());
        let degradation = recipe.degree.as_ref().map(|d| {
            let eos = network.model.eos.first().copied();
            Arc::new(Degradation::new(d, recipe.seed, &network.model.tokenizer, eos))
        });
        let trainer = Self {
            recipe,
            network: Arc::new(network),
            loss: Arc::new(loss),
            degradation,
            train,
            eval,
            cache: Arc::new(cache),
            adamw,
            position,
            total,
            _lock: lock,
        };
        let text = toml::to_string(&trainer.recipe).map_err(|e| TrainError::Recipe(e.to_string()))?;
        trainer.write("recipe.toml", text.as_bytes())?;
        let decoder = trainer.network.decoder();
        let plan = json!({"steps": total, "rows": trainer.train.len(), "eval_rows": trainer.eval.len(),
            "tokens_per_epoch": trainer.train.iter().map(Row::tokens).sum::<usize>(),
            "parameters": decoder.variables().values().map(|v| v.elem_count()).sum::<usize>()});
        trainer.write("plan.json", plan.to_string().as_bytes())?;
        Ok(trainer)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        let path = self.recipe.out.join(name);
        let partial = self.recipe.out.join(format!(".{name}.partial"));
        fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path)).map_err(TrainError::io(path))
    }

    /// Trains to the last step and writes `final/`; returns its path.
    ///
    /// # Errors
    /// If the loss stops being finite, the disk is full, or the user stops it (a checkpoint is written first).
    pub fn run(&mut self, watch: &mut dyn Watch) -> Result<PathBuf, TrainError> {
        self.trim_metrics()?;
        // A training that was stopped between a checkpoint and its evaluation owes that line.
        if !self.eval.is_empty() && self.is_due(self.position.step) && !self.is_evaluated()? {
            self.report_evaluation(watch)?;
        }
        while self.position.step < self.total {
            let before = self.position.clone();
            let stopped = match self.step(watch) {
                Err(TrainError::Interrupted(_)) => {
                    // Nothing of the step is in the weights yet: its rows are still to be done.
                    self.position = before;
                    true
                }
                other => other.map(|()| false)?,
            };
            let done = self.position.step == self.total;
            let stop = stopped || !done && watch.cancelled();
            if stop {
                if self.position.step > 0 {
                    watch.stopping();
                    self.save()?;
                }
                return Err(TrainError::Interrupted(self.position.step));
            }
            if self.is_due(self.position.step) {
                self.save()?;
                if !self.eval.is_empty() {
                    self.report_evaluation(watch)?;
                }
            }
        }
        self.curves()?;
        checkpoint::finish(&self.recipe.out, &self.recipe, &self.network)
    }

    /// Whether a checkpoint and an evaluation follow this step.
    fn is_due(&self, step: usize) -> bool {
        step.is_multiple_of(self.recipe.save.every.max(1)) || step == self.total
    }

    /// Whether the metrics hold an evaluation after the present step.
    fn is_evaluated(&self) -> Result<bool, TrainError> {
        let path = self.recipe.out.join("metrics.jsonl");
        if self.position.step == 0 || !path.exists() {
            return Ok(false);
        }
        let text = fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let here = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["step"] == self.position.step && line.get("eval_loss").is_some()
        };
        Ok(text.lines().any(here))
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if let Some(cache) = Arc::get_mut(&mut self.cache) {
            cache.flush()?;
        }
        let keep = self.recipe.save.keep;
        checkpoint::save(&self.recipe.out, &self.network, &self.adamw, &self.position, keep)?;
        self.curves()
    }

    /// `curves.svg` from the metrics so far.
    fn curves(&self) -> Result<(), TrainError> {
        let path = self.recipe.out.join("metrics.jsonl");
        match fs::read_to_string(&path) {
            Ok(text) => self.write("curves.svg", curves::svg(&text).as_bytes()),
            Err(_) => Ok(()),
        }
    }

    fn report_evaluation(&mut self, watch: &mut dyn Watch) -> Result<(), TrainError> {
        let mut line = self.evaluate(watch)?;
        line.insert("step".into(), json!(self.position.step));
        let line = serde_json::Value::Object(line);
        self.log(&line)?;
        watch.step(&line, self.total);
        Ok(())
    }

    /// One optimiser step over `gradient_accumulation_steps` micro-batches, exact in tokens.
    fn step(&mut self, watch: &mut dyn Watch) -> Result<(), TrainError> {
        let started = Instant::now();
        let o = self.recipe.optimizer.clone();
        let batches: Vec<Vec<Row>> = (0..o.gradient_accumulation_steps)
            .map(|_| self.next_rows(o.batch_size).into_iter().map(|r| self.train[r].clone()).collect())
            .collect();
        let numbers: Vec<usize> = batches.iter().flatten().map(Row::number).collect();
        let tokens: usize = batches.iter().flatten().map(Row::tokens).sum();
        let outcome = self.pass_beside(batches, false, watch)?;
        let step = self.position.step + 1;
        if !outcome.loss.is_finite() {
            let rows = if outcome.broken.is_empty() { numbers } else { outcome.broken };
            return Err(TrainError::NotFinite { step, loss: outcome.loss, rows });
        }
        let (loss, metrics) = (outcome.loss, outcome.metrics());
        let gradients = outcome.gradients;
        self.position.state = outcome.state;
        self.remember(outcome.references);
        let norm = gradients.norm();
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { step, loss: norm, rows: numbers });
        }
        let scale = if o.max_grad_norm > 0.0 { (o.max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let rate = learning_rate(&o, self.position.step, self.total);
        let head_rate = self.head_rate();
        let factor = |name: &str| if is_head(name) { head_rate } else { 1.0 };
        self.adamw.update(self.network.decoder().variables(), &gradients, scale, rate, factor, &o)?;
        self.position.step += 1;
        self.follow()?;
        let seconds = started.elapsed().as_secs_f64();
        let mut line = json!({"step": self.position.step, "loss": loss, "grad_norm": norm, "lr": rate,
            "tokens": tokens, "tokens_per_second": tokens as f64 / seconds});
        if let Some(line) = line.as_object_mut() {
            line.extend(metrics.into_iter().map(|(name, value)| (name, json!(value))));
        }
        self.log(&line)?;
        watch.step(&line, self.total);
        Ok(())
    }

    fn head_rate(&self) -> f64 {
        match (&self.recipe.objective, &self.recipe.degree) {
            (Objective::Reward(o), _) => o.head_rate,
            (_, Some(degree)) => degree.head_rate,
            _ => 1.0,
        }
    }

    /// Moves the reference towards the policy where it follows it.
    fn follow(&mut self) -> Result<(), TrainError> {
        let (Some(follow), Reference::Own(reference)) = (&self.recipe.reference, &self.network.reference)
        else {
            return Ok(());
        };
        if !self.position.step.is_multiple_of(follow.ref_model_sync_steps) {
            return Ok(());
        }
        let alpha = follow.ref_model_mixup_alpha;
        let policy = self.network.decoder().variables();
        for (name, variable) in reference.variables() {
            if let Some(own) = policy.get(name) {
                let mixed = ((own.as_tensor() * alpha)? + (variable.as_tensor() * (1.0 - alpha))?)?;
                variable.set(&mixed)?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, references: Vec<(usize, Vec<Vec<f32>>)>) {
        if let Some(cache) = Arc::get_mut(&mut self.cache) {
            references.into_iter().for_each(|(row, answers)| cache.put(row, answers));
        }
    }

    fn next_rows(&mut self, count: usize) -> Vec<usize> {
        let n = self.train.len();
        let mut rows = Vec::with_capacity(count);
        let mut cached: Option<(usize, Vec<usize>)> = None;
        for _ in 0..count {
            let epoch = self.position.consumed / n;
            if cached.as_ref().is_none_or(|(e, _)| *e != epoch) {
                cached = Some((epoch, data::order(n, self.recipe.data.shuffle, self.recipe.seed, epoch)));
            }
            if let Some((_, order)) = &cached {
                rows.push(order[self.position.consumed % n]);
            }
            self.position.consumed += 1;
        }
        rows
    }

    /// A step's passes on a thread of their own, so that whoever interrupts does not wait for them: they only read the
    /// weights, and are left behind.
    fn pass_beside(
        &self,
        batches: Vec<Vec<Row>>,
        only_loss: bool,
        watch: &mut dyn Watch,
    ) -> Result<Outcome, TrainError> {
        let (send, receive) = mpsc::channel();
        let (network, loss, cache) = (self.network.clone(), self.loss.clone(), self.cache.clone());
        let (degradation, state) = (self.degradation.clone(), self.position.state.clone());
        // Rows of the held-out file have numbers of their own.
        let cache = if only_loss { Arc::new(ReferenceCache::default()) } else { cache };
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = given_up.clone();
        let work = move || {
            let step = Step {
                batches: &batches,
                state,
                cache: &cache,
                only_loss,
                degrade: degradation.as_deref(),
                stop: &stop,
            };
            let outcome = pass::run(&network, &loss, &step);
            drop((cache, network));
            // Nobody listens after an interrupt.
            let _ = send.send(outcome);
        };
        // Other devices differentiate composed operations through a graph, which is taken down recursively.
        let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(work);
        thread.map_err(TrainError::io(&self.recipe.out))?;
        loop {
            match receive.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(TrainError::Recipe("the training pass ended without a result".into()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if watch.cancelled() => {
                    given_up.store(true, Ordering::Relaxed);
                    return Err(TrainError::Interrupted(self.position.step));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Loss, gradients and metrics of rows of the training file (by their place among those that are used), as one
    /// micro-batch; nothing is updated.
    ///
    /// # Errors
    /// If a tensor operation fails or the objective lacks something.
    pub fn measure(&self, rows: std::ops::Range<usize>) -> Result<Measured, TrainError> {
        let rows: Vec<Row> = self.train[rows].to_vec();
        let counted = rows.iter().map(Row::counted).sum();
        let outcome = self.pass_beside(vec![rows], false, &mut ())?;
        let metrics = outcome.metrics();
        Ok(Measured { loss: outcome.loss, gradients: outcome.gradients, metrics, counted })
    }

    /// Figures on the held-out rows, named `eval_…`.
    ///
    /// # Errors
    /// If a tensor operation fails, or the user stops it.
    pub fn evaluate(&self, watch: &mut dyn Watch) -> Result<serde_json::Map<String, Value>, TrainError> {
        let supervised = matches!(*self.loss, Loss::Sft(_));
        let (mut loss, mut metrics, mut counted) = (0.0, Means::default(), 0);
        let mut nll = None;
        for batches in self.held_out() {
            let rows: usize = batches.iter().map(Vec::len).sum();
            let tokens: usize = batches.iter().flatten().map(Row::counted).sum();
            let weight = if supervised { tokens as f64 } else { rows as f64 };
            let outcome = self.pass_beside(batches, true, watch)?;
            loss += weight * outcome.loss;
            if let Some(mean) = outcome.metrics().get("nll") {
                *nll.get_or_insert(0.0) += mean * tokens as f64;
            }
            metrics.add(&outcome, rows as f64);
            counted += tokens;
        }
        let mut line = serde_json::Map::new();
        if supervised {
            let bytes = self.eval.iter().map(|r| self.bytes(r)).sum();
            let e = Evaluation::new(loss, counted, bytes);
            line.insert("eval_loss".into(), json!(e.loss));
            // A smoothed or weighted loss is no likelihood; the rows' likelihood is reported beside it.
            let plain = nll.map_or(e, |sum| Evaluation::new(sum, counted, bytes));
            line.insert("eval_perplexity".into(), json!(plain.loss.exp()));
            line.insert("eval_bits_per_byte".into(), json!(plain.bits_per_byte));
        } else {
            line.insert("eval_loss".into(), json!(loss / self.eval.len().max(1) as f64));
            line.extend(
                metrics.values().into_iter().map(|(name, mean)| (format!("eval_{name}"), json!(mean))),
            );
        }
        line.insert("eval_tokens".into(), json!(counted));
        Ok(line)
    }

    /// The held-out rows as they are evaluated: micro-batches of batches. Where the objective looks at the whole batch,
    /// a batch is as large as a step, and one row alone, which has no other to be compared with, joins the batch before.
    fn held_out(&self) -> Vec<Vec<Vec<Row>>> {
        let o = &self.recipe.optimizer;
        let (micro, step, whole) = match &*self.loss {
            Loss::Sft(_) => (1, 1, false),
            Loss::Preference(objective) if objective.needs().whole_batch || objective.needs().step_tokens => {
                (o.batch_size, o.batch_size * o.gradient_accumulation_steps, true)
            }
            _ => (o.batch_size, o.batch_size, false),
        };
        let cut = |rows: &[Row]| -> Vec<Vec<Row>> { rows.chunks(micro).map(<[Row]>::to_vec).collect() };
        let mut batches: Vec<Vec<Vec<Row>>> = self.eval.chunks(step).map(cut).collect();
        if whole && step > 1 && self.eval.len() % step == 1 && batches.len() > 1 {
            let last = batches.pop();
            if let Some(before) = batches.last_mut() {
                before.extend(last.into_iter().flatten());
            }
        }
        batches
    }

    /// Bytes of the text of the tokens that count; control tokens have none.
    fn bytes(&self, row: &Row) -> usize {
        let Row::Text(e) = row else { return 0 };
        let ids = e.ids.iter().zip(&e.mask).skip(1).filter(|(_, m)| **m).map(|(id, _)| *id);
        ids.filter_map(|id| self.network.model.tokenizer.bytes(id)).map(|b| b.len()).sum()
    }

    fn log(&self, line: &serde_json::Value) -> Result<(), TrainError> {
        let path = self.recipe.out.join("metrics.jsonl");
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        writeln!(file, "{line}").map_err(TrainError::io(&path))
    }

    /// Forgets metrics of steps that will be done again.
    fn trim_metrics(&self) -> Result<(), TrainError> {
        let path = self.recipe.out.join("metrics.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) => return Ok(()),
        };
        let kept: String = text
            .lines()
            .filter(|l| {
                serde_json::from_str::<serde_json::Value>(l)
                    .is_ok_and(|v| v["step"].as_u64().is_some_and(|s| s as usize <= self.position.step))
            })
            .filter(|_| self.position.step > 0)
            .flat_map(|l| [l, "\n"])
            .collect();
        self.write("metrics.jsonl", kept.as_bytes())
    }

    /// The output folder.
    pub fn out(&self) -> &Path {
        &self.recipe.out
    }

    /// Steps in all.
    pub fn total_steps(&self) -> usize {
        self.total
    }
}

/// What decides the numbers of a training beside its weights and rows.
fn made_with(
    recipe: &Recipe,
    network: &Network,
    train: &[Row],
) -> Result<BTreeMap<String, String>, TrainError> {
    let mut all = checkpoint::settings(recipe)?;
    all.insert("the model's settings".into(), network.begins.clone());
    all.extend(network.goes_on.clone().map(|print| ("the adapter of lora.init".into(), print)));
    all.insert("the rows' tokens".into(), ids_sha256(train));
    all.insert("the reference".into(), network.refers.clone());
    Ok(all)
}

fn is_head(name: &str) -> bool {
    ["score.weight", "value_head.weight", "prompt_head.weight", "degree_head.weight"].contains(&name)
}
