//! Trainings that are killed at random moments and resumed end in the same bytes as one that never stopped.
//!
//! `CYCLE_KILLS=200 cargo test --test train_killed` kills more often; `CYCLE_KILL_SEED=N` repeats the moments of a run,
//! as far as a machine repeats itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Home, mini};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Every file of `final/` by name and bytes, and every line of the metrics but for its speed.
fn outcome(out: &Path) -> (String, Vec<Value>) {
    let mut files: Vec<_> = fs::read_dir(out.join("final")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap().as_encoded_bytes());
        hash.update(fs::read(&file).unwrap());
    }
    let hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line = |l: &str| {
        let mut line: Value = serde_json::from_str(l).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_second");
        line
    };
    (hash, metrics.lines().map(line).collect())
}

fn survives(name: &str, recipe: &str) {
    let home = Home::new();
    home.write("recipe.toml", recipe);
    let kind = recipe.split('"').nth(1).unwrap();
    let train = |out: &str, more: &[&str]| {
        let args = ["train", kind, "--config", "recipe.toml", "--quiet", "--out", out];
        let mut command = home.command(&[&args[..], more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    // Once to make the mini model, once to know how long it takes.
    let run = train("warm", &[]).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    fs::remove_dir_all(home.path("home/reference")).ok();
    let started = Instant::now();
    assert_eq!(train("straight", &[]).status().unwrap().code(), Some(0));
    let whole = started.elapsed();
    let wanted = outcome(&home.path("straight"));

    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut state = number("CYCLE_KILL_SEED").unwrap_or_else(now);
    let kills = number("CYCLE_KILLS").unwrap_or(20);
    // Past the harness: whoever has to repeat a failure needs it, and it fails rarely.
    let say = format!("{name}: {kills} kills, CYCLE_KILL_SEED={state}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), say.as_bytes());
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let (mut killed, mut finished) = (0, 0);
    while killed < kills {
        let out = format!("out-{finished}");
        let deadline = Instant::now() + whole.mul_f64(random());
        let mut child = train(&out, &["--resume"]).spawn().unwrap();
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if ended.is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let output = child.wait_with_output().unwrap();
        if ended.is_some() {
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(outcome(&home.path(&out)) == wanted, "{name}: {out} ended in other bytes");
            finished += 1;
            // The next one computes its reference anew, and is killed while it does.
            fs::remove_dir_all(home.path("home/reference")).ok();
        }
    }
    let out = format!("out-{finished}");
    let last = train(&out, &["--resume"]).output().unwrap();
    assert_eq!(last.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&last.stderr));
    assert!(outcome(&home.path(&out)) == wanted, "{name}: {out} ended in other bytes");
}

#[test]
fn a_supervised_training_of_all_parameters_that_is_killed_ends_in_the_same_bytes() {
    survives("sft", &mini("sft", "", "dialogues", "", 60));
}

#[test]
fn an_adapter_trained_by_dpo_with_a_cached_reference_that_is_killed_ends_in_the_same_bytes() {
    let recipe = mini("preference", "name = \"sigmoid\"", "pairs", "[lora]\nr = 4\n", 70);
    survives(
        "dpo",
        &recipe.replace("[objective]", "eval = \"$CYCLE_HOME/mini/pairs.eval.jsonl\"\n[objective]"),
    );
}

#[test]
fn a_reward_model_that_is_killed_ends_in_the_same_bytes() {
    survives("reward", &mini("reward", "name = \"gpm\"\ngate = \"softmax\"", "pairs", "", 60));
}
