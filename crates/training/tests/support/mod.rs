//! The goldens in shared/, and how their cases read as recipes.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part of it; a test fails by panicking

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::Value;
use training::objectives::{Objective, OneOrMany, Reduction, Settings};
use training::{Recipe, Watch};

pub fn goldens() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/train");
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

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-6)
}

/// Remembers what it is told; stops after a step.
#[derive(Default)]
pub struct Lines {
    pub lines: Vec<Value>,
    pub stop_at: Option<usize>,
}

impl Watch for Lines {
    fn step(&mut self, metrics: &Value, _: usize) {
        self.lines.push(metrics.clone());
    }
    fn cancelled(&mut self) -> bool {
        self.stop_at.is_some_and(|n| self.lines.len() >= n)
    }
}

/// A folder with a micro checkpoint (`llama-policy`, …), its tokenizer, and further tensors beside its own.
pub fn checkpoint(goldens: &Path, name: &str, to: &Path, heads: &[(&str, &str)]) {
    let from = goldens.join("models").join(name);
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    fs::copy(goldens.join("models/tokenizer.json"), to.join("tokenizer.json")).unwrap();
    let cpu = candle_core::Device::Cpu;
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(from.join("model.safetensors"), &cpu).unwrap();
    let more = candle_core::safetensors::load(goldens.join("models/heads.safetensors"), &cpu).unwrap();
    for (theirs, ours) in heads {
        tensors.insert((*ours).to_string(), more[*theirs].clone());
    }
    candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
}

pub fn write_rows(path: &Path, rows: &[Value]) {
    let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
    fs::write(path, lines).unwrap();
}

pub fn parse(text: &str) -> Recipe {
    Recipe::parse(text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Our settings of a case's `hp`.
pub fn settings(case: &Value) -> Settings {
    let hp = &case["hp"];
    let short = case["name"].as_str().unwrap().rsplit('/').next().unwrap();
    let names: Vec<String> = match case["trainer"].as_str() {
        Some("cpo") => vec![match hp["loss_type"].as_str().unwrap() {
            "sigmoid" => "cpo".into(),
            "alphapo" => "alphapo".into(),
            other => format!("cpo_{other}"),
        }],
        Some("orpo") => vec!["orpo".into()],
        Some("kto") => vec![hp["loss_type"].as_str().unwrap().into()],
        Some("dpo") => serde_json::from_value(hp["loss_type"].clone()).unwrap(),
        _ => vec![
            match short.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches("_b") {
                s if s.starts_with("simpo_nll") => "simpo",
                "cdpo_e" => "cdpo",
                "dpo_reference_free" | "sigmoid_alpha" => "sigmoid",
                "dpo_len_norm" => "sigmoid_norm",
                "wpo_hinge" => "hinge",
                "dpo_offset" => "dpo_offset",
                "dno_prct_eta" => "dno_prct",
                "dno_soft_eta" => "dno",
                "gpo_score" => "gpo",
                "gpo_scaled_half" => "gpo_scaled",
                "gpo_score_len_norm" => "ln_gpo",
                "bco_batch_delta" => "bco_pair_delta",
                s if s.starts_with("spo_") => "sigmoid",
                other => other,
            }
            .into(),
        ],
    };
    let number = |key: &str| hp[key].as_f64();
    let spo = short.starts_with("spo_");
    let mut s = Settings {
        beta: number("beta"),
        gamma: number("simpo_gamma").or(number("gamma").filter(|_| !spo)),
        alpha: number("alpha"),
        eta: number("eta"),
        tau: number("discopop_tau"),
        label_smoothing: number("label_smoothing").or(number("eps")),
        nll_weight: number("cpo_alpha").or(number("lam")),
        f_divergence_type: serde_json::from_value(hp["f_divergence_type"].clone()).ok(),
        f_alpha_divergence_coef: number("f_alpha_divergence_coef").or(number("a")),
        ld_alpha: number("ld_alpha"),
        use_weighting: hp["use_weighting"].as_bool(),
        desirable_weight: number("desirable_weight"),
        undesirable_weight: number("undesirable_weight"),
        loss_weights: serde_json::from_value(hp["loss_weights"].clone()).ok(),
        ..Settings::default()
    };
    match short {
        "sft" => s.beta = None, // TRL's metrics use it, the loss does not
        "simpo_nll_b2.0_g0.5_l1.0" | "simpo_nll_b2.5_g1.4_l0.1" => {
            s.nll_reduction = Some(Reduction::Sequence)
        }
        "dpo_reference_free" => s.reference_free = Some(true),
        "wpo_hinge" => s.use_weighting = Some(true),
        "sigmoid_alpha0.25" | "sigmoid_alpha0.5" if hp["a"].is_number() => {
            s.f_divergence_type = Some(training::objectives::Divergence::AlphaDivergence);
        }
        "sigmoid_label_smoothing_ignored" => {
            let with = Settings { name: OneOrMany::One("sigmoid".into()), ..s.clone() };
            assert!(Objective::new(&with).unwrap_err().contains("TRL ignores it"));
            s.label_smoothing = None;
        }
        _ => {}
    }
    s.name = OneOrMany::Many(names);
    s
}
