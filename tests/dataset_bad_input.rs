//! What `cycle dataset` makes of venues that do not exist, records that are none and archives that mean harm.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

#[path = "support/services.rs"]
mod services;
mod support;

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use services::{Mood, Services, archive, latex};
use support::{Home, text};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn found(list: &[Value], id: &str, field: &str) -> String {
    let all = list.iter().filter(|l| l["id"] == id);
    all.map(|l| l[field].as_str().unwrap().to_string()).collect::<Vec<_>>().join(" | ")
}

#[test]
fn wrong_words_are_three_lines_and_the_contracts_code() {
    let home = Home::new();
    let services = Services::start(2, Mood::Kind);
    home.write("spec.toml", services.spec("NOWHERE.cc/2024/Conference"));
    let mut words = vec!["dataset", "build", "spec.toml", "--out", "set"];
    let options = services.options();
    words.extend(options.iter().map(String::as_str));
    home.fails(&words, 4, "no group NOWHERE.cc/2024/Conference");
    home.fails(&["dataset", "build", "review-5", "--out", "x"], 4, "did you mean `review-5k`");
    home.write("wrong.toml", services.spec("T").replace("reviews = 3", "review = 3"));
    home.fails(&["dataset", "build", "wrong.toml", "--out", "x"], 4, "did you mean `reviews`");
    home.fails(&["dataset", "build", "review-5k", "--from", "nowhere", "--out", "x"], 3, "no such folder");
    home.fails(&["dataset", "build", "review-5k", "--out", "x", "--offline"], 2, "--offline");
    home.fails(&["dataset", "build", "review-5k", "--out", "x", "--base", "arxive=http://x"], 2, "arxiv");
    home.fails(&["dataset", "build", "latex-papers", "--out", "x"], 2, "names no venue");
    home.fails(&["dataset", "build", "review-5k"], 2, "--out");
    home.fails(&["dataset", "stats", "nowhere"], 3, "manifest.json");
    home.fails(&["dataset", "verify", "nowhere"], 3, "manifest.json");
    fs::create_dir_all(home.path("empty")).unwrap();
    home.write(
        "later.toml",
        services
            .spec("T")
            .replace("test = 5", "test = 5\ntest_from = \"soon\"")
            .replace("\"paper\"", "\"time\""),
    );
    home.fails(&["dataset", "build", "later.toml", "--out", "x"], 4, "split.test_from = \"soon\"");
    // Another process is at work in the folder.
    fs::create_dir_all(home.path("busy/.work")).unwrap();
    let held = fs::File::create(home.path("busy/.work/lock")).unwrap();
    held.lock().unwrap();
    home.fails(&["dataset", "build", "review-5k", "--from", "empty", "--out", "busy"], 5, "another process");
    home.fails(&["dataset", "build", "review-5k", "--from", "empty", "--out", "x"], 3, "holds no records");
}

#[test]
fn reviews_without_a_number_and_records_of_another_schema_are_counted_by_paper() {
    let home = Home::new();
    let services = Services::start(2, Mood::Kind);
    home.write(
        "spec.toml",
        services.spec("TEST.cc/2024/Conference").replace("text_chars = 100", "paper = \"abstract\""),
    );
    let told = "An abstract that is long enough to be one, about nothing in particular.";
    let review = |rating: Value| json!({"rating": rating, "text": "Some words.", "confidence": 4});
    let paper = |id: &str, ratings: [Value; 4]| {
        json!({"id": id, "venue": "TEST", "year": 2024, "title": format!("A made up paper {id}"), "abstract": told, "reviews": ratings.map(review)}).to_string()
    };
    let mut records: Vec<Vec<u8>> = vec![
        paper("good", [json!("10: strong accept"), json!(6), json!("3"), json!(8)]).into(),
        paper("free", [json!("strong accept"), json!(null), json!("6: marginally above"), json!(3)]).into(),
        paper("none", [json!("good"), json!("bad"), json!(null), json!(" ")]).into(),
        json!({"paper": 1, "score": 2}).to_string().into(),
        b"{\"id\": \"cut".to_vec(),
        json!({"id": "other", "venue": "TEST", "year": 1999, "title": "Another year", "abstract": told}).to_string().into(),
        json!({"id": "x", "invitations": ["TEST.cc/2024/Conference/-/Submission"], "content": {"title": {"value": 7}}}).to_string().into(),
    ];
    // Latin-1 among UTF-8: one byte that is no UTF-8.
    let mut latin = paper("latin", [json!(3), json!(6), json!(8), json!(8)])
        .replace("made up", "m\u{1}de up")
        .into_bytes();
    latin.iter_mut().filter(|b| **b == 1).for_each(|b| *b = 0xe4);
    let at = latin.windows(6).position(|w| w == b"\\u0001");
    if let Some(at) = at {
        latin.splice(at..at + 6, [0xe4]);
    }
    records.push(latin);
    home.write("records/rows.jsonl", records.join(&b'\n'));
    let output = home.run(&["dataset", "build", "spec.toml", "--from", "records", "--out", "set"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (left, problems) = (lines(&home.path("set/left_out.jsonl")), lines(&home.path("set/problems.jsonl")));
    assert!(found(&problems, "free", "problem").contains("free text (`strong accept`)"), "{problems:?}");
    assert!(found(&problems, "free", "problem").contains("no rating"), "{problems:?}");
    assert!(found(&left, "records", "step").is_empty());
    assert_eq!(found(&left, "rows.jsonl:4", "step"), "broken-record");
    assert_eq!(found(&left, "rows.jsonl:5", "step"), "broken-record");
    assert_eq!(found(&left, "other", "step"), "other-venue");
    assert_eq!(found(&left, "x", "step"), "no-title");
    let rows =
        [lines(&home.path("set/jsonl/train.jsonl")), lines(&home.path("set/jsonl/test.jsonl"))].concat();
    let row = |id: &str| {
        rows.iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("{id} is lost: {left:?}")).clone()
    };
    assert_eq!(row("good")["ratings"], json!([10.0, 6.0, 3.0, 8.0]));
    assert_eq!(row("free")["ratings"], json!([6.0, 3.0]));
    // Without any rating the paper stays, and its mean is absent, not zero.
    assert_eq!((&row("none")["ratings"], &row("none")["mean"]), (&json!([]), &Value::Null));
    assert_eq!(row("latin")["title"], "A m\u{e4}de up paper latin");
}

#[test]
fn archives_that_mean_harm_are_read_or_refused_by_paper() {
    let home = Home::new();
    let write = |name: &str, bytes: &[u8]| home.write(&format!("papers/{name}"), bytes);
    write("good.tar.gz", &archive(&[("main.tex", latex(1).as_bytes())]));
    let circle = latex(2).replace("\\section{Experiments}", "\\input{main}\\section{Experiments}");
    write("circle.tar.gz", &archive(&[("main.tex", circle.as_bytes())]));
    let out = latex(3);
    write(
        "outside.tar.gz",
        &archive(&[("/etc/passwd.tex", b"x"), ("../../up.tex", b"y"), ("main.tex", out.as_bytes())]),
    );
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "main2.tex", "/etc/passwd").unwrap();
    let source = latex(4);
    let mut file = tar::Header::new_ustar();
    file.set_size(source.len() as u64);
    builder.append_data(&mut file, "main.tex", source.as_bytes()).unwrap();
    write("link.tar", &builder.into_inner().unwrap());
    // Ten gigabytes of zeros, in pieces: about ten megabytes of gzip.
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let piece = vec![0u8; 1 << 20];
    for _ in 0..1_024 {
        zeros.write_all(&piece).unwrap();
    }
    let gigabyte = zeros.finish().unwrap();
    write("bomb.gz", &gigabyte.repeat(10));
    let mut mixed = latex(5).into_bytes();
    let at = mixed.windows(7).position(|w| w == b"A. Auth").unwrap();
    mixed.splice(at..at + 1, [0xc4, b'.']);
    write("mixed.tar.gz", &archive(&[("main.tex", &mixed), ("utf8.tex", "\u{e4}".as_bytes())]));
    write("html.gz", b"<!DOCTYPE html><html>gone</html>");
    write("cut.tar.gz", &archive(&[("main.tex", latex(6).as_bytes())])[..200]);
    home.write(
        "spec.toml",
        "name = \"x\"\nkind = \"research\"\ndescription = \"y\"\n[near_duplicates]\naction = \"group\"\n",
    );
    let mut command = home.command(&[
        "dataset",
        "build",
        "spec.toml",
        "--from",
        "papers",
        "--out",
        "set",
        "--model",
        "builtin:researcher",
    ]);
    let output = command.output().unwrap();
    if String::from_utf8_lossy(&output.stderr).contains("this build has no weights") {
        let _ = writeln!(std::io::stderr(), "skipped: this build has no built-in model");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (left, problems) = (lines(&home.path("set/left_out.jsonl")), lines(&home.path("set/problems.jsonl")));
    for id in ["bomb", "html", "cut"] {
        assert_eq!(found(&left, id, "step"), "unreadable", "{left:?}");
    }
    assert!(found(&left, "bomb", "reason").contains("unpacks to more than 256 MiB"), "{left:?}");
    for (id, what) in [
        ("circle", "includes itself"),
        ("outside", "lead out of its folder"),
        ("link", "links in the archive"),
    ] {
        assert!(found(&problems, id, "problem").contains(what), "{id}: {problems:?}");
    }
    let rows =
        [lines(&home.path("set/jsonl/train.jsonl")), lines(&home.path("set/jsonl/test.jsonl"))].concat();
    let mut ids: Vec<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["circle", "good", "link", "mixed", "outside"]);
    assert!(text(&home.run(&["dataset", "stats", "set"])).contains("Citations: 5 keys"));
}
