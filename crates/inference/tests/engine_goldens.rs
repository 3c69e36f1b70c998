//! The engine against transformers, and against itself: the same bits in any company.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference::{Engine, EngineOptions, Finish, Grammar, Part, Plan, Row, RowOutput, Sampling, Script};
use models::{LoadOptions, Model, ModelSource};
use proptest::prelude::*;
use serde_json::Value;

fn shared() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/infer");
    if !path.exists() {
        eprintln!("skipped: the goldens in shared/ are not here");
        return None;
    }
    Some(path)
}

/// SmolLM2's GGUF, fetched by README's two lines.
fn smollm2() -> Option<PathBuf> {
    let path = std::env::var("CYCLE_SMOLLM2")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/SmolLM2-135M-Instruct.Q4_1.gguf").into());
    let path = PathBuf::from(path);
    if !path.exists() {
        eprintln!("skipped: SmolLM2 is not here; README's two lines fetch it");
        return None;
    }
    Some(path)
}

fn load(path: PathBuf) -> Arc<Model> {
    Arc::new(Model::load(&ModelSource { path, adapter: None }, &LoadOptions::default()).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn text(prompt: Vec<u32>, max_tokens: usize, sampling: Sampling, seed: u64) -> Row {
    let plan = Plan::Text { max_tokens, stop: vec![], grammar: None, ignore_eos: true };
    Row { prompt, plan, sampling, seed, logprobs: true }
}

fn run(engine: &Engine, rows: Vec<Row>) -> Vec<RowOutput> {
    engine.run(rows, &mut ()).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn greedy_tokens_and_continuations_are_those_of_transformers() {
    let Some(folder) = shared() else { return };
    for entry in std::fs::read_dir(folder.join("models")).unwrap() {
        let path = entry.unwrap().path();
        // A micro checkpoint without a tokenizer borrows one; the engine itself works on ids.
        if path.ends_with("bert") {
            continue;
        }
        let golden: Value = serde_json::from_slice(&std::fs::read(path.join("golden.json")).unwrap()).unwrap();
        let model = load(with_tokenizer(&folder, &path));
        let engine = Engine::new(model, EngineOptions { chunk: 40, ..EngineOptions::default() });
        let rows = golden["greedy"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(p, g)| text(ids(&golden["prompts"][p]["ids"]), ids(&g["new_ids"]).len(), Sampling::default(), 0))
            .collect();
        for (output, (p, g)) in run(&engine, rows).iter().zip(golden["greedy"].as_object().unwrap()) {
            assert_eq!(output.tokens, ids(&g["new_ids"]), "{path:?} {p}");
        }
        let continuation = &golden["continuation"];
        let mut all = ids(&golden["prompts"][continuation["prompt"].as_str().unwrap()]["ids"]);
        let prompt = all.len();
        all.extend(ids(&continuation["ids"]));
        let scored = engine.logprobs(&all, &[]).unwrap();
        for (got, want) in scored.logprobs[prompt..].iter().zip(continuation["logprobs"].as_array().unwrap()) {
            assert!((got.unwrap() - want.as_f64().unwrap()).abs() < 2e-4, "{path:?}");
        }
        let perplexity = engine.logprobs(&ids(&golden["prompts"]["p96"]["ids"]), &[]).unwrap().perplexity().unwrap();
        let want = golden["perplexity"]["ppl"].as_f64().unwrap();
        assert!((perplexity / want - 1.0).abs() < 1e-4, "{path:?}: {perplexity} for {want}");
    }
}

/// A copy of a checkpoint with a tokenizer of the same vocabulary beside it.
fn with_tokenizer(folder: &Path, model: &Path) -> PathBuf {
    if model.join("tokenizer.json").exists() {
        return model.into();
    }
    let copy = tempfile::Builder::new().prefix("cycle-golden").tempdir().unwrap().keep();
    for file in std::fs::read_dir(model).unwrap() {
        let file = file.unwrap();
        let to = copy.join(file.file_name());
        std::fs::write(&to, std::fs::read(file.path()).unwrap()).unwrap();
    }
    let tokenizer = folder.join("tokenizers/bytebpe_llama3/tokenizer.json");
    std::fs::write(copy.join("tokenizer.json"), std::fs::read(tokenizer).unwrap()).unwrap();
    copy
}

#[test]
fn chat_to_text_is_that_of_transformers() {
    let Some(folder) = shared() else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("e2e.json")).unwrap()).unwrap();
    for row in golden["rows"].as_array().unwrap() {
        if row["model"] != "llama3_rope" {
            continue; // the other rows pair checkpoints with tokenizers that stand elsewhere
        }
        let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
        let new = ids(&row["new_ids"]);
        let output = run(&engine, vec![text(ids(&row["prompt_ids"]), new.len(), Sampling::default(), 0)]);
        assert_eq!(output[0].tokens, new);
    }
}

#[test]
fn smollm2_writes_what_transformers_writes_on_the_same_weights() {
    let Some(path) = smollm2() else { return };
    let model = load(path);
    let golden: Value = serde_json::from_str(include_str!("goldens/smollm2_greedy.json")).unwrap();
    let rows = golden["rows"].as_array().unwrap();
    let mut requests = Vec::new();
    for row in rows {
        let messages = serde_json::json!([{"role": "user", "content": row["prompt"]}]);
        let rendered = model.chat.render(&messages, true).unwrap();
        assert_eq!(rendered, row["text"].as_str().unwrap());
        let prompt = model.encode_chat(&rendered).unwrap();
        assert_eq!(prompt, ids(&row["ids"]), "{rendered}");
        requests.push(text(prompt, 64, Sampling::default(), 0));
    }
    let engine = Engine::new(model, EngineOptions::default());
    for (output, row) in run(&engine, requests).iter().zip(rows) {
        let expected = ids(&row["new_ids"]);
        let same = output.tokens.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        if same < expected.len() {
            // A difference counts as equal only where the reference's own two best logits nearly tie.
            let gap = row["gaps"][same].as_f64().unwrap();
            assert!(gap < 1e-3, "{}: token {same} differs where the gap is {gap}", row["prompt"]);
            eprintln!("{}: differs from token {same} on, gap {gap}", row["prompt"]);
        }
    }
}

fn form() -> Script {
    let free = |name: &str, grammar| Part::Free {
        name: name.into(),
        stop: vec!["\n#".into()],
        max_tokens: 12,
        min_tokens: 3,
        grammar,
    };
    Script {
        parts: vec![
            Part::Literal("## Summary\n".into()),
            free("summary", None),
            Part::Literal("\n## Rating\n".into()),
            Part::Choice {
                name: "rating".into(),
                options: ["1", "3", "5", "6", "8", "10"].map(String::from).to_vec(),
                terminator: "\n".into(),
            },
            Part::Literal("## Set-up\n".into()),
            free("json", Some(Grammar::Regex("[a-f]{2,6}".into()))),
        ],
    }
}

#[test]
fn a_script_is_always_filled_in_whole_and_scores_whole_values() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let sampling = Sampling { temperature: 1.0, repetition_penalty: 1.2, ..Sampling::default() };
    let rows = (0..6)
        .map(|seed| Row {
            prompt: engine.model().tokenizer.encode("A paper about scores.").unwrap(),
            plan: Plan::Script(form()),
            sampling: sampling.clone(),
            seed,
            logprobs: false,
        })
        .collect();
    for output in run(&engine, rows) {
        let rating = output.parts["rating"].chosen.as_ref().unwrap();
        let total: f64 = rating.distribution.iter().map(|d| d.1).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert_eq!(rating.distribution.len(), 6);
        assert!(output.text.contains(&format!("## Rating\n{}\n## Set-up\n", rating.value)), "{}", output.text);
        let json = &output.parts["json"].text;
        assert!(!json.is_empty() && json.chars().all(|c| ('a'..='f').contains(&c)), "{json:?}");
        assert_eq!(output.finish, Finish::Stop);
    }
}

#[test]
fn a_choice_has_the_probability_of_its_whole_text() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let tokenizer = &engine.model().tokenizer;
    let prompt = tokenizer.encode("Rating: ").unwrap();
    let options = ["1", "10", "3"].map(String::from).to_vec();
    let script = Script {
        parts: vec![Part::Choice { name: "r".into(), options: options.clone(), terminator: "\n".into() }],
    };
    let row = Row {
        prompt: prompt.clone(),
        plan: Plan::Script(script),
        sampling: Sampling::default(),
        seed: 0,
        logprobs: false,
    };
    let output = run(&engine, vec![row]).remove(0);
    let alone: Vec<f64> = options
        .iter()
        .map(|o| {
            let mut all = prompt.clone();
            all.extend(tokenizer.encode(&format!("{o}\n")).unwrap());
            engine.logprobs(&all, &[]).unwrap().logprobs[prompt.len()..].iter().map(|l| l.unwrap()).sum::<f64>().exp()
        })
        .collect();
    let total: f64 = alone.iter().sum();
    let chosen = output.parts["r"].chosen.as_ref().unwrap();
    for ((_, p), q) in chosen.distribution.iter().zip(&alone) {
        assert!((p - q / total).abs() < 1e-9);
    }
    assert!((chosen.mass - total).abs() < 1e-9);
}

#[test]
fn a_prompt_that_does_not_fit_fails_alone() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let context = engine.model().context();
    let rows = vec![
        text(vec![5; context + 3], 4, Sampling::default(), 0),
        text(vec![5, 6, 7], 4, Sampling::default(), 0),
    ];
    let results = engine.run(rows, &mut ()).unwrap();
    assert!(results[0].as_ref().is_err_and(|e| e.to_string().contains(&context.to_string())));
    assert_eq!(results[1].as_ref().unwrap().tokens.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Rows of different lengths, shared beginnings, sampled and scripted: alone, together, in any chunk, in waves, twice.
    #[test]
    fn a_row_gives_the_same_tokens_in_any_company(
        lengths in prop::collection::vec(1usize..60, 2..6), chunk in 1usize..50, least in 1usize..20, wave in any::<bool>()
    ) {
        let Some(folder) = shared() else { return Ok(()) };
        let model = load(folder.join("models/llama3_rope"));
        let sampling = Sampling { temperature: 0.9, top_p: 0.95, ..Sampling::default() };
        let rows: Vec<Row> = lengths.iter().enumerate().map(|(i, &n)| {
            let prompt: Vec<u32> = (0..n as u32).map(|t| if t < 20 { t + 7 } else { t * (i as u32 + 1) % 400 }).collect();
            if i % 2 == 0 {
                text(prompt, 10, sampling.clone(), i as u64)
            } else {
                Row { prompt, plan: Plan::Script(form()), sampling: sampling.clone(), seed: i as u64, logprobs: false }
            }
        }).collect();
        let plain = Engine::new(model.clone(), EngineOptions { least_shared: usize::MAX, ..EngineOptions::default() });
        let alone: Vec<RowOutput> = rows.iter().map(|r| run(&plain, vec![r.clone()]).remove(0)).collect();
        let options = EngineOptions { chunk, least_shared: least, cache_bytes: wave.then_some(1 << 16) };
        let engine = Engine::new(model, options);
        for _ in 0..2 {
            let together = run(&engine, rows.clone());
            for (a, b) in alone.iter().zip(&together) {
                prop_assert_eq!(&a.tokens, &b.tokens);
                prop_assert_eq!(&a.logprobs, &b.logprobs);
                prop_assert_eq!(&a.parts, &b.parts);
            }
        }
    }
}
