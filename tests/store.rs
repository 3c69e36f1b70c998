//! The store: what is wrong with it, who else uses it, what leads where.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use sqlx::Connection;
use support::{Home, has_builtin, paper, text, with};

/// Runs one statement on a store from outside `cycle`; gives the first column.
fn sql(path: &Path, statement: &'static str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite://{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let rows: Vec<(String,)> = sqlx::query_as(statement).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.into_iter().map(|r| r.0).collect()
    })
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
fn a_store_of_a_newer_version_is_left_alone() {
    let home = Home::new();
    home.run(&["papers", "list"]);
    let path = home.path("home/cycle.db");
    sql(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                VALUES (9999, 'later', 1, x'00', 0) RETURNING description",
    );
    home.fails(&["papers", "list"], 4, "newer cycle");
}

#[test]
fn a_store_that_another_process_is_writing_to_is_waited_for() {
    let home = Home::new();
    home.run(&["papers", "list"]);
    let path = home.path("home/cycle.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("sqlite://{}", path.display());
    let mut connection = runtime.block_on(sqlx::SqliteConnection::connect(&url)).unwrap();
    runtime.block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection)).unwrap();
    home.write("p.md", paper(0));
    home.fails(&["review", "p.md"], 5, "another process");
    // Reading does not wait.
    assert_eq!(home.run(&["papers", "list"]).status.code(), Some(0));
}

#[test]
fn a_cut_store_is_called_damaged() {
    let home = Home::new();
    home.run(&["papers", "list"]);
    let path = home.path("home/cycle.db");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..5000]).unwrap();
    let _ = fs::remove_file(home.path("home/cycle.db-wal"));
    home.fails(&["papers", "list"], 4, "damaged");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_exits_5_and_what_was_finished_stays() {
    let home = Home::new();
    for n in 0..3 {
        home.write(&format!("p{n}.md"), paper(n).repeat(60));
    }
    home.run(&["papers", "list"]);
    // A limit on the size of files stands for a full disk.
    let limited = |blocks: usize, args: &str| {
        let line = format!("ulimit -f {blocks}; exec {} {args}", env!("CARGO_BIN_EXE_cycle"));
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(home.0.path()).env("HOME", home.0.path());
        let output = command.env("CYCLE_HOME", home.path("home")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = limited(8, "read p0.md --out deep/folder/p0.txt");
    assert_eq!(code, Some(5), "{error}");
    assert!(error.contains("deep/folder/p0.txt") && error.lines().count() <= 3, "{error}");
    assert_eq!(fs::read_dir(home.path("deep/folder")).unwrap().count(), 0, "no half of a file stays");
    let (code, error) = limited(4, "review p0.md");
    assert_eq!(code, Some(5), "{error}");
    assert_eq!(home.run(&["read", "p0.md", "--out", "deep/folder/p0.txt"]).status.code(), Some(0));
    assert_eq!(text(&home.run(&["doctor"])).matches(", ok").count(), 1);
}

#[test]
fn two_reviews_at_once_share_a_new_store_and_every_reviewer_leads_to_its_prompt() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    let children: Vec<_> = (0..2)
        .map(|n| {
            let name = format!("p{n}.md");
            home.write(&name, paper(n));
            home.command(&with(&["review", &name, "--quiet", "--out", &format!("{n}.txt")])).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let path = home.path("home/cycle.db");
    let traced = sql(
        &path,
        "SELECT DISTINCT u.review || u.reviewer FROM review_generations u JOIN generations g ON g.id = u.generation \
         JOIN prompts p ON p.sha256 = g.prompt_sha256 WHERE json_valid(g.sampling) AND g.tokens > 0 \
         AND json_extract(p.dialogue, '$.messages[0].content') IS NOT NULL",
    );
    assert_eq!(traced.len(), 4, "two reviewers of two papers: {traced:?}");
    let broken = "SELECT id FROM reviews WHERE NOT json_valid(review) OR NOT json_valid(sampling) UNION ALL \
                  SELECT sha256 FROM versions WHERE NOT json_valid(document)";
    assert!(sql(&path, broken).is_empty());
}
