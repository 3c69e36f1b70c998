//! SPO's degree term (2409.17791) beside DPO and SimPO, with its controls: does telling how much key content is gone help
//! to tell which answer is better? Nobody promised; it is measured.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Options;
use super::micro::Micro;
use super::plot::Panel;
use super::report::{Finding, Report};
use super::runs::{Random, each_seed, train};
use crate::error::TrainError;

/// Key phrases have a value by seed; the better answer is the one whose phrases are worth more.
const PHRASES: usize = 24;
const FIRST: [&str; 12] = [
    "sharp", "noisy", "robust", "shallow", "exact", "loose", "novel", "stale", "sound", "fragile", "broad",
    "thin",
];
const SECOND: [&str; 12] = [
    "proof", "ablation", "baseline", "dataset", "theorem", "metric", "survey", "model", "sampler", "bound",
    "figure", "code",
];
const FILLERS: [&str; 12] = [
    "paper", "section", "reader", "table", "page", "authors", "work", "method", "result", "appendix", "text",
    "study",
];
/// Stop words of RAKE's list, so that phrases end at them.
const BETWEEN: [&str; 8] = ["with", "and", "of", "in", "for", "by", "after", "under"];
const TOPICS: [&str; 4] = ["vision", "language", "robots", "graphs"];

const DEGREES: usize = 3;
const BASES: [(&str, &str); 2] =
    [("DPO", "name = \"sigmoid\"\nbeta = 0.1"), ("SimPO", "name = \"simpo\"\nbeta = 2.0\ngamma = 0.5")];
const ARMS: [(&str, Option<&str>); 4] =
    [("alone", None), ("keywords", Some("keywords")), ("random", Some("random")), ("low", Some("low"))];

struct Setting {
    pairs: usize,
    held_out: usize,
    texts: usize,
    sft_steps: usize,
    steps: usize,
    rate: f64,
    weight: f64,
}

/// A world of one seed: which phrases there are and what they are worth.
struct World {
    phrases: Vec<(String, f64)>,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let mut all: Vec<String> =
            FIRST.iter().flat_map(|a| SECOND.iter().map(move |b| format!("{a} {b}"))).collect();
        random.shuffle(&mut all);
        let phrases = all.into_iter().take(PHRASES).map(|p| (p, 2.0 * random.uniform() - 1.0)).collect();
        Self { phrases }
    }

    /// An answer and its worth: two or three key phrases and as many fillers, in any order, between stop words.
    fn answer(&self, random: &mut Random) -> (String, f64) {
        let keys = 2 + random.below(2);
        let mut parts: Vec<(&str, f64)> = (0..keys)
            .map(|_| {
                let (phrase, worth) = &self.phrases[random.below(self.phrases.len())];
                (phrase.as_str(), *worth)
            })
            .collect();
        parts.extend((0..keys).map(|_| (FILLERS[random.below(FILLERS.len())], 0.0)));
        random.shuffle(&mut parts);
        let mut text = String::from("the");
        for (i, (part, _)) in parts.iter().enumerate() {
            if i > 0 {
                text += &format!(" {}", BETWEEN[random.below(BETWEEN.len())]);
            }
            text += &format!(" {part}");
        }
        (text + " .", parts.iter().map(|p| p.1).sum::<f64>() / keys as f64)
    }

    fn pairs(&self, count: usize, random: &mut Random) -> Vec<Value> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let (a, b) = (self.answer(random), self.answer(random));
            if (a.1 - b.1).abs() > 0.1 {
                let (better, worse) = if a.1 > b.1 { (a.0, b.0) } else { (b.0, a.0) };
                rows.push(json!({"prompt": topic(random), "chosen": better, "rejected": worse}));
            }
        }
        rows
    }
}

fn topic(random: &mut Random) -> String {
    format!("{} :", TOPICS[random.below(TOPICS.len())])
}

/// Held-out figures of one training.
#[derive(Debug, Clone, Copy)]
struct Measured {
    accuracy: f64,
    degrees: Option<f64>,
}

fn words() -> Vec<String> {
    let lists: [&[&str]; 6] = [&FIRST, &SECOND, &FILLERS, &BETWEEN, &TOPICS, &["the", ".", ":", "<unk>"]];
    std::iter::once("<eos>").chain(lists.into_iter().flatten().copied()).map(String::from).collect()
}

fn measure(s: &Setting, seed: u64, folder: &Path) -> Result<Vec<Vec<Measured>>, TrainError> {
    let mut random = Random::new(seed, 3);
    let world = World::new(&mut random);
    let start = folder.join("start");
    Micro { words: words(), ends: true, hidden: 48, layers: 2, context: 64, head: 0.02 }
        .write(&start, seed)?;
    let texts: Vec<Value> = (0..s.texts)
        .map(|_| json!({"prompt": topic(&mut random), "completion": world.answer(&mut random).0}))
        .collect();
    let recipe = format!(
        "kind = \"sft\"\nseed = {seed}\n[data]\n[optimizer]\nlearning_rate = 3e-3\nbatch_size = 32\nmax_steps = {}\n",
        s.sft_steps
    );
    let policy = train(&start, &folder.join("sft"), &recipe, &texts, &[])?.0;
    let (rows, held_out) = (world.pairs(s.pairs, &mut random), world.pairs(s.held_out, &mut random));
    let one = |objective: &str, removal: Option<&str>, out: PathBuf| -> Result<Measured, TrainError> {
        let degree = removal.map_or(String::new(), |r| {
            format!("[degree]\nweight = {}\ndegrees = {DEGREES}\nremoval = {r:?}\n", s.weight)
        });
        let recipe = format!(
            "kind = \"preference\"\nseed = {seed}\n[data]\n[objective]\n{objective}\n{degree}[optimizer]\n\
             learning_rate = {}\nwarmup_steps = 0.1\nbatch_size = 16\nmax_steps = {}\n",
            s.rate, s.steps
        );
        let (_, lines) = train(&policy, &out, &recipe, &rows, &held_out)?;
        let number = |key: &str| lines.iter().rev().find_map(|l| l[key].as_f64());
        Ok(Measured {
            accuracy: number("eval_rewards/accuracies").unwrap_or(f64::NAN),
            degrees: number("eval_degree_accuracy"),
        })
    };
    BASES
        .iter()
        .map(|(base, objective)| {
            let arm = |(arm, removal): &(&str, Option<&str>)| {
                one(objective, *removal, folder.join(format!("{base}-{arm}")))
            };
            ARMS.iter().map(arm).collect()
        })
        .collect()
}

pub(super) fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report, TrainError> {
    let mut s = Setting {
        pairs: 240,
        held_out: 400,
        texts: 1200,
        sft_steps: 150,
        steps: 60,
        rate: 2e-3,
        weight: 0.1,
    };
    if options.small {
        s = Setting { pairs: 48, held_out: 48, texts: 200, sft_steps: 20, steps: 9, ..s };
    }
    let made = each_seed(options, |seed, folder| {
        let made = measure(&s, seed, folder)?;
        let arms: Vec<String> = BASES
            .iter()
            .zip(&made)
            .map(|((base, _), m)| {
                let each: Vec<String> =
                    ARMS.iter().zip(m).map(|(a, m)| format!("{} {:.3}", a.0, m.accuracy)).collect();
                format!("{base}: {}", each.join(", "))
            })
            .collect();
        say(&format!("seed {seed}: held-out accuracy {}", arms.join("; ")));
        Ok(made)
    })?;
    let mut report = Report::new("spo-degree", options);
    report.setting.push(format!(
        "A micro llama decoder (hidden 48, 2 layers, made by seed, {} supervised steps) learns preferences between short \
         texts whose key phrases, each with a worth drawn by seed, decide which is better: {} pairs, {} held out, {} steps \
         (AdamW {}). Degrees 0 to {DEGREES}, weight {}, head rate 10 ×; accuracy is that of the implicit reward.",
        s.sft_steps, s.pairs, s.held_out, s.steps, s.rate, s.weight
    ));
    let chance = 1.0 / (DEGREES + 1) as f64;
    for (b, (base, _)) in BASES.iter().enumerate() {
        let of = |arm: usize| made.iter().map(|m| m[b][arm].accuracy).collect::<Vec<f64>>();
        let degrees = |arm: usize| made.iter().filter_map(|m| m[b][arm].degrees).collect::<Vec<f64>>();
        for (a, (arm, removal)) in ARMS.iter().enumerate() {
            report.figure(format!("{base} {arm}: held-out preference accuracy"), of(a));
            if removal.is_some() {
                report.figure(format!("{base} {arm}: held-out degree accuracy"), degrees(a));
            }
        }
        report.claim_above(
            format!("{base} alone tells held-out pairs better than a coin"),
            &of(0),
            &vec![0.5; of(0).len()],
        );
        report.claim_above(
            format!("{base} with keyword degrees tells degrees better than chance, {chance}"),
            &degrees(1),
            &vec![chance; made.len()],
        );
        for (rival, name) in
            [(0, "without it"), (2, "with random removal"), (3, "with removal of low scores")]
        {
            let question = format!("{base}: preference accuracy with keyword degrees, against {name}");
            report.findings.push(Finding::paired(question, &of(1), &of(rival)));
        }
        let named = |of: &dyn Fn(usize) -> Vec<f64>, from: usize| {
            (from..ARMS.len()).map(|a| (ARMS[a].0.to_string(), of(a))).collect::<Vec<_>>()
        };
        report.plot.push(Panel::dots(
            &format!("{base}: held-out pairs"),
            "preference accuracy",
            named(&of, 0),
        ));
        report.plot.push(
            Panel::dots(&format!("{base}: held-out degrees"), "degree accuracy", named(&degrees, 1))
                .level("chance", chance),
        );
    }
    Ok(report)
}
