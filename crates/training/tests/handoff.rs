//! What is handed to TRL and OpenRLHF, word for word, and what is taken back.
//!
//! `CYCLE_BLESS=1 cargo test -p training --test handoff` writes the texts in `tests/handoff/` anew.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use training::handoff::{
    Form, HandoffError, Hardware, Job, Lora, Loss, Method, Plan, Precision, Reduction, Sharding, Source,
    Written, openrlhf, take_back, trl,
};
use training::{Optimizer, Overlong, Save, Scheduler};

fn job(method: Method, name: &str, out: &Path) -> Job {
    Job {
        method,
        model: "/models/policy".into(),
        reference_model: None,
        out: out.into(),
        seed: 3,
        max_length: 2048,
        overlong: Overlong::Truncate,
        shuffle: true,
        loss: Loss { name: name.into(), ..Loss::default() },
        lora: None,
        optimizer: Optimizer {
            learning_rate: 5e-7,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            lr_scheduler_type: Scheduler::Cosine,
            warmup_steps: 10.0,
            max_steps: Some(100),
            num_train_epochs: None,
            batch_size: 4,
            gradient_accumulation_steps: 8,
        },
        save: Save { every: 50, keep: 2 },
        precision: Precision::Float32,
        hardware: Hardware::Cpu,
        resume: false,
    }
}

fn lora() -> Lora {
    Lora { r: 16, lora_alpha: 32.0, use_rslora: false, target_modules: vec!["all-linear".into()], init: None }
}

fn gpus(per_machine: usize, machines: usize, main: Option<&str>, sharding: Sharding) -> Hardware {
    Hardware::Gpus { per_machine, machines, main: main.map(String::from), sharding }
}

fn written(form: Form) -> Written {
    Written { path: "train.jsonl".into(), rows: 1000, form, overlong: 0 }
}

/// The jobs whose texts are kept.
fn plans() -> Vec<(&'static str, Plan)> {
    let out = Path::new("/runs/one");
    let base = |method, name| job(method, name, out);
    let sft = Job { lora: Some(lora()), ..base(Method::Sft, "") };
    let mut rpo = base(Method::Preference, "rpo");
    rpo.loss = Loss { beta: Some(0.1), nll_weight: 0.5, ..rpo.loss };
    rpo.hardware = gpus(8, 2, Some("first:29500"), Sharding::Zero3);
    rpo.precision = Precision::Bfloat16;
    let mut kto = base(Method::Preference, "kto");
    kto.loss = Loss { beta: Some(0.1), undesirable_weight: 1.5, ..kto.loss };
    kto.optimizer.max_steps = None;
    kto.optimizer.num_train_epochs = Some(1.5);
    let mut reward = Job { lora: Some(lora()), ..base(Method::Reward, "bt") };
    reward.loss.center_rewards_coefficient = Some(0.01);
    reward.hardware = gpus(4, 1, None, Sharding::Fsdp);
    let both = [written(Form::Pair), written(Form::Pair)];
    let bf16 = |j: Job| Job { precision: Precision::Bfloat16, ..j };
    let mut chat = bf16(Job { lora: Some(lora()), ..base(Method::Sft, "") });
    chat.hardware = gpus(8, 1, Some("http://head:8265"), Sharding::Zero2);
    let mut cdpo = bf16(base(Method::Preference, "cdpo"));
    cdpo.hardware = gpus(8, 2, None, Sharding::Zero3);
    cdpo.loss =
        Loss { label_smoothing: 0.1, nll_weight: 0.2, nll_reduction: Reduction::Sequence, ..cdpo.loss };
    cdpo.reference_model = Some("/models/reference".into());
    let mut rm = bf16(base(Method::Reward, "bt"));
    rm.hardware = gpus(8, 1, None, Sharding::Zero3);
    vec![
        ("trl-sft", trl::plan(&sft, &[written(Form::Ids)]).unwrap()),
        ("trl-dpo", trl::plan(&rpo, &both).unwrap()),
        ("trl-kto", trl::plan(&kto, &[written(Form::Labelled)]).unwrap()),
        ("trl-reward", trl::plan(&reward, &both).unwrap()),
        ("openrlhf-sft", openrlhf::plan(&chat, &[written(Form::Messages)]).unwrap()),
        ("openrlhf-dpo", openrlhf::plan(&cdpo, &both).unwrap()),
        ("openrlhf-rm", openrlhf::plan(&rm, &both).unwrap()),
    ]
}

#[test]
fn texts_are_the_ones_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handoff");
    for (name, plan) in plans() {
        let mut text = String::new();
        for (file, content) in &plan.files {
            text += &format!("=== {file}\n{content}");
        }
        text += &format!("=== launch.txt\n{}\n", plan.command_line());
        for note in &plan.notes {
            text += &format!("=== note: {note}\n");
        }
        let path = folder.join(format!("{name}.txt"));
        if std::env::var_os("CYCLE_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&path).unwrap().replace("\r\n", "\n"), "{name}");
    }
}

fn refused(result: Result<impl std::fmt::Debug, HandoffError>, words: &[&str]) {
    let text = result.unwrap_err().to_string();
    assert!(text.lines().count() <= 3, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn what_an_engine_lacks_is_said() {
    let out = Path::new("/runs/one");
    let pairs = [written(Form::Pair)];
    for (name, words) in [
        ("simpo", ["CPOTrainer", "sigmoid_norm"]),
        ("orpo", ["ORPOTrainer", "apo_zero_unpaired"]),
        ("gpo", ["no objective \"gpo\"", "--engine local"]),
        ("cdpo", ["no objective \"cdpo\"", "--engine local"]),
    ] {
        refused(trl::plan(&job(Method::Preference, name, out), &pairs), &words);
    }
    let mut j = job(Method::Preference, "sigmoid", out);
    j.loss.label_smoothing = 0.1;
    refused(trl::plan(&j, &pairs), &["ignores label_smoothing", "cdpo"]);
    let mut j = job(Method::Preference, "sigmoid", out);
    j.reference_model = Some("/models/other".into());
    refused(trl::plan(&j, &pairs), &["take no reference model"]);
    let mut j = job(Method::Sft, "", out);
    j.lora = Some(Lora { init: Some("/adapters/one".into()), ..lora() });
    refused(trl::plan(&j, &pairs), &["/adapters/one", "merge"]);
    let mut j = job(Method::Sft, "", out);
    j.hardware = gpus(5, 1, None, Sharding::Zero2);
    refused(trl::plan(&j, &pairs), &["32 rows", "5 processes"]);
    refused(openrlhf::plan(&job(Method::Sft, "", out), &pairs), &["on GPUs alone"]);
    let mut j = job(Method::Preference, "ipo", out);
    j.hardware = gpus(8, 1, None, Sharding::Zero2);
    refused(openrlhf::plan(&j, &pairs), &["ipo_sum", "--engine trl"]);
}

fn rows_of(out: &Path, job: &Job, lines: &[Value], openrlhf: bool) -> Result<Vec<Value>, HandoffError> {
    let file = out.join("rows.jsonl");
    fs::write(&file, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    let make = if openrlhf { openrlhf::rows } else { trl::rows };
    let written = make(job, Source::File(&file), None)?;
    let text = fs::read_to_string(&written[0].path).unwrap();
    Ok(text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

#[test]
fn rows_come_in_the_form_trl_reads() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let user = json!({"role": "user", "content": "Why?"});
    let answer = json!({"role": "assistant", "content": "So."});
    let sft = Job { max_length: 4, ..job(Method::Sft, "", out) };
    let ids = json!({"input_ids": [5, 6, 7, 8, 9], "mask": [0, 0, 1, 1, 1]});
    assert_eq!(
        rows_of(out, &sft, &[ids], false).unwrap(),
        [json!({"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]})]
    );
    assert_eq!(
        rows_of(out, &sft, &[json!({"messages": [user, answer]})], false).unwrap(),
        [json!({"prompt": [user], "completion": [answer]})]
    );
    let twice = json!({"messages": [user, answer, user, answer]});
    refused(rows_of(out, &sft, &[twice], false), &["row 1", "several turns"]);
    let pair = json!({"prompt": "a", "chosen": "b", "rejected": "c", "id": 7});
    let dpo = job(Method::Preference, "sigmoid", out);
    assert_eq!(
        rows_of(out, &dpo, std::slice::from_ref(&pair), false).unwrap(),
        [json!({"prompt": "a", "chosen": "b", "rejected": "c"})]
    );
    let kto = job(Method::Preference, "kto", out);
    assert_eq!(
        rows_of(out, &kto, std::slice::from_ref(&pair), false).unwrap(),
        [
            json!({"prompt": "a", "completion": "b", "label": true}),
            json!({"prompt": "a", "completion": "c", "label": false})
        ]
    );
    let pair_ids = json!({"prompt_ids": [4, 5], "chosen_ids": [6], "rejected_ids": [7, 2]});
    let reward = Job { overlong: Overlong::Error, ..job(Method::Reward, "bt", out) };
    assert_eq!(
        rows_of(out, &reward, std::slice::from_ref(&pair_ids), false).unwrap(),
        [json!({"chosen_ids": [4, 5, 6], "rejected_ids": [4, 5, 7, 2]})]
    );
    refused(rows_of(out, &dpo, std::slice::from_ref(&pair_ids), false), &["row 1", "no ids"]);
    refused(rows_of(out, &dpo, &[pair.clone(), pair_ids], false), &["row 2", "another form"]);
    refused(rows_of(out, &dpo, &[json!({"text": "a"})], false), &["row 1", "wants prompt, chosen, rejected"]);
    let strict = Job { overlong: Overlong::Error, ..dpo };
    refused(rows_of(out, &strict, &[pair], false), &["overlong = \"truncate\""]);
}

#[test]
fn rows_for_openrlhf_end_and_count_as_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let model = out.join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("tokenizer_config.json"), r#"{"eos_token": {"content": "</s>"}}"#).unwrap();
    let mut j = Job { model, ..job(Method::Preference, "sigmoid", out) };
    j.optimizer =
        Optimizer { max_steps: Some(3), batch_size: 1, gradient_accumulation_steps: 1, ..j.optimizer };
    let pair = |n: usize| json!({"prompt": "a", "chosen": format!("{n}"), "rejected": "c</s>"});
    let rows = rows_of(out, &j, &[pair(1), pair(2)], true).unwrap();
    let chosen: Vec<&str> = rows.iter().map(|r| r["chosen"].as_str().unwrap()).collect();
    assert_eq!(chosen, ["1</s>", "2</s>", "1</s>"]);
    assert_eq!(rows[0]["rejected"], "c</s>");
}

#[test]
fn weights_and_losses_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let j = job(Method::Sft, "", folder.path());
    let plan = trl::plan(&j, &[written(Form::Ids)]).unwrap();
    fs::create_dir_all(j.trained().join("checkpoint-9")).unwrap();
    fs::create_dir_all(j.trained().join("checkpoint-10")).unwrap();
    refused(take_back(&j, &plan), &["no weights"]);
    for name in ["adapter_model.safetensors", "adapter_config.json", "training_args.bin", "README.md"] {
        fs::write(j.trained().join(name), name).unwrap();
    }
    let history = json!({"log_history": [
        {"step": 1, "loss": 2.5, "learning_rate": 0.1, "num_tokens": 10.0, "epoch": 0.5},
        {"step": 2, "loss": 2.25, "learning_rate": 0.2, "num_tokens": 25.0, "epoch": 1.0},
        {"step": 2, "eval_loss": 3.0},
        {"step": 2, "train_runtime": 1.0, "train_loss": 2.375}]});
    fs::write(j.trained().join("checkpoint-10/trainer_state.json"), history.to_string()).unwrap();
    let taken = take_back(&j, &plan).unwrap();
    let mut names: Vec<PathBuf> = fs::read_dir(&taken.weights).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let names: Vec<_> = names.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let lines = fs::read_to_string(j.out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[1], json!({"step": 2, "loss": 2.25, "lr": 0.2, "tokens": 15, "epoch": 1.0}));
    assert_eq!((taken.steps, lines.len()), (2, 3));
}

#[test]
fn an_earlier_training_is_resumed_or_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut j = job(Method::Sft, "", folder.path());
    let row = [json!({"prompt": "a", "completion": "b"})];
    for step in [9, 10] {
        fs::create_dir_all(j.trained().join(format!("checkpoint-{step}"))).unwrap();
    }
    refused(rows_of(folder.path(), &j, &row, false), &["earlier training", "--resume"]);
    j.resume = true;
    rows_of(folder.path(), &j, &row, false).unwrap();
    let plan = trl::plan(&j, &[written(Form::Completion)]).unwrap();
    let newest = format!("resume_from_checkpoint: {:?}\n", j.trained().join("checkpoint-10"));
    assert!(plan.files[0].1.contains(&newest), "{}", plan.files[0].1);
}

#[cfg(unix)]
#[test]
fn a_program_that_fails_is_quoted() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let j = job(Method::Sft, "", folder.path());
    let plan = trl::plan(&j, &[written(Form::Ids)]).unwrap();
    plan.write().unwrap();
    let python = folder.path().join("python");
    refused(training::handoff::find(&plan, Some(&python)), &["trl is not installed beside", "pip install"]);
    let trl = folder.path().join("trl");
    let lines =
        "echo one; echo 'ValueError: two' >&2; echo 'subprocess.CalledProcessError: three' >&2; exit 3";
    fs::write(&trl, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&trl, fs::Permissions::from_mode(0o755)).unwrap();
    let program = training::handoff::find(&plan, Some(&python)).unwrap();
    let mut said = 0;
    let result = training::handoff::run(&plan, &program, &|| false, &mut |_| said += 1);
    refused(result, &["trl sft ended with exit code 3: ValueError: two", "log.txt"]);
    assert_eq!((said, fs::read_to_string(j.folder().join("log.txt")).unwrap().lines().count()), (3, 3));
}

#[test]
fn losses_of_openrlhf_are_read_from_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let mut j = job(Method::Sft, "", folder.path());
    j.hardware = gpus(1, 1, None, Sharding::Zero2);
    j.precision = Precision::Bfloat16;
    let plan = openrlhf::plan(&j, &[written(Form::Completion)]).unwrap();
    fs::create_dir_all(j.trained()).unwrap();
    fs::write(j.trained().join("model.safetensors"), "").unwrap();
    let events = j.folder().join("events/run");
    fs::create_dir_all(&events).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handoff/events.out.tfevents");
    let bytes = fs::read(kept).unwrap();
    fs::write(events.join("events.out.tfevents.1"), &bytes[..bytes.len() - 3]).unwrap();
    take_back(&j, &plan).unwrap();
    let lines = fs::read_to_string(j.out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[1]["step"], &lines[1]["loss"]), (&json!(2), &json!(0.5)));
    assert_eq!((&lines[0]["micro_batch_loss"], &lines[0]["grad_norm"]), (&json!(0.875), &json!(2.5)));
}

/// `CYCLE_TRL_PYTHON` and the goldens, or a word past the harness that the test is skipped.
fn trl_here() -> Option<(PathBuf, PathBuf)> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let goldens = Path::new(&shared).join("goldens/train");
    let python = std::env::var_os("CYCLE_TRL_PYTHON").map(PathBuf::from);
    match python {
        Some(python) if goldens.exists() => Some((python, goldens)),
        other => {
            let what =
                if other.is_none() { "CYCLE_TRL_PYTHON names no Python with TRL" } else { "no goldens" };
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("skipped: {what}: TRL itself is not run\n"),
            );
            None
        }
    }
}

/// TRL's own parser takes every key of the configurations, and gives back what was meant.
#[test]
fn trl_knows_every_key() {
    let Some((python, _)) = trl_here() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, plan) in plans().into_iter().filter(|(name, _)| name.starts_with("trl-")) {
        let command = name.trim_start_matches("trl-");
        let text = plan.files[0].1.replace("use_cpu: false", "use_cpu: true");
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        fs::write(folder.path().join("a.yaml"), &plan.files[1].1).unwrap();
        let program = format!(
            "from accelerate.commands.config.config_args import load_config_from_file as load\n\
             load('a.yaml')\nimport importlib, json; m = importlib.import_module('trl.scripts.{command}')\n\
             o = m.make_parser().parse_args_and_config(['--config', 'c.yaml'], fail_with_unknown_args=True)\n\
             print(json.dumps([o[1].learning_rate, o[1].adam_epsilon, o[2].lora_target_modules,\n\
             getattr(o[1], 'loss_weights', None), str(o[0].dataset_name)]))"
        );
        let out = std::process::Command::new(&python)
            .args(["-c", &program])
            .current_dir(folder.path())
            .envs([("CUDA_VISIBLE_DEVICES", ""), ("HF_HUB_OFFLINE", "1")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let last: Value = serde_json::from_str(said.lines().last().unwrap_or("null")).unwrap_or(Value::Null);
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!((last[0].as_f64(), last[1].as_f64()), (Some(5e-7), Some(1e-8)), "{name}");
        let adapted = ["sft", "reward"].contains(&command);
        assert_eq!(last[2], if adapted { json!("all-linear") } else { Value::Null }, "{name}");
        assert_eq!(last[3], if command == "dpo" { json!([1.0, 0.5]) } else { Value::Null }, "{name}");
        assert_eq!(last[4], "/runs/one/handoff/data/", "{name}");
    }
}

fn words(ids: &Value) -> String {
    let word = |id: &Value| match id.as_u64().unwrap() {
        0 => "<pad>".into(),
        1 => "<bos>".into(),
        2 => "<eos>".into(),
        n => format!("t{n}"),
    };
    ids.as_array().unwrap().iter().map(|id| word(id) + " ").collect()
}

/// The micro checkpoint with all that makes it a folder.
fn checkpoint(goldens: &Path, folder: &Path) -> PathBuf {
    let to = folder.join("model");
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(goldens.join("models/llama-policy").join(file), to.join(file)).unwrap();
    }
    fs::copy(goldens.join("models/tokenizer.json"), to.join("tokenizer.json")).unwrap();
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>",
        "unk_token": "<unk>"});
    fs::write(to.join("tokenizer_config.json"), config.to_string()).unwrap();
    to
}

/// A job for the micro checkpoint, constant learning rate, rows in order.
fn micro(method: Method, loss: &str, goldens: &Path, folder: &Path) -> Job {
    let mut j = job(method, loss, &folder.join("out"));
    j.model = checkpoint(goldens, folder);
    (j.shuffle, j.seed) = (false, 0);
    j.optimizer = Optimizer {
        learning_rate: 1e-3,
        adam_beta2: 0.999,
        weight_decay: 0.0,
        lr_scheduler_type: Scheduler::Constant,
        warmup_steps: 0.0,
        max_steps: Some(6),
        batch_size: 2,
        gradient_accumulation_steps: 1,
        ..j.optimizer
    };
    j
}

/// Hands over, runs, takes back: the lines of `metrics.jsonl`.
fn trained(j: &Job, rows: &[Value], folder: &Path, python: &Path, name: &str) -> Vec<Value> {
    let file = folder.join("rows.jsonl");
    fs::write(&file, rows.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
    let written = trl::rows(j, Source::File(&file), None).unwrap();
    let plan = trl::plan(j, &written).unwrap();
    plan.write().unwrap();
    let program = training::handoff::find(&plan, Some(python)).unwrap();
    let mut said = Vec::new();
    training::handoff::run(&plan, &program, &|| false, &mut |line| said.push(line.to_owned()))
        .unwrap_or_else(|e| panic!("{name}: {e}\n{}", said.join("\n")));
    let taken = take_back(j, &plan).unwrap();
    assert_eq!(Some(taken.steps), j.optimizer.max_steps, "{name}");
    let weights = if j.lora.is_some() { "adapter_model.safetensors" } else { "model.safetensors" };
    assert!(taken.weights.join(weights).exists(), "{name}");
    let lines = fs::read_to_string(j.out.join("metrics.jsonl")).unwrap();
    lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn tell(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}

/// The runs of the goldens, made by TRL's classes from Python, come out of TRL's command line with our configuration.
#[test]
fn trl_trains_what_was_handed_over() {
    let Some((python, goldens)) = trl_here() else { return };
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(goldens.join(name)).unwrap()).unwrap() };
    let (data, runs) = (read("data.json"), read("runs.json"));
    for name in ["sft_full", "sft_accum4"] {
        let run = runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let c = &run["config"];
        let number = |key: &str, default: f64| c[key].as_f64().unwrap_or(default);
        let mut j = micro(Method::Sft, "", &goldens, folder.path());
        j.optimizer = Optimizer {
            learning_rate: number("learning_rate", 0.0),
            weight_decay: number("weight_decay", 0.0),
            max_grad_norm: number("max_grad_norm", 1.0),
            lr_scheduler_type: serde_json::from_value(c["lr_scheduler_type"].clone()).unwrap(),
            warmup_steps: number("warmup_steps", 0.0),
            max_steps: Some(20),
            batch_size: number("per_device_train_batch_size", 1.0) as usize,
            gradient_accumulation_steps: number("gradient_accumulation_steps", 1.0) as usize,
            ..j.optimizer
        };
        let rows = data["train_sft"].as_array().unwrap();
        let mut worst: f64 = 0.0;
        for (i, line) in trained(&j, rows, folder.path(), &python, name).iter().enumerate() {
            for (ours, golden) in [("loss", "loss_f64"), ("grad_norm", "grad_norm_f64"), ("lr", "lr")] {
                let (a, b) = (line[ours].as_f64().unwrap(), run[golden][i].as_f64().unwrap());
                let off = (a - b).abs() / b.abs().max(1e-6);
                worst = worst.max(off);
                assert!(off < 1e-4, "{name}, step {}: {ours} {a}, golden {b}", i + 1);
            }
        }
        tell(&format!("{name}: 20 steps of TRL's command line, at most {worst:.1e} off the goldens"));
    }
}

/// LoRA by TRL's command line and by TRL's classes from Python (the peer of the benchmarks): the same losses. KTO and
/// the reward model run and start where they must.
#[test]
fn trl_trains_adapters_as_from_python() {
    let Some((python, goldens)) = trl_here() else { return };
    let data: Value = serde_json::from_slice(&fs::read(goldens.join("data.json")).unwrap()).unwrap();
    let pairs = data["train_pairs"].as_array().unwrap();
    let spelled = |rows: &[Value], keys: &[&str]| -> Vec<Value> {
        let turn = |row: &Value| {
            let mut out = row.clone();
            for key in keys {
                let text = words(&row[*key]);
                // TRL adds an end to a text that has none, and a blank after it hides it.
                out[*key] = if *key == "prompt" { text.as_str() } else { text.trim_end() }.into();
            }
            out
        };
        rows.iter().map(turn).collect()
    };
    let ids = |rows: &[Value]| -> Vec<Value> {
        let turn = |r: &Value| json!({"prompt_ids": r["prompt"], "chosen_ids": r["chosen"], "rejected_ids": r["rejected"]});
        rows.iter().map(turn).collect()
    };
    let text = spelled(pairs, &["prompt", "chosen", "rejected"]);
    let sft = data["train_sft"].as_array().unwrap();
    for (method, loss, kind, rows, peer_rows) in [
        (Method::Sft, "", "sft", sft.clone(), sft.clone()),
        (Method::Preference, "sigmoid", "dpo", text.clone(), ids(pairs)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut j = micro(method, loss, &goldens, folder.path());
        j.lora = Some(lora());
        let lines = trained(&j, &rows, folder.path(), &python, kind);
        let file = folder.path().join("peer.jsonl");
        fs::write(&file, peer_rows.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
        let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer/trl_peer.py");
        let out = std::process::Command::new(&python)
            .arg(peer)
            .args([kind, "--batch", "2", "--steps", "6", "--lr", "1e-3", "--rows"])
            .arg(&file)
            .arg("--model")
            .arg(&j.model)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let peer: Value = serde_json::from_slice(&out.stdout).unwrap();
        let mut worst: f64 = 0.0;
        for (i, line) in lines.iter().enumerate() {
            for (ours, theirs) in [("loss", "losses"), ("grad_norm", "grad_norms")] {
                let (a, b) = (line[ours].as_f64().unwrap(), peer[theirs][i].as_f64().unwrap());
                worst = worst.max((a - b).abs() / b.abs());
                assert!((a - b).abs() < 1e-5 * b.abs(), "{kind}, step {}: {ours} {a}, peer {b}", i + 1);
            }
        }
        tell(&format!(
            "{kind} with LoRA: 6 steps of TRL's command line, at most {worst:.1e} off its classes"
        ));
    }
    let kto = spelled(data["train_kto"].as_array().unwrap(), &["prompt", "completion"]);
    for (method, loss, rows, first) in
        [(Method::Preference, "kto", kto, Some(0.5)), (Method::Reward, "bt", ids(pairs), None)]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut j = micro(method, loss, &goldens, folder.path());
        j.lora = (method == Method::Reward).then(lora);
        let lines = trained(&j, &rows, folder.path(), &python, loss);
        let at_first = lines[0]["loss"].as_f64().unwrap();
        assert!(first.is_none_or(|f| (at_first - f).abs() < 1e-5), "{loss}: {at_first}");
        tell(&format!("{loss}: {:?}", lines.iter().map(|l| l["loss"].as_f64()).collect::<Vec<_>>()));
    }
}
