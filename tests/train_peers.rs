//! Adapters and merged folders both ways between `cycle` and PEFT, transformers and datasets.
//!
//! What Python made lies in the goldens; what Python reads needs a virtual environment with torch, transformers and peft:
//! `CYCLE_PEER_PYTHON=/path/to/venv/bin/python cargo test --test train_peers`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{Home, mini};

/// Past the harness, which keeps the output of a test that passes to itself.
fn skipped(why: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {why}\n"));
}

fn goldens() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/train");
    let there = path.exists();
    if !there {
        skipped("the goldens in shared/ are not here");
    }
    there.then_some(path)
}

fn python() -> Option<String> {
    let python = std::env::var("CYCLE_PEER_PYTHON").ok();
    if python.is_none() {
        skipped("CYCLE_PEER_PYTHON names no Python with torch, transformers and peft");
    }
    python
}

type Logits = Vec<Vec<f64>>;

/// Raw logits after every one of `ids`.
fn ours(home: &Home, model: &str, ids: &[u32]) -> Logits {
    let list =
        |numbers: &mut dyn Iterator<Item = u32>| numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (tokens, at) = (list(&mut ids.iter().copied()), list(&mut (0..ids.len() as u32)));
    let output =
        home.run(&["logprobs", "--model", model, "--dtype", "f32", "--tokens", &tokens, "--logits", &at]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = &document["outputs"][0]["logits"];
    (0..ids.len()).map(|i| serde_json::from_value(rows[i.to_string()].clone()).unwrap()).collect()
}

fn largest_difference(a: &Logits, b: &Logits) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// What a script prints as JSON.
fn ask(python: &str, home: &Home, script: &str, arguments: &Value) -> Value {
    let mut command = Command::new(python);
    command.args(["-c", script, &arguments.to_string()]).current_dir(home.0.path());
    let output = command.env("HF_HUB_OFFLINE", "1").env("HOME", home.0.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn adapters_that_peft_made_give_its_logits_here_switched_on_and_merged() {
    let Some(goldens) = goldens() else { return };
    let home = Home::new();
    let cpu = candle_core::Device::Cpu;
    let logits = candle_core::safetensors::load(goldens.join("logits_runs.safetensors"), &cpu).unwrap();
    let data: Value = serde_json::from_slice(&std::fs::read(goldens.join("data.json")).unwrap()).unwrap();
    let probe: Vec<u32> = serde_json::from_value(data["probe"].clone()).unwrap();
    let base = goldens.join("models/llama-policy").display().to_string();
    for run in ["dpo_lora", "sft_lora"] {
        let with = format!("{base}+{}", goldens.join(format!("adapters/{run}-final")).display());
        let golden = |kind: &str| -> Logits {
            let rows = logits[&format!("{run}.{kind}")].to_dtype(candle_core::DType::F64).unwrap();
            rows.to_vec2().unwrap()
        };
        let difference = largest_difference(&ours(&home, &with, &probe), &golden("final"));
        assert!(difference < 2e-4, "{run}: {difference}");
        let merged = home.run(&["models", "merge", &with, "--out", run]);
        assert_eq!(merged.status.code(), Some(0), "{}", String::from_utf8_lossy(&merged.stderr));
        let difference = largest_difference(&ours(&home, run, &probe), &golden("merged"));
        assert!(difference < 2e-4, "{run} merged: {difference}");
    }
}

const READ: &str = r#"
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
a = json.loads(sys.argv[1])
ids = torch.tensor([a["ids"]])
def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits[0].double().tolist()
def base():
    return AutoModelForCausalLM.from_pretrained(a["base"], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(a["merged"])
scorer = AutoModelForSequenceClassification.from_pretrained(a["base"], num_labels=1, dtype=torch.float32)
scorer = PeftModel.from_pretrained(scorer, a["reward"])
head = [p for n, p in scorer.named_parameters() if "score" in n and "modules_to_save" in n][0]
print(json.dumps({
    "adapter": logits(PeftModel.from_pretrained(base(), a["adapter"])),
    "merged": logits(AutoModelForCausalLM.from_pretrained(a["merged"], dtype=torch.float32)),
    "trained": logits(AutoModelForCausalLM.from_pretrained(a["trained"], dtype=torch.float32)),
    "ids": tokenizer("Table 2 shows that pruning helps")["input_ids"],
    "chat": tokenizer.apply_chat_template([{"role": "user", "content": "Review: search"}], tokenize=False,
                                          add_generation_prompt=True),
    "score": head.double().flatten().tolist(),
}))
"#;

#[test]
fn what_cycle_trained_and_merged_gives_its_logits_in_peft_and_transformers() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let lora = "[lora]\nr = 4\nuse_rslora = true\n";
    for (name, kind, objective, rows, more) in [
        ("adapter", "preference", "name = \"sigmoid\"", "pairs", lora),
        ("reward", "reward", "", "pairs", lora),
        ("trained", "sft", "", "dialogues", ""),
    ] {
        home.write("recipe.toml", mini(kind, objective, rows, more, 12));
        let done = home.run(&["train", kind, "--config", "recipe.toml", "--out", name]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let with = "home/mini/model+adapter/final";
    assert_eq!(home.run(&["models", "merge", with, "--out", "merged"]).status.code(), Some(0));
    let scores = home.run(&["models", "merge", "home/mini/model+reward/final", "--out", "scorer"]);
    assert_eq!(scores.status.code(), Some(0), "{}", String::from_utf8_lossy(&scores.stderr));
    let ids: Vec<u32> = vec![1, 40, 300, 17, 260, 261, 7, 2, 99];
    let arguments = json!({"ids": ids, "base": "home/mini/model", "adapter": "adapter/final", "merged": "merged",
        "trained": "trained/final", "reward": "reward/final"});
    let theirs = ask(&python, &home, READ, &arguments);
    for (name, model) in [("adapter", with), ("merged", "merged"), ("trained", "trained/final")] {
        let wanted: Logits = serde_json::from_value(theirs[name].clone()).unwrap();
        let difference = largest_difference(&ours(&home, model, &ids), &wanted);
        assert!(difference < 2e-4, "{name}: {difference}");
    }
    let plain = ours(&home, "home/mini/model", &ids);
    assert!(largest_difference(&ours(&home, with, &ids), &plain) > 1e-2, "the adapter changes something");
    let tokenizer = models::Tokenizer::from_file(&home.path("merged/tokenizer.json")).unwrap();
    assert_eq!(theirs["ids"], json!(tokenizer.encode("Table 2 shows that pruning helps").unwrap()));
    assert_eq!(theirs["chat"], "<|im_start|>user\nReview: search<|im_end|>\n<|im_start|>assistant\n");
    let cpu = candle_core::Device::Cpu;
    let scorer = candle_core::safetensors::load(home.path("scorer/model.safetensors"), &cpu).unwrap();
    let head: Vec<f32> = scorer["score.weight"].flatten_all().unwrap().to_vec1().unwrap();
    let wanted: Vec<f64> = serde_json::from_value(theirs["score"].clone()).unwrap();
    assert!(head.iter().zip(&wanted).all(|(a, b)| f64::from(*a) == *b) && head.len() == wanted.len());
}
