//! What the end-to-end tests share: a home of their own, the binary in it, small inputs.
#![allow(dead_code)] // each test file uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home of its own, and the binary in it.
pub struct Home(pub tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cycle"));
        command.args(args).current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        command.env("CYCLE_HOME", self.path("home")).env("PATH", std::env::var("PATH").unwrap_or_default());
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, checks the exit code, and that an error is at most three lines without a backtrace.
    pub fn fails(&self, args: &[&str], code: i32, says: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?} should say {says:?}: {stderr}");
        let error: Vec<&str> = stderr.lines().skip_while(|l| !l.starts_with("cycle:")).collect();
        assert!((1..=3).contains(&error.len()), "{args:?}: {stderr}");
    }
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn sample() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample/one-reviewer.pdf").display().to_string()
}

pub fn paper(n: usize) -> String {
    let body =
        "We measure how well one reviewer predicts the others and find that agreement is weak. ".repeat(12);
    format!("# Paper number {n} about agreement\n\n## Abstract\n\n{body}\n\n## Method\n\n{body}\n")
}

pub fn has_builtin(home: &Home) -> bool {
    let shown = home.run(&["models", "show", "builtin:reviewer"]);
    if !shown.status.success() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: this build has no built-in model\n"),
        );
    }
    shown.status.success()
}

pub const FAST: [&str; 4] = ["--mode", "fast", "--reviewers", "2"];

pub fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(&FAST).copied().collect()
}

/// A llama of a few hundred weights that `change` may damage: `(config, name of a tensor, its values)`.
pub fn checkpoint(home: &Home, name: &str, mut change: impl FnMut(&str, &mut Vec<f32>)) {
    let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":32,"hidden_size":16,
        "intermediate_size":32,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2,"head_dim":8,
        "hidden_act":"silu","rms_norm_eps":1e-5,"rope_theta":10000.0,"max_position_embeddings":256,
        "tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":2}"#;
    home.write(&format!("{name}/config.json"), config);
    tokenizer(home, name, 32);
    let square: &[usize] = &[16, 16];
    let shapes: [(&str, &[usize]); 11] = [
        ("model.embed_tokens.weight", &[32, 16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.q_proj.weight", square),
        ("model.layers.0.self_attn.k_proj.weight", square),
        ("model.layers.0.self_attn.v_proj.weight", square),
        ("model.layers.0.self_attn.o_proj.weight", square),
        ("model.layers.0.post_attention_layernorm.weight", &[16]),
        ("model.layers.0.mlp.gate_proj.weight", &[32, 16]),
        ("model.layers.0.mlp.up_proj.weight", &[32, 16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 32]),
        ("model.norm.weight", &[16]),
    ];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (tensor, shape) in shapes {
        let count: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..count).map(|i| ((i * 37 + shape.len()) as f32).sin() * 0.3).collect();
        change(tensor, &mut values);
        let from = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(tensor.into(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    home.write(&format!("{name}/model.safetensors"), file);
}

/// A tokenizer of so many words for a checkpoint.
pub fn tokenizer(home: &Home, name: &str, words: usize) {
    let word = |i: usize| {
        ["<unk>".to_string(), "<s>".into(), "</s>".into()].get(i).cloned().unwrap_or(format!("w{i}"))
    };
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..words).map(|i| (word(i), serde_json::json!(i))).collect();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": word(id), "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0), special(1), special(2)], "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}});
    home.write(&format!("{name}/tokenizer.json"), tokenizer.to_string());
}

/// Asks a process to stop, as ctrl-C does.
pub fn interrupt(child: &std::process::Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A recipe over the mini model and rows that the binary makes; `more` stands before the optimiser's table.
pub fn mini(kind: &str, objective: &str, rows: &str, more: &str, steps: usize) -> String {
    format!(
        "kind = \"{kind}\"\nmodel = \"$CYCLE_HOME/mini/model\"\nout = \"out\"\n[data]\n\
         train = \"$CYCLE_HOME/mini/{rows}.jsonl\"\nmax_length = 128\n[objective]\n{objective}\n{more}\n[optimizer]\n\
         learning_rate = 3e-3\nmax_steps = {steps}\nbatch_size = 4\n[save]\nevery = 3\nkeep = 2\n"
    )
}
