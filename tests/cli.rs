//! The `cycle` binary from outside: exit codes, bad input, what is kept when it is killed, and no socket unasked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A home of its own, and the binary in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cycle"));
        command.args(args).current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        command.env("CYCLE_HOME", self.path("home")).env("PATH", std::env::var("PATH").unwrap_or_default());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, checks the exit code, and that an error is at most three lines without a backtrace.
    fn fails(&self, args: &[&str], code: i32, says: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?} should say {says:?}: {stderr}");
        let error: Vec<&str> = stderr.lines().skip_while(|l| !l.starts_with("cycle:")).collect();
        assert!(error.len() <= 3, "{args:?}: {stderr}");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sample() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample/one-reviewer.pdf").display().to_string()
}

fn paper(n: usize) -> String {
    let body =
        "We measure how well one reviewer predicts the others and find that agreement is weak. ".repeat(12);
    format!("# Paper number {n} about agreement\n\n## Abstract\n\n{body}\n\n## Method\n\n{body}\n")
}

fn has_builtin(home: &Home) -> bool {
    let shown = home.run(&["models", "show", "builtin:reviewer"]);
    if !shown.status.success() {
        eprintln!("skipped: this build has no built-in model");
    }
    shown.status.success()
}

const FAST: [&str; 4] = ["--mode", "fast", "--reviewers", "2"];

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(&FAST).copied().collect()
}

#[test]
fn version_help_completions_and_man_pages_are_there() {
    let home = Home::new();
    assert!(text(&home.run(&["--version"])).starts_with("cycle "));
    for command in
        ["review", "research", "read", "generate", "logprobs", "embed", "models", "train", "doctor"]
    {
        let help = text(&home.run(&["help", command]));
        assert!(help.contains("Example: cycle"), "{command}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&home.run(&["completions", shell])).contains("cycle"));
    }
    home.run(&["man", "man1"]);
    assert!(home.path("man1/cycle-review.1").exists());
    home.fails(&["revue"], 2, "review");
}

#[test]
fn the_sample_paper_is_read() {
    let home = Home::new();
    let output = home.run(&["read", &sample(), "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["title"].as_str().unwrap().starts_with("How Much Does One Reviewer Tell?"));
    assert_eq!(document["pages"], 3);
    assert_eq!(document["references"].as_array().unwrap().len(), 5);
}

#[test]
fn files_that_cannot_be_read_exit_3_with_their_name() {
    let home = Home::new();
    home.fails(&["read", "missing.pdf"], 3, "missing.pdf");
    home.write("empty.pdf", "");
    home.fails(&["read", "empty.pdf"], 3, "empty.pdf");
    home.write("not.pdf", "just some words");
    home.fails(&["read", "not.pdf"], 3, "not.pdf");
    let whole = fs::read(sample()).unwrap();
    home.write("cut.pdf", &whole[..700]);
    home.fails(&["read", "cut.pdf"], 3, "cut.pdf");
    home.fails(&["review", "missing.pdf"], 3, "missing.pdf");
}

#[test]
fn checkpoints_that_cannot_be_used_exit_4() {
    let home = Home::new();
    home.write("half.gguf", b"GGUF\x03\0\0\0");
    home.fails(&["generate", "--prompt", "x", "--model", "half.gguf"], 4, "half.gguf");
    home.write("folder/config.json", r#"{"model_type": "mamba", "vocab_size": 3}"#);
    home.fails(&["generate", "--prompt", "x", "--model", "folder"], 4, "folder");
    home.write("shard/config.json", "{}");
    home.write("shard/model.safetensors.index.json", r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
    home.fails(&["generate", "--prompt", "x", "--model", "shard"], 4, "model-1.safetensors");
    home.fails(&["generate", "--prompt", "x", "--model", "nowhere"], 4, "nowhere");
    home.fails(&["review", &sample(), "--model", "builtin:reviwer"], 4, "builtin:reviewer");
    home.fails(&["review", &sample(), "--model", "small:reviewer"], 4, "README");
}

#[test]
fn a_server_is_refused_offline() {
    let home = Home::new();
    home.fails(&["review", &sample(), "--offline", "--model", "http://127.0.0.1:9/v1#m"], 2, "--offline");
}

#[test]
fn configuration_shows_its_origin_and_unknown_keys_are_refused() {
    let home = Home::new();
    home.write("cycle.toml", "form = \"neurips\"\n");
    let shown = text(&home.command(&["config", "show"]).env("CYCLE_SEED", "7").output().unwrap());
    assert!(
        shown.contains("form = neurips  (cycle.toml)") && shown.contains("seed = 7  (CYCLE_SEED)"),
        "{shown}"
    );
    home.write("cycle.toml", "fom = \"neurips\"\n");
    home.fails(&["config", "show"], 4, "form");
}

#[test]
fn a_store_that_cannot_be_used_says_why() {
    let home = Home::new();
    let garbage = home.write("garbage.db", vec![7u8; 9000]);
    home.fails(&["papers", "list", "--store", garbage.to_str().unwrap()], 4, "is no cycle store");
    home.fails(&["reviews", "show", "r123456"], 2, "r123456");
    home.fails(&["papers", "list", "--store", "/proc/nowhere/cycle.db"], 5, "/proc/nowhere");
}

#[test]
fn a_bibliography_with_broken_entries_keeps_the_good_ones() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write(
        "refs.bib",
        "@article{good2020, title={A good paper on agreement}, author={Ann Doe}, year={2020}}\n\n@article{broken, title={No end\n\n\
         @article{also2021, title={Another paper on scores}, author={Bo Li}, year={2021}}\n",
    );
    let output = home.run(&[
        "research",
        "--topic",
        "Agreement",
        "--references",
        "refs.bib",
        "--out",
        "draft",
        "--simulate",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for name in [
        "paper.pdf",
        "paper.tex",
        "references.bib",
        "paper.html",
        "paper.json",
        "experiment.json",
        "results.json",
        "manifest.json",
    ] {
        assert!(home.path("draft").join(name).exists(), "{name}");
    }
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path("draft/paper.json")).unwrap()).unwrap();
    assert_eq!(record["schema"], "cycle.paper/1");
    assert_eq!(record["simulated"], true);
    assert!(fs::read_to_string(home.path("draft/paper.html")).unwrap().contains("simulated results"));
    // The same words again: every stage is taken from the store.
    let before = fs::read(home.path("draft/paper.pdf")).unwrap();
    let again = home.run(&[
        "research",
        "--topic",
        "Agreement",
        "--references",
        "refs.bib",
        "--out",
        "again",
        "--simulate",
    ]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("stages are stored"));
    assert!(before == fs::read(home.path("again/paper.pdf")).unwrap());
}

#[test]
fn a_review_is_stored_shown_again_and_written_in_every_format() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    let first = home.run(&with(&["review", &sample(), "--format", "json"]));
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    let review: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(review["schema"], "cycle.review/1");
    assert_eq!(review["parse"]["full"], 2);
    for reviewer in review["reviewers"].as_array().unwrap() {
        let distribution = reviewer["scores"]["rating"]["distribution"].as_object().unwrap();
        assert_eq!(distribution.keys().collect::<Vec<_>>(), ["1", "10", "3", "5", "6", "8"]);
        let total: f64 = distribution.values().map(|p| p.as_f64().unwrap()).sum();
        assert!((total - 1.0).abs() < 1e-9);
    }
    let again = home.run(&with(&["review", &sample(), "--format", "json"]));
    assert!(String::from_utf8_lossy(&again.stderr).contains("from the store"));
    assert_eq!(first.stdout, again.stdout);
    let id = review["id"].as_str().unwrap();
    for (format, says) in [("html", "<!doctype html>"), ("md", "# Review of"), ("text", "Decision:")] {
        let shown = text(&home.run(&["reviews", "show", &id[..6], "--format", format]));
        assert!(shown.contains(says), "{format}");
    }
    let forced = home.run(&with(&["review", &sample(), "--format", "json", "--force", "--threads", "1"]));
    let forced: serde_json::Value = serde_json::from_slice(&forced.stdout).unwrap();
    assert_eq!(forced["reviewers"], review["reviewers"], "one thread gives the same review as two");
}

#[test]
fn a_bad_file_among_good_ones_is_a_row_and_exit_1() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("papers/a.md", paper(1));
    home.write("papers/b.pdf", "no PDF");
    let output = home.run(&with(&["review", "papers", "--out", "out"]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let ranking = fs::read_to_string(home.path("out/ranking.csv")).unwrap();
    assert_eq!(ranking.lines().count(), 3, "{ranking}");
    assert!(home.path("out/a.md.json").exists());
}

#[test]
fn killing_a_batch_loses_nothing_that_was_finished_and_the_rerun_does_the_rest() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    for n in 0..10 {
        home.write(&format!("papers/{n}.md"), paper(n));
    }
    let args = with(&["review", "papers", "--format", "json", "--out", "out"]);
    let mut child = home.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let stored = || {
        let rows = text(&home.run(&["reviews", "list", "--format", "json"]));
        serde_json::from_str::<serde_json::Value>(&rows)
            .map_or(0, |v| v["rows"].as_array().map_or(0, Vec::len))
    };
    let started = Instant::now();
    while stored() < 3 && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = stored();
    assert!((3..10).contains(&before), "{before} reviews when it was killed");
    let rerun = home.run(&args);
    assert_eq!(rerun.status.code(), Some(0));
    let reused = String::from_utf8_lossy(&rerun.stderr).matches("from the store").count();
    assert_eq!(reused, before, "the rerun does only the rest");
    assert_eq!(stored(), 10);
}

#[cfg(target_os = "linux")]
#[test]
fn no_socket_is_opened_unasked() {
    let home = Home::new();
    let works = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    // strace sees every socket; without it, a namespace that has no network at all.
    let strace = works("strace", &["-o", "/dev/null", "true"]);
    if !strace && !works("unshare", &["-rn", "true"]) {
        eprintln!("skipped: neither strace nor unshare -rn can be used here");
        return;
    }
    let run = |name: &str, args: &[&str]| {
        let trace = home.path(name);
        let mut command = Command::new(if strace { "strace" } else { "unshare" });
        if strace {
            command.args(["-f", "-qq", "-e", "trace=socket,execve", "-o"]).arg(&trace);
        } else {
            command.arg("-rn");
        }
        command.arg(env!("CARGO_BIN_EXE_cycle")).args(args).current_dir(home.0.path());
        let output =
            command.env("CYCLE_HOME", home.path("home")).env("HOME", home.0.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        if strace {
            let trace = fs::read_to_string(trace).unwrap();
            assert!(trace.contains("execve"), "{args:?}: nothing was traced");
            assert!(!trace.contains("AF_INET"), "{args:?}: {trace}");
        }
    };
    run("read.trace", &["read", &sample()]);
    if has_builtin(&home) {
        run("review.trace", &with(&["review", &sample()]));
    }
}
