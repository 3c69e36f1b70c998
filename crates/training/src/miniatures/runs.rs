//! What every experiment does: rows, a recipe, a training; seeds beside each other; draws.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::Options;
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::trainer::{Start, Trainer, Watch};

/// SplitMix64: draws that are a function of the seed alone.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random =
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.bits();
        random
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0..n.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Fisher–Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Writes rows as JSON lines.
pub(super) fn write_rows(path: &Path, rows: &[Value]) -> Result<(), TrainError> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).map_err(TrainError::io(path))
}

/// Lines of `metrics.jsonl` as they come.
#[derive(Debug, Default)]
pub(super) struct Lines(pub(super) Vec<Value>);

impl Watch for Lines {
    fn step(&mut self, metrics: &Value, _: usize) {
        self.0.push(metrics.clone());
    }
}

/// Trains from `model` into the fresh folder `out`; `rest` is the recipe from its `kind` on without model and out.
/// Returns the folder of the trained checkpoint and the metrics.
pub(super) fn train(
    model: &Path,
    out: &Path,
    rest: &str,
    rows: &[Value],
    held_out: &[Value],
) -> Result<(PathBuf, Vec<Value>), TrainError> {
    fs::create_dir_all(out).map_err(TrainError::io(out))?;
    let (data, eval) = (out.join("rows.jsonl"), out.join("held-out.jsonl"));
    write_rows(&data, rows)?;
    let mut set = vec![
        format!("model={:?}", model.display().to_string()),
        format!("out={:?}", out.display().to_string()),
        format!("data.train={:?}", data.display().to_string()),
        "save.every=1000000".to_string(),
        "save.keep=1".to_string(),
    ];
    if !held_out.is_empty() {
        write_rows(&eval, held_out)?;
        set.push(format!("data.eval={:?}", eval.display().to_string()));
    }
    let mut lines = Lines::default();
    let mut trainer = Trainer::new(Recipe::parse(rest, &set)?, &Start::default(), &mut lines)?;
    let done = trainer.run(&mut lines)?;
    Ok((done, lines.0))
}

/// Runs `work` for every seed, as many at once as there are threads to compute with; results in the order of the seeds.
pub(super) fn each_seed<T: Send>(
    options: &Options,
    work: impl Fn(u64, &Path) -> Result<T, TrainError> + Sync,
) -> Result<Vec<T>, TrainError> {
    let seeds = options.seeds();
    let waiting = Mutex::new(seeds.iter().copied().enumerate().collect::<std::collections::VecDeque<_>>());
    let done: Mutex<Vec<Option<Result<T, TrainError>>>> = Mutex::new(seeds.iter().map(|_| None).collect());
    // Plain threads: a worker of the pool that waited for a training would keep the training's own work waiting.
    std::thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads().clamp(1, seeds.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let Some((place, seed)) = waiting.lock().ok().and_then(|mut w| w.pop_front()) else {
                        return;
                    };
                    let folder = options.out.join("work").join(format!("seed-{seed}"));
                    let result = work(seed, &folder);
                    if let Ok(mut done) = done.lock() {
                        done[place] = Some(result);
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    done.into_iter()
        .map(|r| r.unwrap_or_else(|| Err(TrainError::Recipe("a seed ended without a result".into()))))
        .collect()
}
