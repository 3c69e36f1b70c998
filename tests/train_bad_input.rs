//! What a training cannot use: each with its exit code, a message of at most three lines, and nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::{Home, checkpoint, mini};

/// A home with a recipe and the mini model, which a short training has made.
fn home(kind: &str, objective: &str, rows: &str, more: &str) -> Home {
    let home = Home::new();
    home.write("recipe.toml", mini(kind, objective, rows, more, 6));
    let first = home.run(&["train", kind, "--config", "recipe.toml", "--quiet", "--out", "first"]);
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    home
}

fn weights(home: &Home, out: &str) -> Vec<u8> {
    fs::read(home.path(out).join("final/model.safetensors")).unwrap()
}

fn checkpoints(home: &Home, out: &str) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(home.path(out))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.display().to_string().contains("checkpoint-"))
        .collect();
    all.sort();
    all
}

#[test]
fn a_cut_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_bytes() {
    let home = home("sft", "", "dialogues", "");
    let whole = weights(&home, "first");
    for file in ["model.safetensors", "optimizer.safetensors", "position.json"] {
        let path = home.path("first/checkpoint-6").join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let resume = ["train", "sft", "--config", "recipe.toml", "--out", "first", "--resume"];
        home.fails(&resume, 4, "delete this checkpoint to go on from the one before");
        fs::write(&path, bytes).unwrap();
    }
    fs::remove_dir_all(home.path("first/checkpoint-6")).unwrap();
    fs::remove_dir_all(home.path("first/final")).unwrap();
    let resumed = home.run(&["train", "sft", "--config", "recipe.toml", "--out", "first", "--resume"]);
    assert!(String::from_utf8_lossy(&resumed.stderr).contains("going on from first/checkpoint-3"));
    assert!(weights(&home, "first") == whole);
}

#[test]
fn checkpoints_of_another_model_or_of_other_rows_are_not_gone_on_from() {
    let home = home("sft", "", "dialogues", "");
    let resume = |set: &str, says: &str| {
        let args = ["train", "sft", "--config", "recipe.toml", "--out", "first", "--resume", "--set", set];
        home.fails(&args, 4, says);
    };
    let rows = fs::read_to_string(home.path("home/mini/dialogues.jsonl")).unwrap();
    home.write("fewer.jsonl", rows.lines().take(20).map(|l| format!("{l}\n")).collect::<String>());
    resume("data.train=fewer.jsonl", "another training file");
    // The same shapes, other weights.
    resume("model=first/final", "another model");
    // An adapter's checkpoint is not one of all parameters, and settings that decide the numbers stay what they were.
    resume("lora.r=4", "lora.");
    resume("optimizer.adam_beta1=0.5", "made with optimizer.adam_beta1 = ");
    resume("seed=9", "made with seed = ");
    // A longer training goes on.
    let args = ["train", "sft", "--config", "recipe.toml", "--out", "first", "--resume"];
    let more = ["--set", "optimizer.max_steps=8", "--set", "optimizer.learning_rate=0.001"];
    let longer = home.run(&[&args[..], &more].concat());
    let said = String::from_utf8_lossy(&longer.stderr).into_owned();
    assert_eq!(longer.status.code(), Some(0), "{said}");
    assert!(said.contains("optimizer.learning_rate is 0.001 from here on"), "{said}");
    // Moments that are not those of the weights.
    let moments = |step: usize| home.path(&format!("first/checkpoint-{step}/optimizer.safetensors"));
    let path = moments(8);
    let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let name = tensors.keys().find(|n| n.starts_with("second.")).unwrap().clone();
    let short = tensors[&name].narrow(0, 0, 3).unwrap();
    tensors.insert(name, short);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    home.fails(&[&args[..], &more[2..]].concat(), 4, "delete this checkpoint to go on from the one before");
}

#[test]
fn an_adapter_is_refused_by_a_base_it_was_not_made_for() {
    let home = home("sft", "", "dialogues", "[lora]\nr = 4\n");
    checkpoint(&home, "other", |_, _| {});
    home.fails(&["models", "merge", "other+first/final", "--out", "merged"], 4, "adapter");
    assert!(!home.path("merged").exists());
    let args = ["train", "sft", "--config", "recipe.toml", "--out", "x"];
    home.fails(
        &[&args[..], &["--set", "model=other", "--set", "lora.init=first/final"]].concat(),
        4,
        "adapter",
    );
    home.fails(&["models", "merge", "other+gone", "--out", "merged"], 4, "gone");
    // The same shapes, other numbers; a base of another number type is the same base.
    let model = home.path("home/mini/model");
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    for (to, change) in [("twin", true), ("half", false)] {
        fs::create_dir(home.path(to)).unwrap();
        for file in files {
            fs::copy(model.join(file), home.path(to).join(file)).unwrap();
        }
        let cpu = candle_core::Device::Cpu;
        let tensors = candle_core::safetensors::load(model.join("model.safetensors"), &cpu).unwrap();
        let turned = tensors.into_iter().map(|(name, t)| {
            let t = if change && t.rank() == 2 { t.flip(&[0, 1]).unwrap().contiguous().unwrap() } else { t };
            (name, t.to_dtype(candle_core::DType::BF16).unwrap())
        });
        let turned: std::collections::HashMap<_, _> = turned.collect();
        candle_core::safetensors::save(&turned, home.path(to).join("model.safetensors")).unwrap();
    }
    home.fails(
        &["models", "merge", "twin+first/final", "--out", "merged"],
        4,
        "another base of the same shapes",
    );
    let on = ["--set", "model=twin", "--set", "lora.init=first/final"];
    home.fails(&[&args[..], &on].concat(), 4, "another base of the same shapes");
    let half = home.run(&["models", "merge", "half+first/final", "--out", "merged"]);
    assert_eq!(half.status.code(), Some(0), "{}", String::from_utf8_lossy(&half.stderr));
    // What else an adapter trained would be lost where it goes on.
    let path = home.path("first/final/adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let extra = candle_core::Tensor::zeros(4, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    tensors.insert("base_model.model.model.norm.weight".into(), extra);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    home.fails(&[&args[..], &["--set", "lora.init=first/final"]].concat(), 4, "beside its factors");
}

#[test]
fn settings_that_would_do_nothing_or_nonsense_are_refused() {
    let kto = home("preference", "name = \"simpo\"", "pairs", "");
    let fails = |home: &Home, kind: &str, set: &[&str], says: &str| {
        let mut args = vec!["train", kind, "--config", "recipe.toml", "--out", "x"];
        set.iter().for_each(|s| args.extend(["--set", s]));
        home.fails(&args, 4, says);
    };
    fails(&kto, "preference", &["optimizer.max_steps=0"], "max_steps is at least 1");
    fails(&kto, "preference", &["objective.name=kto", "optimizer.batch_size=1"], "at least 2 rows");
    fails(&kto, "preference", &["reference_model=first/final"], "no reference");
    fails(&kto, "preference", &["degree.degrees=0"], "degree.degrees");
    let reward = home("reward", "", "pairs", "[lora]\nr = 2\n");
    fails(&reward, "reward", &["objective.freeze_trunk=true"], "give one of them");
    fails(&reward, "reward", &["objective.dim=8"], "dim belongs to another head");
    fails(
        &reward,
        "reward",
        &["objective.name=gpm", "objective.center_rewards_coefficient=0.1"],
        "another head",
    );
    // A number that an objective needs is asked for when the rows are read.
    let rows = |more: &str| {
        let row =
            |more: &str| format!("{{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"{more}}}\n");
        kto.write("rows.jsonl", row(", \"p_chosen\": 0.7, \"p_rejected\": 0.3") + &row(more));
    };
    let dno = [
        "train",
        "preference",
        "--config",
        "recipe.toml",
        "--out",
        "x",
        "--set",
        "data.train=rows.jsonl",
        "--set",
    ];
    for (more, says) in [
        ("", "row 2: has no p_chosen and p_rejected"),
        (", \"p_chosen\": 70, \"p_rejected\": 0.3", "p_chosen = 70; a probability lies in [0, 1]"),
    ] {
        rows(more);
        kto.fails(&[&dno[..], &["objective.name=dno"]].concat(), 3, says);
    }
    rows("");
    kto.fails(
        &[&dno[..], &["objective.name=gpo"]].concat(),
        3,
        "row 1: has no score_chosen and score_rejected",
    );
    // Answers that differ only behind max_length.
    let long = "a table ".repeat(40);
    kto.write(
        "rows.jsonl",
        format!("{{\"prompt\": \"a\", \"chosen\": \"{long}x\", \"rejected\": \"{long}y\"}}\n"),
    );
    let cut = ["objective.name=simpo", "--set", "data.max_length=40"];
    kto.fails(&[&dno[..], &cut].concat(), 3, "the same as far as max_length = 40 reaches");
}

#[test]
fn rows_that_teach_nothing_are_named_with_what_is_wrong() {
    let home = home("preference", "name = \"simpo\"", "pairs", "");
    let long = "word ".repeat(300);
    for (row, says) in [
        (r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#, "the same"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": ""}"#, "rejected is empty"),
        (r#"{"prompt": "", "chosen": "b", "rejected": "c"}"#, "the prompt is empty"),
        (&format!(r#"{{"prompt": "{long}", "chosen": "b", "rejected": "c"}}"#), "the prompt alone fills"),
        (r#"{"prompt": "a", "answer": "b"}"#, "needs prompt, chosen and rejected; it has prompt, answer"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}"#, "margin"),
        ("{\"prompt\": \"a\"", "row 2"),
        ("{\"prompt_ids\":[1],\"chosen_ids\":[70000],\"rejected_ids\":[2]}", "70000"),
    ] {
        home.write(
            "rows.jsonl",
            format!("{{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}}\n{row}\n"),
        );
        let args = [
            "train",
            "preference",
            "--config",
            "recipe.toml",
            "--set",
            "data.train=rows.jsonl",
            "--out",
            "x",
        ];
        home.fails(&args, 3, says);
        home.fails(&[&args[..], &["--dry-run"]].concat(), 3, says);
        home.fails(&args, 3, "row 2");
    }
    home.write("rows.jsonl", "");
    home.fails(
        &["train", "preference", "--config", "recipe.toml", "--set", "data.train=rows.jsonl"],
        3,
        "rows.jsonl",
    );
    // Parquet: none at all, and one whose pages were overwritten, which its reader takes badly.
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../training/tests/goldens/pairs.parquet");
    let mut bytes = fs::read(goldens).unwrap();
    let args =
        ["train", "preference", "--config", "recipe.toml", "--set", "data.train=rows.parquet", "--out", "p"];
    home.write("rows.parquet", &bytes);
    assert_eq!(home.run(&args).status.code(), Some(0));
    bytes[4..400].fill(0xff);
    for damaged in [b"PAR1 this is none".to_vec(), bytes] {
        home.write("rows.parquet", damaged);
        let output = home.run(&[&args[..], &["--dry-run"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(3), 1), "{error}");
        assert!(error.contains("rows.parquet"), "{error}");
    }
}

#[test]
fn words_of_a_recipe_that_mean_nothing_are_answered_with_the_nearest() {
    let home = home("preference", "name = \"simpo\"", "pairs", "");
    for (set, says) in [
        ("objective.name=simpoo", "simpo"),
        ("objective.gama=1", "gamma"),
        ("objective.name=sigmoid_nrm", "sigmoid_norm"),
        ("optimizer.batchsize=1", "batch_size"),
        ("lora.rank=4", "did you mean r?"),
        ("dtype=f16", "bf16"),
        ("data.overlong=cut", "truncate"),
        ("kind=dpo", "preference"),
    ] {
        home.fails(&["train", "preference", "--config", "recipe.toml", "--set", set], 4, says);
    }
    home.fails(&["train", "preference", "--config", "recipe.toml", "--dtype", "f16"], 2, "f32 or bf16");
    home.fails(&["train", "reward", "--config", "recipe.toml"], 2, "kind preference");
    home.fails(&["train", "preference", "--recipe", "minni"], 2, "did you mean mini?");
    home.fails(&["train", "preference"], 2, "--recipe");
    home.fails(&["models", "quantize", "first/final", "--type", "q9", "--out", "x.gguf"], 2, "q8_0");
}

#[test]
fn weights_that_are_not_numbers_stop_training_merging_and_quantising() {
    let home = home("sft", "", "dialogues", "");
    checkpoint(&home, "nan", |tensor, values| {
        if tensor.contains("up_proj") {
            values[7] = f32::NAN;
        }
    });
    home.write("rows.jsonl", "{\"input_ids\":[1,5,2]}\n");
    let args = ["train", "sft", "--config", "recipe.toml", "--out", "x", "--set", "model=nan"];
    home.fails(&[&args[..], &["--set", "data.train=rows.jsonl"]].concat(), 4, "NaN");
    home.fails(&["models", "merge", "nan", "--out", "merged"], 4, "NaN");
    home.fails(&["models", "quantize", "nan", "--type", "q8_0", "--out", "nan.gguf"], 4, "");
    assert!(!home.path("merged").exists() && !home.path("nan.gguf").exists());
    // A loss that leaves the numbers ends the run, not the checkpoints before it.
    let args =
        ["train", "sft", "--config", "recipe.toml", "--out", "y", "--set", "optimizer.learning_rate=1e30"];
    home.fails(&[&args[..], &["--set", "optimizer.max_grad_norm=0"]].concat(), 4, "learning_rate");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_at_a_checkpoint_exits_5_and_the_checkpoint_before_it_goes_on() {
    let home = home("sft", "", "dialogues", "");
    let more = "--set optimizer.lr_scheduler_type=constant --set optimizer.max_steps";
    let train = |limit: &str, out: &str, steps: usize| {
        let line = format!(
            "{limit} exec {} train sft --config recipe.toml --resume --out {out} {more}={steps}",
            env!("CARGO_BIN_EXE_cycle")
        );
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(home.0.path()).env("HOME", home.0.path());
        let output = command.env("CYCLE_HOME", home.path("home")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(train("", "full", 3).0, Some(0));
    // A limit on the size of files stands for a full disk: the optimiser's moments do not fit.
    let (code, error) = train("ulimit -f 200;", "full", 9);
    let error: Vec<&str> = error.lines().skip_while(|l| !l.starts_with("cycle:")).collect();
    assert_eq!(code, Some(5), "{error:?}");
    assert!(error[0].contains("optimizer.safetensors") && error.len() <= 3, "{error:?}");
    let names = checkpoints(&home, "full");
    assert_eq!(names, [home.path("full/checkpoint-3")], "no half of a checkpoint stays");
    assert_eq!(train("", "full", 9).0, Some(0));
    assert_eq!(train("", "straight", 9).0, Some(0));
    assert!(weights(&home, "full") == weights(&home, "straight"));
    // The same for a merged folder and a GGUF file.
    for command in ["merge first/final --out merged", "quantize first/final --type f32 --out first.gguf"] {
        let line = format!("ulimit -f 100; exec {} models {command}", env!("CARGO_BIN_EXE_cycle"));
        let mut limited = Command::new("bash");
        limited.args(["-c", &line]).current_dir(home.0.path()).env("CYCLE_HOME", home.path("home"));
        let output = limited.output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let left = fs::read_dir(home.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|n| n.starts_with("merged") || n.contains("gguf")).collect();
    assert!(left.is_empty(), "{left:?}");
}
