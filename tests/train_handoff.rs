//! `cycle train --engine trl|openrlhf`: what is written for the engines, and TRL itself where a Python has it.
//!
//! `CYCLE_TRL_PYTHON=/path/to/venv/bin/python cargo test --test train_handoff` runs TRL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Home, mini, text};

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lines(home: &Home, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.path(name)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

const SFT: [&str; 7] = ["train", "sft", "--config", "sft.toml", "--engine", "trl", "--out"];
const DPO: [&str; 7] = ["train", "preference", "--config", "dpo.toml", "--engine", "trl", "--out"];

fn home() -> Home {
    let home = Home::new();
    home.write("sft.toml", mini("sft", "", "dialogues", "[lora]\nr = 4\n", 4));
    home.write("dpo.toml", mini("preference", "name = \"dpo\"\nbeta = 0.2", "pairs", "", 4));
    home
}

#[test]
fn a_dry_run_writes_what_the_engines_read_and_starts_nothing() {
    let home = home();
    let plan = json(&home, &[&SFT[..], &["s", "--dry-run", "--format", "json"]].concat());
    assert_eq!((&plan["schema"], &plan["engine"]), (&"cycle.handoff/1".into(), &"TRL".into()));
    assert!(plan["launch"].as_str().unwrap().contains(" trl sft --config "), "{plan}");
    let rows = lines(&home, "s/handoff/data/train.jsonl");
    assert_eq!(rows.len() as u64, plan["data"][0]["rows"].as_u64().unwrap());
    for row in &rows {
        let list = |key: &str| row[key].as_array().unwrap().clone();
        assert_eq!(list("input_ids").len(), list("labels").len());
        assert!(list("labels")[0] == -100 && list("labels").iter().any(|l| *l != -100), "{row}");
    }
    let yaml = fs::read_to_string(home.path("s/handoff/trl.yaml")).unwrap();
    for line in ["lora_r: 4", "learning_rate: 0.003", "max_steps: 4", "max_length: 128", "use_cpu: true"] {
        assert!(yaml.lines().any(|l| l == line), "{line}: {yaml}");
    }
    for file in plan["files"].as_array().unwrap() {
        assert!(fs::metadata(file.as_str().unwrap()).unwrap().len() > 0, "{file}");
    }

    let four = ["d", "--dry-run", "--gpus", "4", "--sharding", "zero3"];
    let said = text(&home.run(&[&DPO[..], &four[..]].concat()));
    assert!(said.lines().next().unwrap().contains(" trl dpo --config "), "{said}");
    assert!(said.contains("note  DeepSpeed has to be installed there"), "{said}");
    let rows = lines(&home, "d/handoff/data/train.jsonl");
    assert!(rows.iter().all(|r| ["prompt", "chosen", "rejected"].iter().all(|k| r.get(k).is_some())));
    let yaml = fs::read_to_string(home.path("d/handoff/trl.yaml")).unwrap();
    assert!(yaml.contains("beta: 0.2") && yaml.contains("sigmoid"), "{yaml}");
    let accelerate = fs::read_to_string(home.path("d/handoff/accelerate.yaml")).unwrap();
    assert!(accelerate.contains("num_processes: 4") && accelerate.contains("zero_stage: 3"), "{accelerate}");
    assert!(!home.path("s/final").exists() && !home.path("d/final").exists());

    let tail = ["o", "--dry-run", "--gpus", "1", "--dtype", "bf16", "--main", "head:8265"];
    let openrlhf = [&DPO[..5], &["openrlhf", "--out"], &tail[..]].concat();
    let said = text(&home.run(&openrlhf));
    assert!(said.contains("--address http://head:8265") && said.contains("openrlhf.cli.train_dpo"), "{said}");
}

#[test]
fn what_an_engine_cannot_do_is_refused_by_name() {
    let home = home();
    let sft = |more: &[&'static str]| [&SFT[..], &["s"], more].concat();
    home.fails(&["train", "sft", "--config", "sft.toml", "--gpus", "1"], 2, "--gpus means nothing");
    home.fails(&sft(&["--sharding", "zero2"]), 2, "--sharding needs --gpus");
    home.fails(&sft(&["--gpus", "1", "--main", "here"]), 2, "HOST:PORT");
    home.fails(&sft(&["--gpus", "1", "--machines", "2", "--main", "a:1"]), 2, "--dry-run");
    home.fails(&[&SFT[..5], &["openrlhf"]].concat(), 2, "--gpus N");
    home.fails(&sft(&["--set", "objective.loss_type=dft"]), 4, "objective.loss_type");
    home.fails(&sft(&["--set", "recompute=always"]), 4, "recompute");
    let dpo = |set: &'static str| [&DPO[..], &["d", "--set", set]].concat();
    home.fails(&dpo("objective.name=simpo"), 4, "simpo");
    home.fails(&dpo("degree.weight=0.1"), 4, "[degree]");
    home.fails(&dpo("objective.reference_free=true"), 4, "objective.reference_free");
    home.fails(&sft(&["--python", "nowhere/python"]), 4, "pip install");
    assert!(!home.path("s/final").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_engine_and_all_it_started() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    let fake = home.write("bin/trl", "#!/bin/sh\n(while :; do echo x >> beat; sleep 0.1; done) &\nwait\n");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let mut child =
        home.command(&[&SFT[..], &["s", "--python", "bin/python", "--quiet"]].concat()).spawn().unwrap();
    let beats = || fs::metadata(home.path("beat")).map_or(0, |m| m.len());
    while beats() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the engine began");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    support::interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let before = beats();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(beats(), before, "the worker lives on");
    let runs = json(&home, &["runs", "list", "--format", "json"]);
    assert_eq!(runs["rows"][0]["status"], "interrupted");
}

#[test]
fn trl_trains_and_its_result_is_taken_back() {
    let Ok(python) = std::env::var("CYCLE_TRL_PYTHON") else {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: CYCLE_TRL_PYTHON names no Python with TRL\n"),
        );
        return;
    };
    let home = home();
    for (command, out) in [(SFT, "s"), (DPO, "d")] {
        let done = json(&home, &[&command[..], &[out, "--python", &python, "--format", "json"]].concat());
        assert_eq!(done["schema"], "cycle.training/1");
        let metrics = lines(&home, &format!("{out}/metrics.jsonl"));
        let losses: Vec<f64> = metrics.iter().filter_map(|l| l["loss"].as_f64()).collect();
        assert!(losses.len() == 4 && losses.iter().all(|l| l.is_finite() && *l > 0.0), "{metrics:?}");
        let model = done["ref"].as_str().unwrap();
        let words = ["generate", "--prompt", "Review: pruning", "--max-tokens", "4", "--model", model];
        let said = home.run(&words);
        assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
        let run = json(&home, &["runs", "show", done["run"].as_str().unwrap(), "--format", "json"]);
        assert_eq!(run["run"]["status"], "done");
        home.fails(&[&command[..], &[out, "--python", &python]].concat(), 4, "--resume");
    }
}
