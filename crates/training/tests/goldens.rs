//! Loss, gradient norm and every parameter's norm against TRL and float64 autograd, for every case of `losses.json`, and
//! whole runs step by step.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Lines, checkpoint, close, goldens, parse, settings, write_rows};
use training::objectives::Objective;
use training::{Start, Trainer};

struct Bench {
    folder: tempfile::TempDir,
    data: Value,
}

impl Bench {
    fn list(&self, name: &str) -> Vec<Value> {
        self.data[name].as_array().unwrap().clone()
    }

    /// Rows of a case, with everything that any objective may ask for.
    fn rows(&self, case: &Value) -> Vec<Value> {
        let name = case["name"].as_str().unwrap();
        let data = case["data"].as_str().unwrap_or("pairs");
        if data.starts_with("pairs: prompt + chosen") {
            return self
                .list("pairs")
                .iter()
                .map(|p| {
                    let ids = |key: &str| p[key].as_array().unwrap().clone();
                    let prompt = ids("prompt").len();
                    let all = [ids("prompt"), ids("chosen")].concat();
                    let mask: Vec<u8> = (0..all.len()).map(|i| u8::from(i >= prompt)).collect();
                    json!({"input_ids": all, "mask": mask})
                })
                .collect();
        }
        let list = data.split(' ').next().unwrap();
        let mut rows = self.list(list);
        let margins =
            data.ends_with("margin") || case["hp"]["margin"] == true || name.ends_with("dpo_offset");
        for (i, row) in rows.iter_mut().enumerate() {
            if list != "pairs" || case["source"] != "own" && !margins {
                continue;
            }
            let of = |key: &str| self.data[key][i].clone();
            if margins {
                row["margin"] = of("margin");
            }
            row["score_chosen"] = of("s_win");
            row["score_rejected"] = of("s_lose");
            row["p_chosen"] = of("p_win");
            row["p_rejected"] = of("p_lose");
            if name.contains("/gpm_") || name.contains("/bt_") {
                row["p_chosen"] = Value::Null;
            }
            if name.contains("/spo_") {
                row["degree_chosen"] = json!([0, 1, 2, 3][i]);
                row["degree_rejected"] = json!([2, 0, 1, 1][i]);
            }
        }
        rows
    }

    /// The recipe of a case, and the extra tensors its model needs.
    fn recipe(&self, case: &Value, rows: usize) -> (String, Vec<(String, &'static str)>) {
        let name = case["name"].as_str().unwrap();
        let hp = &case["hp"];
        let kind = name.split('/').nth(1).unwrap();
        let mut heads = Vec::new();
        let mut extra = String::new();
        let (kind, objective) = if kind == "sft" {
            let mut text = String::new();
            if hp.get("_mask").is_some_and(Value::is_null) {
                text += "loss_on = \"all\"\n";
            }
            if hp["loss_type"] == "dft" {
                text += "loss_type = \"dft\"\n";
            }
            if let Some(e) = hp["label_smoothing_factor"].as_f64() {
                text += &format!("label_smoothing = {e}\n");
            }
            ("sft", text)
        } else if kind == "reward" || name.contains("/bt_") {
            heads.push(("score.weight".to_string(), "score.weight"));
            let tau = hp["tau"].as_f64().unwrap_or(1.0);
            let centre = hp["center_rewards_coefficient"].as_f64().unwrap_or(0.0);
            ("reward", format!("name = \"bt\"\ntau = {tau}\ncenter_rewards_coefficient = {centre}\n"))
        } else if name.contains("/gpm_") {
            let k = hp["k"].as_u64().unwrap();
            heads.push((format!("gpm.value_head.k{k}"), "value_head.weight"));
            let gate = hp["gate"].as_str().unwrap();
            if gate != "none" {
                heads.push((format!("gpm.prompt_head.k{k}"), "prompt_head.weight"));
            }
            let mut text = format!(
                "name = \"gpm\"\ndim = {}\ngate = {gate:?}\nl2 = {}\ntau = {}\n",
                2 * k,
                hp["l2"],
                hp["tau"].as_f64().unwrap()
            );
            if let Some(target) = hp["target"].as_f64() {
                text += &format!("target = {target:?}\n");
            }
            ("reward", text)
        } else {
            if name.contains("/spo_") {
                heads.push(("spo.head".to_string(), "degree_head.weight"));
                let pool = if name.contains("spo_last") { "last" } else { "mean" };
                extra = format!("[degree]\nweight = {}\npool = {pool:?}\n", hp["gamma"].as_f64().unwrap());
            }
            ("preference", toml::to_string(&settings(case)).unwrap())
        };
        let folder = self.folder.path();
        let mut text =
            format!("kind = {kind:?}\nmodel = {:?}\nout = {:?}\n", folder.join("model"), folder.join("out"));
        if kind == "preference" && Objective::new(&settings(case)).unwrap().needs().reference {
            text += &format!("reference_model = {:?}\n", folder.join("ref"));
        }
        let longest = hp["max_length"].as_u64().unwrap_or(2048);
        text += &format!(
            "[data]\ntrain = {:?}\nshuffle = false\nmax_length = {longest}\n[objective]\n{objective}\n{extra}\
             [optimizer]\nlearning_rate = 1e-3\nbatch_size = {rows}\nmax_steps = 1\n",
            folder.join("rows.jsonl")
        );
        (text, heads)
    }
}

#[test]
fn every_loss_and_every_gradient_is_that_of_the_reference() {
    let Some(path) = goldens() else { return };
    let losses = support::json(&path.join("losses.json"));
    let mut checked = 0;
    for case in losses["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let bench =
            Bench { folder: tempfile::tempdir().unwrap(), data: support::json(&path.join("data.json")) };
        let rows = bench.rows(case);
        write_rows(&bench.folder.path().join("rows.jsonl"), &rows);
        let (text, heads) = bench.recipe(case, rows.len());
        let heads: Vec<(&str, &str)> = heads.iter().map(|(a, b)| (a.as_str(), *b)).collect();
        let model = case["model"].as_str().unwrap();
        let (mut policy, mut reference) = ("policy", "ref");
        if case["swap"] == true {
            (policy, reference) = (reference, policy);
        }
        if case["ref_kind"] == "policy" {
            reference = policy;
        }
        checkpoint(&path, &format!("{model}-{policy}"), &bench.folder.path().join("model"), &heads);
        checkpoint(&path, &format!("{model}-{reference}"), &bench.folder.path().join("ref"), &[]);
        let trainer = Trainer::new(parse(&text), &Start::default(), &mut ())
            .unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        let made = trainer.measure(0..rows.len()).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        // One case divides by a number of its own.
        let factor = if name.ends_with("num_items_100") { made.counted as f64 / 100.0 } else { 1.0 };
        let get = |key: &str| case[format!("{key}_f64")].as_f64().or(case[key].as_f64()).unwrap();
        assert!(
            close(made.loss * factor, get("loss"), 1e-4),
            "{name}: loss {} for {}",
            made.loss,
            get("loss")
        );
        let norm = made.gradients.norm() * factor;
        assert!(close(norm, get("grad_norm"), 1e-4), "{name}: norm {norm} for {}", get("grad_norm"));
        let trainer_kind = case["trainer"].as_str().unwrap_or("own");
        let names = match trainer_kind {
            "reward" => &losses["param_names"]["llama/reward"],
            _ => &losses["param_names"][model],
        };
        let norms = case.get("grad_norms_f64").or(case.get("grad_norms")).unwrap();
        let total = get("grad_norm");
        for (parameter, expected) in names.as_array().unwrap().iter().zip(norms.as_array().unwrap()) {
            let parameter = parameter.as_str().unwrap();
            let squares = |g: &Vec<f32>| g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let own = made.gradients.sums.get(parameter).map_or(0.0, squares).sqrt() * factor;
            let expected = expected.as_f64().unwrap();
            // What is nearly nothing beside the whole is rounding.
            assert!(
                close(own, expected, 1e-3) || (own - expected).abs() < 1e-6 * total,
                "{name}: {parameter} {own} for {expected}"
            );
        }
        checked += 1;
    }
    assert_eq!(checked, losses["cases"].as_array().unwrap().len());
}

/// The recipe of a golden run.
fn run_recipe(folder: &Path, run: &Value, path: &Path) -> String {
    let c = &run["config"];
    let number = |key: &str, default: f64| c[key].as_f64().unwrap_or(default);
    let trainer = run["trainer"].as_str().unwrap();
    let (kind, objective) = match trainer {
        "sft" => ("sft", String::new()),
        "reward" => (
            "reward",
            format!("center_rewards_coefficient = {}\n", number("center_rewards_coefficient", 0.0)),
        ),
        _ => {
            let hp: serde_json::Map<String, Value> = c
                .as_object()
                .unwrap()
                .iter()
                .filter(|(k, _)| ["beta", "loss_type", "simpo_gamma", "cpo_alpha"].contains(&k.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let mut hp = Value::Object(hp);
            if trainer == "kto" {
                hp["loss_type"] = json!("kto");
            }
            let case = json!({"name": format!("x/{trainer}/run"), "trainer": trainer, "hp": hp});
            ("preference", toml::to_string(&settings(&case)).unwrap())
        }
    };
    let mut text =
        format!("kind = {kind:?}\nmodel = {:?}\nout = {:?}\n", folder.join("model"), folder.join("out"));
    text += &format!(
        "[data]\ntrain = {:?}\nshuffle = false\n[objective]\n{objective}\n",
        folder.join("rows.jsonl")
    );
    if ["dpo", "kto"].contains(&trainer) && !run["lora"].is_object() {
        text = text.replacen("[data]", &format!("reference_model = {:?}\n[data]", folder.join("ref")), 1);
    }
    if run["lora"].is_object() {
        text += &format!(
            "[lora]\ninit = {:?}\n",
            path.join("adapters").join(format!("{}-init", run["name"].as_str().unwrap()))
        );
    }
    if c["sync_ref_model"] == true {
        text += &format!(
            "[reference]\nref_model_sync_steps = {}\nref_model_mixup_alpha = {}\n",
            c["ref_model_sync_steps"], c["ref_model_mixup_alpha"]
        );
    }
    text + &format!(
        "[optimizer]\nlearning_rate = {}\nlr_scheduler_type = {}\nwarmup_steps = {}\nweight_decay = {}\n\
         max_grad_norm = {}\nadam_beta2 = {}\nbatch_size = {}\ngradient_accumulation_steps = {}\nmax_steps = 20\n",
        number("learning_rate", 0.0),
        c["lr_scheduler_type"],
        number("warmup_steps", 0.0),
        number("weight_decay", 0.0),
        number("max_grad_norm", 1.0),
        number("adam_beta2", 0.999),
        number("per_device_train_batch_size", 1.0),
        number("gradient_accumulation_steps", 1.0),
    )
}

#[test]
fn twelve_runs_follow_trl_step_by_step() {
    let Some(path) = goldens() else { return };
    let runs = support::json(&path.join("runs.json"));
    let data = support::json(&path.join("data.json"));
    let mut checked = 0;
    for run in runs["runs"].as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let heads: &[(&str, &str)] =
            if run["trainer"] == "reward" { &[("score.weight", "score.weight")] } else { &[] };
        let model = run["model"].as_str().unwrap();
        checkpoint(&path, &format!("{model}-policy"), &folder.path().join("model"), heads);
        checkpoint(&path, &format!("{model}-ref"), &folder.path().join("ref"), &[]);
        write_rows(
            &folder.path().join("rows.jsonl"),
            data[run["data"].as_str().unwrap()].as_array().unwrap(),
        );
        let text = run_recipe(folder.path(), run, &path);
        let mut lines = Lines::default();
        let done = Trainer::new(parse(&text), &Start::default(), &mut lines)
            .and_then(|mut t| t.run(&mut lines))
            .unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        assert_eq!(lines.lines.len(), 20);
        for (i, line) in lines.lines.iter().enumerate() {
            for (ours, theirs) in [("loss", "loss_f64"), ("grad_norm", "grad_norm_f64"), ("lr", "lr")] {
                let (a, b) = (line[ours].as_f64().unwrap(), run[theirs][i].as_f64().unwrap());
                assert!(close(a, b, 1e-3) || (a - b).abs() < 1e-12, "{name} step {i} {ours}: {a} for {b}");
            }
            for (metric, values) in run["metrics"].as_object().unwrap() {
                let (Some(a), Some(b)) = (line[metric].as_f64(), values[i].as_f64()) else { continue };
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{name} step {i} {metric}: {a} for {b}");
            }
        }
        let file = if run["lora"].is_object() { "adapter_model.safetensors" } else { "model.safetensors" };
        let tensors = candle_core::safetensors::load(done.join(file), &candle_core::Device::Cpu).unwrap();
        for (parameter, expected) in run["final"].as_object().unwrap() {
            let tensor = &tensors[&parameter.replace(".default", "")];
            let norm = tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            assert!(close(f64::from(norm), expected[1].as_f64().unwrap(), 1e-4), "{name} {parameter}");
        }
        checked += 1;
    }
    assert_eq!(checked, 12);
}
