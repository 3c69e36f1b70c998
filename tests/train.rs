//! `cycle train` as a new user meets it: the mini recipe, what is printed, what the store knows afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use support::{Home, mini, text};

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_mini_recipe_teaches_a_fresh_machine_in_seconds_and_the_run_leads_to_all_it_came_from() {
    let home = Home::new();
    let train = ["train", "preference", "--recipe", "mini", "--out", "mini"];
    let plan = json(&home, &[&train[..], &["--dry-run", "--format", "json"]].concat());
    assert!(!home.path("mini").exists(), "a dry run leaves no output");
    assert_eq!((&plan["schema"], &plan["plan"]["steps"]), (&"cycle.plan/1".into(), &150.into()));
    let done = json(&home, &[&train[..], &["--format", "json"]].concat());
    assert_eq!(done["held_out"]["eval_rewards/accuracies"], 1.0, "{done}");
    let whole = fs::metadata(home.path("mini/final/model.safetensors")).unwrap().len();
    assert!(whole >= plan["plan"]["trained"].as_u64().unwrap() * 4);
    let words = ["--prompt", "Review: pruning for tagging", "--temperature", "0", "--max-tokens", "20"];
    let say = |model: &str| text(&home.run(&[&["generate", "--model", model], &words[..]].concat()));
    assert!(say("mini/final").contains("shows that pruning helps tagging"), "{}", say("mini/final"));

    // What the store knows of it, by any prefix of the run's id.
    let run = json(&home, &["runs", "show", done["run"].as_str().unwrap(), "--format", "json"]);
    assert_eq!(run["run"]["status"], "done");
    let stages = run["stages"].as_array().unwrap();
    assert_eq!(stages[0]["value"]["model"]["sha256"], done["parent"]["sha256"]);
    assert_eq!(stages[1]["value"], done);
    assert_eq!(run["config"]["objective"]["name"], "simpo");

    // As a file for llama.cpp, and back as a folder; neither replaces what is there.
    let quantize = ["models", "quantize", "mini/final", "--type", "q8_0", "--out", "mini.gguf"];
    assert_eq!(home.run(&quantize).status.code(), Some(0));
    assert!(say("mini.gguf").contains("shows that pruning helps tagging"), "{}", say("mini.gguf"));
    home.fails(&quantize, 2, "--force");
    let merge = ["models", "merge", "mini.gguf", "--out", "merged", "--dtype", "bf16"];
    assert_eq!(home.run(&merge).status.code(), Some(0));
    home.fails(&merge, 2, "--force");
    assert_eq!(home.run(&[&merge[..], &["--force"]].concat()).status.code(), Some(0));
    home.fails(&["models", "merge", "merged", "--out", "merged", "--force"], 2, "to be read");
    assert!(say("merged").contains("shows that pruning helps tagging"));
    let config: Value = serde_json::from_slice(&fs::read(home.path("merged/config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    let verified = json(&home, &["models", "verify", "merged", "--format", "json"]);
    let verified = (&verified["faults"], &verified["parents"][0]["parent_reference"]);
    assert_eq!(verified, (&serde_json::json!([]), &"mini.gguf".into()));
}

#[test]
fn every_kind_of_training_says_how_it_goes() {
    let home = Home::new();
    for (kind, objective, rows, shown) in [
        ("sft", "", "dialogues", "perplexity"),
        ("reward", "", "pairs", "accuracy"),
        ("reward", "name = \"gpm\"", "pairs", "accuracy"),
        ("preference", "name = \"sigmoid\"", "pairs", "margin"),
    ] {
        let recipe = mini(kind, objective, rows, "[lora]\nr = 4\n", 4);
        home.write(
            "recipe.toml",
            recipe.replace("[objective]", "eval = \"$CYCLE_HOME/mini/pairs.eval.jsonl\"\n[objective]"),
        );
        if kind == "sft" {
            home.write(
                "recipe.toml",
                recipe.replace("[objective]", "eval = \"$CYCLE_HOME/mini/dialogues.jsonl\"\n[objective]"),
            );
        }
        let output = home.run(&[
            "train",
            kind,
            "--config",
            "recipe.toml",
            "--out",
            &format!("{kind}-{shown}-{}", objective.len()),
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{kind}: {said}");
        let last = said.lines().find(|l| l.starts_with("step 4: held-out loss")).unwrap_or_default();
        assert!(last.contains(shown), "{kind}: {said}");
        assert!(said.contains("step 3 of 4: loss") && said.contains("tokens/s, about"), "{said}");
        let quiet = [
            "train",
            kind,
            "--config",
            "recipe.toml",
            "--quiet",
            "--out",
            &format!("q{kind}{}", objective.len()),
        ];
        assert!(home.run(&quiet).stderr.is_empty());
    }
    // The reference of an adapter was computed once, and stays for the next training of these rows.
    assert_eq!(fs::read_dir(home.path("home/reference")).unwrap().count(), 1);
}

#[test]
fn objectives_and_recipes_are_listed_in_every_form() {
    let home = Home::new();
    let table = json(&home, &["train", "objectives", "--format", "json"]);
    let simpo = table["objectives"].as_array().unwrap().iter().find(|o| o["name"] == "simpo").unwrap();
    assert_eq!((&simpo["parameters"]["gamma"], &simpo["needs"]["reference"]), (&0.5.into(), &false.into()));
    let markdown = text(&home.run(&["train", "objectives", "--format", "md"]));
    assert_eq!(markdown.matches("\n| ").count(), 1 + table["objectives"].as_array().unwrap().len());
    assert!(text(&home.run(&["train", "objectives"])).contains("2405.14734"));
    let recipes = json(&home, &["train", "recipes", "--format", "json"]);
    for recipe in recipes["recipes"].as_array().unwrap() {
        let name = recipe["name"].as_str().unwrap();
        let whole = text(&home.run(&["train", "recipes", name]));
        assert!(
            whole.contains("[optimizer]") && whole.contains(recipe["summary"].as_str().unwrap()),
            "{name}"
        );
    }
}

#[test]
fn a_second_process_on_the_same_output_is_turned_away_and_the_first_goes_on() {
    let home = Home::new();
    home.write("recipe.toml", mini("sft", "", "dialogues", "", 100_000));
    let train = ["train", "sft", "--config", "recipe.toml", "--out", "out", "--quiet"];
    let mut first = home.command(&train).stdout(Stdio::null()).spawn().unwrap();
    while !home.path("out/metrics.jsonl").exists() && first.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    home.fails(&train, 4, "another process trains here");
    home.fails(&[&train[..], &["--resume"]].concat(), 4, "another process trains here");
    let runs = json(&home, &["runs", "list", "--format", "json"]);
    assert_eq!(runs["rows"][0]["status"], "running");
    assert!(first.try_wait().unwrap().is_none());
    first.kill().unwrap();
    first.wait().unwrap();
}
