//! What every objective of the table has to keep: gradients that are its value's differences, no NaN, errors that name
//! what is wrong.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use training::objectives::{
    Answer, Batch, Divergence, Labelled, Loss, Objective, OneOrMany, Pair, PairRules, Reduction, Sample,
    Settings, State, Targets, repeats, table,
};

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
