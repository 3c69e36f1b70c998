//! The model alone, from outside: `cycle generate`, `logprobs` and `embed`, on this machine and through a server.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cycle"));
        command.args(args).current_dir(self.0.path()).env_clear().envs(variables.iter().copied());
        command.env("HOME", self.0.path()).env("CYCLE_HOME", self.0.path().join("home")).output().unwrap()
    }

    /// The JSON of a command that must end with this code.
    fn json(&self, args: &[&str], variables: &[(&str, &str)], code: i32) -> Value {
        let output = self.run(args, variables);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Standard error of a command that must end with this code.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }
}

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

type Log = Arc<Mutex<Vec<(Option<String>, Value)>>>;

/// A server that repeats the last message, and refuses those that ask for it.
fn echo() -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1#m", listener.local_addr().unwrap());
    let log: Log = Arc::default();
    let seen = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut length, mut key) = (0, None);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                match line.trim().split_once(": ") {
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.parse().unwrap();
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                        key = Some(value.to_string());
                    }
                    Some(_) => {}
                    None if line.trim().is_empty() => break,
                    None => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let text = asked["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
            let (status, answer) = if text == "refuse me" {
                ("403 Forbidden", json!({"error": {"message": "no"}}))
            } else {
                let choice =
                    json!({"message": {"content": format!("heard {text}")}, "finish_reason": "stop"});
                let usage = json!({"prompt_tokens": 3, "completion_tokens": 2});
                ("200 OK", json!({"choices": [choice], "usage": usage}))
            };
            seen.lock().unwrap().push((key, asked.clone()));
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
        }
    });
    (base, log)
}

#[test]
fn a_server_reads_prompts_dialogues_and_files_alike() {
    let home = Home::new();
    let (server, log) = echo();
    home.write(
        "talk.json",
        r#"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}]"#,
    );
    home.write("more.jsonl", "{\"prompt\": \"three\", \"id\": 7}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"four\"}]}\n");
    let from = ["--prompt", "one", "--messages", "talk.json", "--input", "more.jsonl"];
    let generate = |more: &[&'static str]| {
        let start = ["generate", "--format", "json", "--seed", "5", "--max-tokens", "9", "--model", &server];
        start.iter().map(|s| s.to_string()).chain(more.iter().map(|s| s.to_string())).collect::<Vec<_>>()
    };
    let args = generate(&from);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let document = home.json(&args, &[("CYCLE_API_KEY", "secret")], 0);
    let texts: Vec<&str> =
        document["outputs"].as_array().unwrap().iter().map(|o| o["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["heard one", "heard two", "heard three", "heard four"]);
    assert_eq!(document["usage"]["generated_tokens"], 8);
    let seen = log.lock().unwrap().clone();
    assert!(
        seen.iter().all(|(key, body)| key.as_deref() == Some("Bearer secret") && body["max_tokens"] == 9)
    );
    let dialogue = seen.iter().find(|(_, body)| body["messages"].as_array().unwrap().len() == 2).unwrap();
    assert_eq!(dialogue.1["messages"][0], json!({"role": "system", "content": "Be brief."}));

    // One answer that fails leaves the others.
    let args = generate(&["--prompt", "refuse me", "--prompt", "one"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let document = home.json(&args, &[], 1);
    assert!(document["outputs"][0]["error"].as_str().unwrap().contains("403"));
    assert_eq!(document["outputs"][1]["text"], "heard one");
    assert!(
        home.fails(&["generate", "--model", &server, "--prompt", "refuse me"], 6).contains("CYCLE_API_KEY")
    );
    for wrong in [["--tokens", "1,2"], ["--raw", "--prompt=a"], ["--ignore-eos", "--prompt=a"]] {
        home.fails(&["generate", "--model", &server, wrong[0], wrong[1]], 2);
    }
}

#[test]
fn prompts_that_say_nothing_are_named_with_their_line() {
    let home = Home::new();
    home.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
    home.write("bad.json", r#"{"role": "user"}"#);
    assert!(home.fails(&["generate", "--input", "bad.jsonl"], 3).contains("bad.jsonl, line 2"));
    assert!(home.fails(&["generate", "--messages", "bad.json"], 3).contains("bad.json"));
    assert!(home.fails(&["generate", "--input", "none.jsonl"], 3).contains("none.jsonl"));
    assert!(home.fails(&["generate"], 2).contains("--prompt"));
    home.fails(&["generate", "--prompt", "a", "-n", "0"], 2);
}

#[test]
fn a_micro_checkpoint_gives_its_goldens_whatever_the_threads_and_instructions() {
    let Some(folder) = goldens() else { return };
    let (home, folder) = (Home::new(), folder.join("mistral_window"));
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let list = |v: &Value| -> String {
        let ids: Vec<String> = v.as_array().unwrap().iter().map(Value::to_string).collect();
        ids.join(",")
    };
    let (prompt, model) = (list(&golden["prompts"]["p33"]["ids"]), folder.display().to_string());
    let mut all = Vec::new();
    for (threads, level) in [("1", ""), ("2", ""), ("4", "avx2"), ("1", "portable")] {
        let args = ["generate", "--model", &model, "--tokens", &prompt, "--max-tokens", "32", "--ignore-eos"];
        let args: Vec<&str> = args.into_iter().chain(["--format", "json", "--threads", threads]).collect();
        all.push(home.json(&args, &[("CYCLE_CPU", level)], 0)["outputs"].clone());
    }
    assert_eq!(all[0][0]["tokens"], golden["greedy"]["p33"]["new_ids"]);
    assert!(all.iter().all(|outputs| *outputs == all[0]), "the same log-probabilities to the bit");
    let scored = home.json(&["logprobs", "--model", &model, "--tokens", &prompt, "--logits", "0,32"], &[], 0);
    let output = &scored["outputs"][0];
    assert_eq!(
        (output["logprobs"][0].is_null(), output["logits"]["32"].as_array().unwrap().len()),
        (true, 512)
    );
    assert!(
        home.fails(&["logprobs", "--model", &model, "--tokens", "1,2", "--logits", "2"], 2)
            .contains("2 tokens")
    );
    assert!(home.fails(&["generate", "--model", &model, "--tokens", "1,512"], 2).contains("token 512"));
}

#[test]
fn texts_are_embedded_from_all_sides_with_length_one() {
    let Some(folder) = goldens() else { return };
    let (home, folder) = (Home::new(), folder.join("bert"));
    let model = folder.display().to_string();
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tensors =
        candle_core::safetensors::load(folder.join("golden.safetensors"), &candle_core::Device::Cpu).unwrap();
    let wanted: Vec<Vec<f32>> = tensors["mean_pooled_l2"].to_vec2().unwrap();
    // The third has two kinds of tokens, which only a pair of texts has.
    home.write(
        "ids.jsonl",
        &["p33", "p7"].map(|p| json!({"tokens": golden["prompts"][p]["ids"]}).to_string()).join("\n"),
    );
    let got = home.json(&["embed", "--model", &model, "--input", "ids.jsonl"], &[], 0);
    for (vector, wanted) in got["embeddings"].as_array().unwrap().iter().zip([&wanted[1], &wanted[0]]) {
        let vector: Vec<f64> = vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert!(vector.iter().zip(wanted).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-5));
        assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    let text = home.run(&["embed", "--model", &model, "--tokens", "2,9,3", "--format", "text"], &[]);
    assert_eq!(String::from_utf8(text.stdout).unwrap().split_whitespace().count(), wanted[0].len());
    assert!(home.fails(&["embed", "--model", &model], 2).contains("--prompt"));
    assert!(home.fails(&["embed", "--model", &model, "--prompt", "a"], 4).contains("tokenizer"));
}
