//! Objectives, reward losses and key phrases against `goldens/preference_vectors.json` (float64, cross-checked by
//! running TRL 1.16, SPPO, SimPO and GPM code).
#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::Value;
use training::objectives::{
    Answer, Batch, Divergence, Labelled, Objective, Pair, Settings, State, Targets, degree_loss,
};
use training::rake::{Rake, Removal};
use training::rewards::gpm::{Gate, Gpm};
use training::rewards::{BradleyTerry, Goal, score_regression};

fn vectors() -> Value {
    serde_json::from_str(include_str!("goldens/preference_vectors.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

#[track_caller]
fn near(what: &str, ours: f64, theirs: f64, tolerance: f64) {
    let slack = tolerance * theirs.abs() + 1e-300;
    assert!((ours - theirs).abs() <= slack, "{what}: {ours:e}, expected {theirs:e}");
}

fn pair(case: &Value) -> Pair {
    let side = |side: &str| Answer {
        policy: numbers(&case[format!("pol_{side}")]),
        reference: numbers(&case[format!("ref_{side}")]),
        prompt: Vec::new(),
        square_sums: numbers(&case[format!("logsumsq_{side}")]),
    };
    Pair { chosen: side("chosen"), rejected: side("rejected"), targets: Targets::default() }
}

/// Our settings of a vector's name and parameters.
fn settings(key: &str, params: &Value) -> Settings {
    let name = match key {
        "ipo_avg" => "ipo",
        "simpo_b10" | "simpo_nll" => "simpo",
        "sppo_b01" => "sppo",
        "gpo_b1e-3" => "gpo",
        "fdpo_forward_kl" | "fdpo_js" | "fdpo_alpha" | "ld_dpo" | "wpo_sigmoid" => "sigmoid",
        other => other,
    };
    let mut s = Settings::named(name);
    for (parameter, value) in params.as_object().unwrap() {
        let number = value.as_f64();
        match (parameter.as_str(), key) {
            ("beta", _) => s.beta = number,
            ("gamma", "ln_gpo") => s.length_exponent = number,
            ("gamma", _) => s.gamma = number,
            ("eps", _) => s.label_smoothing = number,
            ("lam" | "cpo_alpha", _) | ("alpha", "rpo") => s.nll_weight = number,
            ("alpha", "fdpo_alpha") => s.f_alpha_divergence_coef = number,
            ("alpha", _) => s.alpha = number,
            ("eta", _) => s.eta = number,
            ("tau", _) => s.tau = number,
            ("wD", _) => s.desirable_weight = number,
            ("wU", _) => s.undesirable_weight = number,
            ("ld_alpha", _) => s.ld_alpha = number,
            ("delta", _) => s.shift_decay = Some(1.0),
            ("weights", "mpo") => {}
            other => panic!("{key}: {other:?}"),
        }
    }
    s.f_divergence_type = match key {
        "fdpo_forward_kl" => Some(Divergence::ForwardKl),
        "fdpo_js" => Some(Divergence::JsDivergence),
        "fdpo_alpha" => Some(Divergence::AlphaDivergence),
        _ => None,
    };
    s.use_weighting = (key == "wpo_sigmoid").then_some(true);
    s
}

#[test]
fn every_objective_vector_is_met_in_value_and_gradient() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    let mut checked = 0;
    for (key, vector) in vectors["objectives"].as_object().unwrap() {
        let objective = Objective::new(&settings(key, &vector["params"])).unwrap();
        let pairs: Vec<Pair> = cases
            .iter()
            .map(|case| {
                let of = |k: &str| case[k].as_f64();
                let mut pair = pair(case);
                pair.targets = match key.as_str() {
                    "sppo_single" => Targets { p_chosen: of("p_cr"), ..Targets::default() },
                    "dno" => Targets { p_chosen: of("r1"), p_rejected: of("r2"), ..Targets::default() },
                    _ => Targets {
                        score_chosen: of("s_win"),
                        score_rejected: of("s_lose"),
                        p_chosen: of("p_win"),
                        p_rejected: of("p_lose"),
                        margin: None,
                    },
                };
                pair
            })
            .collect();
        let check = |what: String, gradient: &[f64], expected: f64| {
            // Two saturated gradients cancel in the file's own autograd (by under 1e-17), not here.
            let tolerance = match what.as_str() {
                "apo_down 5 rejected" => 1e-8,
                "exo_pair 6 chosen" | "exo_pair 6 rejected" => 2e-4,
                _ => 1e-9,
            };
            for g in gradient {
                near(&what, *g, expected, tolerance);
            }
        };
        let (loss, dc, dr) = (numbers(&vector["loss"]), numbers(&vector["d_lc"]), numbers(&vector["d_lr"]));
        if key.starts_with("aot") {
            let ours = objective.evaluate(&Batch::Pairs(&pairs), &mut State::default()).unwrap();
            near(key, ours.value * 8.0, loss.iter().sum(), 1e-9);
            for i in 0..8 {
                let scaled = |g: &[f64]| g.iter().map(|g| g * 8.0).collect::<Vec<_>>();
                check(format!("{key} {i} chosen"), &scaled(&ours.gradients[i].policy), dc[i]);
                check(format!("{key} {i} rejected"), &scaled(&ours.gradients[8 + i].policy), dr[i]);
            }
            checked += 1;
            continue;
        }
        for (i, case) in cases.iter().enumerate() {
            let mut state = State { shift: vector["params"]["delta"].as_f64() };
            let (ours, rows) = if objective.needs().pairs {
                (objective.evaluate(&Batch::Pairs(&pairs[i..=i]), &mut state).unwrap(), 1.0)
            } else {
                let row = |answer: &Answer, desirable| Labelled { answer: answer.clone(), desirable };
                let rows = [row(&pairs[i].chosen, true), row(&pairs[i].rejected, false)];
                let batch =
                    Batch::Labelled { rows: &rows, mismatched: &[(case["kl"].as_f64().unwrap(), 0.0)] };
                // The vectors add the two rows, TRL averages them.
                (objective.evaluate(&batch, &mut state).unwrap(), 2.0)
            };
            near(&format!("{key} {i}"), ours.value * rows, loss[i], 1e-9);
            let scaled = |g: &[f64]| g.iter().map(|g| g * rows).collect::<Vec<_>>();
            check(format!("{key} {i} chosen"), &scaled(&ours.gradients[0].policy), dc[i]);
            check(format!("{key} {i} rejected"), &scaled(&ours.gradients[1].policy), dr[i]);
        }
        checked += 1;
    }
    assert_eq!(checked, 41);
}

#[test]
fn every_token_vector_is_met() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    let token = &vectors["token_objectives"];
    assert_eq!(token.as_object().unwrap().len(), 2);
    let ld = Objective::new(&settings("ld_dpo", &token["ld_dpo"]["params"])).unwrap();
    let wpo = Objective::new(&settings("wpo_sigmoid", &token["wpo_sigmoid"]["params"])).unwrap();
    let plain = Objective::new(&Settings::named("sigmoid")).unwrap();
    for (i, case) in cases.iter().enumerate() {
        let pair = [pair(case)];
        let evaluate = |o: &Objective| o.evaluate(&Batch::Pairs(&pair), &mut State::default()).unwrap();
        let ours = evaluate(&ld);
        near(&format!("ld {i}"), ours.value, token["ld_dpo"]["loss"][i].as_f64().unwrap(), 1e-9);
        for (gradient, key) in ours.gradients.iter().zip(["d_tok_chosen", "d_tok_rejected"]) {
            let expected = numbers(&token["ld_dpo"][key][i]);
            assert_eq!(gradient.policy.len(), expected.len());
            gradient
                .policy
                .iter()
                .zip(expected)
                .for_each(|(g, e)| near(&format!("ld {i} {key}"), *g, e, 1e-9));
        }
        let ours = evaluate(&wpo);
        near(&format!("wpo {i}"), ours.value, token["wpo_sigmoid"]["loss"][i].as_f64().unwrap(), 1e-9);
        let weight: f64 = numbers(&token["wpo_sigmoid"]["weights"][i]).iter().product();
        for (ours, plain) in ours.gradients.iter().zip(evaluate(&plain).gradients) {
            ours.policy
                .iter()
                .zip(plain.policy)
                .for_each(|(g, p)| near(&format!("wpo {i}"), *g, weight * p, 1e-9));
        }
    }
}

#[test]
fn every_reward_and_vector_loss_is_met() {
    let vectors = vectors();
    let reward = &vectors["reward"];
    let (rc, rr, margins) =
        (numbers(&reward["r_chosen"]), numbers(&reward["r_rejected"]), numbers(&reward["margin"]));
    let bt = |tau, centre| BradleyTerry { tau, centre };
    let mut forms = 0;
    for (key, vector) in reward.as_object().unwrap().iter().filter(|(_, v)| v.is_object()) {
        forms += 1;
        for i in 0..rc.len() {
            let (loss, chosen, rejected) = match key.as_str() {
                "score_mse_target" => {
                    // Targets are not in the file; these are the ones its losses have.
                    let (value, slope) = score_regression(rc[i], [1.0, 0.0, 0.0, 3.0, 2.0][i]);
                    (value, slope, 0.0)
                }
                _ => {
                    let (model, margin, goal) = match key.as_str() {
                        "bt" => (bt(1.0, 0.0), 0.0, Goal::WIN),
                        "bt_margin" => (bt(1.0, 0.0), margins[i], Goal::WIN),
                        "bt_tau0p1" => (bt(0.1, 0.0), 0.0, Goal::WIN),
                        "bt_center_0p01" => (bt(1.0, 0.01), 0.0, Goal::WIN),
                        "regression_margin10_tau1" => (bt(1.0, 0.0), 0.0, Goal::Margin(10.0)),
                        "pairpm_soft0p8" => (bt(1.0, 0.0), 0.0, Goal::Wins(0.8)),
                        other => panic!("{other}"),
                    };
                    let l = model.loss(rc[i], rr[i], margin, goal);
                    (l.value, l.chosen, l.rejected)
                }
            };
            near(&format!("{key} {i}"), loss, vector["loss"][i].as_f64().unwrap(), 1e-9);
            near(&format!("{key} {i} d_rc"), chosen, vector["d_rc"][i].as_f64().unwrap(), 1e-9);
            near(&format!("{key} {i} d_rr"), rejected, vector["d_rr"][i].as_f64().unwrap(), 1e-9);
        }
    }
    assert_eq!(forms, 7);

    let examples = vectors["gpm"]["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3);
    for e in examples {
        let name = e["name"].as_str().unwrap();
        let (v, w) = (numbers(&e["v_i"]), numbers(&e["v_j"]));
        let logits = e["gate_logits"].as_array().map(|_| numbers(&e["gate_logits"])).unwrap_or_default();
        let gate = if logits.is_empty() { Gate::None } else { Gate::Softmax };
        let gpm = Gpm {
            blocks: v.len() / 2,
            gate,
            l2: e["l2"] == true,
            tau: e["tau"].as_f64().unwrap(),
            scalar: false,
        };
        let number = |k: &str| e[k].as_f64().unwrap();
        let loss = gpm.loss(&v, &w, &logits, 0.0, Goal::WIN).unwrap();
        near(name, loss.value, number("loss"), 1e-9);
        near(name, loss.score, number("score_i_beats_j"), 1e-9);
        near(name, gpm.score(&w, &v, &logits).unwrap(), number("score_j_beats_i"), 1e-9);
        near(name, -loss.score, number("score_transposed_convention"), 1e-9);
        near(name, 1.0 / (1.0 + (-loss.score / gpm.tau).exp()), number("prob"), 1e-9);
        let soft = gpm.loss(&v, &w, &logits, 0.0, Goal::Wins(0.7)).unwrap();
        near(name, soft.value, number("soft_label_0p7_loss"), 1e-9);
        let mut gradients = vec![(&loss.first, "d_v_i"), (&loss.second, "d_v_j")];
        if gate != Gate::None {
            gradients.push((&loss.gate, "d_gate_logits"));
            let weights = gpm.weights(&logits).unwrap();
            weights.iter().zip(numbers(&e["gate"])).for_each(|(w, e)| near(name, *w, e, 1e-9));
        }
        for (ours, key) in gradients {
            let expected = numbers(&e[key]);
            assert_eq!(ours.len(), expected.len());
            ours.iter().zip(expected).for_each(|(g, e)| near(&format!("{name} {key}"), *g, e, 1e-9));
        }
    }

    let set = &vectors["gpm"]["k_set"];
    let gpm = Gpm { blocks: 2, gate: Gate::None, l2: true, tau: 0.1, scalar: false };
    let ours = gpm.table(&matrix(&set["V"]), &[]).unwrap();
    for (i, (ours, expected)) in ours.iter().zip(matrix(&set["S"])).enumerate() {
        for (j, (s, e)) in ours.iter().zip(&expected).enumerate() {
            assert!((s - e).abs() < 1e-12 * e.abs().max(1.0), "S[{i}][{j}]: {s} for {e}");
        }
        let mean = ours.iter().sum::<f64>() / 4.0;
        near("row mean", mean, set["mean_score_incl_self"][i].as_f64().unwrap(), 1e-9);
    }
}

#[test]
fn key_phrases_and_degree_losses_are_met() {
    let spo = &vectors()["spo"];
    let golden = &spo["rake"];
    let stop_words: Vec<&str> =
        golden["stopwords"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    let rake = Rake::new(stop_words);
    let text = golden["text"].as_str().unwrap();
    let words = rake.words(text);
    assert_eq!(words.len(), golden["word_freq"].as_object().unwrap().len());
    for (word, (frequency, degree)) in &words {
        assert_eq!(golden["word_freq"][word], *frequency, "{word}");
        assert_eq!(golden["word_degree"][word], *degree, "{word}");
    }
    let phrases: Vec<Value> =
        rake.phrases(text).iter().map(|p| serde_json::json!([p.text, p.score])).collect();
    assert_eq!(Value::from(phrases), golden["phrase_scores"]);
    // The file removes one phrase at a time, which four degrees of four phrases do.
    let versions = rake.versions(text, 4, Removal::Key).unwrap();
    for (degree, expected) in golden["removed"].as_object().unwrap() {
        assert_eq!(versions[degree.parse::<usize>().unwrap()].to_lowercase(), expected.as_str().unwrap());
    }
    assert_eq!(versions[4].to_lowercase(), "the , and the . the .");

    let golden = &spo["degree_ce"];
    let labels: Vec<usize> = numbers(&golden["labels"]).iter().map(|l| *l as usize).collect();
    let loss = degree_loss(&matrix(&golden["logits"]), &labels).unwrap();
    near("degrees", loss.value, golden["loss_mean"].as_f64().unwrap(), 1e-9);
    for (ours, expected) in loss.gradient.iter().flatten().zip(matrix(&golden["d_logits"]).iter().flatten()) {
        near("degrees", *ours, *expected, 1e-9);
    }
    let e = &golden["example_total"];
    let total = e["L_align"].as_f64().unwrap() + e["gamma"].as_f64().unwrap() * loss.value;
    near("total", total, e["total"].as_f64().unwrap(), 1e-9);
}
