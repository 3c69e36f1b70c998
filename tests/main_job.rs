//! The main job through the binary: read, review, research; and no socket unasked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
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
fn papers_are_drafted_several_times_judged_and_ranked() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("refs.bib", "@article{doe2020, title={On agreement}, author={Jane Doe}, year={2020}}\n");
    let mut args = vec!["research", "--topic", "Agreement", "--references", "refs.bib", "--out", "drafts"];
    args.extend(["--papers", "2", "--best-of", "2", "--max-tokens", "300"]);
    let output = home.run(&args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let ranking = fs::read_to_string(home.path("drafts/ranking.csv")).unwrap();
    let rows: Vec<&str> = ranking.lines().skip(1).collect();
    assert!(rows.len() == 2 && rows.iter().all(|r| r.contains("builtin:reviewer")), "{ranking}");
    // Each paper is the better of its two drafts, and the better paper stands first.
    let said: Vec<f64> =
        stderr.lines().filter_map(|l| l.split_once("the judge expects ")?.1.parse().ok()).collect();
    assert_eq!(said.len(), 4, "{stderr}");
    let mut best = [said[0].max(said[1]), said[2].max(said[3])];
    best.sort_by(|a, b| b.total_cmp(a));
    for (row, best) in rows.iter().zip(best) {
        // expected, judge, citations kept and removed, unbacked numbers; a title before them may hold commas.
        let expected: f64 = row.rsplit(',').nth(4).unwrap().parse().unwrap();
        assert!((expected - best).abs() < 0.0051, "{ranking}");
    }
    // Drafts and verdicts are stages of stored runs: the same words again ask no model.
    let again = home.run(&args);
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(fs::read_to_string(home.path("drafts/ranking.csv")).unwrap(), ranking);
    assert_eq!(String::from_utf8_lossy(&again.stderr).matches("stages are stored").count(), 4);
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
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: neither strace nor unshare -rn can be used here\n"),
        );
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

#[test]
fn the_adapters_that_ship_change_what_smollm2_thinks_likely_and_are_put_beside_the_models_once() {
    let home = Home::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.is_file() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: SmolLM2 is not in ./models\n");
        return;
    }
    fs::create_dir_all(home.path("home/models")).unwrap();
    let inside = home.path("home/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    #[cfg(unix)]
    std::os::unix::fs::symlink(model.canonicalize().unwrap(), &inside).unwrap();
    #[cfg(not(unix))]
    fs::copy(&model, &inside).unwrap();
    let perplexity = |reference: &str, text: &str| -> f64 {
        let output =
            home.run(&["logprobs", "--model", reference, "--raw", "--prompt", text, "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value["outputs"][0]["perplexity"].as_f64().unwrap()
    };
    let base = inside.display().to_string();
    let review = "### Strengths\n\n- The paper is well written.\n\n### Weaknesses\n\n- The novelty is limited.\n\n### Rating\n\n4: \
                  marginally below the acceptance threshold";
    assert!(perplexity("small:reviewer", review) < 0.8 * perplexity(&base, review));
    if home.run(&["models", "verify", "small:researcher"]).status.code() == Some(0) {
        let draft = "## Main Idea\n\nWe propose a method.\n\n```latex\n\\title{A Method}\n\n\\begin{abstract}\nWe propose";
        assert!(perplexity("small:researcher", draft) < perplexity(&base, draft));
    }
    let placed = fs::read_dir(home.path("home/models")).unwrap().count();
    assert!(placed >= 2, "the adapter lies beside the model");
    perplexity("small:reviewer", "a text");
    assert_eq!(fs::read_dir(home.path("home/models")).unwrap().count(), placed);
}
