//! GGUF files: written and read back, damaged, dequantised as the reference does, tokenizers from metadata.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use common::{goldens, ids, json_of, write_checkpoint};
use models::gguf::{Gguf, GgufHeader, write};
use models::{LoadOptions, Model, ModelSource, SafetensorsFolder, Segment, Step, WeightSource, verify};
use serde_json::Value;

fn source(path: &Path) -> ModelSource {
    ModelSource { path: path.into(), adapter: None }
}

/// A folder with the tiny checkpoint and its GGUF twin.
fn twin(folder: &Path, kind: GgmlDType) -> Model {
    write_checkpoint(folder);
    let model = Model::load(&source(folder), &LoadOptions::default()).unwrap();
    let header = GgufHeader {
        name: "tiny",
        config: model.decoder.config(),
        tokenizer: &model.tokenizer,
        chat_template: Some(model.chat.source()),
        bos: model.bos,
        eos: model.eos.first().copied(),
    };
    write(&folder.join("tiny.gguf"), &header, &SafetensorsFolder::open(folder).unwrap(), kind).unwrap();
    model
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut cache = model.decoder.cache();
    let sequence = cache.create(model.decoder.rope_regime(ids.len()));
    let step = Step { segments: vec![Segment { sequence, tokens: ids.to_vec() }] };
    let hidden = model.decoder.forward(&step, &mut cache).unwrap();
    model.decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_family_that_a_file_can_name_reads_back_and_the_others_are_refused() {
    let Some(goldens) = goldens() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    // Their own tokenizers are of ids only, which a file cannot name.
    let tokenizer = Model::load(&source(folder.path()), &LoadOptions::default()).unwrap().tokenizer;
    let path = folder.path().join("out.gguf");
    let ids: Vec<u32> = (0..100).map(|i| (i * 37 + 5) % 500).collect();
    for (name, tolerance) in [
        ("llama_untied", Some(0.0)),
        ("llama_tied_headdim", Some(0.0)),
        ("llama3_rope", Some(1e-4)), // the frequencies go through a quotient of f32
        ("mistral_nemo", Some(0.0)),
        ("qwen2_tied", Some(0.0)),
        ("qwen3", Some(0.0)),
        ("mistral_window", None),
        ("phi3_partial", None),
        ("phi3_longrope", None),
    ] {
        let from = goldens.join("models").join(name);
        let model = Model::load(&source(&from), &LoadOptions::default()).unwrap();
        let config = model.decoder.config();
        let header =
            GgufHeader { name, config, tokenizer: &tokenizer, chat_template: None, bos: None, eos: Some(2) };
        let made = write(&path, &header, &SafetensorsFolder::open(&from).unwrap(), GgmlDType::F32);
        let Some(tolerance) = tolerance else {
            assert!(made.unwrap_err().to_string().contains("not written as GGUF"), "{name}");
            continue;
        };
        made.unwrap();
        let back = Model::load(&source(&path), &LoadOptions::default()).unwrap();
        let pairs = logits(&model, &ids).into_iter().zip(logits(&back, &ids));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{name}: {worst}");
    }
}

#[test]
fn rows_that_do_not_fill_blocks_of_256_take_the_next_finer_kind() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let model = Model::load(&source(folder.path()), &LoadOptions::default()).unwrap();
    let header = GgufHeader {
        name: "tiny",
        config: model.decoder.config(),
        tokenizer: &model.tokenizer,
        chat_template: None,
        bos: None,
        eos: None,
    };
    let weights = SafetensorsFolder::open(folder.path()).unwrap();
    let made = write(&folder.path().join("k.gguf"), &header, &weights, GgmlDType::Q4K).unwrap();
    assert_eq!(made.keys().collect::<Vec<_>>(), ["F32", "Q5_0"]);
    assert!(verify(&source(&folder.path().join("k.gguf"))).faults.is_empty());
}

#[test]
fn a_written_file_reads_back_as_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, tolerance) in
        [(GgmlDType::F32, 0.0), (GgmlDType::BF16, 0.05), (GgmlDType::Q8_0, 0.05), (GgmlDType::Q4_1, 0.8)]
    {
        let model = twin(folder.path(), kind);
        let path = folder.path().join("tiny.gguf");
        let back = Model::load(&source(&path), &LoadOptions::default()).unwrap();
        assert!(verify(&source(&path)).faults.is_empty());
        assert_eq!((back.bos, &back.eos, back.context()), (model.bos, &model.eos, model.context()));
        for text in ["the <|end|>12 <word>naïve 机", "  tabs\tand\n\nlines"] {
            assert_eq!(back.tokenizer.encode(text).unwrap(), model.tokenizer.encode(text).unwrap());
        }
        let messages = serde_json::json!([{"role": "user", "content": "hello"}]);
        assert_eq!(back.chat.render(&messages, true).unwrap(), model.chat.render(&messages, true).unwrap());
        let ids = [257, 7, 80, 256, 3];
        let (a, b) = (logits(&model, &ids), logits(&back, &ids));
        let d = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
        assert!(d <= tolerance, "{kind:?}: {d}");
        let bytes: &'static [u8] = Box::leak(std::fs::read(&path).unwrap().into_boxed_slice());
        let embedded = Model::from_gguf_bytes("tiny", bytes, &LoadOptions::default()).unwrap();
        assert_eq!((logits(&embedded, &ids), embedded.sha256), (b, back.sha256));
    }
}

#[test]
fn a_tokenizer_that_gguf_cannot_name_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let model = twin(folder.path(), GgmlDType::F32);
    let mut json = common::tokenizer();
    json["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false.into();
    let tokenizer = models::Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    let header = GgufHeader {
        name: "tiny",
        config: model.decoder.config(),
        tokenizer: &tokenizer,
        chat_template: None,
        bos: None,
        eos: None,
    };
    let path = folder.path().join("other.gguf");
    let weights = SafetensorsFolder::open(folder.path()).unwrap();
    assert!(write(&path, &header, &weights, GgmlDType::F32).unwrap_err().to_string().contains("cannot name"));
    assert!(!path.exists());
}

#[test]
fn a_file_cut_anywhere_is_refused_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    twin(folder.path(), GgmlDType::Q8_0);
    let bytes = std::fs::read(folder.path().join("tiny.gguf")).unwrap();
    let cut = folder.path().join("cut.gguf");
    // Within the header, at its end, and anywhere.
    let anywhere = (1..=40u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % bytes.len() as u64) as usize);
    for part in [0, 3, 4, 20, 100, 3_000, bytes.len() / 2, bytes.len() - 1].into_iter().chain(anywhere) {
        std::fs::write(&cut, &bytes[..part]).unwrap();
        let error = Model::load(&source(&cut), &LoadOptions::default()).err().expect("must be refused");
        assert!(error.to_string().contains("cut.gguf"), "{error}");
        assert!(verify(&source(&cut)).faults.iter().any(|f| f.to_string() == error.to_string()), "{error}");
        if part == bytes.len() / 2 {
            assert!(error.to_string().contains("truncated"), "{error}");
        }
    }
    // A byte changed in the header is an error or another model, never a panic and never an allocation without bound.
    for at in (4..2_000).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        std::fs::write(&cut, flipped).unwrap();
        let _ = Model::load(&source(&cut), &LoadOptions::default());
        let _ = verify(&source(&cut));
    }
}

#[test]
fn blocks_dequantise_to_the_reference_bits() {
    let golden = json_of(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/gguf_blocks.json")));
    for row in golden["rows"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let hex = row["hex"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let bits = ids(&row["bits"]);
        let file = file_with_block(row["type"].as_u64().unwrap() as u32, bits.len() as u64, &bytes);
        let gguf = Gguf::from_bytes(Path::new(name), Arc::new(file)).unwrap();
        let tensor = gguf.tensor("model.norm.weight").unwrap().to_dtype(DType::F32).unwrap();
        let got: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        for (i, (x, &b)) in got.iter().zip(&bits).enumerate() {
            assert!(x.to_bits() == b, "{name}[{i}]: {x} is not {}", f32::from_bits(b));
        }
    }
}

/// A GGUF file with one tensor, by hand.
fn file_with_block(kind: u32, elements: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes()); // tensors
    out.extend(1u64.to_le_bytes()); // metadata
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "qwen2");
    text(&mut out, "output_norm.weight");
    out.extend(1u32.to_le_bytes());
    out.extend(elements.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// The metadata a converter would make of a `tokenizer.json`.
fn as_gguf(tokenizer: &Value, pre: &str) -> Gguf {
    let model = &tokenizer["model"];
    let mut tokens: Vec<(u64, String, i32)> = model["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(t, id)| (id.as_u64().unwrap(), t.clone(), 1))
        .collect();
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let (id, text) = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap());
        let kind = if text == "<unk>" {
            2
        } else if added["special"] == true {
            3
        } else {
            4
        };
        tokens.retain(|t| t.0 != id);
        tokens.push((id, text.to_string(), kind));
    }
    tokens.sort();
    let merges: Vec<String> = model["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| match m {
            Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            other => other.as_str().unwrap().to_string(),
        })
        .collect();
    let scores = tokens.iter().map(|(_, token, _)| {
        let rank = merges.iter().position(|m| m.replace(' ', "") == *token);
        Meta::F32(rank.map_or(-1e6, |r| -(r as f32)))
    });
    let strings = |list: &[String]| Meta::Array(list.iter().cloned().map(Meta::String).collect());
    let texts: Vec<String> = tokens.iter().map(|t| t.1.clone()).collect();
    let metadata = [
        ("general.architecture", Meta::String("qwen2".into())),
        ("tokenizer.ggml.model", Meta::String(if pre == "spm" { "llama" } else { "gpt2" }.into())),
        ("tokenizer.ggml.pre", Meta::String(pre.into())),
        ("tokenizer.ggml.tokens", strings(&texts)),
        ("tokenizer.ggml.token_type", Meta::Array(tokens.iter().map(|t| Meta::I32(t.2)).collect())),
        ("tokenizer.ggml.merges", strings(&merges)),
        ("tokenizer.ggml.scores", Meta::Array(scores.collect())),
    ];
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let norm =
        QTensor::quantize(&Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &[("output_norm.weight", &norm)]).unwrap();
    Gguf::from_bytes(Path::new(pre), Arc::new(bytes.into_inner())).unwrap()
}

#[test]
fn tokenizers_from_metadata_give_the_ids_of_tokenizer_json() {
    let Some(folder) = goldens() else { return };
    for (name, pre) in [
        ("bytebpe_llama3", "llama-bpe"),
        ("bytebpe_qwen", "qwen2"),
        ("bytebpe_tekken", "tekken"),
        ("bytebpe_phi4", "dbrx"),
        ("spbpe_legacy", "spm"),
    ] {
        let path = folder.join("tokenizers").join(name);
        let json = json_of(&path.join("tokenizer.json"));
        let tokenizer = as_gguf(&json, pre).tokenizer().unwrap();
        for case in json_of(&path.join("golden.json"))["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            // A GGUF file cannot say that Phi's marks swallow the spaces beside them.
            if name == "bytebpe_phi4" && text.contains("<|im_") {
                continue;
            }
            let wanted = ids(&case["ids_no_special"]);
            assert_eq!(tokenizer.encode(text).unwrap(), wanted, "{name} {text:?}");
            let bare = json["added_tokens"].as_array().unwrap().iter();
            if !bare.filter_map(|t| t["content"].as_str()).any(|t| text.contains(t)) {
                let reference = models::Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
                let decoded = reference.decode(&wanted, false).unwrap();
                assert_eq!(tokenizer.decode(&wanted, false).unwrap(), decoded, "{name} {text:?}");
            }
        }
    }
}

#[test]
fn an_unknown_pre_tokenizer_and_an_unknown_architecture_are_refused() {
    let Some(folder) = goldens() else { return };
    let json = json_of(&folder.join("tokenizers/bytebpe_qwen/tokenizer.json"));
    let error = as_gguf(&json, "klingon").tokenizer().err().expect("must be refused").to_string();
    assert!(error.contains("klingon"), "{error}");
    let mut file = file_with_block(0, 4, &[0; 16]);
    let at = file.windows(5).position(|w| w == b"qwen2").unwrap();
    file[at..at + 5].copy_from_slice(b"mamba");
    let error = Gguf::from_bytes(Path::new("m"), Arc::new(file)).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("mamba"), "{error}");
}
