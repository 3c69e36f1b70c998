//! The main job through the binary: read, review, research; and no socket unasked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::process::Command;

use support::{Home, has_builtin, sample, text, with};

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
fn a_server_is_refused_offline() {
    let home = Home::new();
    home.fails(&["review", &sample(), "--offline", "--model", "http://127.0.0.1:9/v1#m"], 2, "--offline");
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
