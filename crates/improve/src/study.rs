//! Several loops in one table: seeds of one recipe, or methods beside each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{LoopConfig, Method};
use crate::error::ImproveError;
use crate::evaluate::HeldOut;
use crate::judge::Judge;
use crate::ledger::{self, Kind, Ledger};
use crate::recipes::{self, Shipped};
use crate::rows::{Cost, Decision, Interval, Sample};
use crate::stats::{interval, mean};

/// A study as its file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// What it asks, in a line.
    pub question: String,
    /// The loop that the variants change.
    pub recipe: String,
    /// Repetitions.
    pub seeds: u64,
    /// The first of their seeds: those that settings were chosen on are not reported.
    #[serde(default)]
    pub first_seed: u64,
    /// What is compared.
    pub variants: Vec<Variant>,
}

/// A loop of a study.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// For folders.
    pub name: String,
    /// For people.
    pub label: String,
    /// Changes of the recipe.
    #[serde(default)]
    pub set: Vec<String>,
}

/// The studies that ship.
pub const ALL: [Shipped; 2] = [
    Shipped { name: "loop-mini", text: include_str!("../studies/loop-mini.toml") },
    Shipped { name: "loop-methods", text: include_str!("../studies/loop-methods.toml") },
];

/// A loop to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Index of its variant.
    pub variant: usize,
    /// Its configuration; the folder is `OUT/VARIANT-SEED`.
    pub config: LoopConfig,
}

impl Study {
    /// Reads one.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, ImproveError> {
        toml::from_str(text).map_err(|e| ImproveError::Config(format!("a study: {e}")))
    }

    /// The loops, seed by seed. `small` puts the micro recipe in the place of the study's own.
    ///
    /// # Errors
    /// If a variant makes no sense.
    pub fn loops(&self, out: &Path, seeds: u64, small: bool) -> Result<Vec<Planned>, ImproveError> {
        let recipe = if small { "micro" } else { &self.recipe };
        let recipe = recipes::named(recipe)
            .map_err(|near| ImproveError::Config(format!("no loop {recipe}, but {near}")))?;
        let mut planned = Vec::new();
        for seed in self.first_seed..self.first_seed + seeds {
            for (variant, v) in self.variants.iter().enumerate() {
                let folder = out.join(format!("{}-{seed}", v.name));
                let mut set = v.set.clone();
                set.push(format!("seed={seed}"));
                set.push(format!("out={}", toml::Value::String(folder.display().to_string())));
                if small {
                    // The micro loop's phrases: judges that compare are not for it.
                    set.retain(|s| !s.starts_with("judge="));
                }
                let config = LoopConfig::parse(recipe.text, &set)
                    .map_err(|e| ImproveError::Config(format!("{}: {e}", v.name)))?;
                planned.push(Planned { variant, config });
            }
        }
        Ok(planned)
    }
}

/// Copies what `other` drew and scored before its first training, where `config` would draw and score the same: a
/// study's variants begin with the same papers.
///
/// # Errors
/// If rows cannot be read or written.
pub fn inherit(
    config: &LoopConfig,
    ledger: &mut dyn Ledger,
    other: &LoopConfig,
    from: &dyn Ledger,
) -> Result<(), ImproveError> {
    let same = config.seed == other.seed
        && config.model == other.model
        && config.prompts == other.prompts
        && config.sample == other.sample;
    if !same {
        return Ok(());
    }
    let mut kinds = vec![(0, Kind::Prompt), (0, Kind::HeldOut), (0, Kind::Check)];
    if config.train.method != Method::None && other.train.method != Method::None {
        kinds.extend([(1, Kind::Prompt), (1, Kind::Sample)]);
    }
    if config.judge == other.judge {
        kinds.push((0, Kind::Score));
    }
    if config.second_judge == other.second_judge {
        kinds.push((0, Kind::SecondScore));
    }
    for (iteration, kind) in kinds {
        let mut rows = from.rows(kind, iteration).map_err(ImproveError::Ledger)?;
        if (iteration, kind) == (1, Kind::Prompt) {
            // Held-out prompts of the other's first evaluation stand there too.
            let samples = ledger::read::<Sample>(from, Kind::Sample, 1)?;
            rows.retain(|id, _| samples.values().any(|s| s.prompt == *id));
        }
        let rows: Vec<_> = rows.into_iter().collect();
        ledger.put(kind, iteration, &rows).map_err(ImproveError::Ledger)?;
        let costs: Vec<_> = from
            .rows(Kind::Cost, iteration)
            .map_err(ImproveError::Ledger)?
            .into_iter()
            .filter(|(id, _)| id.split(' ').next() == Some(kind.name()))
            .collect();
        ledger.put(Kind::Cost, iteration, &costs).map_err(ImproveError::Ledger)?;
    }
    Ok(())
}

/// What names a loop's settings wherever it runs: a hash of its configuration but for the folder.
///
/// # Errors
/// If the configuration cannot be written.
pub fn settings(config: &LoopConfig) -> Result<String, ImproveError> {
    let anywhere = LoopConfig { out: PathBuf::new(), ..config.clone() };
    let text = serde_json::to_string(&anywhere).map_err(|e| ImproveError::Config(e.to_string()))?;
    Ok(ledger::id('l', &text))
}

/// The run of `planned` among those that a table of the same study has.
///
/// # Errors
/// If it ran with other settings: it is no part of this study.
pub fn run_elsewhere(study: &Study, planned: &Planned, runs: &[Run]) -> Result<Option<Run>, ImproveError> {
    let (name, seed) = (&study.variants[planned.variant].name, planned.config.seed);
    let Some(run) = runs.iter().find(|r| r.variant == *name && r.seed == seed) else { return Ok(None) };
    if run.settings != settings(&planned.config)? {
        return Err(ImproveError::Config(format!("{name}, seed {seed}, ran with other settings there")));
    }
    Ok(Some(run.clone()))
}

/// What one loop came to: the figures of the policy in force at its end, beside those of its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its variant's name.
    pub variant: String,
    /// Its seed.
    pub seed: u64,
    /// Its [`settings`].
    pub settings: String,
    /// SHA-256 of its rows.
    pub hash: String,
    /// The iteration in which guards stopped it.
    pub stopped: Option<usize>,
    /// Change of the study's judge, held-out prompts' mean; 0 where the start is in force.
    pub judge_gain: Option<f64>,
    /// Change of the second judge.
    pub second_gain: Option<f64>,
    /// Change of the share of valid papers.
    pub validity_gain: f64,
    /// Mean tokens over those of the start.
    pub length_ratio: f64,
    /// Distinct bigrams over those of the start.
    pub distinct_ratio: f64,
    /// Change of self-BLEU.
    pub self_bleu_gain: f64,
    /// Nats per token.
    pub kl: Option<f64>,
    /// Papers drawn, those of held-out prompts at the start left out.
    pub drawn: usize,
    /// Of all its phases, those shared with other loops included.
    pub seconds: f64,
}

/// Reads what a loop that ended came to; `None` if it did not end yet. `judge` scores the papers again where the loop's own
/// judge is another one.
///
/// # Errors
/// If rows cannot be read, or the judge fails.
pub fn outcome(
    variant: &str,
    config: &LoopConfig,
    ledger: &dyn Ledger,
    judge: Option<&dyn Judge>,
) -> Result<Option<Run>, ImproveError> {
    let mut decisions = Vec::new();
    for iteration in 0..=config.iterations {
        let rows = ledger::read::<Decision>(ledger, Kind::Decision, iteration)?;
        decisions.extend(rows.into_values().next());
    }
    let stopped = decisions.iter().position(|d| !d.accepted);
    let Some(start) = decisions.first() else { return Ok(None) };
    if stopped.is_none() && decisions.len() <= config.iterations {
        return Ok(None);
    }
    let last = match config.train.method {
        // There is no policy to go back to: what was chosen from is the start's in any case.
        Method::None => decisions.len() - 1,
        _ => decisions.iter().rposition(|d| d.accepted).unwrap_or(0),
    };
    let (then, now) = (&start.evaluation, &decisions[last].evaluation);
    let gain = |own: Option<Interval>| if last == 0 { Some(0.0) } else { own.map(|i| i.mean) };
    let judge_gain = match judge {
        Some(judge) if last > 0 => rescored(judge, ledger, last, config.sample.best_of)?,
        _ => gain(now.judge_gain),
    };
    let (mut drawn, mut seconds) = (0, 0.0);
    for iteration in 0..=config.iterations {
        drawn += ledger.rows(Kind::Sample, iteration).map_err(ImproveError::Ledger)?.len();
        let costs = ledger::read::<Cost>(ledger, Kind::Cost, iteration)?;
        seconds += costs.values().map(|c| c.seconds).sum::<f64>();
    }
    if config.train.method == Method::None {
        drawn = ledger.rows(Kind::HeldOut, last).map_err(ImproveError::Ledger)?.len();
    }
    Ok(Some(Run {
        variant: variant.into(),
        seed: config.seed,
        settings: settings(config)?,
        hash: ledger::hash(ledger, config.iterations)?,
        stopped,
        judge_gain,
        second_gain: gain(now.second_gain),
        validity_gain: now.validity - then.validity,
        length_ratio: now.tokens / then.tokens,
        distinct_ratio: now.distinct / then.distinct,
        self_bleu_gain: now.self_bleu - then.self_bleu,
        kl: now.kl,
        drawn,
        seconds,
    }))
}

/// Mean change of a judge's scores of the held-out papers that count, prompt by prompt.
fn rescored(
    judge: &dyn Judge,
    ledger: &dyn Ledger,
    iteration: usize,
    best_of: usize,
) -> Result<Option<f64>, ImproveError> {
    let scores = |iteration: usize, best_of: usize| -> Result<BTreeMap<String, f64>, ImproveError> {
        let held_out = HeldOut::read(ledger, iteration)?;
        let counted = held_out.counted(best_of);
        let known: Vec<(&str, &str)> = counted
            .iter()
            .filter_map(|id| held_out.samples.get(*id))
            .filter_map(|s| Some((s.prompt.as_str(), s.text.as_deref()?)))
            .collect();
        let texts: Vec<String> = known.iter().map(|k| k.1.to_string()).collect();
        let (scored, _) = judge.score(&texts, None, 0, &lm::Silent)?;
        let mut by_prompt: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for ((prompt, _), scored) in known.iter().zip(scored) {
            by_prompt.entry((*prompt).into()).or_default().extend(scored.mean);
        }
        Ok(by_prompt.into_iter().filter_map(|(p, s)| Some((p, mean(&s)?))).collect())
    };
    let (then, now) = (scores(0, 1)?, scores(iteration, best_of)?);
    let changes: Vec<f64> = now.iter().filter_map(|(p, s)| Some(s - then.get(p)?)).collect();
    Ok(mean(&changes))
}

/// A variant's runs together: means over seeds with their 95 % intervals (Student's t).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// For people.
    pub label: String,
    /// Runs that ended.
    pub seeds: usize,
    /// Of these stopped by guards.
    pub stopped: usize,
    /// See [`Run`].
    pub judge_gain: Option<Interval>,
    /// See [`Run`].
    pub second_gain: Option<Interval>,
    /// See [`Run`].
    pub validity_gain: Option<Interval>,
    /// See [`Run`].
    pub length_ratio: Option<Interval>,
    /// See [`Run`].
    pub distinct_ratio: Option<Interval>,
    /// See [`Run`].
    pub self_bleu_gain: Option<Interval>,
    /// See [`Run`].
    pub kl: Option<Interval>,
    /// Mean papers drawn.
    pub drawn: f64,
    /// Mean seconds.
    pub seconds: f64,
}

/// A study's results: `cycle.loop_study/1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// `cycle.loop_study/1`.
    pub schema: String,
    /// What was asked.
    pub question: String,
    /// By variant.
    pub variants: Vec<Summary>,
    /// All runs that ended.
    pub runs: Vec<Run>,
    /// Loops that did not end yet.
    pub missing: usize,
}

impl Table {
    /// From runs that ended.
    pub fn of(study: &Study, runs: Vec<Run>, missing: usize) -> Self {
        let variants = study
            .variants
            .iter()
            .map(|v| {
                let own: Vec<&Run> = runs.iter().filter(|r| r.variant == v.name).collect();
                let over = |f: &dyn Fn(&Run) -> Option<f64>| {
                    interval(&own.iter().filter_map(|r| f(r)).collect::<Vec<_>>(), 0.95)
                };
                let average = |f: &dyn Fn(&Run) -> f64| {
                    mean(&own.iter().map(|r| f(r)).collect::<Vec<_>>()).unwrap_or_default()
                };
                Summary {
                    label: v.label.clone(),
                    seeds: own.len(),
                    stopped: own.iter().filter(|r| r.stopped.is_some()).count(),
                    judge_gain: over(&|r| r.judge_gain),
                    second_gain: over(&|r| r.second_gain),
                    validity_gain: over(&|r| Some(r.validity_gain)),
                    length_ratio: over(&|r| Some(r.length_ratio)),
                    distinct_ratio: over(&|r| Some(r.distinct_ratio)),
                    self_bleu_gain: over(&|r| Some(r.self_bleu_gain)),
                    kl: over(&|r| r.kl),
                    drawn: average(&|r| r.drawn as f64),
                    seconds: average(&|r| r.seconds),
                }
            })
            .collect();
        Self {
            schema: "cycle.loop_study/1".into(),
            question: study.question.clone(),
            variants,
            runs,
            missing,
        }
    }

    /// Whether every variant gains by both judges, its intervals above 0, and loses no validity in the mean.
    pub fn holds(&self) -> bool {
        let above = |i: &Option<Interval>| i.and_then(|i| i.low).is_some_and(|low| low > 0.0);
        self.missing == 0
            && self.variants.iter().all(|v| {
                above(&v.judge_gain)
                    && above(&v.second_gain)
                    && v.validity_gain.is_some_and(|i| i.mean >= 0.0)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Memory;
    use serde_json::json;

    #[test]
    fn every_study_that_ships_is_one_and_its_small_version_too() {
        for shipped in ALL {
            let study = Study::parse(shipped.text).unwrap();
            let names: std::collections::BTreeSet<&str> =
                study.variants.iter().map(|v| v.name.as_str()).collect();
            assert_eq!(names.len(), study.variants.len());
            for small in [false, true] {
                let loops = study.loops(Path::new("out"), 2, small).unwrap();
                assert_eq!(loops.len(), 2 * study.variants.len());
            }
        }
    }

    #[test]
    fn a_run_of_another_machine_counts_if_only_its_folder_differs() {
        let study = Study::parse(ALL[1].text).unwrap();
        let here = study.loops(Path::new("here"), 1, false).unwrap();
        let there = study.loops(Path::new("there"), 1, false).unwrap();
        let run = Run {
            variant: study.variants[0].name.clone(),
            seed: study.first_seed,
            settings: settings(&there[0].config).unwrap(),
            hash: String::new(),
            stopped: None,
            judge_gain: Some(0.4),
            second_gain: Some(0.1),
            validity_gain: 0.0,
            length_ratio: 1.0,
            distinct_ratio: 1.0,
            self_bleu_gain: 0.0,
            kl: None,
            drawn: 480,
            seconds: 1.0,
        };
        let found = |run: &Run, i: usize| run_elsewhere(&study, &here[i], std::slice::from_ref(run));
        assert_eq!(found(&run, 0).unwrap().as_ref(), Some(&run));
        assert_eq!(found(&run, 1).unwrap(), None, "another variant's");
        let other = Run { settings: settings(&there[1].config).unwrap(), ..run };
        assert!(found(&other, 0).unwrap_err().to_string().contains("other settings"));
    }

    #[test]
    fn variants_share_their_first_papers_and_no_score_of_another_judge() {
        let study = Study::parse(ALL[1].text).unwrap();
        let loops = study.loops(Path::new("out"), 2, false).unwrap();
        let of = |name: &str, seed: u64| {
            let found =
                loops.iter().find(|l| study.variants[l.variant].name == name && l.config.seed == seed);
            found.unwrap().config.clone()
        };
        let first_seed = study.first_seed;
        let mut first = Memory::default();
        let row = |id: &str| [(id.to_string(), json!({}))];
        for (iteration, kind) in
            [(0, Kind::HeldOut), (0, Kind::Score), (0, Kind::SecondScore), (1, Kind::Sample)]
        {
            let sample = json!({"prompt": "p", "index": 0, "policy": "", "seed": 0, "prompt_sha256": "", "parts": 1, "tokens": 1});
            first.put(kind, iteration, &[("s".into(), sample)]).unwrap();
        }
        first.put(Kind::Prompt, 1, &row("p")).unwrap();
        first.put(Kind::Prompt, 1, &row("held out")).unwrap();
        first.put(Kind::Pair, 1, &row("pair")).unwrap();
        let got = |name: &str, seed: u64| {
            let mut ledger = Memory::default();
            inherit(&of(name, seed), &mut ledger, &of("simpo-nll", first_seed), &first).unwrap();
            let n = |kind, iteration| ledger.rows(kind, iteration).unwrap().len();
            [
                n(Kind::HeldOut, 0),
                n(Kind::Score, 0),
                n(Kind::SecondScore, 0),
                n(Kind::Sample, 1),
                n(Kind::Prompt, 1),
                n(Kind::Pair, 1),
            ]
        };
        assert_eq!(got("dpo", first_seed), [1, 1, 1, 1, 1, 0]);
        assert_eq!(got("gpo-gpm", first_seed), [1, 0, 1, 1, 1, 0]);
        assert_eq!(got("dpo", first_seed + 1), [0; 6]);
        assert_eq!(got("best-of-10", first_seed), [0; 6], "it draws another number of papers");
    }
}
