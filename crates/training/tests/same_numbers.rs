//! What must not change the numbers of a training: how a step falls into micro-batches, what an earlier training left in a
//! cache, where an adapter's start comes from. On the mini model, which any machine can make.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use models::{ModelSource, Outline, Tokenizer};
use serde_json::{Value, json};
use training::objectives::{Needs, table};
use training::{LossOn, Overlong, Reading, Recipe, Row, RowKind, Start, TrainError, Trainer};

const WORDS: [&str; 8] =
    ["pruning", "search", "distillation", "routing", "caching", "sampling", "tuning", "masking"];

/// The mini model, and rows that bring all that any objective asks for.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    training::mini::ensure(&folder.path().join("mini")).unwrap();
    let lines = |name: &str, row: &dyn Fn(usize) -> Value| {
        let text: String = (0..8).map(|i| format!("{}\n", row(i))).collect();
        fs::write(folder.path().join(name), text).unwrap();
    };
    lines("pairs.jsonl", &|i| {
        let p = 0.55 + 0.05 * i as f64;
        let chosen = format!("The table shows that {} helps{}", WORDS[i], " much".repeat(i % 3));
        json!({"prompt": format!("Review: {}", WORDS[i]), "chosen": chosen, "rejected": format!("I feel {}", WORDS[7 - i]),
            "p_chosen": p, "p_rejected": 1.0 - p, "score_chosen": p, "score_rejected": -p, "margin": p})
    });
    lines("labels.jsonl", &|i| {
        let completion = format!("{} works{}", WORDS[i], " well".repeat(i % 4));
        json!({"prompt": format!("Review: {}", WORDS[i]), "completion": completion, "label": i % 3 != 0})
    });
    folder
}

fn recipe(folder: &Path, out: &str, kind: &str, objective: &str, rows: &str, set: &[&str]) -> Recipe {
    let text = format!(
        "kind = {kind:?}\nmodel = {:?}\nout = {:?}\n[data]\ntrain = {:?}\nshuffle = false\nmax_length = 256\n\
         [objective]\n{objective}\n[optimizer]\nlearning_rate = 5e-3\nlr_scheduler_type = \"constant\"\n\
         batch_size = 4\nmax_steps = 3\n",
        folder.join("mini/model"),
        folder.join(out),
        folder.join(rows),
    );
    let set: Vec<String> = set.iter().map(|s| (*s).to_string()).collect();
    Recipe::parse(&text, &set).unwrap()
}

/// Metrics of every step, and where the weights are.
fn trained(recipe: Recipe, start: &Start) -> Result<(Vec<Value>, std::path::PathBuf), TrainError> {
    let mut trainer = Trainer::new(recipe, start, &mut ())?;
    let done = trainer.run(&mut ())?;
    let text = fs::read_to_string(trainer.out().join("metrics.jsonl")).unwrap();
    Ok((text.lines().map(|l| serde_json::from_str(l).unwrap()).collect(), done))
}

#[test]
fn micro_batches_change_no_objective() {
    let folder = folder();
    for entry in table() {
        // KTO's labels, every paired objective's pairs; an NLL term where one can be added.
        let rows = if entry.needs.pairs { "pairs.jsonl" } else { "labels.jsonl" };
        let nll = if entry.takes("nll_weight") { "nll_weight = 0.5\n" } else { "" };
        let objective = format!("name = {:?}\n{nll}", entry.name);
        let run = |out: &str, micro: usize| {
            let size = format!("optimizer.batch_size={micro}");
            let steps = format!("optimizer.gradient_accumulation_steps={}", 4 / micro);
            let out = format!("{}-{out}", entry.name);
            let made = recipe(folder.path(), &out, "preference", &objective, rows, &[&size, &steps]);
            trained(made, &Start::default()).unwrap().0
        };
        let (whole, split) = (run("whole", 4), run("split", 1));
        for (a, b) in whole.iter().zip(&split) {
            for (key, value) in a.as_object().unwrap() {
                let (x, y) = (value.as_f64().unwrap(), b[key].as_f64().unwrap());
                let close = (x - y).abs() <= 2e-4 * x.abs().max(1e-3);
                assert!(close || key == "tokens_per_second", "{} {key}: {x} against {y}", entry.name);
            }
        }
        assert_eq!((whole.len(), split.len()), (3, 3));
    }
}

#[test]
fn held_out_figures_are_those_of_the_whole_step_whatever_the_micro_batches() {
    let folder = folder();
    for (name, rows) in [("kto", "labels.jsonl"), ("aot", "pairs.jsonl"), ("rpo", "pairs.jsonl")] {
        let figures = |out: &str, micro: usize| {
            let set = [
                format!("optimizer.batch_size={micro}"),
                format!("optimizer.gradient_accumulation_steps={}", 7 / micro),
                format!("data.eval={:?}", folder.path().join(rows)),
            ];
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let objective = format!("name = {name:?}");
            let made = recipe(folder.path(), &format!("{name}-{out}"), "preference", &objective, rows, &set);
            // Seven rows a step and eight held out: the last one alone joins the others.
            Trainer::new(made, &Start::default(), &mut ()).unwrap().evaluate(&mut ()).unwrap()
        };
        let (whole, split) = (figures("whole", 7), figures("split", 1));
        let (a, b) = (whole["eval_loss"].as_f64().unwrap(), split["eval_loss"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-5, "{name}: {a} against {b}");
    }
}

#[test]
fn a_changed_factor_of_an_adapter_is_another_reference() {
    let folder = folder();
    let adapter = |out: &str| {
        recipe(folder.path(), out, "preference", "name = \"simpo\"", "pairs.jsonl", &["lora.r=4"])
    };
    let made = trained(adapter("first"), &Start::default()).unwrap().1;
    let start = Start { cache: Some(folder.path().join("cache")), ..Start::default() };
    let model = format!("model={}+{}", folder.path().join("mini/model").display(), made.display());
    let mut losses = Vec::new();
    for out in ["dpo", "dpo-again"] {
        let made =
            recipe(folder.path(), out, "preference", "name = \"dpo\"", "pairs.jsonl", &[&model, "lora.r=2"]);
        losses.push(trained(made, &start).unwrap().0[0]["loss"].as_f64().unwrap());
        // The same tensors, sixteen times as strong.
        let path = made_config(&folder.path().join("first/final"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"lora_alpha\": 32.0", "\"lora_alpha\": 512.0")).unwrap();
    }
    // At its first step the policy is its reference.
    for loss in losses {
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{loss}");
    }
}

fn made_config(adapter: &Path) -> std::path::PathBuf {
    adapter.join("adapter_config.json")
}

#[test]
fn an_adapter_that_goes_on_starts_at_its_reference_and_moves_away_from_it() {
    let folder = folder();
    let first =
        recipe(folder.path(), "first", "preference", "name = \"simpo\"", "pairs.jsonl", &["lora.r=4"]);
    let made = trained(first, &Start::default()).unwrap().1;
    let init = format!("lora.init={:?}", made.display().to_string());
    let (lines, _) = trained(
        recipe(folder.path(), "on", "preference", "name = \"dpo\"", "pairs.jsonl", &[&init]),
        &Start::default(),
    )
    .unwrap();
    let loss = |i: usize| lines[i]["loss"].as_f64().unwrap();
    assert!((loss(0) - std::f64::consts::LN_2).abs() < 1e-7, "{}", loss(0));
    assert!(loss(2) < loss(0) - 1e-3, "{lines:?}");
    // The start that is merged and referred to as a model gives the same training.
    let merged = format!("reference_model={}+{}", folder.path().join("mini/model").display(), made.display());
    let again =
        recipe(folder.path(), "merged", "preference", "name = \"dpo\"", "pairs.jsonl", &[&init, &merged]);
    let (merged, _) = trained(again, &Start::default()).unwrap();
    for (a, b) in lines.iter().zip(&merged) {
        let (a, b) = (a["loss"].as_f64().unwrap(), b["loss"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-5, "{a} against {b}");
    }
}

#[test]
fn an_adapter_that_goes_on_is_resumed_to_the_same_bytes_in_other_micro_batches_too() {
    let folder = folder();
    let first =
        recipe(folder.path(), "first", "preference", "name = \"simpo\"", "pairs.jsonl", &["lora.r=4"]);
    let made = trained(first, &Start::default()).unwrap().1;
    let init = format!("lora.init={:?}", made.display().to_string());
    let weights = |done: &Path| fs::read(done.join("adapter_model.safetensors")).unwrap();
    let run = |out: &str, set: &[&str], resume: bool| {
        let set = [&[init.as_str(), "save.every=1"][..], set].concat();
        let made = recipe(folder.path(), out, "preference", "name = \"dpo\"", "pairs.jsonl", &set);
        trained(made, &Start { resume, cache: None })
    };
    let straight = run("straight", &[], false).unwrap().1;
    run("resumed", &["optimizer.max_steps=2"], false).unwrap();
    let split = ["optimizer.batch_size=1", "optimizer.gradient_accumulation_steps=4"];
    let other = run("resumed", &["optimizer.batch_size=2"], true).err().unwrap().to_string();
    assert!(other.contains("rows of a step = "), "{other}");
    let resumed = run("resumed", &[], true).unwrap().1;
    assert!(weights(&straight) == weights(&resumed));
    run("split", &["optimizer.max_steps=2"], false).unwrap();
    run("split", &split, true).unwrap();
}

#[test]
fn the_head_of_a_merged_reward_adapter_goes_on() {
    let folder = folder();
    for name in ["bt", "gpm"] {
        let objective = format!("name = {name:?}");
        let out = |step: &str| format!("{name}-{step}");
        let first = recipe(folder.path(), &out("first"), "reward", &objective, "pairs.jsonl", &["lora.r=4"]);
        let (_, adapter) = trained(first, &Start::default()).unwrap();
        let head = |folder: &Path| -> Vec<f32> {
            let tensors: HashMap<String, Tensor> =
                candle_core::safetensors::load(folder.join("adapter_model.safetensors"), &Device::Cpu)
                    .unwrap();
            let of = |n: &&String| n.ends_with("score.weight") || n.ends_with("value_head.weight");
            let name = tensors.keys().find(of).unwrap();
            tensors[name].flatten_all().unwrap().to_vec1().unwrap()
        };
        let model = format!("model={}+{}", folder.path().join("mini/model").display(), adapter.display());
        let still = ["lora.r=2", &model, "optimizer.learning_rate=1e-12"];
        let second = recipe(folder.path(), &out("second"), "reward", &objective, "pairs.jsonl", &still);
        let (_, on) = trained(second, &Start::default()).unwrap();
        for (a, b) in head(&adapter).iter().zip(head(&on)) {
            assert!((a - b).abs() < 1e-6, "{name}: {a} against {b}");
        }
    }
}

#[test]
fn what_begins_a_text_begins_it_in_training_as_in_sampling() {
    let folder = folder();
    let outline =
        Outline::of(&ModelSource { path: folder.path().join("mini/model"), adapter: None }).unwrap();
    let bos = outline.tokenizer.id("<|endoftext|>").unwrap();
    let tokenizer: Tokenizer = outline.tokenizer.clone().with_bos(bos, "<|endoftext|>").unwrap();
    let read = |kind: RowKind, own_template: bool, row: &Value| {
        let path = folder.path().join("row.jsonl");
        fs::write(&path, format!("{row}\n")).unwrap();
        let reading = Reading {
            tokenizer: &tokenizer,
            chat: &outline.chat,
            chat_is_fallback: !own_template,
            needs: Needs::default(),
            eos: outline.eos.first().copied(),
            kind,
            loss_on: LossOn::Completion,
            max_length: 200,
            overlong: Overlong::Error,
        };
        reading.file(&path).unwrap().rows.remove(0)
    };
    let plain = |text: &str| tokenizer.encode(text).unwrap();
    let begun = |text: &str| [vec![bos], plain(text)].concat();
    let Row::Text(text) = read(RowKind::Text, true, &json!({"text": "pruning helps"})) else { panic!() };
    assert_eq!(text.ids[..text.ids.len() - 1], begun("pruning helps"));
    let Row::Text(text) = read(RowKind::Text, true, &json!({"text": "<|endoftext|>pruning"})) else {
        panic!()
    };
    assert_eq!(text.ids[..text.ids.len() - 1], plain("<|endoftext|>pruning"));
    let row = json!({"prompt": "Review:", "chosen": " good", "rejected": " bad"});
    let Row::Pair(pair) = read(RowKind::Pair, true, &row) else { panic!() };
    assert_eq!(pair.prompt, begun("Review:"));
    assert_eq!(pair.chosen[..pair.chosen.len() - 1], plain(" good"));
    // A tokenizer that also ends what it encodes does not end what is to go on.
    let mut both: Value = serde_json::from_str(&outline.tokenizer.to_json().unwrap()).unwrap();
    let (eos, special) = (
        outline.tokenizer.id("<|im_end|>").unwrap(),
        |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}}),
    );
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    both["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [special("<|endoftext|>"), sequence("A"), special("<|im_end|>")],
        "pair": [sequence("A"), sequence("B")],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [bos], "tokens": ["<|endoftext|>"]},
            "<|im_end|>": {"id": "<|im_end|>", "ids": [eos], "tokens": ["<|im_end|>"]}}});
    let both = Tokenizer::from_json(both.to_string().as_bytes()).unwrap();
    assert_eq!(both.encode_with_special("pruning").unwrap().last(), Some(&eos));
    assert_eq!(both.encode_plain("pruning").unwrap(), begun("pruning"));
    // A template of the model's own writes what stands first; ours leaves it to the tokenizer.
    let messages =
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    for own in [true, false] {
        let Row::Text(text) = read(RowKind::Text, own, &messages) else { panic!() };
        assert_eq!(text.ids[0] == bos, !own);
    }
}
