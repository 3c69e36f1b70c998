//! The loop through the binary: killed anywhere it ends with the same rows, guards stop it, bad input is said.
//!
//! `CYCLE_KILLS=10 cargo test --test loops` kills more often; `CYCLE_KILL_SEED=N` repeats the moments of a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use support::{Home, has_builtin, text};

/// A loop smaller than the micro recipe, judged by phrases: the policy is the built-in one.
const TINY: &str = r#"
model = "builtin:researcher"
out = "loop"
iterations = 2
[prompts]
train = "train.jsonl"
held_out = "held-out.jsonl"
[sample]
per_prompt = 3
held_out_per_prompt = 1
batch = 1
max_tokens = 64
[judge]
kind = "phrase"
phrase = "the"
[second_judge]
kind = "phrase"
phrase = "a"
[reward]
terms = [{ name = "mean", weight = 1.0 }]
[pairs]
rule = "margin"
cut = "reject"
length_ratio = 0.0
replay = [0.5]
[train]
objective = { name = "simpo", nll_weight = 0.1 }
lora = { r = 2, lora_alpha = 4 }
optimizer = { learning_rate = 1e-3, batch_size = 2, max_steps = 2 }
save = { every = 1, keep = 1 }
[guards]
confidence = 0.99
unconfirmed = 100.0
length_ratio = 10.0
distinct = 0.0
self_bleu = 1.0
kl = 100.0
validity = 1.0
"#;

fn prompts(home: &Home) {
    let line = |topic: &str| format!("{{\"topic\": \"{topic}\"}}\n");
    home.write("train.jsonl", line("Sparse attention for maps") + &line("Agreement of reviewers"));
    home.write("held-out.jsonl", line("Learning to rank drafts"));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn status(home: &Home, out: &str) -> Value {
    let shown = home.run(&["loop", "status", "--config", "loop.toml", "--out", out, "--format", "json"]);
    serde_json::from_slice(&shown.stdout).unwrap_or_else(|e| panic!("{e}: {shown:?}"))
}

#[test]
fn a_loop_that_is_killed_again_and_again_ends_with_the_rows_of_one_that_never_stopped() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("loop.toml", TINY);
    prompts(&home);
    let go = |verb: &str, out: &str| {
        let mut command = home.command(&["loop", verb, "--config", "loop.toml", "--quiet", "--out", out]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let started = Instant::now();
    let straight = go("run", "straight").output().unwrap();
    assert_eq!(straight.status.code(), Some(0), "{}", String::from_utf8_lossy(&straight.stderr));
    let whole = started.elapsed();
    let wanted = status(&home, "straight");
    assert_eq!(wanted["status"], "done");
    assert_eq!(wanted["iterations"].as_array().unwrap().len(), 3);

    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut state = number("CYCLE_KILL_SEED").unwrap_or_else(now);
    let kills = number("CYCLE_KILLS").unwrap_or(3);
    let say = format!("loop: {kills} kills, CYCLE_KILL_SEED={state}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), say.as_bytes());
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let (mut killed, mut round, mut verb) = (0, 0, "run");
    loop {
        let out = format!("killed-{round}");
        let deadline = (killed < kills).then(|| Instant::now() + whole.mul_f64(random() * 0.8));
        let mut child = go(verb, &out).spawn().unwrap();
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if deadline.is_some_and(|d| Instant::now() >= d) => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if ended.is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match ended {
            Some(ended) if ended.success() => {
                let found = status(&home, &out);
                assert_eq!(found["hash"], wanted["hash"], "{out} ended with other rows");
                (round, verb) = (round + 1, "run");
                if killed >= kills {
                    break;
                }
            }
            // Killed before its run was in the store: there is nothing to go on with.
            Some(_) if error.contains("no loop of this configuration") => verb = "run",
            Some(_) => panic!("{out}: {error}"),
            None => verb = "resume",
        }
    }

    // What a user does next.
    let again = home.run(&["loop", "run", "--config", "loop.toml", "--out", "straight"]);
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
    let page = home.run(&["loop", "report", "--config", "loop.toml", "--out", "straight"]);
    let page = fs::read_to_string(home.path(text(&page).trim())).unwrap();
    assert!(page.contains("Did the researcher get better?") && page.contains("iteration 2"));
    assert!(!page.contains("http://") && !page.contains("https://"), "the page is whole by itself");
    let rows = home.run(&["pairs", "export"]);
    let rows: Vec<Value> = text(&rows).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        rows.len() >= 2
            && rows[0]["prompt"][1]["role"] == "user"
            && rows[0]["chosen"][0]["content"].is_string()
    );
    assert_eq!(home.run(&["pairs", "export", "--out", "pairs.parquet"]).status.code(), Some(0));
    let train = "kind = \"preference\"\nmodel = \"straight/start/researcher.gguf\"\nout = \"t\"\n[data]\ntrain = \
        \"pairs.parquet\"\n[objective]\nname = \"simpo\"\n[optimizer]\nlearning_rate = 1e-4\nmax_steps = 1\n";
    home.write("train.toml", train);
    let plan = home.run(&["train", "preference", "--config", "train.toml", "--dry-run"]);
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stderr));
}

#[test]
fn a_second_process_on_a_loop_is_refused_and_an_interrupted_one_goes_on() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("loop.toml", TINY);
    prompts(&home);
    let mut first = home.command(&["loop", "run", "--config", "loop.toml"]);
    let mut first = first.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    while !home.path("loop/lock").exists() {
        assert!(first.try_wait().unwrap().is_none(), "it ended before it was locked");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Up to the first papers of an iteration: those of the start on held-out prompts are there then.
    let mut says = BufReader::new(first.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(says.any(|line| line.starts_with("iteration 1: ")), "it ended before its first iteration");
    home.fails(&["loop", "resume", "--config", "loop.toml"], 5, "another process");
    support::interrupt(&first);
    assert_eq!(first.wait().unwrap().code(), Some(130));
    home.write("held-out.jsonl", "{\"topic\": \"Something else\"}\n");
    home.fails(&["loop", "resume", "--config", "loop.toml"], 4, "put them back");
    prompts(&home);
    // The store knows the loop by its configuration: from another folder the same words would name other checkpoints.
    for file in ["loop.toml", "train.jsonl", "held-out.jsonl"] {
        fs::create_dir_all(home.path("elsewhere")).unwrap();
        fs::copy(home.path(file), home.path("elsewhere").join(file)).unwrap();
    }
    fs::create_dir_all(home.path("loop/iteration-1")).unwrap();
    let mut elsewhere = home.command(&["loop", "resume", "--config", "loop.toml"]);
    let elsewhere = elsewhere.current_dir(home.path("elsewhere")).output().unwrap();
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert_eq!(elsewhere.status.code(), Some(2), "{said}");
    assert!(said.contains("this loop was begun in"), "{said}");
    let resumed = home.run(&["loop", "resume", "--config", "loop.toml"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    // Scores of another judge, and papers of another start, are not gone on from.
    let changed = |from: &str, to: &str| {
        use sqlx::Connection;
        let url = format!("sqlite://{}", home.path("home/cycle.db").display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
            let set = "UPDATE loop_rows SET value = replace(value, ?, ?) WHERE iteration = 0";
            sqlx::query(set).bind(from).bind(to).execute(&mut db).await.unwrap();
        });
    };
    changed("phrase:the", "phrase:thee");
    home.fails(
        &["loop", "resume", "--config", "loop.toml"],
        4,
        "judge is another than when this loop was begun",
    );
    changed("phrase:thee", "phrase:the");
    changed("\"policy\":\"", "\"policy\":\"0");
    home.fails(&["loop", "resume", "--config", "loop.toml"], 4, "the model is another");
}

#[test]
fn what_cannot_be_learned_from_is_said_before_or_instead_of_a_training() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("loop.toml", TINY);
    prompts(&home);
    let fails = |set: &[&str], code, says: &str| {
        let out = format!("out={says:?}");
        let mut args = vec!["loop", "run", "--config", "loop.toml", "--set", &out];
        set.iter().for_each(|s| args.extend(["--set", s]));
        home.fails(&args, code, says);
    };
    fails(&["sample.per_promt=3"], 4, "did you mean per_prompt");
    fails(&["second_judge={kind=\"phrase\", phrase=\"the\"}"], 4, "the same");
    fails(&["model=\"http://127.0.0.1:9/v1#m\""], 4, "is a server");
    fails(&["judge={kind=\"phrase\", phrase=\"qqqq\"}"], 4, "there is nothing to prefer");
    fails(&["prompts.held_out=\"train.jsonl\""], 3, "the same prompt");
    home.write("test.jsonl", "{\"topic\": \"Word sense induction with knowledge distillation from BERT\"}\n");
    fails(&["prompts.train=\"test.jsonl\""], 3, "public test set");
    home.write("broken.jsonl", "{\"topic\": \"x\"}\n{\"topic\": 3}\n");
    fails(&["prompts.train=\"broken.jsonl\""], 3, "row 2");
    fails(&["prompts.train=\"gone.jsonl\""], 3, "gone.jsonl");
    fails(&["prompts.per_iteration=9"], 4, "there are 2 prompts");
    fails(&["judge={kind=\"model\", model=\"nowhere\"}"], 4, "nowhere");
    // TRL has no command for SimPO, and it is said before a paper is drawn (a folder is what it trains).
    let trl = ["train.engine=\"trl\"", "pairs.cut=\"reject\"", "iterations=1"];
    fails(&trl, 4, "folder");
    let merged = home.run(&["models", "merge", "builtin:researcher", "--out", "policy"]);
    assert_eq!(merged.status.code(), Some(0), "{}", String::from_utf8_lossy(&merged.stderr));
    fails(&[&trl[..], &["model=\"policy\""]].concat(), 4, "without a command");
    fails(&["sample.server=\"http://127.0.0.1:9/v1#{policy}\"", "sample.patience=0"], 6, "127.0.0.1:9");
    fails(&["sample.server=\"http://127.0.0.1:9/v1#m\""], 4, "what was trained would never be drawn from");
    let fluent = "reward={terms=[{name=\"mean\", weight=1.0}, {name=\"fluency\", weight=1.0}]}";
    fails(&["sample.server=\"http://127.0.0.1:9/v1#{policy}\"", fluent], 4, "the term fluency");
    home.fails(
        &["loop", "resume", "--config", "loop.toml", "--out", "fresh"],
        2,
        "no loop of this configuration",
    );
    home.fails(&["loop", "run", "--recipe", "mirco"], 2, "did you mean micro");
    let judged = "pairs.learn=\"judged\"";
    fails(&[judged], 4, "reads title and abstract");
    fails(&[judged, "judge={kind=\"model\", model=\"x\", reads=\"all\"}"], 4, "title and abstract alone");
    let reads_it = "judge={kind=\"model\", model=\"builtin:judge-a\"}";
    fails(&[judged, reads_it, "train.method=\"sft\""], 4, "learns whole papers");
}

#[test]
fn pairs_may_be_about_the_part_that_the_judge_reads() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("loop.toml", TINY.replace("max_tokens = 64", "max_tokens = 240"));
    prompts(&home);
    let set = [
        "iterations=1",
        "judge={kind='model', model='builtin:judge-a'}",
        "second_judge={kind='model', model='builtin:judge-b'}",
        "pairs.learn=judged",
    ];
    let mut args = vec!["loop", "run", "--config", "loop.toml"];
    set.iter().for_each(|s| args.extend(["--set", s]));
    let done = home.run(&args);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let exported = home.run(&["pairs", "export"]);
    let exported: Vec<Value> = text(&exported).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let trained = fs::read_to_string(home.path("loop/iteration-1/rows.jsonl")).unwrap();
    let trained: Vec<Value> = trained.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(!exported.is_empty() && exported.len() == trained.len());
    for row in &exported {
        let same = trained.iter().find(|t| t["id"] == row["id"]).unwrap();
        for (answer, open) in [("chosen", "chosen_open"), ("rejected", "rejected_open")] {
            assert!(row[answer][0]["content"].as_str().unwrap().ends_with("\\end{abstract}"), "{row}");
            assert_eq!((&row[answer], &row[open]), (&same[answer], &Value::Bool(true)));
            assert_eq!(same[open], true);
        }
    }
}

#[test]
fn a_second_half_is_compared_behind_its_first_and_held_to_the_results() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("loop.toml", TINY.replace("max_tokens = 64", "max_tokens = 240"));
    let row = |topic: &str| {
        let first =
            format!("\\title{{{topic}}}\n\\begin{{abstract}}\nWe rank drafts by {topic}.\n\\end{{abstract}}");
        let table = serde_json::json!([["method", "accuracy"], ["ours", 93.46], ["theirs", 91.2]]);
        let results = serde_json::json!([{"name": "Main", "result": {"table": table}}]);
        format!("{}\n", serde_json::json!({"topic": topic, "first": first, "results": results}))
    };
    home.write("train.jsonl", row("attention") + &row("agreement"));
    home.write("held-out.jsonl", row("ranking"));
    let run = |set: &[&str]| {
        let mut args = vec!["loop", "run", "--config", "loop.toml"];
        set.iter().for_each(|s| args.extend(["--set", s]));
        home.run(&args)
    };
    let second_half = "sample.stage=second-half";
    let set = [
        second_half,
        "iterations=1",
        "judge={kind='model', model='builtin:judge-g', reads='all'}",
        "reward.terms=[{name='win-rate', weight=1.0}, {name='numbers', weight=0.5}, {name='complete', at_least=1.0}]",
        "pairs.rule=every",
        "train.objective={name='gpo', beta=0.01}",
    ];
    let done = run(&set);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let mut args = vec!["loop", "status", "--config", "loop.toml", "--format", "json"];
    set.iter().for_each(|s| args.extend(["--set", s]));
    let shown: Value = serde_json::from_slice(&home.run(&args).stdout).unwrap();
    let iteration = &shown["iterations"][1];
    assert_eq!(iteration["terms"]["complete"], 1.0, "results and conclusion are there: {iteration}");
    // K × K probabilities of one prompt: P(i ≻ j) + P(j ≻ i) = 1, so the mean win rate is a half.
    let wins = iteration["terms"]["win-rate"].as_f64().unwrap();
    assert!((wins - 0.5).abs() < 1e-6, "{wins}");
    assert!(iteration["trained"]["rows"].as_u64().unwrap() >= 2, "{iteration}");
    let example = &shown["examples"][0]["before"];
    assert!(example["judge"].is_number() && example["text"].as_str().unwrap().contains("\\section{Results}"));

    home.fails(&["loop", "run", "--config", "loop.toml", "--set", "out='other'"], 3, "row 1");
    home.write("held-out.jsonl", "{\"topic\": \"ranking\"}\n");
    let lacks = ["loop", "run", "--config", "loop.toml", "--set", second_half, "--set", "out='lacks'"];
    home.fails(&lacks, 3, "the row needs `first` and `results`");
}

#[test]
fn an_iteration_may_be_trained_by_trl_and_the_policy_comes_back() {
    let Some(python) = std::env::var_os("CYCLE_TRL_PYTHON") else {
        let skipped = format_args!("skipped: CYCLE_TRL_PYTHON names no Python with TRL\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), skipped);
        return;
    };
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    prompts(&home);
    let merged = home.run(&["models", "merge", "builtin:researcher", "--out", "policy"]);
    assert_eq!(merged.status.code(), Some(0), "{}", String::from_utf8_lossy(&merged.stderr));
    let engine = format!("[train]\nengine = \"trl\"\npython = {:?}", python.to_string_lossy());
    let simpo = "{ name = \"simpo\", nll_weight = 0.1 }";
    let config = TINY.replace("builtin:researcher", "policy").replace("[train]", &engine);
    // TRL has no command for SimPO, and none that goes on with an adapter.
    let config = config.replace(simpo, "{ name = \"sigmoid\", beta = 0.1 }");
    home.write("loop.toml", &config);
    home.fails(&["loop", "run", "--config", "loop.toml"], 4, "leave [train.lora] out");
    home.write("loop.toml", config.replace("lora = { r = 2, lora_alpha = 4 }\n", ""));
    let run = home.run(&["loop", "run", "--config", "loop.toml"]);
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let shown = status(&home, "loop");
    for iteration in [1, 2] {
        let trained = &shown["iterations"][iteration]["trained"];
        assert_eq!(trained["metrics"]["step"], 2, "{trained}");
        assert!(
            trained["metrics"]["loss"].is_number() && trained["policy"] != trained["parent"],
            "{trained}"
        );
    }
    let kl = shown["iterations"][2]["decision"]["evaluation"]["kl"].as_f64().unwrap();
    assert!(kl != 0.0, "the policy that came back is the one that writes");
}

/// A server that writes a paper out of its seed; `fault` says what it answers to a request of some number instead.
fn sampler(fault: fn(usize) -> Option<u16>) -> String {
    use axum::response::IntoResponse;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let answer = move |body: axum::Json<Value>| {
                let n = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                async move {
                    if let Some(status) = fault(n) {
                        return axum::http::StatusCode::from_u16(status).unwrap().into_response();
                    }
                    // Asked again without options, it refuses what it refused.
                    let Some(seed) = body["seed"].as_u64() else {
                        return axum::http::StatusCode::BAD_REQUEST.into_response();
                    };
                    let text = format!(
                        "## Motivation\n\nPaper {seed} of {}",
                        "the best ".repeat(1 + seed as usize % 7)
                    );
                    let message = serde_json::json!({"role": "assistant", "content": text});
                    let choice = serde_json::json!({"index": 0, "message": message, "finish_reason": "stop"});
                    axum::Json(serde_json::json!({"choices": [choice]})).into_response()
                }
            };
            let app = axum::Router::new().route("/v1/chat/completions", axum::routing::post(answer));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    });
    format!("http://{}/v1", receive.recv().unwrap())
}

#[test]
fn a_server_that_samples_may_go_away_for_a_while_and_nothing_is_lost() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    prompts(&home);
    let faults: [(&str, fn(usize) -> Option<u16>); 3] = [
        ("steady", |_| None),
        ("patient", |n| (3..23).contains(&n).then_some(503)),
        // The second paper of the first iteration.
        ("refusing", |n| (n == 2).then_some(400)),
    ];
    let found = faults.map(|(out, fault)| {
        let reference = format!("{}#{{policy}}", sampler(fault));
        // Its address is part of a configuration, and so is the patience.
        let config = TINY.replace("[judge]", &format!("server = {reference:?}\npatience = 120\n[judge]"));
        home.write("loop.toml", config);
        let run = home.run(&["loop", "run", "--config", "loop.toml", "--out", out]);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("asking again"), out == "patient", "{said}");
        let iterations = status(&home, out)["iterations"].clone();
        assert!(iterations[1]["decision"]["evaluation"]["kl"].is_null(), "a server's policy is not here");
        let number = |i: usize, place: &str| iterations[i].pointer(place).unwrap().as_u64().unwrap();
        assert_eq!(number(1, "/decision/evaluation/failed"), 0);
        let failed = number(1, "/trained/pairs/failed");
        [number(1, "/samples"), number(2, "/samples"), failed, number(2, "/trained/rows")]
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0][..3], [6, 6, 0], "three papers for each of two prompts");
    assert_eq!(found[2][..3], [6, 6, 1], "one request that is refused is one paper that failed");
    // Such papers have no title and no abstract, which a score model reads.
    let silent = ["--out", "silent", "--set", "second_judge={kind=\"model\", model=\"builtin:judge-a\"}"];
    let args = [&["loop", "run", "--config", "loop.toml"][..], &silent].concat();
    home.fails(&args, 4, "the second judge scored none of the start's 1 papers");
}
