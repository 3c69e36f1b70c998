//! Fine-tuning runs step by step against TRL, and resumption to the same bits.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use training::{Recipe, TrainError, Trainer, Watch};

fn goldens() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/train");
    if !path.exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: the goldens in shared/ are not here\n"),
        );
        return None;
    }
    Some(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with the micro checkpoint, its tokenizer and the rows of `train_sft`.
fn setting(goldens: &Path, model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(goldens.join("models").join(format!("{model}-policy")).join(file), to.join(file)).unwrap();
    }
    fs::copy(goldens.join("models/tokenizer.json"), to.join("tokenizer.json")).unwrap();
    let rows = json(&goldens.join("data.json"))["train_sft"].clone();
    let lines: String = rows.as_array().unwrap().iter().map(|r| format!("{r}\n")).collect();
    fs::write(folder.path().join("train.jsonl"), lines).unwrap();
    folder
}

fn recipe(folder: &Path, out: &str, run: &Value, steps: usize) -> Recipe {
    let c = &run["config"];
    let number = |key: &str, default: f64| c[key].as_f64().unwrap_or(default);
    let text = format!(
        "kind = \"sft\"\nmodel = {:?}\nout = {:?}\n[data]\ntrain = {:?}\nshuffle = false\n[optimizer]\n\
         learning_rate = {}\nlr_scheduler_type = {}\nwarmup_steps = {}\nweight_decay = {}\nmax_grad_norm = {}\n\
         adam_beta2 = {}\nbatch_size = {}\ngradient_accumulation_steps = {}\nmax_steps = {steps}\n[save]\nevery = 7\n",
        folder.join("model"),
        folder.join(out),
        folder.join("train.jsonl"),
        number("learning_rate", 0.0),
        c["lr_scheduler_type"],
        number("warmup_steps", 0.0),
        number("weight_decay", 0.0),
        number("max_grad_norm", 1.0),
        number("adam_beta2", 0.999),
        number("per_device_train_batch_size", 1.0),
        number("gradient_accumulation_steps", 1.0),
    );
    Recipe::parse(&text, &[]).unwrap()
}

#[derive(Default)]
struct Lines {
    lines: Vec<Value>,
    stop_at: Option<usize>,
}

impl Watch for Lines {
    fn step(&mut self, metrics: &Value, _: usize) {
        self.lines.push(metrics.clone());
    }
    fn cancelled(&mut self) -> bool {
        self.stop_at.is_some_and(|s| self.lines.len() >= s)
    }
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-9)
}

#[test]
fn runs_follow_trl_step_by_step() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    for name in ["sft_full", "sft_accum4", "qwen2_sft_full"] {
        let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        let folder = setting(&goldens, run["model"].as_str().unwrap());
        let steps = run["loss"].as_array().unwrap().len();
        let mut lines = Lines::default();
        let recipe = recipe(folder.path(), "out", run, steps);
        let done = Trainer::new(recipe, false, &mut lines).unwrap().run(&mut lines).unwrap();
        for (i, line) in lines.lines.iter().enumerate() {
            for (ours, theirs) in [("loss", "loss_f64"), ("grad_norm", "grad_norm_f64"), ("lr", "lr")] {
                let (a, b) = (line[ours].as_f64().unwrap(), run[theirs][i].as_f64().unwrap());
                assert!(close(a, b, 1e-4) || (a - b).abs() < 1e-12, "{name} step {i} {ours}: {a} for {b}");
            }
        }
        let tensors =
            candle_core::safetensors::load(done.join("model.safetensors"), &candle_core::Device::Cpu)
                .unwrap();
        for (parameter, expected) in run["final"].as_object().unwrap() {
            let norm =
                tensors[parameter].sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            assert!(close(f64::from(norm), expected[1].as_f64().unwrap(), 1e-4), "{name} {parameter}");
        }
    }
}

/// One step over all of `rows` in one batch: its loss and the norm of its gradient.
fn one_step(folder: &Path, rows: &[Value], extra: (&str, &str)) -> (f64, f64) {
    let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
    fs::write(folder.join("train.jsonl"), lines).unwrap();
    let text = format!(
        "kind = \"sft\"\nmodel = {:?}\nout = {:?}\n[data]\ntrain = {:?}\nshuffle = false\n{}\n[objective]\n{}\n\
         [optimizer]\nlearning_rate = 1e-3\nbatch_size = {}\nmax_steps = 1\n",
        folder.join("model"),
        folder.join("step"),
        folder.join("train.jsonl"),
        extra.0,
        extra.1,
        rows.len()
    );
    let mut lines = Lines::default();
    Trainer::new(Recipe::parse(&text, &[]).unwrap(), false, &mut lines).unwrap().run(&mut lines).unwrap();
    (lines.lines[0]["loss"].as_f64().unwrap(), lines.lines[0]["grad_norm"].as_f64().unwrap())
}

#[test]
fn loss_and_gradient_norm_are_those_of_trl() {
    let Some(goldens) = goldens() else { return };
    let losses = json(&goldens.join("losses.json"));
    let data = json(&goldens.join("data.json"));
    let sft = data["sft"].as_array().unwrap().clone();
    let ids = |v: &Value| v.as_array().unwrap().clone();
    let pairs: Vec<Value> = data["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let (prompt, chosen) = (ids(&p["prompt"]), ids(&p["chosen"]));
            let mask: Vec<u8> =
                (0..prompt.len() + chosen.len()).map(|i| u8::from(i >= prompt.len())).collect();
            let all = [prompt, chosen].concat();
            serde_json::json!({"input_ids": all, "mask": mask})
        })
        .collect();
    for (case, rows, extra) in [
        ("llama/sft/assistant_only", &sft, ("", "")),
        ("llama/sft/padding_free", &sft, ("", "")),
        ("llama/sft/full_sequence", &sft, ("", "loss_on = \"all\"")),
        ("llama/sft/completion_only", &pairs, ("", "")),
        ("llama/sft/trunc10", &sft, ("max_length = 10", "")),
        ("qwen2/sft/assistant_only", &sft, ("", "")),
    ] {
        let expected = losses["cases"].as_array().unwrap().iter().find(|c| c["name"] == case).unwrap();
        let folder = setting(&goldens, expected["model"].as_str().unwrap());
        let (loss, norm) = one_step(folder.path(), rows, extra);
        assert!(close(loss, expected["loss_f64"].as_f64().unwrap(), 1e-4), "{case}: loss {loss}");
        assert!(close(norm, expected["grad_norm_f64"].as_f64().unwrap(), 1e-4), "{case}: norm {norm}");
    }
}

#[test]
fn what_comes_out_is_a_folder_that_loads_and_goes_on() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    let done =
        Trainer::new(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap().run(&mut ()).unwrap();
    let source = models::ModelSource { path: done.clone(), adapter: None };
    let model = models::Model::load(&source, &models::LoadOptions::default()).unwrap();
    let written = folder.path().join("written");
    fs::create_dir(&written).unwrap();
    training::Companions::of(&model).write(&written).unwrap();
    // The files made from the loaded model say what the copied ones say.
    fs::copy(done.join("model.safetensors"), written.join("model.safetensors")).unwrap();
    let source = models::ModelSource { path: written, adapter: None };
    let again = models::Model::load(&source, &models::LoadOptions::default()).unwrap();
    assert_eq!(again.decoder.config(), model.decoder.config());
    assert_eq!(again.tokenizer.encode("t5 t6").unwrap(), model.tokenizer.encode("t5 t6").unwrap());
    let header = fs::read(done.join("model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[8..200]).contains("\"format\":\"pt\""));
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    Trainer::new(recipe(folder.path(), "out", run, 7), false, &mut ()).unwrap().run(&mut ()).unwrap();
    let mut other = recipe(folder.path(), "out", run, 9);
    let qwen = setting(&goldens, "qwen2");
    other.model = qwen.path().join("model");
    let error = Trainer::new(other, true, &mut ()).err().unwrap().to_string();
    assert!(error.contains("another model") && !error.contains('\n'), "{error}");
    let weights = folder.path().join("out/checkpoint-7/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = Trainer::new(recipe(folder.path(), "out", run, 9), true, &mut ()).err().unwrap().to_string();
    assert!(error.contains("checkpoint-7") && !error.contains('\n'), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_and_a_loss_that_leaves_the_numbers_stop_the_run() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    let mut recipe = recipe(folder.path(), "out", run, 12);
    recipe.optimizer.learning_rate = 1e30;
    recipe.optimizer.warmup_steps = 0.0;
    let stopped = Trainer::new(recipe, false, &mut ()).unwrap().run(&mut ());
    let Err(TrainError::NotFinite { rows, .. }) = &stopped else { panic!("{stopped:?}") };
    assert!(!rows.is_empty());
}

#[test]
fn overlong_rows_are_refused_left_out_or_cut() {
    let Some(goldens) = goldens() else { return };
    let data = json(&goldens.join("data.json"));
    let folder = setting(&goldens, "llama");
    let rows = data["sft"].as_array().unwrap();
    let longest = rows.iter().map(|r| r["input_ids"].as_array().unwrap().len()).max().unwrap();
    let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
    fs::write(folder.path().join("train.jsonl"), lines).unwrap();
    let make = |how: &str| {
        let text = format!(
            "kind = \"sft\"\nmodel = {:?}\nout = {:?}\n[data]\ntrain = {:?}\nmax_length = {}\noverlong = {how:?}\n\
             [optimizer]\nlearning_rate = 1e-3\nnum_train_epochs = 1\nbatch_size = 1\n",
            folder.path().join("model"),
            folder.path().join(how),
            folder.path().join("train.jsonl"),
            longest - 1,
        );
        Trainer::new(Recipe::parse(&text, &[]).unwrap(), false, &mut ()).map(|t| t.total_steps())
    };
    assert!(matches!(make("error"), Err(TrainError::Data { .. })));
    assert!(make("skip").unwrap() < rows.len());
    assert_eq!(make("truncate").unwrap(), rows.len());
}

#[test]
fn learning_rates_are_those_of_transformers() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let mut checked = 0;
    for s in runs["schedules"].as_array().unwrap() {
        let name = s["name"].as_str().unwrap();
        if !["linear", "cosine", "constant", "constant_with_warmup"].contains(&name)
            || s["kwargs"].as_object().is_some_and(|k| !k.is_empty())
        {
            continue;
        }
        let text = format!(
            "kind = \"sft\"\nmodel = \"m\"\nout = \"o\"\n[data]\ntrain = \"t\"\n[optimizer]\nlearning_rate = {}\n\
             lr_scheduler_type = {name:?}\nwarmup_steps = {}\nmax_steps = 1\n",
            s["peak"],
            s["warmup"].as_f64().unwrap()
        );
        let optimizer = Recipe::parse(&text, &[]).unwrap().optimizer;
        let total = s["steps"].as_u64().unwrap() as usize;
        for (step, expected) in s["lr"].as_array().unwrap().iter().enumerate() {
            let got = training::learning_rate(&optimizer, step, total);
            assert!(
                (got - expected.as_f64().unwrap()).abs() < 1e-12,
                "{name} step {step}: {got} for {expected}"
            );
        }
        checked += 1;
    }
    assert!(checked >= 3);
}

#[test]
fn resuming_ends_in_the_same_bits_as_never_stopping() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    let whole = recipe(folder.path(), "whole", run, 20);
    let straight = Trainer::new(whole, false, &mut ()).unwrap().run(&mut ()).unwrap();
    let broken = recipe(folder.path(), "broken", run, 20);
    let mut stopping = Lines { stop_at: Some(9), ..Lines::default() };
    let stopped = Trainer::new(broken.clone(), false, &mut stopping).unwrap().run(&mut stopping);
    assert!(matches!(stopped, Err(TrainError::Interrupted(9))), "{stopped:?}");
    // As if it had been killed while a checkpoint was being written.
    fs::create_dir(folder.path().join("broken/checkpoint-10.partial")).unwrap();
    let resumed = Trainer::new(broken, true, &mut ()).unwrap().run(&mut ()).unwrap();
    let bytes = |p: PathBuf| fs::read(p.join("model.safetensors")).unwrap();
    assert!(bytes(straight) == bytes(resumed));
    let count = |out: &str| {
        fs::read_to_string(folder.path().join(out).join("metrics.jsonl")).unwrap().lines().count()
    };
    assert_eq!((count("whole"), count("broken")), (20, 20));
}

#[test]
fn two_trainings_do_not_share_a_folder() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    let first = Trainer::new(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap();
    assert!(matches!(
        Trainer::new(recipe(folder.path(), "out", run, 2), false, &mut ()),
        Err(TrainError::Locked(_))
    ));
    drop(first);
    Trainer::new(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap().run(&mut ()).unwrap();
    // Nor does a new one begin among the checkpoints of an old one.
    assert!(matches!(
        Trainer::new(recipe(folder.path(), "out", run, 2), false, &mut ()),
        Err(TrainError::Occupied(_))
    ));
}

#[test]
fn what_this_version_does_not_train_is_said_plainly() {
    for (text, word) in [
        ("kind = \"reward\"\n", "reward"),
        ("kind = \"preference\"\n", "preference"),
        ("kind = \"sft\"\n[lora]\nr = 16\n", "lora"),
    ] {
        let error = Recipe::parse(text, &[]).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("version") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_wrong_key_is_refused_with_the_nearest_name() {
    let text = "kind = \"sft\"\nmodel = \"m\"\nout = \"o\"\n[data]\ntrain = \"t\"\n[optimizer]\nlearning_rte = 1e-3\n";
    let error = Recipe::parse(text, &[]).unwrap_err().to_string();
    assert!(error.contains("learning_rate"), "{error}");
}
