//! SimPO over several rounds of the policy's own samples, with and without an NLL term on the chosen answers: what keeps
//! the loop of CycleResearcher alive (2411.00816; SimPO 2405.14734).

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};

use super::Options;
use super::micro::{Micro, Reader};
use super::plot::{Curve, Panel};
use super::report::Report;
use super::runs::{Random, each_seed, train};
use crate::error::TrainError;

const TOPICS: usize = 8;
/// Words that belong to a topic; a good answer names many of its own.
const OWN: usize = 6;
const LINKS: [&str; 8] = ["shows", "needs", "gives", "finds", "and", "then", "with", "from"];
/// Longest sample, tokens.
const MOST: usize = 40;
/// The arms: weight of NLL.
const ARMS: [(&str, f64); 2] = [("SimPO", 0.0), ("SimPO + NLL", 1.0)];

struct Setting {
    rounds: usize,
    /// Prompts a round; four samples each.
    prompts: usize,
    steps: usize,
    rate: f64,
    texts: usize,
    sft_steps: usize,
}

const SAMPLES: usize = 4;

fn words() -> Vec<String> {
    let topics = (0..TOPICS).map(|t| format!("topic{t}"));
    let own = (0..TOPICS).flat_map(|t| (0..OWN).map(move |w| format!("w{t}x{w}")));
    let rest = LINKS.iter().chain(&[".", ":", "<unk>"]).map(|w| (*w).to_string());
    std::iter::once("<eos>".to_string()).chain(topics).chain(own).chain(rest).collect()
}

/// A text about a topic: one to four clauses of two words of its own (a tenth of another's) around a link.
fn text(topic: usize, random: &mut Random) -> String {
    let clauses = 1 + random.below(4);
    let word = |random: &mut Random| {
        let t = if random.uniform() < 0.1 { random.below(TOPICS) } else { topic };
        format!("w{t}x{}", random.below(OWN))
    };
    let clause = |random: &mut Random| {
        let (a, link) = (word(random), LINKS[random.below(LINKS.len())]);
        format!("{a} {link} {} .", word(random))
    };
    (0..clauses).map(|_| clause(random)).collect::<Vec<_>>().join(" ")
}

/// The judge: how many of the topic's words an answer names, up to four, less the share of words of other topics. Length
/// beyond two clauses earns nothing, so that nobody is paid for going on for ever.
fn score(topic: usize, answer: &[u32]) -> f64 {
    let (first, own, all) = ((1 + TOPICS) as u32, OWN as u32, (TOPICS * OWN) as u32);
    let named: Vec<u32> =
        answer.iter().filter(|id| (first..first + all).contains(id)).map(|id| id - first).collect();
    let good: Vec<u32> = named.iter().copied().filter(|id| id / own == topic as u32).collect();
    let off = (named.len() - good.len()) as f64 / named.len().max(1) as f64;
    (good.iter().collect::<HashSet<_>>().len() as f64 / 4.0).min(1.0) - off
}

/// What is measured of a policy, before the first round and after each.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// log p per token of the round's chosen answers under the policy trained on them, nats.
    chosen: f64,
    /// Its change by the round's training.
    change: f64,
    perplexity: f64,
    ended: f64,
    /// Different bigrams over all bigrams of the samples.
    distinct: f64,
    score: f64,
}

const MEASURES: [(&str, fn(&Measured) -> f64); 6] = [
    ("log p per token of the chosen", |m| m.chosen),
    ("its change by the training", |m| m.change),
    ("held-out perplexity", |m| m.perplexity),
    ("share of samples that end", |m| m.ended),
    ("distinct bigrams", |m| m.distinct),
    ("judge's score", |m| m.score),
];

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0.0, 0.0), |(n, s), v| (n + 1.0, s + v));
    sum / f64::max(n, 1.0)
}

fn per_token(model: &Reader, rows: &[(Vec<u32>, Vec<u32>)]) -> Result<f64, TrainError> {
    Ok(mean(model.answers(rows)?.into_iter().map(mean)))
}

/// Different bigrams over all, every sample by itself: repetition within a text.
fn distinct(answers: &[Vec<u32>]) -> f64 {
    mean(answers.iter().filter(|a| a.len() > 1).map(|a| {
        let all = a.windows(2).collect::<Vec<_>>();
        all.iter().collect::<HashSet<_>>().len() as f64 / all.len() as f64
    }))
}

struct Samples {
    topics: Vec<usize>,
    prompts: Vec<Vec<u32>>,
    answers: Vec<Vec<u32>>,
}

fn samples(model: &Reader, s: &Setting, random: &mut Random) -> Result<Samples, TrainError> {
    let topics: Vec<usize> = (0..s.prompts * SAMPLES).map(|i| i / SAMPLES % TOPICS).collect();
    let prompts: Vec<Vec<u32>> =
        topics.iter().map(|t| model.encode(&format!("topic{t} :"))).collect::<Result<_, _>>()?;
    let answers = model.sample(&prompts, MOST, random)?;
    Ok(Samples { topics, prompts, answers })
}

fn rounds(
    s: &Setting,
    arm: usize,
    seed: u64,
    sft: &Path,
    folder: &Path,
    held_out: &[(Vec<u32>, Vec<u32>)],
) -> Result<Vec<Measured>, TrainError> {
    let mut random = Random::new(seed, 20 + arm as u64);
    let mut model = Reader::open(sft)?;
    let mut checkpoint = sft.to_path_buf();
    let (mut made, mut chosen, mut before) = (Vec::new(), Vec::new(), f64::NAN);
    for round in 0..=s.rounds {
        let drawn = samples(&model, s, &mut random)?;
        let after = if chosen.is_empty() { f64::NAN } else { per_token(&model, &chosen)? };
        let n = drawn.answers.len() as f64;
        let scored: Vec<f64> = drawn.topics.iter().zip(&drawn.answers).map(|(t, a)| score(*t, a)).collect();
        made.push(Measured {
            chosen: after,
            change: after - before,
            perplexity: (-per_token(&model, held_out)?).exp(),
            ended: drawn.answers.iter().filter(|a| a.last() == Some(&0)).count() as f64 / n,
            distinct: distinct(&drawn.answers),
            score: mean(scored.iter().copied()),
        });
        if round == s.rounds {
            break;
        }
        let mut rows = Vec::new();
        chosen.clear();
        for first in (0..drawn.answers.len()).step_by(SAMPLES) {
            let of = first..first + SAMPLES;
            let best = of.clone().max_by(|&a, &b| scored[a].total_cmp(&scored[b])).unwrap_or(first);
            let worst = of.min_by(|&a, &b| scored[a].total_cmp(&scored[b])).unwrap_or(first);
            // Equal scores say nothing.
            if scored[best] > scored[worst] {
                let (prompt, good, bad) = (&drawn.prompts[best], &drawn.answers[best], &drawn.answers[worst]);
                rows.push(json!({"prompt": prompt, "chosen": good, "rejected": bad}));
                chosen.push((prompt.clone(), good.clone()));
            }
        }
        if rows.is_empty() {
            // Every prompt's samples are worth the same: the loop has come to its end.
            let last = made[made.len() - 1];
            made.resize(s.rounds + 1, last);
            break;
        }
        before = per_token(&model, &chosen)?;
        let recipe = format!(
            "kind = \"preference\"\nseed = {round}\n[data]\n[objective]\nname = \"cpo_simpo\"\nbeta = 2.0\ngamma = 1.0\n\
             nll_weight = {:?}\nnll_reduction = \"sequence\"\n[optimizer]\nlearning_rate = {}\nwarmup_steps = 0.1\n\
             batch_size = 16\nmax_steps = {}\n",
            ARMS[arm].1, s.rate, s.steps
        );
        checkpoint = train(&checkpoint, &folder.join(format!("arm-{arm}-{round}")), &recipe, &rows, &[])?.0;
        model = Reader::open(&checkpoint)?;
    }
    Ok(made)
}

pub(super) fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report, TrainError> {
    let mut s = Setting { rounds: 6, prompts: 96, steps: 12, rate: 2e-3, texts: 1600, sft_steps: 200 };
    if options.small {
        s = Setting { rounds: 2, prompts: 32, steps: 6, texts: 400, sft_steps: 60, ..s };
    }
    let made = each_seed(options, |seed, folder| {
        let mut random = Random::new(seed, 4);
        let start = folder.join("start");
        Micro { words: words(), ends: true, hidden: 48, layers: 2, context: 64, head: 0.02 }
            .write(&start, seed)?;
        let pair = |random: &mut Random| {
            let topic = random.below(TOPICS);
            (format!("topic{topic} :"), text(topic, random))
        };
        let texts: Vec<Value> = (0..s.texts)
            .map(|_| {
                let (prompt, completion) = pair(&mut random);
                json!({"prompt": prompt, "completion": completion})
            })
            .collect();
        let recipe = format!(
            "kind = \"sft\"\nseed = {seed}\n[data]\n[optimizer]\nlearning_rate = 3e-3\nbatch_size = 32\nmax_steps = {}\n",
            s.sft_steps
        );
        let sft = train(&start, &folder.join("sft"), &recipe, &texts, &[])?.0;
        let model = Reader::open(&sft)?;
        let held_out: Vec<(Vec<u32>, Vec<u32>)> = (0..200)
            .map(|_| {
                let (prompt, text) = pair(&mut random);
                let mut ids = model.encode(&text)?;
                ids.push(0);
                Ok((model.encode(&prompt)?, ids))
            })
            .collect::<Result<_, TrainError>>()?;
        let arms = (0..ARMS.len())
            .map(|arm| rounds(&s, arm, seed, &sft, folder, &held_out))
            .collect::<Result<Vec<_>, TrainError>>()?;
        let end = |arm: usize| arms[arm][s.rounds];
        say(&format!(
            "seed {seed}: perplexity {:.2} → {:.2} without NLL, {:.2} with; samples that end {:.2}, {:.2}",
            arms[0][0].perplexity,
            end(0).perplexity,
            end(1).perplexity,
            end(0).ended,
            end(1).ended
        ));
        Ok(arms)
    })?;
    let mut report = Report::new("simpo-nll", options);
    report.setting.push(format!(
        "A micro llama decoder (hidden 48, 2 layers, made by seed, {} supervised steps) answers {} prompts a round with \
         {SAMPLES} samples each (temperature 1, at most {MOST} tokens); the judge counts the topic's words that an answer \
         names, up to four, less the share of words of other topics; best against worst, SimPO (β 2, γ 1) with and without NLL on the chosen (weight 1, by sequence), \
         {} rounds of {} steps of 16 pairs (AdamW {}).",
        s.sft_steps, s.prompts, s.rounds, s.steps, s.rate
    ));
    let of = |arm: usize, round: usize, f: fn(&Measured) -> f64| {
        made.iter().map(|m| f(&m[arm][round])).collect::<Vec<f64>>()
    };
    for (name, f) in MEASURES {
        if !name.starts_with("log p") && !name.starts_with("its") {
            report.figure(format!("{name}, before"), of(0, 0, f));
        }
        for (arm, (label, _)) in ARMS.iter().enumerate() {
            report.figure(format!("{name}, {label}, after {} rounds", s.rounds), of(arm, s.rounds, f));
        }
    }
    let [chosen, _, perplexity, ended, distinct, _] = MEASURES.map(|m| m.1);
    let zero = vec![0.0; made.len()];
    let fall: Vec<f64> =
        (0..made.len()).map(|i| mean((1..=s.rounds).map(|r| made[i][0][r].change))).collect();
    report.claim_above(
        "without NLL training lowers log p of the chosen answers, mean over rounds",
        &zero,
        &fall,
    );
    report.claim_above(
        "with NLL log p of the chosen ends higher",
        &of(1, s.rounds, chosen),
        &of(0, s.rounds, chosen),
    );
    let lost = of(0, s.rounds, perplexity);
    report.claim_above("without NLL held-out perplexity rises", &lost, &of(0, 0, perplexity));
    report.claim_above("with NLL held-out perplexity ends lower", &lost, &of(1, s.rounds, perplexity));
    report.claim_above("with NLL more samples end", &of(1, s.rounds, ended), &of(0, s.rounds, ended));
    report.claim_above(
        "with NLL samples repeat less",
        &of(1, s.rounds, distinct),
        &of(0, s.rounds, distinct),
    );
    for (name, f) in MEASURES {
        let from = usize::from(name.starts_with("log p") || name.starts_with("its"));
        let curve =
            |arm: usize| Curve::new(ARMS[arm].0, (from..=s.rounds).map(|r| (r as f64, of(arm, r, f))));
        report.plot.push(Panel::curves(name, "round", "", vec![curve(0), curve(1)]));
    }
    let all: Vec<Value> = MEASURES
        .iter()
        .map(|(name, f)| {
            let by_arm: Vec<Vec<Vec<f64>>> = (0..ARMS.len())
                .map(|arm| made.iter().map(|m| m[arm].iter().map(f).collect()).collect())
                .collect();
            json!({"measure": name, "by_arm_seed_round": by_arm})
        })
        .collect();
    report.details = json!({"arms": ARMS, "measures": all});
    Ok(report)
}
