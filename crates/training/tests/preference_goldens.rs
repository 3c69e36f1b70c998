//! Objectives and reward losses against TRL 1.16 and float64 autograd on micro models (`losses.json`), from the models'
//! log-probabilities and vectors alone.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::{goldens, json, settings};
use training::objectives::{Answer, Batch, Labelled, Loss, Objective, Pair, Settings, State};
use training::rewards::gpm::{Gate, Gpm};
use training::rewards::{BradleyTerry, Goal};

/// Width of the micro models' states.
const HIDDEN: usize = 64;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[track_caller]
fn near(what: &str, ours: f64, theirs: f64, tolerance: f64) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs() + 1e-9, "{what}: {ours}, expected {theirs}");
}

struct Goldens {
    losses: Value,
    data: Value,
}

impl Goldens {
    fn case(&self, name: &str) -> &Value {
        self.losses["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap()
    }

    /// Log-probabilities of row `at` (chosen 0..4, rejected 4..8) under policy and reference.
    fn answer(&self, case: &Value, at: usize) -> Answer {
        let model = case["model"].as_str().unwrap();
        let tokens =
            |kind: &str| numbers(&self.losses["forward"][format!("{model}-{kind}")]["tokens_f64"][at]);
        let (mut policy, mut reference) = (tokens("policy"), tokens("ref"));
        if case["swap"] == true {
            std::mem::swap(&mut policy, &mut reference);
        }
        if case["ref_kind"] == "policy" {
            reference = policy.clone();
        }
        // `weights` = exp(mean(log p − log Σp²)): any sums with that mean will do.
        let weight = self.case("llama/own/wpo_hinge")["weights"][at].as_f64().unwrap();
        let square_sums = policy.iter().map(|l| l - weight.ln()).collect();
        Answer { policy, reference, prompt: Vec::new(), square_sums }
    }

    fn pairs(&self, case: &Value) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = (0..4)
            .map(|i| {
                let mut pair = Pair {
                    chosen: self.answer(case, i),
                    rejected: self.answer(case, 4 + i),
                    ..Pair::default()
                };
                let of = |key: &str| self.data[key][i].as_f64();
                pair.targets.score_chosen = of("s_win");
                pair.targets.score_rejected = of("s_lose");
                pair.targets.p_chosen = of("p_win");
                pair.targets.p_rejected = of("p_lose");
                pair.targets.margin = of("margin");
                pair
            })
            .collect();
        if let Some(longest) = case["hp"]["max_length"].as_u64() {
            // A causal model gives the tokens that are left the same log-probabilities.
            for (i, pair) in pairs.iter_mut().enumerate() {
                let keep = longest as usize - self.data["pairs"][i]["prompt"].as_array().unwrap().len();
                for answer in [&mut pair.chosen, &mut pair.rejected] {
                    answer.policy.truncate(keep);
                    answer.reference.truncate(keep);
                }
            }
        }
        pairs
    }
}

/// dLoss / d(summed log-probability): every token's derivative is the same.
fn of_sum(loss: &Loss) -> Vec<f64> {
    loss.gradients
        .iter()
        .map(|g| {
            assert!(g.policy.iter().all(|x| (x - g.policy[0]).abs() < 1e-15));
            g.policy[0]
        })
        .collect()
}

fn evaluate_pairs(settings: &Settings, pairs: &[Pair]) -> Loss {
    Objective::new(settings).unwrap().evaluate(&Batch::Pairs(pairs), &mut State::default()).unwrap()
}

/// Loss, derivatives and metrics of one case.
fn check(case: &Value, loss: &Loss, tolerance: f64) {
    let name = case["name"].as_str().unwrap();
    let own = case["source"] == "own";
    // Digits given: 12 of own, 9 of a float64 run, a float32 run else; inputs have 10.
    let (expected, digits): (f64, f64) = match (own, case["loss_f64"].as_f64()) {
        (true, Some(f64)) => (f64, 1e-8),
        // TRL's EXO takes log ε of a float32 even in its float64 run.
        (false, Some(f64)) if name.contains("exo_pair") => (f64, 3e-8),
        (false, Some(f64)) => (f64, 5e-9),
        _ => (case["loss"].as_f64().unwrap(), 3e-6),
    };
    near(name, loss.value, expected, digits.max(tolerance));
    // TRL's derivatives are float32, of sums that are float32: relative to the case's largest.
    let derivative = |what: &str, ours: &[f64], theirs: &[f64]| {
        assert_eq!(ours.len(), theirs.len());
        let largest = theirs.iter().fold(0.0f64, |m, t| m.max(t.abs()));
        let (relative, absolute) = if own { (1e-8, 5e-9 * largest) } else { (1e-5, 1e-6 * largest) };
        for (o, t) in ours.iter().zip(theirs) {
            let slack = relative * t.abs() + absolute + 1e-10;
            assert!((o - t).abs() <= slack, "{name} {what}: {o}, expected {t}");
        }
    };
    if case["dlogp"].is_array() {
        derivative("dlogp", &of_sum(loss), &numbers(&case["dlogp"]));
    }
    if let Some(rows) = case["dlogp_tokens"].as_array() {
        assert_eq!(rows.len(), loss.gradients.len());
        for (ours, theirs) in loss.gradients.iter().zip(rows) {
            derivative("dlogp_tokens", &ours.policy, &numbers(theirs));
        }
    }
    let given: BTreeMap<String, f64> = serde_json::from_value(case["metrics"].clone()).unwrap_or_default();
    let mut compared = 0;
    for (key, theirs) in given {
        if let Some(ours) = loss.metrics.get(&key) {
            // Float32: β times the rounding of sums around 30.
            let slack = 3e-6 * (1.0 + theirs.abs() + case["hp"]["beta"].as_f64().unwrap_or(0.0));
            assert!((ours - theirs).abs() < slack, "{name} {key}: {ours}, expected {theirs}");
            compared += 1;
        }
    }
    assert!(own || compared >= 2, "{name}: {compared} metrics");
}

/// Cases of losses without reference: derivatives are given without NLL, of averages where the loss averages.
fn check_policy_only(goldens: &Goldens, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let settings = settings(case);
    let mut pairs = goldens.pairs(case);
    let orpo = case["trainer"] == "orpo";
    if orpo {
        // The prompt's log-probabilities are not in the file, but the NLL over prompt and completion is (7 digits).
        let nll = case["metrics"]["nll_loss"].as_f64().unwrap();
        let prompt = |i: usize| goldens.data["pairs"][i]["prompt"].as_array().unwrap().len() - 1;
        let inside: f64 = (0..4).map(prompt).sum::<usize>() as f64;
        let chosen: Vec<f64> = pairs.iter().flat_map(|p| p.chosen.policy.clone()).collect();
        let each = (-nll * (inside + chosen.len() as f64) - chosen.iter().sum::<f64>()) / inside;
        pairs.iter_mut().enumerate().for_each(|(i, p)| p.chosen.prompt = vec![each; prompt(i)]);
    }
    check(case, &evaluate_pairs(&settings, &pairs), if orpo { 5e-7 } else { 0.0 });
    let bare = evaluate_pairs(&Settings { nll_weight: Some(0.0), ..settings.clone() }, &pairs);
    let averaged = orpo || ["ipo", "simpo", "alphapo"].contains(&case["hp"]["loss_type"].as_str().unwrap());
    let answers = pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected));
    let theirs = numbers(&case["dlogp_excl_nll"]).into_iter().zip(numbers(&case["seq_logps"]));
    let mut rows = 0;
    for ((ours, answer), (derivative, logp)) in of_sum(&bare).iter().zip(answers).zip(theirs) {
        let n = if averaged { answer.policy.len() as f64 } else { 1.0 };
        near(&format!("{name} seq_logps"), answer.policy.iter().sum::<f64>() / n, logp, 3e-7);
        near(&format!("{name} dlogp_excl_nll"), ours * n, derivative, 1e-5);
        rows += 1;
    }
    assert_eq!(rows, 8);
}

fn check_kto(goldens: &Goldens, case: &Value) {
    let find = |completion: &Value| {
        let pairs = goldens.data["pairs"].as_array().unwrap();
        pairs
            .iter()
            .position(|p| &p["chosen"] == completion)
            .unwrap_or_else(|| 4 + pairs.iter().position(|p| &p["rejected"] == completion).unwrap())
    };
    let rows: Vec<Labelled> = goldens.data["kto"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| Labelled {
            answer: goldens.answer(case, find(&row["completion"])),
            desirable: row["label"] == true,
        })
        .collect();
    // Log-probabilities of the mismatched rows are not in the file, but z is (7 digits).
    let mismatched = [(case["metrics"]["kl"].as_f64().unwrap(), 0.0)];
    let objective = Objective::new(&settings(case)).unwrap();
    let batch = Batch::Labelled { rows: &rows, mismatched: &mismatched };
    check(case, &objective.evaluate(&batch, &mut State::default()).unwrap(), 5e-7);
}

fn check_bradley_terry(goldens: &Goldens, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let scores = goldens.case("llama/own/bt_tau1.0");
    let margin = case["hp"]["margin"] == true || case["data"] == "pairs + margin";
    let model = BradleyTerry {
        tau: case["hp"]["tau"].as_f64().unwrap_or(1.0),
        centre: case["hp"]["center_rewards_coefficient"].as_f64().unwrap_or(0.0),
    };
    let mut mean = 0.0;
    for i in 0..4 {
        let score = |key: &str| scores[key][i].as_f64().unwrap();
        let m = if margin { goldens.data["margin"][i].as_f64().unwrap() } else { 0.0 };
        let value = model.loss(score("reward_w"), score("reward_l"), m, Goal::WIN).value;
        if let Some(expected) = case["per_pair"].as_array().filter(|_| model.centre == 0.0) {
            near(name, value, expected[i].as_f64().unwrap(), 1e-8);
        }
        mean += value / 4.0;
    }
    near(name, mean, case["loss_f64"].as_f64().unwrap(), 5e-9);
}

fn check_gpm(goldens: &Goldens, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let hp = &case["hp"];
    let blocks = hp["k"].as_u64().unwrap() as usize;
    let gate = match hp["gate"].as_str().unwrap() {
        "none" => Gate::None,
        "softmax" => Gate::Softmax,
        _ => Gate::ScaledSoftmax { hidden: HIDDEN },
    };
    let gpm = Gpm { blocks, gate, l2: hp["l2"] == true, tau: hp["tau"].as_f64().unwrap(), scalar: false };
    let goal = hp["target"].as_f64().map_or(Goal::WIN, Goal::Margin);
    let mut mean = 0.0;
    for i in 0..4 {
        let weights = numbers(&case["gate"][i]);
        // Logits that give these weights; the file has the weights alone.
        let logits: Vec<f64> = match gate {
            Gate::ScaledSoftmax { .. } => {
                weights.iter().map(|w| (w / blocks as f64).ln() * (HIDDEN as f64).sqrt()).collect()
            }
            _ => weights.iter().map(|w| w.ln()).collect(),
        };
        for (ours, theirs) in gpm.weights(&logits).unwrap().iter().zip(&weights) {
            near(&format!("{name} gate"), *ours, *theirs, 1e-9);
        }
        let (w, l) = (numbers(&case["v_w"][i]), numbers(&case["v_l"][i]));
        let m = if hp["margin"] == true { goldens.data["margin"][i].as_f64().unwrap() } else { 0.0 };
        let loss = gpm.loss(&w, &l, &logits, m, goal).unwrap();
        near(&format!("{name} score"), loss.score, case["score"][i].as_f64().unwrap(), 1e-8);
        near(name, loss.value, case["per_pair"][i].as_f64().unwrap(), 1e-7);
        mean += loss.value / 4.0;
        gradients_match_differences(name, &gpm, &w, &l, &logits, m, goal);
    }
    near(name, mean, case["loss_f64"].as_f64().unwrap(), 1e-8);
}

fn gradients_match_differences(
    name: &str,
    gpm: &Gpm,
    w: &[f64],
    l: &[f64],
    logits: &[f64],
    margin: f64,
    goal: Goal,
) {
    const STEP: f64 = 1e-6;
    let loss = gpm.loss(w, l, logits, margin, goal).unwrap();
    let mut inputs = [w.to_vec(), l.to_vec(), logits.to_vec()];
    for (which, gradient) in [&loss.first, &loss.second, &loss.gate].into_iter().enumerate() {
        for i in 0..gradient.len() {
            let mut value = |by: f64| {
                inputs[which][i] += by;
                let value = gpm.loss(&inputs[0], &inputs[1], &inputs[2], margin, goal).unwrap().value;
                inputs[which][i] -= by;
                value
            };
            let numeric = (value(STEP) - value(-STEP)) / (2.0 * STEP);
            let slack = 1e-6 * (1.0 + numeric.abs() + loss.value);
            assert!((gradient[i] - numeric).abs() < slack, "{name}: {} for {numeric}", gradient[i]);
        }
    }
}

#[test]
fn every_preference_case_of_the_goldens_is_met() {
    let Some(path) = goldens() else { return };
    let goldens = Goldens { losses: json(&path.join("losses.json")), data: json(&path.join("data.json")) };
    let mut checked: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unchecked = Vec::new();
    for case in goldens.losses["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let kind = name.split('/').nth(1).unwrap();
        match kind {
            "sft" => continue,
            "dpo" if case["data"] != "pairs" => {
                unchecked.push(name);
                continue;
            }
            "dpo" => check(case, &evaluate_pairs(&settings(case), &goldens.pairs(case)), 0.0),
            "cpo" | "orpo" => check_policy_only(&goldens, case),
            "kto" => check_kto(&goldens, case),
            "reward" => check_bradley_terry(&goldens, case),
            "own" if name.contains("/bt_") => check_bradley_terry(&goldens, case),
            "own" if name.contains("/gpm_") => check_gpm(&goldens, case),
            "own" => {
                let mut loss = evaluate_pairs(&settings(case), &goldens.pairs(case));
                if name.ends_with("simpo_nll_tokenmean") {
                    // Its NLL was not taken from the sums that `dlogp` is with respect to.
                    let bare = Settings { nll_weight: Some(0.0), ..settings(case) };
                    loss.gradients = evaluate_pairs(&bare, &goldens.pairs(case)).gradients;
                }
                if name.contains("/spo_") {
                    // The head's share is given; its gradient does not touch the log-probabilities.
                    let share: f64 = numbers(&case["pd_w"]).iter().chain(&numbers(&case["pd_l"])).sum();
                    loss.value += case["hp"]["gamma"].as_f64().unwrap() * share / 4.0;
                }
                check(case, &loss, 0.0);
            }
            other => panic!("a new kind of case: {other}"),
        }
        *checked.entry(kind).or_default() += 1;
    }
    // Their rows are not in `forward`, so that there are no log-probabilities to start from; the trainer's tests run the
    // models on them.
    let without_log_probabilities = [
        "llama/dpo/sigmoid_8pairs",
        "llama/dpo/aot_8pairs",
        "llama/dpo/aot_unpaired_8pairs",
        "llama/dpo/hinge_b2_8pairs",
        "llama/dpo/sigmoid_short12",
        "llama/dpo/aot_short12",
        "llama/dpo/aot_unpaired_short12",
    ];
    println!("{checked:?}, {unchecked:?}");
    assert_eq!(unchecked, without_log_probabilities);
    let counts =
        BTreeMap::from([("cpo", 18), ("dpo", 63), ("kto", 6), ("orpo", 3), ("own", 44), ("reward", 4)]);
    assert_eq!(checked, counts);
}
