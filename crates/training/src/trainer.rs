//! The training itself: rows → packed batch → loss → gradients → AdamW → a line of metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use candle_core::Device;
use fs4::FileExt;
use models::{LoadOptions, Model, ModelSource};
use serde_json::json;

use crate::adamw::AdamW;
use crate::checkpoint::{self, Position};
use crate::data::{self, Example, Reading};
use crate::error::TrainError;
use crate::evaluation::{Evaluation, evaluate, mean_loss};
use crate::recipe::Recipe;
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

/// A model in training.
pub struct Trainer {
    recipe: Recipe,
    model: Arc<Model>,
    train: Vec<Example>,
    eval: Vec<Example>,
    adamw: AdamW,
    position: Position,
    total: usize,
    _lock: fs::File,
}

/// Summed loss, its gradient and how many tokens counted.
struct Pass {
    loss: f64,
    tokens: usize,
    gradients: BTreeMap<String, Vec<f32>>,
}

impl Trainer {
    /// Reads model and data; with `resume`, goes on from the newest whole checkpoint.
    ///
    /// # Errors
    /// If the recipe, the model or the data cannot be used, or another process trains into the same folder,
    /// or it holds an earlier training that is not to be resumed.
    pub fn new(recipe: Recipe, resume: bool, watch: &mut dyn Watch) -> Result<Self, TrainError> {
        fs::create_dir_all(&recipe.out).map_err(TrainError::io(&recipe.out))?;
        let path = recipe.out.join("lock");
        let lock = fs::File::create(&path).map_err(TrainError::io(&path))?;
        if FileExt::try_lock(&lock).is_err() {
            return Err(TrainError::Locked(recipe.out.clone()));
        }
        if !resume && !checkpoint::list(&recipe.out).is_empty() {
            return Err(TrainError::Occupied(recipe.out.clone()));
        }
        let source = ModelSource { path: recipe.model.clone(), adapter: None };
        let options = LoadOptions { device: Device::Cpu, dtype: None, trainable: true };
        let model = Arc::new(Model::load(&source, &options)?);
        let reading = Reading {
            tokenizer: &model.tokenizer,
            chat: &model.chat,
            eos: model.eos.first().copied(),
            loss_on: recipe.objective.loss_on,
            max_length: recipe.data.max_length.min(model.context()),
            overlong: recipe.data.overlong,
        };
        let train = reading.file(&recipe.data.train)?;
        let eval = recipe.data.eval.as_ref().map(|p| reading.file(p)).transpose()?.unwrap_or_default();
        if train.overlong > 0 {
            watch.note(&format!(
                "{} of {} rows were longer than {} tokens",
                train.overlong,
                train.rows.len(),
                recipe.data.max_length
            ));
        }
        let per_step = recipe.optimizer.batch_size * recipe.optimizer.gradient_accumulation_steps;
        let total = recipe.optimizer.max_steps.unwrap_or_else(|| {
            let epochs = recipe.optimizer.num_train_epochs.unwrap_or(1.0);
            (epochs * train.rows.len() as f64 / per_step as f64).ceil() as usize
        });
        let (mut adamw, mut position) = (AdamW::default(), Position { step: 0, consumed: 0 });
        if resume {
            match checkpoint::list(&recipe.out).last() {
                Some((_, folder)) => {
                    (adamw, position) = checkpoint::restore(folder, &model.decoder)?;
                    watch.note(&format!("going on from {}", folder.display()));
                }
                None => watch.note("no checkpoint yet: starting at step 0"),
            }
        }
        let trainer =
            Self { recipe, model, train: train.rows, eval: eval.rows, adamw, position, total, _lock: lock };
        let text = toml::to_string(&trainer.recipe).map_err(|e| TrainError::Recipe(e.to_string()))?;
        trainer.write("recipe.toml", text.as_bytes())?;
        let plan = json!({"steps": total, "rows": trainer.train.len(), "eval_rows": trainer.eval.len(),
            "tokens_per_epoch": trainer.train.iter().map(|e| e.ids.len()).sum::<usize>(),
            "parameters": trainer.model.decoder.variables().values().map(|v| v.elem_count()).sum::<usize>()});
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
        if self.position.step == 0 && !self.eval.is_empty() {
            self.report_evaluation(watch)?;
        }
        while self.position.step < self.total {
            let before = self.position;
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
            if self.position.step.is_multiple_of(self.recipe.save.every.max(1)) || done {
                self.save()?;
                if !self.eval.is_empty() {
                    self.report_evaluation(watch)?;
                }
            }
        }
        checkpoint::finish(&self.recipe.out, &self.recipe.model, &self.model)
    }

    fn save(&self) -> Result<(), TrainError> {
        let keep = self.recipe.save.keep;
        checkpoint::save(&self.recipe.out, &self.model.decoder, &self.adamw, self.position, keep)
    }

    fn report_evaluation(&mut self, watch: &mut dyn Watch) -> Result<(), TrainError> {
        let e = self.evaluate()?;
        let line = json!({"step": self.position.step, "eval_loss": e.loss, "eval_perplexity": e.loss.exp(),
            "eval_bits_per_byte": e.bits_per_byte, "eval_tokens": e.tokens});
        self.log(&line)?;
        watch.step(&line, self.total);
        Ok(())
    }

    /// One optimiser step over `gradient_accumulation_steps` micro-batches, exact in tokens.
    fn step(&mut self, watch: &mut dyn Watch) -> Result<(), TrainError> {
        let started = Instant::now();
        let o = self.recipe.optimizer.clone();
        let batches: Vec<Vec<usize>> =
            (0..o.gradient_accumulation_steps).map(|_| self.next_rows(o.batch_size)).collect();
        let counted: usize = batches.iter().flatten().map(|&r| counted(&self.train[r])).sum();
        let (mut loss, mut tokens, mut gradients) = (0.0, 0, BTreeMap::<String, Vec<f32>>::new());
        for batch in &batches {
            let rows: Vec<Example> = batch.iter().map(|&r| self.train[r].clone()).collect();
            tokens += rows.iter().map(|r| r.ids.len()).sum::<usize>();
            let numbers: Vec<usize> = rows.iter().map(|r| r.row).collect();
            let pass = self.pass_beside(rows, counted, watch)?;
            if !pass.loss.is_finite() {
                return Err(TrainError::NotFinite {
                    step: self.position.step,
                    loss: pass.loss,
                    rows: numbers,
                });
            }
            loss += pass.loss;
            debug_assert!(pass.tokens <= counted);
            for (name, gradient) in pass.gradients {
                match gradients.get_mut(&name) {
                    Some(sum) => sum.iter_mut().zip(&gradient).for_each(|(a, b)| *a += b),
                    None => {
                        gradients.insert(name, gradient);
                    }
                }
            }
        }
        let norm = gradients.values().map(|g| squares(g)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            let rows = batches.iter().flatten().map(|&r| self.train[r].row).collect();
            return Err(TrainError::NotFinite { step: self.position.step, loss: norm, rows });
        }
        let scale = if o.max_grad_norm > 0.0 { (o.max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let rate = learning_rate(&o, self.position.step, self.total);
        self.adamw.update(self.model.decoder.variables(), &gradients, scale, rate, &o)?;
        self.position.step += 1;
        let seconds = started.elapsed().as_secs_f64();
        let line = json!({"step": self.position.step, "loss": loss, "grad_norm": norm, "lr": rate,
            "tokens": tokens, "tokens_per_second": tokens as f64 / seconds});
        self.log(&line)?;
        watch.step(&line, self.total);
        Ok(())
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

    /// A pass on a thread of its own, so that whoever interrupts does not wait for it: it only reads the weights, and is
    /// left behind.
    fn pass_beside(
        &self,
        rows: Vec<Example>,
        denominator: usize,
        watch: &mut dyn Watch,
    ) -> Result<Pass, TrainError> {
        let (send, receive) = mpsc::channel();
        let model = self.model.clone();
        let work = move || {
            let rows: Vec<&Example> = rows.iter().collect();
            // Nobody listens after an interrupt.
            let _ = send.send(pass(&model, &rows, denominator));
        };
        // The graph of a deep model is taken down recursively.
        let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(work);
        thread.map_err(TrainError::io(&self.recipe.out))?;
        loop {
            match receive.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(TrainError::Recipe("the training pass ended without a result".into()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if watch.cancelled() => {
                    return Err(TrainError::Interrupted(self.position.step));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Figures on the held-out rows.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn evaluate(&self) -> Result<Evaluation, TrainError> {
        evaluate(&self.model, &self.eval)
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

fn pass(model: &Model, rows: &[&Example], denominator: usize) -> Result<Pass, TrainError> {
    let (loss, tokens) = mean_loss(model, rows, denominator)?;
    let value = f64::from(loss.to_scalar::<f32>()?);
    let store = loss.backward()?;
    let mut gradients = BTreeMap::new();
    for (name, variable) in model.decoder.variables() {
        if let Some(g) = store.get(variable) {
            gradients.insert(name.clone(), g.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Ok(Pass { loss: value, tokens, gradients })
}

fn counted(example: &Example) -> usize {
    example.mask.iter().skip(1).filter(|m| **m).count()
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}
