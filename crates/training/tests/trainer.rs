//! Trainings as their users meet them: what comes out, resumption to the same bits, bad input.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Lines, goldens, json};
use training::{Recipe, Start, TrainError, Trainer, Watch};

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

fn start(recipe: Recipe, resume: bool, watch: &mut dyn Watch) -> Result<Trainer, TrainError> {
    Trainer::new(recipe, &Start { resume, cache: None }, watch)
}

#[test]
fn what_comes_out_is_a_folder_that_loads_and_goes_on() {
    let Some(goldens) = goldens() else { return };
    let runs = json(&goldens.join("runs.json"));
    let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == "sft_full").unwrap();
    let folder = setting(&goldens, "llama");
    let done = start(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap().run(&mut ()).unwrap();
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
    start(recipe(folder.path(), "out", run, 7), false, &mut ()).unwrap().run(&mut ()).unwrap();
    let mut other = recipe(folder.path(), "out", run, 9);
    let qwen = setting(&goldens, "qwen2");
    other.model = qwen.path().join("model").display().to_string();
    let error = start(other, true, &mut ()).err().unwrap().to_string();
    assert!(error.contains("another model") && !error.contains('\n'), "{error}");
    let weights = folder.path().join("out/checkpoint-7/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = start(recipe(folder.path(), "out", run, 9), true, &mut ()).err().unwrap().to_string();
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
    let stopped = start(recipe, false, &mut ()).unwrap().run(&mut ());
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
        start(Recipe::parse(&text, &[]).unwrap(), false, &mut ()).map(|t| t.total_steps())
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
    let straight = start(whole, false, &mut ()).unwrap().run(&mut ()).unwrap();
    let broken = recipe(folder.path(), "broken", run, 20);
    let mut stopping = Lines { stop_at: Some(9), ..Lines::default() };
    let stopped = start(broken.clone(), false, &mut stopping).unwrap().run(&mut stopping);
    assert!(matches!(stopped, Err(TrainError::Interrupted(9))), "{stopped:?}");
    // As if it had been killed while a checkpoint was being written.
    fs::create_dir(folder.path().join("broken/checkpoint-10.partial")).unwrap();
    let resumed = start(broken, true, &mut ()).unwrap().run(&mut ()).unwrap();
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
    let first = start(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap();
    assert!(matches!(
        start(recipe(folder.path(), "out", run, 2), false, &mut ()),
        Err(TrainError::Locked(_))
    ));
    drop(first);
    start(recipe(folder.path(), "out", run, 2), false, &mut ()).unwrap().run(&mut ()).unwrap();
    // Nor does a new one begin among the checkpoints of an old one.
    assert!(matches!(
        start(recipe(folder.path(), "out", run, 2), false, &mut ()),
        Err(TrainError::Occupied(_))
    ));
}

#[test]
fn a_wrong_key_is_refused_with_the_nearest_name() {
    let text = "kind = \"sft\"\nmodel = \"m\"\nout = \"o\"\n[data]\ntrain = \"t\"\n[optimizer]\nlearning_rte = 1e-3\n";
    let error = Recipe::parse(text, &[]).unwrap_err().to_string();
    assert!(error.contains("learning_rate"), "{error}");
}
