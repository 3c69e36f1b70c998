//! What is read and written beside a training: parquet rows, merged folders in several files.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::Path;

use models::{LoadOptions, Model, ModelSource, Outline};
use training::objectives::Needs;
use training::{LossOn, Overlong, Reading, RowKind, TrainError};

#[test]
fn rows_of_a_parquet_file_are_those_of_the_same_file_as_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let mini = folder.path().join("mini");
    training::mini::ensure(&mini).unwrap();
    let outline = Outline::of(&ModelSource { path: mini.join("model"), adapter: None }).unwrap();
    let reading = Reading {
        tokenizer: &outline.tokenizer,
        chat: &outline.chat,
        chat_is_fallback: outline.chat_is_fallback,
        needs: Needs::default(),
        eos: outline.eos.first().copied(),
        kind: RowKind::Pair,
        loss_on: LossOn::Completion,
        max_length: 200,
        overlong: Overlong::Error,
    };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let lines = reading.file(&goldens.join("pairs.jsonl")).unwrap();
    assert_eq!(lines.rows.len(), 3);
    assert_eq!(lines, reading.file(&goldens.join("pairs.parquet")).unwrap());
    // A folder of both counts on.
    for name in ["pairs.jsonl", "pairs.parquet"] {
        fs::copy(goldens.join(name), folder.path().join(name)).unwrap();
    }
    let both = reading.file(folder.path()).unwrap().rows;
    assert_eq!(both.iter().map(training::Row::number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let bytes = fs::read(goldens.join("pairs.parquet")).unwrap();
    let cut = folder.path().join("cut.parquet");
    for part in [0, 20, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&cut, &bytes[..part]).unwrap();
        let error = reading.file(&cut).unwrap_err();
        assert!(
            matches!(&error, TrainError::Data { .. }) && error.to_string().contains("cut.parquet"),
            "{error}"
        );
    }
    // Bytes that changed on the way are refused or read, never a panic.
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        fs::write(&cut, damaged).unwrap();
        let _ = reading.file(&cut);
    }
}

#[test]
fn an_answer_that_was_cut_gets_no_end_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let mini = folder.path().join("mini");
    training::mini::ensure(&mini).unwrap();
    let outline = Outline::of(&ModelSource { path: mini.join("model"), adapter: None }).unwrap();
    let eos = outline.eos.first().copied();
    let reading = Reading {
        tokenizer: &outline.tokenizer,
        chat: &outline.chat,
        chat_is_fallback: outline.chat_is_fallback,
        needs: Needs::default(),
        eos,
        kind: RowKind::Pair,
        loss_on: LossOn::Completion,
        max_length: 200,
        overlong: Overlong::Error,
    };
    let turn = |role: &str, text: &str| serde_json::json!([{"role": role, "content": text}]);
    let rows = [(false, false), (false, true), (true, false)].map(|(chosen, rejected)| {
        serde_json::json!({"prompt": turn("user", "Review: pruning"), "chosen": turn("assistant", "It helps."),
            "rejected": turn("assistant", "I feel that"), "chosen_open": chosen, "rejected_open": rejected})
        .to_string()
    });
    let path = folder.path().join("open.jsonl");
    fs::write(&path, rows.join("\n")).unwrap();
    let read = reading.file(&path).unwrap().rows;
    let [training::Row::Pair(ended), training::Row::Pair(open), training::Row::Pair(better)] = &read[..]
    else {
        panic!("{read:?}")
    };
    assert_eq!(ended.chosen, open.chosen);
    assert_eq!((ended.chosen.last().copied(), ended.rejected.last().copied()), (eos, eos));
    assert_eq!(open.rejected[..], ended.rejected[..ended.rejected.len() - 1]);
    assert_eq!(better.chosen[..], ended.chosen[..ended.chosen.len() - 1]);
    assert_eq!(better.rejected, ended.rejected);
}

#[test]
fn a_merged_folder_in_several_files_is_the_same_model_and_replaces_an_older_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (mini, out) = (folder.path().join("mini"), folder.path().join("out.v1"));
    training::mini::ensure(&mini).unwrap();
    let source = ModelSource { path: mini.join("model"), adapter: None };
    let merged = training::merge(&source, &out, None, 40_000).unwrap();
    assert!(merged.files > 2, "{merged:?}");
    assert!(out.join("model.safetensors.index.json").exists() && !out.join("model.safetensors").exists());
    let logits = |path: &Path| {
        let source = ModelSource { path: path.into(), adapter: None };
        let model = Model::load(&source, &LoadOptions::default()).unwrap();
        let hidden = model.decoder.forward_packed(&[vec![1, 40, 300, 2]]).unwrap();
        model.decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(logits(&out), logits(&source.path));
    assert_eq!(training::merge(&source, &out, None, u64::MAX).unwrap().files, 1);
    assert!(!out.join("model.safetensors.index.json").exists());
    assert_eq!(logits(&out), logits(&source.path));
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "nothing half-made stays");
}
