//! The engine against transformers, and against itself: the same bits in any company.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference::{
    Engine, EngineOptions, Finish, Grammar, Observer, Part, Plan, Row, RowError, RowOutput, Sampling, Script,
};
use models::{ChatTemplate, LoadOptions, Model, ModelSource, TemplateTokens, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

fn shared() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/infer");
    if !path.exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: the goldens in shared/ are not here\n"),
        );
        return None;
    }
    Some(path)
}

/// SmolLM2's GGUF, fetched by README's two lines.
fn smollm2() -> Option<PathBuf> {
    let path = std::env::var("CYCLE_SMOLLM2").unwrap_or(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/SmolLM2-135M-Instruct.Q4_1.gguf").into(),
    );
    let path = PathBuf::from(path);
    if !path.exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: SmolLM2 is not here; README's two lines fetch it\n"),
        );
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
        if path.ends_with("bert") {
            continue;
        }
        let golden: Value =
            serde_json::from_slice(&std::fs::read(path.join("golden.json")).unwrap()).unwrap();
        let model = load(path.clone());
        let engine = Engine::new(model, EngineOptions { chunk: 40, ..EngineOptions::default() });
        let rows = golden["greedy"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(p, g)| {
                text(ids(&golden["prompts"][p]["ids"]), ids(&g["new_ids"]).len(), Sampling::default(), 0)
            })
            .collect();
        for (output, (p, g)) in run(&engine, rows).iter().zip(golden["greedy"].as_object().unwrap()) {
            assert_eq!(output.tokens, ids(&g["new_ids"]), "{path:?} {p}");
        }
        let continuation = &golden["continuation"];
        let mut all = ids(&golden["prompts"][continuation["prompt"].as_str().unwrap()]["ids"]);
        let prompt = all.len();
        all.extend(ids(&continuation["ids"]));
        let scored = engine.logprobs(&all, 0, &[]).unwrap();
        let later = engine.logprobs(&all, all.len() - 5, &[]).unwrap().logprobs;
        let (skipped, rest) = later.split_at(all.len() - 5);
        assert!(skipped.iter().all(Option::is_none) && rest == &scored.logprobs[all.len() - 5..]);
        for (got, want) in scored.logprobs[prompt..].iter().zip(continuation["logprobs"].as_array().unwrap())
        {
            assert!((got.unwrap() - want.as_f64().unwrap()).abs() < 2e-4, "{path:?}");
        }
        let perplexity =
            engine.logprobs(&ids(&golden["prompts"]["p96"]["ids"]), 0, &[]).unwrap().perplexity().unwrap();
        let want = golden["perplexity"]["ppl"].as_f64().unwrap();
        assert!((perplexity / want - 1.0).abs() < 1e-4, "{path:?}: {perplexity} for {want}");
    }
}

#[test]
fn a_text_ends_at_any_end_of_sequence_and_goes_on_when_told_to() {
    let Some(folder) = shared() else { return };
    for name in ["llama_untied", "mistral_nemo", "qwen3", "phi3_longrope"] {
        let path = folder.join("models").join(name);
        let golden: Value =
            serde_json::from_slice(&std::fs::read(path.join("golden.json")).unwrap()).unwrap();
        for (prompt, greedy) in golden["greedy"].as_object().unwrap() {
            let (new, example) = (ids(&greedy["new_ids"]), &greedy["eos_example"]);
            let Some(end) = example["eos"].as_u64() else { continue };
            let source = ModelSource { path: path.clone(), adapter: None };
            let mut model = Model::load(&source, &LoadOptions::default()).unwrap();
            model.eos = vec![511, end as u32, 510];
            let engine = Engine::new(Arc::new(model), EngineOptions::default());
            let mut row = text(ids(&golden["prompts"][prompt]["ids"]), new.len(), Sampling::default(), 0);
            let whole = run(&engine, vec![row.clone()]).remove(0);
            assert_eq!((whole.tokens, whole.finish), (new.clone(), Finish::Length), "{name}");
            let Plan::Text { ignore_eos, .. } = &mut row.plan else { unreachable!() };
            *ignore_eos = false;
            let ended = run(&engine, vec![row]).remove(0);
            let stops = example["stops_after"].as_u64().unwrap() as usize;
            assert_eq!((ended.tokens.as_slice(), ended.finish), (&new[..stops - 1], Finish::Eos), "{name}");
        }
    }
}

#[test]
fn chat_to_ids_to_text_is_that_of_transformers() {
    let Some(folder) = shared() else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("e2e.json")).unwrap()).unwrap();
    for row in golden["rows"].as_array().unwrap() {
        let named = |key: &str| row[key].as_str().unwrap();
        let tokenizers = folder.join("tokenizers").join(named("tokenizer"));
        let tokenizer = Tokenizer::from_file(&tokenizers.join("tokenizer.json")).unwrap();
        let about: Value =
            serde_json::from_slice(&std::fs::read(tokenizers.join("tokenizer_config.json")).unwrap())
                .unwrap();
        let special = |key: &str| about[key].as_str().map(String::from);
        let tokens = TemplateTokens {
            bos_token: special("bos_token"),
            eos_token: special("eos_token"),
            pad_token: special("pad_token"),
            unk_token: special("unk_token"),
        };
        let source =
            std::fs::read_to_string(folder.join(format!("chat/{}.jinja", named("template")))).unwrap();
        let chat = ChatTemplate::new(&source, tokens).unwrap();
        let text = chat.render_with(&row["messages"], true, row["vars"].as_object().unwrap(), None).unwrap();
        let prompt = tokenizer.encode(&text).unwrap();
        assert_eq!(prompt, ids(&row["prompt_ids"]), "{text}");
        let engine = Engine::new(load(folder.join("models").join(named("model"))), EngineOptions::default());
        let new = ids(&row["new_ids"]);
        let output = run(&engine, vec![self::text(prompt, new.len(), Sampling::default(), 0)]);
        assert_eq!(output[0].tokens, new, "{}", named("model"));
        for (key, skip) in [("text_keep", false), ("text_skip", true)] {
            assert_eq!(tokenizer.decode(&output[0].tokens, skip).unwrap(), named(key));
        }
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
        assert!(
            output.text.contains(&format!("## Rating\n{}\n## Set-up\n", rating.value)),
            "{}",
            output.text
        );
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
            engine.logprobs(&all, 0, &[]).unwrap().logprobs[prompt.len()..]
                .iter()
                .map(|l| l.unwrap())
                .sum::<f64>()
                .exp()
        })
        .collect();
    let total: f64 = alone.iter().sum();
    let chosen = output.parts["r"].chosen.as_ref().unwrap();
    for ((_, p), q) in chosen.distribution.iter().zip(&alone) {
        assert!((p - q / total).abs() < 1e-9);
    }
    assert!((chosen.mass - total).abs() < 1e-9);
}

const SENTENCE: &str = "the theory of the other section is in the appendix of the paper";

/// The n-th row writes the sentence in whatever tokens it draws, up to a stop string that begins within a token more
/// often than not; then come two choices, with nothing to be run between.
fn stopping(n: usize, engine: &Engine) -> Row {
    let part = Part::Free {
        name: "text".into(),
        stop: vec![SENTENCE[n + 5..n + 11].into()],
        max_tokens: 80,
        min_tokens: 0,
        grammar: Some(Grammar::Regex(SENTENCE.into())),
    };
    let options = ["1", "10", "3", "accept"].map(String::from).to_vec();
    let choice =
        |name: &str| Part::Choice { name: name.into(), options: options.clone(), terminator: "\n".into() };
    Row {
        prompt: engine.model().tokenizer.encode("A paper about scores.").unwrap(),
        plan: Plan::Script(Script { parts: vec![part, choice("first"), choice("second")] }),
        sampling: Sampling { temperature: 1.0, ..Sampling::default() },
        seed: n as u64,
        logprobs: false,
    }
}

#[test]
fn after_a_cut_the_cache_holds_what_the_text_says() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let rows: Vec<Row> = (0..50).map(|n| stopping(n, &engine)).collect();
    let prompt = rows[0].prompt.clone();
    for (n, output) in run(&engine, rows).into_iter().enumerate() {
        let (text, first) = (&output.parts["text"], output.parts["first"].chosen.as_ref().unwrap());
        let (before, _) = SENTENCE.split_once(&SENTENCE[n + 5..n + 11]).unwrap();
        assert_eq!((text.text.as_str(), text.finish), (before, Finish::Stop));
        assert!(output.text.starts_with(before));
        let tokenizer = &engine.model().tokenizer;
        let tail: usize = ["first", "second"]
            .iter()
            .map(|n| tokenizer.encode(&format!("{}\n", output.parts[*n].text)).unwrap().len())
            .sum();
        // What was written, scored from nothing by one pass, gives the probabilities that the choice reported.
        let mut all = prompt.clone();
        all.extend(&output.tokens[..output.tokens.len() - tail]);
        let weights: Vec<f64> = first
            .distribution
            .iter()
            .map(|(option, _)| {
                let mut whole = all.clone();
                whole.extend(tokenizer.encode(&format!("{option}\n")).unwrap());
                let scored = engine.logprobs(&whole, 0, &[]).unwrap();
                scored.logprobs[all.len()..].iter().flatten().sum::<f64>().exp()
            })
            .collect();
        assert!((first.mass - weights.iter().sum::<f64>()).abs() < 1e-12, "{}", output.text);
    }
}

#[test]
fn a_text_has_its_least_length_and_no_stop_string_in_it() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let stops = ["e", "a", "o", "re", " "];
    let rows = (0..12)
        .map(|seed| {
            let part = Part::Free {
                name: "text".into(),
                stop: stops.map(String::from).to_vec(),
                max_tokens: 30,
                min_tokens: 6,
                grammar: None,
            };
            let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
            let plan = Plan::Script(Script { parts: vec![part] });
            Row { prompt: vec![5, 6, 7], plan, sampling, seed, logprobs: false }
        })
        .collect();
    for output in run(&engine, rows) {
        // The token with the stop string is taken back, so one fewer may be left.
        assert!(output.tokens.len() >= 5, "{}", output.text);
        assert!(!stops.iter().any(|s| output.parts["text"].text.contains(s)), "{}", output.text);
    }
}

#[test]
fn json_under_a_schema_is_json() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let schema = serde_json::json!({"type": "object", "additionalProperties": false, "required": ["rating", "why"],
        "properties": {"rating": {"type": "integer", "minimum": 1, "maximum": 10}, "why": {"enum": ["novel", "weak"]}}});
    let lark = Grammar::Lark("start: \"yes\" | \"no\" \" \" /[a-c]{1,3}/".into());
    let row = |grammar: Grammar, seed: u64| Row {
        prompt: vec![5, 6, 7],
        plan: Plan::Text { max_tokens: 60, stop: vec![], grammar: Some(grammar), ignore_eos: false },
        sampling: Sampling { temperature: 1.0, repetition_penalty: 1.3, ..Sampling::default() },
        seed,
        logprobs: true,
    };
    let rows = (0..8)
        .flat_map(|seed| [row(Grammar::JsonSchema(schema.clone()), seed), row(lark.clone(), seed)])
        .collect();
    for pair in run(&engine, rows).chunks(2) {
        let value: Value = serde_json::from_str(&pair[0].text).unwrap();
        assert!((1..=10).contains(&value["rating"].as_i64().unwrap()), "{value}");
        assert!(pair[1].text == "yes" || pair[1].text.starts_with("no "), "{}", pair[1].text);
        assert_eq!(pair[0].logprobs.len(), pair[0].tokens.len());
        assert_ne!(pair[0].finish, Finish::Length);
    }
    let bad = engine.run(vec![row(Grammar::Regex("(".into()), 0)], &mut ()).unwrap().remove(0);
    assert!(matches!(bad, Err(RowError::Grammar(_))));
}

#[test]
fn an_open_grammar_can_end_and_holds_at_every_length() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let row = |seed: u64, max_tokens: usize| Row {
        prompt: vec![5, 6, 7],
        plan: Plan::Text {
            max_tokens,
            stop: vec![],
            grammar: Some(Grammar::Regex("([a-z]+ )*".into())),
            ignore_eos: seed.is_multiple_of(3),
        },
        sampling: Sampling { temperature: 1.2, min_p: 0.001, ..Sampling::default() },
        seed,
        logprobs: false,
    };
    let outputs = run(&engine, (0..24).map(|seed| row(seed, 20 + 5 * seed as usize)).collect());
    let ended = |o: &RowOutput| o.finish != Finish::Length;
    assert!(outputs.iter().any(|o| o.finish == Finish::Eos), "the end is always within reach");
    for output in &outputs {
        let lower = output.text.chars().all(|c| c.is_ascii_lowercase() || c == ' ');
        assert!(lower && !output.text.contains("  ") && !output.text.starts_with(' '), "{}", output.text);
        assert!(!ended(output) || output.text.is_empty() || output.text.ends_with(' '), "{}", output.text);
    }
}

#[test]
fn a_dialogue_that_goes_on_reads_only_what_is_new() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let prompt: Vec<u32> = (0..40).map(|t| t * 7 % 400).collect();
    let first = run(&engine, vec![text(prompt.clone(), 8, Sampling::default(), 0)]).remove(0);
    assert_eq!(first.reused, 0);
    let mut next = prompt;
    next.extend(&first.tokens);
    next.extend([9, 10, 11]);
    let again = run(&engine, vec![text(next.clone(), 8, Sampling::default(), 0)]).remove(0);
    assert_eq!(again.reused, 47);
    let fresh = Engine::new(engine.model().clone(), EngineOptions::default());
    let alone = run(&fresh, vec![text(next, 8, Sampling::default(), 0)]).remove(0);
    assert_eq!((again.tokens, again.logprobs), (alone.tokens, alone.logprobs));
}

/// Stops the batch when so many tokens were drawn, or before any is.
struct Stop(usize);

impl Observer for Stop {
    fn cancelled(&mut self) -> bool {
        self.0 == 0
    }
    fn decode(&mut self, generated: usize) {
        if generated >= 6 {
            self.0 = 0;
        }
    }
}

#[test]
fn an_interrupted_batch_leaves_nothing_wrong_behind() {
    let Some(folder) = shared() else { return };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), EngineOptions::default());
    let rows: Vec<Row> =
        (0..3).map(|i| text((0..50).chain([i]).collect(), 10, Sampling::default(), 0)).collect();
    for mut stop in [Stop(0), Stop(1)] {
        for result in engine.run(rows.clone(), &mut stop).unwrap() {
            assert_eq!(result.unwrap_err(), RowError::Interrupted);
        }
    }
    let fresh = Engine::new(engine.model().clone(), EngineOptions::default());
    let tokens = |outputs: Vec<RowOutput>| outputs.into_iter().map(|o| o.tokens).collect::<Vec<_>>();
    assert_eq!(tokens(run(&engine, rows.clone())), tokens(run(&fresh, rows)));
}

#[test]
fn a_row_larger_than_the_memory_is_refused_with_the_numbers() {
    let Some(folder) = shared() else { return };
    let options = EngineOptions { cache_bytes: Some(4096), ..EngineOptions::default() };
    let engine = Engine::new(load(folder.join("models/llama3_rope")), options);
    let error = engine
        .run(vec![text(vec![5; 40], 4, Sampling::default(), 0)], &mut ())
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert!(
        matches!(error, RowError::Memory { limit: 4096, .. }) && error.to_string().contains("4096"),
        "{error}"
    );
}

#[test]
fn threads_change_no_bit() {
    let Some(folder) = shared() else { return };
    let model = load(folder.join("models/phi3_longrope"));
    // 40 to 60 tokens: across longrope's border of 48.
    let rows: Vec<Row> = (0..3u32)
        .map(|i| {
            let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
            text((0..40 + i).map(|t| (t * 5 + i) % 300).collect(), 20, sampling, u64::from(i))
        })
        .collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&Engine::new(model.clone(), EngineOptions::default()), rows.clone()))
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
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
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Rows of different lengths, shared beginnings, sampled and scripted: alone, together, in any chunk, in waves, on any
    /// number of threads, twice.
    #[test]
    fn a_row_gives_the_same_tokens_in_any_company(
        name in prop::sample::select(vec!["llama3_rope", "mistral_window", "qwen3", "phi3_longrope"]),
        lengths in prop::collection::vec(1usize..60, 2..6), shared_tokens in 0u32..50,
        chunk in 1usize..50, least in 1usize..20, wave in any::<bool>(), threads in prop::sample::select(vec![1, 2, 4]),
        (temperature, top_p, top_k, penalty) in (0.0..1.5f64, 0.5..1.0f64, 0usize..30, 0.9..1.3f64),
    ) {
        let Some(folder) = shared() else { return Ok(()) };
        let model = load(folder.join("models").join(name));
        let sampling =
            Sampling { temperature, top_p, top_k, repetition_penalty: penalty, min_p: 0.01, no_repeat_ngram: 0 };
        let rows: Vec<Row> = lengths.iter().enumerate().map(|(i, &n)| {
            let other = |t: u32| t * (i as u32 + 1) % 400;
            let prompt: Vec<u32> = (0..n as u32).map(|t| if t < shared_tokens { t + 7 } else { other(t) }).collect();
            if i % 2 == 0 || model.tokenizer.is_missing() {
                text(prompt, 10, sampling.clone(), i as u64)
            } else {
                Row { prompt, plan: Plan::Script(form()), sampling: sampling.clone(), seed: i as u64, logprobs: false }
            }
        }).collect();
        let plain = Engine::new(model.clone(), EngineOptions { least_shared: usize::MAX, ..EngineOptions::default() });
        let alone: Vec<RowOutput> = rows.iter().map(|r| run(&plain, vec![r.clone()]).remove(0)).collect();
        let options = EngineOptions { chunk, least_shared: least, cache_bytes: wave.then_some(1 << 18) };
        let engine = Engine::new(model, options);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for _ in 0..2 {
            let together = pool.install(|| run(&engine, rows.clone()));
            for (a, b) in alone.iter().zip(&together) {
                prop_assert_eq!(&a.tokens, &b.tokens);
                prop_assert_eq!(&a.logprobs, &b.logprobs);
                prop_assert_eq!(&a.parts, &b.parts);
            }
        }
    }
}
