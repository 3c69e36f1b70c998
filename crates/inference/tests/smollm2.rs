//! The real SmolLM2-135M-Instruct (GGUF, Q4_1) against transformers on the same dequantised weights.
//!
//! The file is named by `CYCLE_SMOLLM2`, or lies in `models/` at the root of the repository (README tells how to get it).
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::path::{Path, PathBuf};

use models::{LoadOptions, Model, ModelSource, Segment, Step};
use serde_json::Value;

fn file() -> Option<PathBuf> {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name);
    let path = std::env::var("CYCLE_SMOLLM2").map_or(ours, PathBuf::from);
    if !path.is_file() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: {} is not here and CYCLE_SMOLLM2 names no file\n", path.display()),
        );
        return None;
    }
    Some(path)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn ten_greedy_texts_of_64_tokens_are_those_of_transformers() {
    let Some(path) = file() else { return };
    let model = Model::load(&ModelSource { path, adapter: None }, &LoadOptions::default()).unwrap();
    let golden: Value = serde_json::from_str(include_str!("goldens/smollm2_greedy.json")).unwrap();
    let rows = golden["rows"].as_array().unwrap();
    let mut cache = model.decoder.cache();
    let mut open = Vec::new();
    for row in rows {
        let prompt = row["prompt"].as_str().unwrap();
        let messages = serde_json::json!([{"role": "user", "content": prompt}]);
        let text = model.chat.render(&messages, true).unwrap();
        assert_eq!(text, row["text"].as_str().unwrap());
        let tokens = model.encode_chat(&text).unwrap();
        assert_eq!(tokens, ids(&row["ids"]), "{prompt}");
        let sequence = cache.create(model.decoder.rope_regime(tokens.len()));
        open.push((sequence, tokens, ids(&row["new_ids"]), row["gaps"].as_array().unwrap()));
    }
    // All ten in one batch; each goes on with the reference's token, so one doubtful step does not spoil the rest.
    let mut next: Vec<Vec<u32>> = open.iter().map(|(_, tokens, ..)| tokens.clone()).collect();
    for step in 0..64 {
        let segments: Vec<Segment> =
            open.iter().zip(&next).map(|((s, ..), t)| Segment { sequence: *s, tokens: t.clone() }).collect();
        let hidden = model.decoder.forward(&Step { segments }, &mut cache).unwrap();
        let mut end = 0;
        for (i, (_, _, wanted, gaps)) in open.iter().enumerate() {
            end += next[i].len();
            let logits = model.decoder.logits(&hidden.narrow(0, end - 1, 1).unwrap()).unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            let best =
                logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as u32).unwrap();
            let gap = gaps[step].as_f64().unwrap();
            assert!(
                best == wanted[step] || gap < 1e-3,
                "row {i} step {step}: {best} is not {}, gap {gap}",
                wanted[step]
            );
        }
        next = open.iter().map(|(_, _, wanted, _)| vec![wanted[step]]).collect();
    }
}
