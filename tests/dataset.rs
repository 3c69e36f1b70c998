//! `cycle dataset` from end to end: a local server that plays the services with planted failures, kills in the middle,
//! and the commands that look at what was built.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

#[path = "support/services.rs"]
mod services;
mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use services::{Mood, PAPERS, Services};
use support::{Home, text};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Words of a build against a server.
fn words(services: &Services, out: &str, more: &[&str]) -> Vec<String> {
    let mut words: Vec<String> =
        ["dataset", "build", "spec.toml", "--out", out, "--pause", "3", "--page", "10", "--format", "json"]
            .map(String::from)
            .to_vec();
    words.extend(services.options());
    words.extend(more.iter().map(|m| m.to_string()));
    words
}

fn run(home: &Home, words: &[String]) -> std::process::Output {
    home.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn built(home: &Home, services: &Services, out: &str, more: &[&str]) -> Value {
    home.write("spec.toml", services.spec("TEST.cc/2024/Conference"));
    let output = run(home, &words(services, out, more));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text(&output)).unwrap()
}

/// Everything that makes a set, from a server that answers at once.
fn undisturbed(home: &Home) -> (Value, usize) {
    let services = Services::start(2, Mood::Kind);
    (built(home, &services, "kind", &[]), services.requests())
}

#[test]
fn planted_failures_cost_a_request_each_and_change_nothing() {
    let home = Home::new();
    let (plain, requests) = undisturbed(&home);
    let services = Services::start(2, Mood::Planted);
    // Each address fails once at most; a body that was cut and goes on is one more request as well.
    let budget = (2 * requests).to_string();
    let set = built(&home, &services, "planted", &["--budget", &budget]);
    assert_eq!(set["hash"], plain["hash"]);
    assert!(services.requests() <= 2 * requests, "{} of {budget}", services.requests());
    assert!(services.requests() > requests + requests / 2, "too few failures were planted");
    // Complete, each paper once, in the requested order.
    let records = lines(&home.path("planted/.work/crawl/records/submissions.jsonl"));
    let numbers: Vec<i64> = records.iter().map(|r| r["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=PAPERS as i64).collect::<Vec<_>>());
    // Withdrawn papers are named; those whose PDF was taken back meanwhile too.
    let left = lines(&home.path("planted/left_out.jsonl"));
    let by = |step: &str| left.iter().filter(|l| l["step"] == step).count();
    let withdrawn = (1..=PAPERS).filter(|n| n % 10 == 9).count();
    let hidden = (1..=PAPERS).filter(|n| n.is_multiple_of(7) && !n.is_multiple_of(3) && n % 10 != 9).count();
    assert_eq!((by("state"), by("paper-text")), (withdrawn, hidden), "{left:?}");
    assert_eq!(set["rows"], (PAPERS - withdrawn - hidden) as u64);
    let problems = lines(&home.path("planted/problems.jsonl"));
    assert!(problems.iter().all(|p| !p["problem"].as_str().unwrap().contains("rating")), "{problems:?}");
    let rows =
        [lines(&home.path("planted/jsonl/train.jsonl")), lines(&home.path("planted/jsonl/test.jsonl"))]
            .concat();
    for row in &rows {
        assert_eq!(row["reviews"].as_array().unwrap().len(), 3);
        let ratings: HashSet<String> =
            row["ratings"].as_array().unwrap().iter().map(|r| r.to_string()).collect();
        assert_eq!(ratings, ["3.0", "6.0", "10.0"].map(String::from).into());
        let n: usize = row["id"].as_str().unwrap().trim_start_matches("Paper").parse().unwrap();
        let source = if n.is_multiple_of(3) { "latex" } else { "pdf" };
        assert_eq!(row["text_source"], source, "{n}");
        assert!(!row["paper_text"].as_str().unwrap().contains("Jane Doe"));
        if n.is_multiple_of(3) {
            assert_eq!(
                (row["arxiv"]["confidence"].as_f64(), row["arxiv"]["version"].as_i64()),
                (Some(1.0), Some(2))
            );
        }
    }
    // The cache answers without a socket, and nothing has changed.
    let again = built(&home, &services, "planted", &["--offline"]);
    assert_eq!((&again["hash"], &again["unchanged"]), (&set["hash"], &Value::Bool(true)));
}

#[test]
fn the_version_that_was_submitted_is_read_where_openreview_shows_it() {
    let home = Home::new();
    let services = Services::start(2, Mood::Planted);
    let spec = services.spec("TEST.cc/2024/Conference") + "[match]\nversion = \"submitted\"\n";
    home.write("spec.toml", &spec);
    let output = run(&home, &words(&services, "set", &[]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows =
        [lines(&home.path("set/jsonl/train.jsonl")), lines(&home.path("set/jsonl/test.jsonl"))].concat();
    assert!(rows.len() > 30, "{}", rows.len());
    for row in &rows {
        let n: usize = row["id"].as_str().unwrap().trim_start_matches("Paper").parse().unwrap();
        // arXiv has every third paper since January, the reviews are of November: none is read there.
        assert_eq!((&row["text_source"], &row["reviewed"]), (&"pdf".into(), &"2023-11-14".into()), "{n}");
        assert_eq!(row["arxiv"].is_object(), n.is_multiple_of(3), "{n}");
        let (version, day) = match n {
            _ if !n.is_multiple_of(4) => ("submitted", "2022-04-15".into()),
            // The latest file is all that is shown: of an accepted paper the final one.
            _ => ("camera_ready", Value::Null),
        };
        assert_eq!((&row["text_version"], &row["text_date"]), (&version.into(), &day), "{n}");
    }
    // What is later than its reviews can be left out.
    home.write("spec.toml", spec.replace("[filters]", "[filters]\nlater_text = \"drop\""));
    let output = run(&home, &words(&services, "set", &["--offline"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let later = lines(&home.path("set/left_out.jsonl")).iter().filter(|l| l["step"] == "later-text").count();
    assert_eq!(later, rows.iter().filter(|r| r["text_version"] == "camera_ready").count());
}

#[test]
fn a_paper_that_came_later_costs_its_own_requests_alone() {
    let home = Home::new();
    let services = Services::start(2, Mood::Kind);
    let before = built(&home, &services, "set", &[]);
    let asked = services.requests();
    services.submit();
    // Without being told to look again, nothing is asked.
    assert_eq!(built(&home, &services, "set", &[])["hash"], before["hash"]);
    assert_eq!(services.requests(), asked);
    let after = built(&home, &services, "set", &["--refresh"]);
    assert_eq!(after["papers"].as_u64(), before["papers"].as_u64().map(|n| n + 1));
    // Pages of ten with one that is empty; the new paper is searched for, and each paper whose file was refused asked again.
    let hidden = (1..=PAPERS).filter(|n| n.is_multiple_of(7) && !n.is_multiple_of(3) && n % 10 != 9).count();
    let pages = (PAPERS + 1).div_ceil(10) + 1;
    let extra = services.requests() - asked;
    assert!(extra <= pages + hidden + 12, "{extra} requests for one paper");
}

#[test]
fn pages_that_shift_while_they_are_read_are_read_again() {
    let home = Home::new();
    let services = Services::start(1, Mood::Planted);
    let set = built(&home, &services, "set", &[]);
    let records = lines(&home.path("set/.work/crawl/records/submissions.jsonl"));
    let numbers: Vec<i64> = records.iter().map(|r| r["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=PAPERS as i64).collect::<Vec<_>>());
    let left = lines(&home.path("set/left_out.jsonl"));
    let third = left.iter().find(|l| l["id"] == "Paper0003").unwrap();
    assert_eq!((third["step"].as_str(), third["reason"].as_str()), (Some("state"), Some("it is withdrawn")));
    assert_eq!(set["papers"], PAPERS as u64);
}

#[test]
fn a_crawl_that_is_killed_at_ten_moments_ends_with_the_same_hash() {
    let home = Home::new();
    let (plain, _) = undisturbed(&home);
    let services = Services::start(2, Mood::Planted);
    home.write("spec.toml", services.spec("TEST.cc/2024/Conference"));
    let words = words(&services, "killed", &[]);
    let mut kills = 0;
    let mut state = 0x2545_f491_4f6c_dd1du64 ^ u64::from(std::process::id());
    while kills < 10 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = home.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child =
            child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let seen = services.requests();
        // By requests, not by the clock: whatever the machine's speed, it dies in the middle of its work.
        let moment = seen + 1 + (state >> 33) as usize % 12;
        let mut waited = 0;
        while services.requests() < moment && child.try_wait().unwrap().is_none() && waited < 2_000 {
            std::thread::sleep(Duration::from_millis(1));
            waited += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let output = run(&home, &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let set: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(set["hash"], plain["hash"]);
}

#[test]
fn a_set_is_shown_checked_exported_and_held_against_others() {
    let home = Home::new();
    let (set, _) = undisturbed(&home);
    assert!(home.run(&["dataset", "verify", "kind"]).status.success());
    let shown = home.run(&["dataset", "stats", "kind", "--out", "plots"]);
    assert!(text(&shown).contains("| 2024 | 41 |"), "{}", text(&shown));
    assert!(home.path("plots/ratings-2024.svg").is_file() && home.path("plots/stats.json").is_file());
    let columns = ["dataset", "export", "kind", "--columns", "id,messages", "--out", "train.jsonl"];
    assert!(home.run(&columns).status.success());
    let rows = lines(&home.path("train.jsonl"));
    assert_eq!(rows.len() as u64, set["splits"]["train"].as_u64().unwrap());
    let turns: Vec<&str> =
        rows[0]["messages"].as_array().unwrap().iter().map(|t| t["role"].as_str().unwrap()).collect();
    assert_eq!(turns, ["system", "user", "assistant"]);
    let answer = rows[0]["messages"][2]["content"].as_str().unwrap();
    let first = answer.find("3: reject").unwrap();
    assert!(first < answer.find("10: ").unwrap(), "the harshest reviewer is not first: {answer}");
    // Both halves of the same set share nothing; the set and its own export share all.
    home.fails(&["dataset", "leakage", "kind"], 2, "no other set is in the store");
    let leak =
        home.run(&["dataset", "leakage", "kind", "--against", "kind/jsonl/test.jsonl", "--format", "json"]);
    assert_eq!(leak.status.code(), Some(1));
    let report: Value = serde_json::from_str(&text(&leak)).unwrap();
    let same: Vec<&Value> =
        report["leaks"].as_array().unwrap().iter().filter(|l| l["same"] == "id").collect();
    assert_eq!(same.len() as u64, set["splits"]["test"].as_u64().unwrap());
    let parquet =
        home.run(&["dataset", "leakage", "kind", "--against", "kind/data/test.parquet", "--format", "json"]);
    let of_parquet: Value = serde_json::from_str(&text(&parquet)).unwrap();
    assert_eq!(of_parquet["leaks"].as_array().unwrap().len(), report["leaks"].as_array().unwrap().len());
    assert!(same.iter().all(|l| l["split"] == "test"));
    // What was changed behind the manifest's back is named.
    let path = home.path("kind/jsonl/train.jsonl");
    let changed = fs::read_to_string(&path).unwrap().replacen("3.0", "4.0", 1);
    fs::write(&path, changed).unwrap();
    let faults = home.run(&["dataset", "verify", "kind"]);
    assert_eq!(faults.status.code(), Some(1));
    assert!(
        text(&faults).contains("another hash") && text(&faults).contains("rating 4 is not on"),
        "{}",
        text(&faults)
    );
}

#[test]
fn papers_of_three_listings_are_joined_with_what_they_cite_and_outlined_by_a_server() {
    let home = Home::new();
    let services = Services::start(2, Mood::Planted);
    home.write("spec.toml", Services::research_spec());
    let model = format!("{}/v1#m", services.base);
    let output = run(&home, &words(&services, "set", &["--model", &model]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let set: Value = serde_json::from_str(&text(&output)).unwrap();
    let left = lines(&home.path("set/left_out.jsonl"));
    let by = |step: &str| left.iter().filter(|l| l["step"] == step).count();
    // Papers that Semantic Scholar does not know have no sources; those with an invented number have no outline.
    let unknown = PAPERS / 5;
    let invented = (1..=PAPERS).filter(|n| n.is_multiple_of(4) && !n.is_multiple_of(5)).count();
    assert_eq!((by("paper-text"), by("outline")), (unknown, invented), "{left:?}");
    assert!(
        left.iter()
            .filter(|l| l["step"] == "outline")
            .all(|l| l["reason"].as_str().unwrap().contains("0.999"))
    );
    assert_eq!(set["rows"], (PAPERS - unknown - invented) as u64);
    let rows =
        [lines(&home.path("set/jsonl/train.jsonl")), lines(&home.path("set/jsonl/test.jsonl"))].concat();
    for row in &rows {
        let n: usize = row["title"].as_str().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let cited = &row["references"][0];
        // The abstract is OpenAlex's; where the batch did not know the paper there is none.
        let wanted = if n.is_multiple_of(6) { Value::Null } else { "Abstract told again".into() };
        assert_eq!(cited["abstract"], wanted, "{n}");
        assert_eq!(row["license"], if n.is_multiple_of(2) { Value::Null } else { "CC BY 4.0".into() });
        assert_eq!(row["venue"], ["ICML", "ACL", "CVPR"][n % 3]);
        assert_eq!(row["experimental_results"][0]["table"][1][1], format!("0.{}", 100 + n));
        let turns: Vec<&str> =
            row["messages"].as_array().unwrap().iter().map(|t| t["role"].as_str().unwrap()).collect();
        assert_eq!(turns, ["system", "user", "assistant", "user", "assistant"]);
        let said = |i: usize| row["messages"][i]["content"].as_str().unwrap();
        assert!(n.is_multiple_of(6) || said(1).contains("Abstract: Abstract told again\n@"), "{}", said(1));
        assert!(
            said(2).starts_with("## Motivation\n\nNobody knows.\n\n## Main Idea")
                && said(2).contains("\\section{Introduction}")
        );
        assert!(
            said(3).starts_with("## Experimental_results\n\n```json\n[{\"name\":\"Scores\"")
                && said(3).ends_with("]```")
        );
        assert!(said(4).contains("\\section{Experiments}") && !said(2).contains("\\section{Experiments}"));
    }
    assert!(home.run(&["dataset", "verify", "set"]).status.success());
}

fn skipped(why: &str) {
    // Past the harness, which keeps the output of a test that passes to itself.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {why}\n"));
}

#[test]
fn the_built_in_model_outlines_real_papers_with_their_own_numbers() {
    let shared = std::env::var_os("CYCLE_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    let papers = shared.join("data/papers");
    if !papers.join("gold.jsonl").is_file() {
        return skipped("no shared papers");
    }
    let home = Home::new();
    if !support::has_builtin(&home) {
        return;
    }
    let words = ["dataset", "build", "latex-papers", "--from", papers.to_str().unwrap(), "--out", "set"];
    let output = home.run(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows =
        [lines(&home.path("set/jsonl/train.jsonl")), lines(&home.path("set/jsonl/test.jsonl"))].concat();
    assert_eq!(rows.len(), 27);
    for row in &rows {
        let results = row["experimental_results"].as_array().unwrap();
        let has_table = !row["tables"].as_array().unwrap().is_empty();
        assert!(!has_table || !results.is_empty(), "{}", row["id"]);
        assert_ne!(row["motivation"], row["main_idea"], "{}", row["id"]);
        assert_eq!(row["messages"].as_array().unwrap().len(), 5);
    }
    // Every number of the results stands in the source that the row holds.
    let faults = home.run(&["dataset", "verify", "set"]);
    assert!(faults.status.success(), "{}", text(&faults));
}

/// `CYCLE_DATASETS_PYTHON=/path/to/venv/bin/python cargo test -p cli --test dataset` has `datasets` read a set.
#[test]
fn the_library_datasets_reads_a_set_as_it_is() {
    let Ok(python) = std::env::var("CYCLE_DATASETS_PYTHON") else {
        return skipped("CYCLE_DATASETS_PYTHON names no Python with `datasets`");
    };
    let home = Home::new();
    let (set, _) = undisturbed(&home);
    let script = "import json, sys\nfrom datasets import load_dataset\nwhole = load_dataset(sys.argv[1], cache_dir=sys.argv[2])\n\
                  lines = load_dataset('json', data_files=sys.argv[1] + '/jsonl/train.jsonl', split='train', cache_dir=sys.argv[2])\n\
                  assert lines['messages'][0] == whole['train']['messages'][0]\n\
                  assert [r['id'] for r in lines] == [r['id'] for r in whole['train']]\n\
                  assert lines['reviews'][0] == whole['train']['reviews'][0]\n\
                  print(json.dumps({k: len(v) for k, v in whole.items()}))";
    let mut command = std::process::Command::new(python);
    command.args(["-c", script, "kind", "hub"]).current_dir(home.0.path()).env("HF_HUB_OFFLINE", "1");
    let output = command.env("HF_HOME", home.path("hub")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_str(text(&output).lines().last().unwrap()).unwrap();
    assert_eq!(read, set["splits"]);
}

#[test]
fn the_cost_of_a_build_is_said_before_it_begins() {
    let home = Home::new();
    let shown = text(&home.run(&["dataset", "build", "review-5k", "--dry-run"]));
    for part in ["pages of submissions", "searches by title", "days at the published limit", "GB of disk"] {
        assert!(shown.contains(part), "{shown}");
    }
    let value: Value = serde_json::from_str(&text(&home.run(&[
        "dataset",
        "build",
        "research-14k",
        "--dry-run",
        "--format",
        "json",
    ])))
    .unwrap();
    assert!(value["requests"].as_u64().unwrap() > 10_000 && value["days"].as_f64().unwrap() > 0.5, "{value}");
}
