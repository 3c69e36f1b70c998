//! Objectives, reward losses, games and key phrases against `goldens/preference_vectors.json` (float64, cross-checked by
//! running TRL 1.16, SPPO, SimPO and GPM code), and every gradient of the table against finite differences.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::Value;
use training::games::{best_order, exploitability, multiplicative_weights, nash, ring, ring_ceiling};
use training::objectives::{
    Answer, Batch, Divergence, Labelled, Loss, Objective, OneOrMany, Pair, PairRules, Reduction, Sample,
    Settings, State, Targets, degree_loss, repeats, table,
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
fn every_game_vector_is_met() {
    let vectors = vectors();
    for game in vectors["games"].as_array().unwrap() {
        let name = game["name"].as_str().unwrap();
        let a = matrix(&game["A"]);
        let solution = nash(&a).unwrap();
        assert!(exploitability(&a, &solution).0 < 1e-15, "{name}: {solution:?}");
        for (x, e) in solution.iter().zip(numbers(&game["nash"])) {
            assert!((x - e).abs() < 1e-12, "{name}: {solution:?}");
        }
        for policy in game["policies"].as_array().unwrap() {
            let (value, best) = exploitability(&a, &numbers(&policy["p"]));
            assert!((value - policy["exploitability"].as_f64().unwrap()).abs() < 1e-15, "{name}");
            // At Nash every member is a best answer, up to rounding.
            assert!(value < 1e-12 || best as u64 == policy["best_response"].as_u64().unwrap(), "{name}");
        }
        let (p0, eta) = (numbers(&game["mw"]["p0"]), game["mw"]["eta"].as_f64().unwrap());
        for step in game["mw"]["trace"].as_array().unwrap() {
            let rounds = step["T"].as_u64().unwrap() as usize;
            let play = multiplicative_weights(&a, &p0, eta, rounds);
            for (ours, key) in [(&play.last, "last"), (&play.average, "avg")] {
                for (x, e) in ours.iter().zip(numbers(&step[key])) {
                    assert!((x - e).abs() < 1e-9, "{name} {key} at {rounds}: {ours:?}");
                }
                let expected = step[format!("exploit_{key}")].as_f64().unwrap();
                assert!((exploitability(&a, ours).0 - expected).abs() < 1e-9, "{name} {key} at {rounds}");
            }
        }
    }
    let ceilings = vectors["bt_ring_ceiling"].as_array().unwrap();
    assert_eq!(ceilings.len(), 7);
    for c in ceilings {
        let n = c["n"].as_u64().unwrap() as usize;
        let (correct, order) = best_order(&ring(n)).unwrap();
        assert_eq!((correct, order.len()), (c["max_correct"].as_f64().unwrap(), n));
        near("ceiling", correct / (n * (n - 1) / 2) as f64, c["acc"].as_f64().unwrap(), 1e-12);
        near("ceiling", ring_ceiling(n), c["formula"].as_f64().unwrap(), 1e-12);
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// P − ½ of a table of log-odds.
fn centred(s: &[Vec<f64>]) -> Vec<Vec<f64>> {
    s.iter().map(|row| row.iter().map(|x| sigmoid(*x) - 0.5).collect()).collect()
}

/// Cross-entropy and accuracy over all pairs of a score table, against the oracle's.
fn fit(score: impl Fn(usize, usize) -> f64, oracle: &[Vec<f64>]) -> (f64, f64) {
    let (mut ce, mut right, mut pairs) = (0.0, 0.0, 0.0);
    for i in 0..oracle.len() {
        for j in i + 1..oracle.len() {
            let p = sigmoid(oracle[i][j]);
            ce += BradleyTerry::default().loss(score(i, j), 0.0, 0.0, Goal::Wins(p)).value;
            right += f64::from(u8::from(score(i, j) * oracle[i][j] > 0.0));
            pairs += 1.0;
        }
    }
    // The file means over ordered pairs of −P log σ, which counts each pair's cross-entropy half.
    (ce / (2.0 * pairs), right / pairs)
}

/// Fits vectors to the oracle by Adam over the gradients of [`Gpm::loss`].
fn fit_vectors(gpm: &Gpm, oracle: &[Vec<f64>], seed: u64, steps: usize) -> Vec<Vec<f64>> {
    let n = oracle.len();
    let mut random = Random(seed);
    let mut v: Vec<Vec<f64>> =
        (0..n).map(|_| (0..gpm.width()).map(|_| random.between(-1.0, 1.0)).collect()).collect();
    let mut moments = vec![vec![(0.0f64, 0.0f64); gpm.width()]; n];
    for step in 1..=steps {
        let mut g = vec![vec![0.0; gpm.width()]; n];
        for i in 0..n {
            for j in i + 1..n {
                let l = gpm.loss(&v[i], &v[j], &[], 0.0, Goal::Wins(sigmoid(oracle[i][j]))).unwrap();
                g[i].iter_mut().zip(l.first).for_each(|(g, d)| *g += d);
                g[j].iter_mut().zip(l.second).for_each(|(g, d)| *g += d);
            }
        }
        let rate = 0.05 * (1.0 - step as f64 / steps as f64).max(1e-3);
        for ((v, g), m) in
            v.iter_mut().flatten().zip(g.into_iter().flatten()).zip(moments.iter_mut().flatten())
        {
            m.0 = 0.9 * m.0 + 0.1 * g;
            m.1 = 0.99 * m.1 + 0.01 * g * g;
            let (a, b) = (1.0 - 0.9f64.powi(step as i32), 1.0 - 0.99f64.powi(step as i32));
            *v -= rate * (m.0 / a) / ((m.1 / b).sqrt() + 1e-12);
        }
    }
    v
}

#[test]
fn the_cyclic_toy_separates_a_general_preference_model_from_bradley_terry() {
    let toy = &vectors()["toy"];
    let number = |k: &str| toy[k].as_f64().unwrap();
    let oracle = matrix(&toy["oracle_S"]);
    let p = centred(&oracle);
    near("floor", fit(|i, j| oracle[i][j], &oracle).0, number("entropy_floor"), 1e-9);

    // Bradley–Terry: the file's fit has no gradient left, and its figures.
    let r = numbers(&toy["bt_r"]);
    let (ce, accuracy) = fit(|i, j| r[i] - r[j], &oracle);
    near("bt", ce, number("bt_ce"), 1e-9);
    near("bt", accuracy, number("bt_acc"), 1e-9);
    for i in 0..4 {
        let slope = |j: usize| {
            BradleyTerry::default().loss(r[i], r[j], 0.0, Goal::Wins(sigmoid(oracle[i][j]))).chosen
        };
        assert!((0..4).filter(|j| *j != i).map(slope).sum::<f64>().abs() < 1e-6);
    }
    // GPM: two blocks reach the floor, one cannot; our gradients find both.
    let raw = |blocks| Gpm { blocks, gate: Gate::None, l2: false, tau: 1.0, scalar: false };
    let best = |gpm: &Gpm| {
        let fits = (0..6).map(|seed| {
            let v = fit_vectors(gpm, &oracle, seed, 4000);
            let s = gpm.table(&v, &[]).unwrap();
            let (ce, accuracy) = fit(|i, j| s[i][j], &oracle);
            (ce, accuracy, s)
        });
        fits.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let one = best(&raw(1));
    near("k = 1", one.0, toy["gpm_k1_raw"]["ce"].as_f64().unwrap(), 1e-5);
    near("k = 1", one.1, toy["gpm_k1_raw"]["acc"].as_f64().unwrap(), 1e-9);
    let l2 = |blocks| Gpm { blocks, gate: Gate::None, l2: true, tau: 0.1, scalar: false };
    // The file's fit stopped a little above the optimum.
    let (ours, theirs) = (best(&l2(1)).0, toy["gpm_k1_l2_tau0.1"]["ce"].as_f64().unwrap());
    assert!(ours <= theirs && theirs - ours < 1e-4, "k = 1, l2: {ours} for {theirs}");
    for (gpm, key) in [(raw(2), "gpm_k2_raw"), (l2(2), "gpm_k2_l2_tau0.1")] {
        let two = best(&gpm);
        near(key, two.0, toy[key]["ce"].as_f64().unwrap(), 1e-6);
        near(key, two.1, toy[key]["acc"].as_f64().unwrap(), 1e-9);
    }
    // A scalar beside one block does what takes two blocks: the item that loses to the whole cycle.
    let scalar = best(&Gpm { scalar: true, ..raw(1) });
    near("k = 1 + scalar", scalar.0, number("entropy_floor"), 1e-6);

    let bt: Vec<Vec<f64>> = r.iter().map(|a| r.iter().map(|b| a - b).collect()).collect();
    let (p0, eta) = (numbers(&toy["p0"]), number("eta"));
    for (game, key, tolerance) in [(&bt, "run_bt", 1e-7), (&oracle, "run_gpm_k2_raw", 1e-3)] {
        for step in toy[key].as_array().unwrap() {
            let rounds = step["T"].as_u64().unwrap() as usize;
            let play = multiplicative_weights(game, &p0, eta, rounds);
            for (ours, policy) in [(&play.last, "last"), (&play.average, "avg")] {
                for (x, e) in ours.iter().zip(numbers(&step[policy])) {
                    assert!((x - e).abs() < 1e-6 + tolerance, "{key} {policy} at {rounds}: {ours:?}");
                }
            }
            let measured = [
                (exploitability(&p, &play.last).0, "ex_last_P"),
                (exploitability(&p, &play.average).0, "ex_avg_P"),
                (exploitability(&oracle, &play.average).0, "ex_avg_S"),
            ];
            for (ours, what) in measured {
                let e = step[what].as_f64().unwrap();
                assert!((ours - e).abs() < tolerance, "{key} {what} at {rounds}: {ours}, expected {e}");
            }
        }
    }
    for (game, key) in [(&oracle, "nash_of_S"), (&p, "nash_of_P")] {
        nash(game).unwrap().iter().zip(numbers(&toy[key])).for_each(|(x, e)| assert!((x - e).abs() < 1e-12));
    }
    near("S in P", exploitability(&p, &numbers(&toy["nash_of_S"])).0, number("nash_S_exploit_in_P"), 1e-9);
    near(
        "P in S",
        exploitability(&oracle, &numbers(&toy["nash_of_P"])).0,
        number("nash_P_exploit_in_S"),
        1e-9,
    );

    // DNO: win probabilities for payoffs; each step wins by at least η times its divergence.
    let dno = &toy["dno"];
    let win: Vec<Vec<f64>> = p.iter().map(|row| row.iter().map(|x| x + 0.5).collect()).collect();
    for step in dno["trace"].as_array().unwrap() {
        let rounds = step["T"].as_u64().unwrap() as usize;
        let start = numbers(&dno["p0"]);
        let play = multiplicative_weights(&win, &start, 1.0, rounds);
        let next = multiplicative_weights(&win, &start, 1.0, rounds + 1).last;
        for (ours, key) in [(&play.last, "last"), (&play.average, "avg")] {
            for (x, e) in ours.iter().zip(numbers(&step[key])) {
                assert!((x - e).abs() < 1e-9, "dno {key} at {rounds}: {ours:?}");
            }
            let expected = step[format!("ex_{key}")].as_f64().unwrap();
            assert!((exploitability(&p, ours).0 - expected).abs() < 1e-9);
        }
        let wins: f64 = (0..4).map(|i| next[i] * (0..4).map(|j| win[i][j] * play.last[j]).sum::<f64>()).sum();
        let kl: f64 =
            next.iter().zip(&play.last).filter(|(n, _)| **n > 0.0).map(|(n, p)| n * (n / p).ln()).sum();
        near("wins", wins, step["win_next_vs_cur"].as_f64().unwrap(), 1e-9);
        near("bound", 0.5 + kl, step["lower_bound"].as_f64().unwrap(), 1e-9);
        assert!(wins >= 0.5 + kl);
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

/// SplitMix64, so that a failure names a reproducible batch.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn answer(&mut self) -> Answer {
        let n = 1 + (self.next() % 6) as usize;
        let mut logs = |n| (0..n).map(|_| self.between(-2.5, -0.02)).collect();
        Answer { policy: logs(n), reference: logs(n), prompt: logs(3), square_sums: logs(n) }
    }
}

/// A batch whose log-probabilities can be moved one by one.
#[derive(Clone)]
enum Rows {
    Pairs(Vec<Pair>),
    Labelled(Vec<Labelled>),
}

impl Rows {
    fn evaluate(&self, objective: &Objective) -> Loss {
        let mut state = State { shift: Some(0.2) };
        match self {
            Self::Pairs(pairs) => objective.evaluate(&Batch::Pairs(pairs), &mut state).unwrap(),
            Self::Labelled(rows) => {
                let batch = Batch::Labelled { rows, mismatched: &[(-2.0, -2.6), (-1.0, -1.1)] };
                objective.evaluate(&batch, &mut state).unwrap()
            }
        }
    }

    fn answers(&mut self) -> Vec<&mut Answer> {
        match self {
            Self::Pairs(pairs) => {
                let (chosen, rejected): (Vec<_>, Vec<_>) =
                    pairs.iter_mut().map(|p| (&mut p.chosen, &mut p.rejected)).unzip();
                chosen.into_iter().chain(rejected).collect()
            }
            Self::Labelled(rows) => rows.iter_mut().map(|r| &mut r.answer).collect(),
        }
    }
}

#[test]
fn gradients_are_the_finite_differences_of_the_value_for_every_objective() {
    const STEP: f64 = 1e-5;
    let mut random = Random(7);
    let mut variants: Vec<Settings> = Vec::new();
    for entry in table() {
        // A shift that follows the batch is a constant for the gradient; frozen, it is one for the value too.
        let frozen = entry.takes("shift_decay").then_some(1.0);
        let plain = Settings { shift_decay: frozen, ..Settings::named(entry.name) };
        // A target of s/β with the scripts' β of .001 leaves no digits for a difference.
        let plain = Settings { beta: entry.takes("beta").then_some(0.7), ..plain };
        variants.push(plain.clone());
        let nll = |r| Settings { nll_weight: Some(0.3), nll_reduction: Some(r), ..plain.clone() };
        if entry.takes("nll_weight") {
            variants.extend([nll(Reduction::Token), nll(Reduction::Sequence)]);
        }
        if entry.takes("ld_alpha") {
            variants.push(Settings { ld_alpha: Some(0.4), ..plain.clone() });
        }
        if entry.takes("reference_free") {
            variants.push(Settings { reference_free: Some(true), ..plain.clone() });
        }
        if entry.takes("label_smoothing") {
            variants.push(Settings { label_smoothing: Some(0.2), ..plain.clone() });
        }
        if entry.takes("alpha") {
            variants.push(Settings { alpha: Some(-0.3), ..plain.clone() });
        }
        if entry.takes("f_divergence_type") && entry.name != "sft" {
            for f in [Divergence::ForwardKl, Divergence::JsDivergence, Divergence::AlphaDivergence] {
                variants.push(Settings { f_divergence_type: Some(f), ..plain.clone() });
            }
        }
    }
    let sum = OneOrMany::Many(["hinge", "apo_down", "sft"].map(String::from).to_vec());
    variants.push(Settings { name: sum, loss_weights: Some(vec![0.5, 2.0, 0.1]), ..Settings::default() });
    assert!(variants.len() > 2 * table().len());
    for settings in &variants {
        let objective = Objective::new(settings).unwrap();
        let needs = objective.needs();
        for round in 0..3 {
            let mut rows = if needs.pairs {
                let pair = |random: &mut Random| Pair {
                    chosen: random.answer(),
                    rejected: random.answer(),
                    targets: Targets {
                        score_chosen: Some(random.between(-1.0, 1.0)),
                        score_rejected: Some(random.between(-1.0, 1.0)),
                        p_chosen: Some(random.between(0.0, 1.0)),
                        p_rejected: Some(random.between(0.0, 1.0)),
                        margin: Some(random.between(-1.0, 1.0)),
                    },
                };
                Rows::Pairs((0..4).map(|_| pair(&mut random)).collect())
            } else {
                Rows::Labelled(
                    (0..5).map(|i| Labelled { answer: random.answer(), desirable: i % 2 == 0 }).collect(),
                )
            };
            let loss = rows.evaluate(&objective);
            assert!(loss.value.is_finite());
            assert_eq!(loss.gradients.len(), rows.answers().len());
            for at in 0..loss.gradients.len() {
                let gradient = &loss.gradients[at];
                assert_eq!(gradient.policy.len(), rows.answers()[at].policy.len());
                let tokens = gradient.policy.len();
                for t in 0..tokens + gradient.prompt.len() {
                    let mut moved = |by: f64| {
                        let mut answers = rows.answers();
                        let token = if t < tokens {
                            &mut answers[at].policy[t]
                        } else {
                            &mut answers[at].prompt[t - tokens]
                        };
                        let old = *token;
                        *token += by;
                        let value = rows.evaluate(&objective).value;
                        let mut answers = rows.answers();
                        if t < tokens {
                            answers[at].policy[t] = old;
                        } else {
                            answers[at].prompt[t - tokens] = old;
                        }
                        value
                    };
                    let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                    let ours = if t < tokens { gradient.policy[t] } else { gradient.prompt[t - tokens] };
                    assert!(
                        (ours - numeric).abs() < 1e-6 * (1.0 + numeric.abs()) * (1.0 + loss.value.abs()),
                        "{settings:?} round {round}, answer {at}, token {t}: {ours} for {numeric}"
                    );
                }
            }
        }
    }
}

#[test]
fn hopeless_and_certain_pairs_give_huge_losses_but_never_nan() {
    let answer = |l: f64, reference: f64| Answer {
        policy: vec![l; 300],
        reference: vec![reference; 300],
        prompt: vec![l],
        square_sums: vec![-1.0; 300],
    };
    let targets = Targets {
        score_chosen: Some(40.0),
        score_rejected: Some(-40.0),
        p_chosen: Some(1.0),
        p_rejected: Some(0.0),
        margin: Some(0.0),
    };
    let ends = [(-40.0, 0.0), (0.0, -40.0), (0.0, 0.0), (-40.0, -40.0), (-0.0, -1e-18)];
    for entry in table() {
        let mut variants = vec![Settings::named(entry.name)];
        if entry.takes("f_divergence_type") {
            for f in [Divergence::ForwardKl, Divergence::JsDivergence, Divergence::AlphaDivergence] {
                variants.push(Settings { f_divergence_type: Some(f), ..Settings::named(entry.name) });
            }
        }
        if entry.takes("alpha") {
            variants.extend([0.5, -0.5].map(|a| Settings { alpha: Some(a), ..Settings::named(entry.name) }));
        }
        for settings in variants {
            let objective = Objective::new(&settings).unwrap();
            for (c, r) in ends.iter().flat_map(|c| ends.iter().map(move |r| (c, r))) {
                let (chosen, rejected) = (answer(c.0, c.1), answer(r.0, r.1));
                let rows = if entry.needs.pairs {
                    Rows::Pairs(vec![Pair { chosen, rejected, targets }])
                } else {
                    let row = |answer, desirable| Labelled { answer, desirable };
                    Rows::Labelled(vec![row(chosen, true), row(rejected, false)])
                };
                let loss = rows.evaluate(&objective);
                let gradients = loss.gradients.iter().flat_map(|g| g.policy.iter().chain(&g.prompt));
                let finite = loss.value.is_finite() && gradients.into_iter().all(|g| g.is_finite());
                assert!(finite, "{settings:?} at {c:?} {r:?}: {}", loss.value);
            }
        }
    }
}

#[test]
fn wrong_settings_and_missing_inputs_are_named() {
    let refused = |text: &str| match toml::from_str::<Settings>(text) {
        Ok(settings) => Objective::new(&settings).unwrap_err(),
        Err(error) => error.message().to_string(),
    };
    for (text, expected) in [
        ("name = \"simppo\"", "did you mean \"simpo\"?"),
        ("name = \"sigmoid\"\nlabel_smoothing = 0.1", "cdpo does"),
        ("name = \"simpo\"\nld_alpha = 0.5", "simpo does not use ld_alpha"),
        ("name = \"dno\"\nbeta = 0.5", "dno does not use beta; it takes eta"),
        ("name = \"robust\"\nlabel_smoothing = 0.5", "from 0 to below 0.5"),
        ("name = \"exo_pair\"\nlabel_smoothing = 0.0", "above 0"),
        ("name = \"dpo\"\nbeta = 0.0", "above 0"),
        ("name = [\"sigmoid\", \"kto\"]", "kto takes single answers"),
        ("name = [\"sigmoid\", \"bco_pair\"]\nf_divergence_type = \"forward_kl\"", "bco_pair does not use"),
        ("name = [\"sigmoid\", \"sft\"]\nloss_weights = [1.0]", "2 names take 2 loss_weights"),
        ("name = \"aot\"\nuse_weighting = true", "aot does not use use_weighting"),
        ("name = \"sigmoid\"\nbetta = 0.1", "unknown field `betta`"),
        ("name = []", "no name"),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    let answer = || Answer { policy: vec![-1.0, -2.0], ..Answer::default() };
    let pairs = [Pair { chosen: answer(), rejected: answer(), targets: Targets::default() }];
    for (name, expected) in [
        ("dpo", "sigmoid: pair 1 (chosen) has 0 reference log-probabilities for 2 tokens"),
        ("kto", "kto takes labelled rows, not pairs"),
    ] {
        let objective = Objective::new(&Settings::named(name)).unwrap();
        assert_eq!(objective.evaluate(&Batch::Pairs(&pairs), &mut State::default()).unwrap_err(), expected);
    }
    let free = Settings { reference_free: Some(true), ..Settings::named("dpo_offset") };
    let message =
        Objective::new(&free).unwrap().evaluate(&Batch::Pairs(&pairs), &mut State::default()).unwrap_err();
    assert_eq!(message, "dpo_offset: pair 1 has no margin");
    let kto = Objective::new(&Settings::named("kto")).unwrap();
    let rows = [Labelled { answer: Answer { reference: vec![-1.0, -1.0], ..answer() }, desirable: true }];
    let message =
        kto.evaluate(&Batch::Labelled { rows: &rows, mismatched: &[] }, &mut State::default()).unwrap_err();
    assert!(message.contains("no mismatched rows"), "{message}");
}

#[test]
fn the_table_is_consistent_and_settings_survive_a_round_trip() {
    let mut names: Vec<&str> =
        table().iter().flat_map(|e| e.aliases.iter().chain([&e.name]).copied()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name stands twice");
    for entry in table() {
        assert!(![entry.formula, entry.source, entry.family].contains(&""), "{}", entry.name);
        let objective = Objective::new(&Settings::named(entry.name)).unwrap();
        assert_eq!(objective.needs(), entry.needs, "{}", entry.name);
    }
    let settings = Settings {
        name: OneOrMany::Many(vec!["sigmoid".into(), "sft".into()]),
        loss_weights: Some(vec![1.0, 0.2]),
        beta: Some(0.3),
        ..Settings::default()
    };
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
    assert_eq!(text, "name = [\"sigmoid\", \"sft\"]\nloss_weights = [1.0, 0.2]\nbeta = 0.3\n");
}

#[test]
fn pairs_follow_the_rules_of_dno_prct() {
    let sample = |score, student| Sample { score, student, repeats: false };
    // A teacher's 6, a student's 5, a student's 4, a looping 6.
    let samples = [
        sample(6.0, false),
        sample(5.0, true),
        sample(4.0, true),
        Sample { repeats: true, ..sample(6.0, true) },
    ];
    assert_eq!(PairRules::default().pairs(&samples), [(0, 2), (0, 3), (1, 2), (1, 3)]);
    assert!(repeats(&[1, 2, 3, 1, 2, 3, 1, 2, 3], 3, 2) && !repeats(&[1, 2, 3, 1, 2, 3], 3, 2));
}
