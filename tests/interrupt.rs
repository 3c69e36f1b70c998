//! Ctrl-C and kill -9: what was finished stays, the rerun does only the rest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use support::{Home, checkpoint, has_builtin, interrupt, paper, text, with};

fn stored(home: &Home) -> usize {
    let rows = text(&home.run(&["reviews", "list", "--format", "json"]));
    serde_json::from_str::<serde_json::Value>(&rows).map_or(0, |v| v["rows"].as_array().map_or(0, Vec::len))
}

/// Starts a review of ten papers, stops it by `stop` after the second is stored, and runs it again.
fn stopped_batch(stop: impl Fn(&mut std::process::Child)) {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    for n in 0..10 {
        home.write(&format!("papers/{n}.md"), paper(n));
    }
    let args = with(&["review", "papers", "--format", "json", "--out", "out"]);
    let mut child = home.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // However slow the machine is: until two are stored, or the batch has ended by itself.
    while stored(&home) < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "{:?}", child.wait_with_output());
    stop(&mut child);
    let before = stored(&home);
    assert!((2..10).contains(&before), "{before} reviews when it was stopped");
    let rerun = home.run(&args);
    let stderr = String::from_utf8_lossy(&rerun.stderr).into_owned();
    assert_eq!(rerun.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr.matches("from the store").count(), before, "the rerun does only the rest: {stderr}");
    assert_eq!(stored(&home), 10);
}

#[test]
fn killing_a_batch_loses_nothing_that_was_finished_and_the_rerun_does_the_rest() {
    stopped_batch(|child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_batch_with_130_and_the_rerun_does_the_rest() {
    stopped_batch(|child| {
        interrupt(child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
}

#[cfg(unix)]
#[test]
fn a_training_that_was_interrupted_and_resumed_ends_in_the_same_bits() {
    let home = Home::new();
    checkpoint(&home, "start", |_, _| {});
    let rows: String = (0..40)
        .map(|i| format!("{{\"input_ids\":[1,{},{},{},2]}}\n", 3 + i % 29, 3 + i % 7, 3 + i % 5))
        .collect();
    home.write("rows.jsonl", rows);
    home.write(
        "recipe.toml",
        "kind = \"sft\"\nmodel = \"start\"\nout = \"never\"\n[data]\ntrain = \"rows.jsonl\"\n[optimizer]\n\
         learning_rate = 1e-3\nmax_steps = 600\nbatch_size = 2\n[save]\nevery = 250\n",
    );
    let train = |out: &'static str, more: &[&'static str]| {
        home.command(&[&["train", "sft", "--config", "recipe.toml", "--quiet", "--out", out], more].concat())
    };
    let mut child = train("stopped", &[]).stdout(Stdio::null()).spawn().unwrap();
    let steps = || fs::read_to_string(home.path("stopped/metrics.jsonl")).map_or(0, |t| t.lines().count());
    while steps() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130), "stopped after {} steps", steps());
    home.fails(&["train", "sft", "--config", "recipe.toml", "--out", "stopped"], 4, "--resume");
    let resumed = train("stopped", &["--resume"]).output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(train("whole", &[]).status().unwrap().code(), Some(0));
    let weights = |out: &str| fs::read(home.path(out).join("final/model.safetensors")).unwrap();
    assert!(weights("stopped") == weights("whole"));
    assert_eq!(steps(), 600);
}

#[test]
fn a_training_with_wrong_words_or_rows_says_which() {
    let home = Home::new();
    checkpoint(&home, "start", |_, _| {});
    home.write("rows.jsonl", "{\"input_ids\":[1,5,2]}\n{\"chosen\":1}\n");
    let recipe = "kind = \"sft\"\nmodel = \"start\"\nout = \"out\"\n[data]\ntrain = \"rows.jsonl\"\n[optimizer]\n\
                  learning_rate = 1e-3\nmax_steps = 2\n";
    home.write("recipe.toml", recipe);
    home.fails(&["train", "sft", "--config", "none.toml"], 3, "none.toml");
    home.fails(&["train", "sft", "--recipe", "none"], 2, "builtin");
    home.fails(
        &["train", "sft", "--config", "recipe.toml", "--set", "optimizer.learning_rat=1"],
        4,
        "learning_rate",
    );
    home.fails(&["train", "sft", "--config", "recipe.toml"], 3, "row 2");
    home.fails(
        &["train", "sft", "--config", "recipe.toml", "--set", "data.train=gone.jsonl"],
        3,
        "gone.jsonl",
    );
}
