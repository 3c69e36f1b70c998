//! Every micro checkpoint against transformers' own numbers, and the same bits whatever the batch, chunk or cache.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use models::{
    Decoder, DecoderOptions, Gradients, Keep, KvCache, LoraSettings, PackedBatch, RopeRegime,
    SafetensorsFolder, Segment, SequenceId, Step, Train, TrainableDecoder, TrainableOptions, linear_modules,
    parse_config,
};
use serde_json::Value;

const CHECKPOINTS: [&str; 10] = [
    "llama_untied",
    "llama_tied_headdim",
    "llama_sharded",
    "llama3_rope",
    "mistral_window",
    "mistral_nemo",
    "qwen2_tied",
    "qwen3",
    "phi3_partial",
    "phi3_longrope",
];

fn goldens() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/infer/models");
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

struct Case {
    decoder: Decoder,
    golden: Value,
    tensors: HashMap<String, Tensor>,
}

fn load(folder: &Path, name: &'static str, config: &str) -> Case {
    let folder = folder.join(name);
    let path = folder.join(config);
    let config =
        parse_config(&serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(), &path).unwrap();
    let options = DecoderOptions { device: Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::load(&config, &SafetensorsFolder::open(&folder).unwrap(), &options).unwrap();
    let golden = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    Case { decoder, golden, tensors }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn start(decoder: &Decoder, cache: &mut KvCache, total: usize) -> SequenceId {
    cache.create(decoder.rope_regime(total))
}

fn step(decoder: &Decoder, cache: &mut KvCache, rows: &[(SequenceId, &[u32])]) -> Vec<Vec<f32>> {
    let segments = rows
        .iter()
        .map(|(sequence, tokens)| Segment { sequence: *sequence, tokens: tokens.to_vec() })
        .collect();
    let hidden = decoder.forward(&Step { segments }, cache).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_and_hidden_states_are_those_of_transformers() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        for config in ["config.json", "config.classic.json"] {
            let case = load(&folder, name, config);
            for (prompt, entry) in case.golden["prompts"].as_object().unwrap() {
                let tokens = ids(&entry["ids"]);
                let mut cache = case.decoder.cache();
                let sequence = start(&case.decoder, &mut cache, tokens.len());
                let logits = step(&case.decoder, &mut cache, &[(sequence, &tokens)]);
                let expected: Vec<Vec<f32>> = case.tensors[&format!("{prompt}.logits")].to_vec2().unwrap();
                for (position, expected) in ids(&entry["positions"]).iter().zip(expected) {
                    let d = distance(&logits[*position as usize], &expected);
                    assert!(d < 2e-4, "{name} {config} {prompt} position {position}: {d}");
                }
            }
            let tokens = ids(&case.golden["prompts"]["p7"]["ids"]);
            let expected: Vec<Vec<Vec<f32>>> = case.tensors["p7.hidden"].to_vec3().unwrap();
            for (i, (state, expected)) in
                case.decoder.layer_states(&tokens).unwrap().iter().zip(expected).enumerate()
            {
                let state: Vec<Vec<f32>> = state.to_vec2().unwrap();
                let d = distance(&state.concat(), &expected.concat());
                assert!(d < 2e-4, "{name} {config} hidden state {i}: {d}");
            }
        }
    }
}

#[test]
fn frequencies_are_those_of_transformers() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        let case = load(&folder, name, "config.json");
        for (key, regime) in [
            ("inv_freq", RopeRegime::Short),
            ("inv_freq_short", RopeRegime::Short),
            ("inv_freq_long", RopeRegime::Long),
        ] {
            let Some(expected) = case.golden["rope"][key].as_array() else { continue };
            let got = case.decoder.inverse_frequencies(regime);
            assert_eq!(got.len(), expected.len(), "{name}");
            for (f, e) in got.iter().zip(expected) {
                let e = e.as_f64().unwrap();
                assert!((f64::from(*f) - e).abs() <= 1e-6 * e, "{name} {key}: {f} for {e}");
            }
        }
    }
}

/// Half floats are storage: arithmetic stays f32, so a weight of 8 or 11 bits is all that is lost.
#[test]
fn bf16_and_f16_come_near() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        let case = load(&folder, name, "config.json");
        for (dtype, most) in [(DType::BF16, 0.4), (DType::F16, 0.05)] {
            let options = DecoderOptions { device: Device::Cpu, dtype };
            let source = SafetensorsFolder::open(&folder.join(name)).unwrap();
            let decoder = Decoder::load(case.decoder.config(), &source, &options).unwrap();
            for prompt in ["p7", "p33", "p96"] {
                let tokens = ids(&case.golden["prompts"][prompt]["ids"]);
                let mut cache = decoder.cache();
                let sequence = start(&decoder, &mut cache, tokens.len());
                let logits = step(&decoder, &mut cache, &[(sequence, &tokens)]);
                let last: Vec<f32> = case.tensors[&format!("{prompt}.last")].to_vec1().unwrap();
                let d = distance(logits.last().unwrap(), &last);
                assert!(d < most, "{name} {dtype:?} {prompt}: {d}");
            }
        }
    }
}

/// Greedy continuation; starts again where longrope changes its frequencies.
fn greedy(decoder: &Decoder, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = decoder.cache();
    let mut all = prompt.to_vec();
    let mut sequence = start(decoder, &mut cache, all.len());
    let mut pending = all.clone();
    for _ in 0..count {
        if decoder.rope_regime(all.len()) != cache.regime(sequence) {
            cache.release(sequence);
            sequence = start(decoder, &mut cache, all.len());
            pending = all.clone();
        }
        let logits = step(decoder, &mut cache, &[(sequence, &pending)]);
        let next = argmax(logits.last().unwrap());
        all.push(next);
        pending = vec![next];
    }
    all.split_off(prompt.len())
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        let case = load(&folder, name, "config.json");
        for (prompt, entry) in case.golden["greedy"].as_object().unwrap() {
            let expected = ids(&entry["new_ids"]);
            let got = greedy(&case.decoder, &ids(&case.golden["prompts"][prompt]["ids"]), expected.len());
            assert_eq!(got, expected, "{name} {prompt}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_batched_chunked_continued_and_forked() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        let case = load(&folder, name, "config.json");
        let decoder = &case.decoder;
        let prompts: Vec<Vec<u32>> =
            ["p7", "p33", "p96"].iter().map(|p| ids(&case.golden["prompts"][*p]["ids"])).collect();
        let alone: Vec<Vec<Vec<f32>>> = prompts
            .iter()
            .map(|p| {
                let mut cache = decoder.cache();
                let s = start(decoder, &mut cache, p.len());
                step(decoder, &mut cache, &[(s, p)])
            })
            .collect();

        let mut cache = decoder.cache();
        let rows: Vec<(SequenceId, &[u32])> =
            prompts.iter().map(|p| (start(decoder, &mut cache, p.len()), p.as_slice())).collect();
        let batched = step(decoder, &mut cache, &rows);
        assert!(batched == alone.concat(), "{name}: ragged batch");

        for chunk in [1, 5, 64] {
            let mut cache = decoder.cache();
            let s = start(decoder, &mut cache, prompts[2].len());
            let chunked: Vec<Vec<f32>> =
                prompts[2].chunks(chunk).flat_map(|c| step(decoder, &mut cache, &[(s, c)])).collect();
            assert!(chunked == alone[2], "{name}: chunks of {chunk}");
        }

        // A fork after 70 positions shares one whole block and copies the second when it writes.
        let mut cache = decoder.cache();
        let s = start(decoder, &mut cache, prompts[2].len());
        step(decoder, &mut cache, &[(s, &prompts[2][..90])]);
        let forks: Vec<SequenceId> = (0..3).map(|_| cache.fork(s, 70).unwrap()).collect();
        let tail = &prompts[2][70..];
        let rows: Vec<(SequenceId, &[u32])> = forks.iter().map(|&f| (f, tail)).collect();
        let forked = step(decoder, &mut cache, &rows);
        assert!(forked == [&alone[2][70..]; 3].concat(), "{name}: forks");
        let rest = step(decoder, &mut cache, &[(s, &prompts[2][90..])]);
        assert!(rest == alone[2][90..], "{name}: the origin after its forks wrote");
        cache.truncate(s, 40);
        let again = step(decoder, &mut cache, &[(s, &prompts[2][40..])]);
        assert!(again == alone[2][40..], "{name}: after truncation");
    }
}

#[test]
fn the_cache_grows_by_blocks_and_forks_share_them() {
    let Some(folder) = goldens() else { return };
    let decoder = load(&folder, "qwen3", "config.json").decoder;
    let mut cache = decoder.cache();
    let block = cache.bytes_for(1);
    let sequence = start(&decoder, &mut cache, 1);
    assert_eq!(cache.bytes(), 0, "nothing is set aside");
    for (tokens, blocks) in [(1, 1), (63, 1), (1, 2), (64, 3)] {
        step(&decoder, &mut cache, &[(sequence, &vec![7; tokens])]);
        assert_eq!(cache.bytes(), blocks * block, "{tokens} more");
    }
    let forks: Vec<SequenceId> = (0..4).map(|_| cache.fork(sequence, 100).unwrap()).collect();
    assert_eq!(cache.bytes(), 3 * block, "a fork costs nothing");
    step(&decoder, &mut cache, &[(forks[0], &[9])]);
    assert_eq!(cache.bytes(), 4 * block, "a block of its own where it writes");
    forks.into_iter().chain([sequence]).for_each(|s| cache.release(s));
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn every_architecture_trains_what_it_runs() {
    let Some(folder) = goldens() else { return };
    for name in CHECKPOINTS {
        let case = load(&folder, name, "config.json");
        let source = SafetensorsFolder::open(&folder.join(name)).unwrap();
        let load = |train: Train| {
            let options =
                TrainableOptions { device: Device::Cpu, arithmetic: kernels::Arithmetic::F32, train };
            TrainableDecoder::load(case.decoder.config(), &source, options).unwrap()
        };
        let decoder = load(Train::All);
        let prompts: Vec<Vec<u32>> =
            ["p33", "p7"].iter().map(|p| ids(&case.golden["prompts"][*p]["ids"])).collect();
        let mut batch = PackedBatch::default();
        for prompt in &prompts {
            batch.push(prompt);
        }
        // Of the same tokens: what inference says of each, and what training says of them.
        let mut cache = case.decoder.cache();
        let rows: Vec<(SequenceId, &[u32])> =
            prompts.iter().map(|p| (start(&case.decoder, &mut cache, p.len()), p.as_slice())).collect();
        let logits = step(&case.decoder, &mut cache, &rows);
        let targets: Vec<u32> = prompts.concat();
        let expected: Vec<f32> = logits
            .iter()
            .zip(&targets)
            .map(|(row, &t)| {
                let largest = row.iter().copied().fold(f32::MIN, f32::max);
                row[t as usize] - largest - row.iter().map(|z| (z - largest).exp()).sum::<f32>().ln()
            })
            .collect();
        let logprobs = |decoder: &TrainableDecoder, batch: &PackedBatch| -> Vec<f32> {
            let pass = decoder.forward(batch, true, Keep::Nothing).unwrap();
            let tokens = decoder.head(false).forward(&pass.hidden, &batch.ids).unwrap();
            tokens.iter().map(|t| t.target).collect()
        };
        let d = distance(&logprobs(&decoder, &batch), &expected);
        assert!(d < 1e-4, "{name}: {d}");
        // A prompt computed once for its answers changes nothing.
        let (prompt, answer) = prompts[0].split_at(20);
        let mut shared = PackedBatch::default();
        let rows = shared.push_prompt(prompt, prompts[0].len());
        shared.push_answer(rows.clone(), answer);
        shared.push_answer(rows, &answer[..5]);
        let found = logprobs(&decoder, &shared);
        assert!(distance(&found[..prompts[0].len()], &expected[..prompts[0].len()]) < 1e-4, "{name}");
        assert!(distance(&found[prompts[0].len()..], &expected[20..25]) < 1e-4, "{name}");

        // Along its own gradient every weight changes the loss as the gradient says, with and without recomputation.
        let loss = |decoder: &TrainableDecoder| -> f64 {
            -logprobs(decoder, &batch).iter().map(|l| f64::from(*l)).sum::<f64>()
        };
        let gradients = |decoder: &TrainableDecoder, whole: usize| -> Gradients {
            let mut gradients = Gradients::default();
            let pass = decoder.forward(&batch, true, Keep::Inputs { whole }).unwrap();
            let each =
                |_: usize, _: &kernels::TokenLogProbs| kernels::TokenGradient { target: -1.0, mean: 0.0 };
            let weight = decoder.head_variable().map(|(name, n)| gradients.entry(name, n));
            let head = decoder.head(false).backward(&pass.hidden, &batch.ids, &each, weight).unwrap();
            decoder.backward(&batch, pass, &head.hidden, &mut gradients).unwrap();
            gradients
        };
        let lora = LoraSettings {
            r: 4,
            alpha: 8.0,
            use_rslora: false,
            target_modules: linear_modules(case.decoder.config()).iter().map(|m| (*m).into()).collect(),
        };
        for decoder in [decoder, load(Train::Lora(lora, 7))] {
            let made = gradients(&decoder, 0);
            assert_eq!(made, gradients(&decoder, 1), "{name}: recomputation changes a gradient");
            assert_eq!(made.sums.len(), decoder.variables().len(), "{name}");
            for (parameter, variable) in decoder.variables() {
                let gradient = &made.sums[parameter];
                let squares: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
                // B is zero at the start: no gradient reaches A.
                if squares < 1e-8 {
                    assert!(
                        parameter.contains("lora_A") || parameter.contains("k_proj.bias"),
                        "{name} {parameter}"
                    );
                    continue;
                }
                let before = variable.as_tensor().copy().unwrap();
                let direction = Tensor::from_vec(gradient.clone(), variable.shape(), &Device::Cpu).unwrap();
                let by = 0.02 / squares;
                let moved = |by: f64| {
                    variable.set(&(&before + (&direction * by).unwrap()).unwrap()).unwrap();
                    loss(&decoder)
                };
                let slope = (moved(by) - moved(-by)) / (2.0 * by);
                variable.set(&before).unwrap();
                assert!((slope / squares - 1.0).abs() < 0.03, "{name} {parameter}: {slope} for {squares}");
            }
        }
    }
}
