//! The store from inside: what is told apart, what stays, what leads where.

use std::path::Path;
use std::time::Duration;

use crate::{
    Item, Lineage, NewGeneration, NewReview, OpenOptions, ReviewKey, ScoreRow, Store, StoreError, sql,
};

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, OpenOptions { wait: Duration::from_millis(300) })
}

fn key(version: &str) -> ReviewKey {
    ReviewKey {
        version: version.into(),
        form: "iclr2025".into(),
        mode: "standard".into(),
        reviewers: 4,
        model: "abc".into(),
        seed: 0,
        sampling: "{}".into(),
    }
}

#[test]
fn a_review_is_found_again_by_its_key_after_reopening_and_by_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/cycle.db");
    let paper = {
        let store = open(&path).unwrap();
        let paper = store.put_document("s1", "a.pdf", "pdf", Some("A long title"), Some(3), "{}").unwrap();
        assert_eq!(store.find_review(&key("s1")).unwrap(), None);
        let score =
            ScoreRow { reviewer: 1, name: "rating".into(), value: 5.0, expected: None, distribution: None };
        let new =
            NewReview { key: &key("s1"), model_reference: "m", outcome: Ok("{\"x\":1}"), scores: &[score] };
        let id = store.put_review(&new).unwrap();
        assert_eq!(store.put_review(&new).unwrap(), id);
        paper
    };
    let store = open(&path).unwrap();
    let found = store.find_review(&key("s1")).unwrap().unwrap();
    assert_eq!((found.paper, found.outcome), (paper.clone(), Ok("{\"x\":1}".to_string())));
    assert!(matches!(store.show(&found.id[..5]).unwrap(), Item::Review(_)));
    assert!(matches!(store.show(&paper).unwrap(), Item::Paper { document: Some(_), .. }));
    assert_eq!(store.reviews().unwrap()[0].rating, Some(5.0));
    assert_eq!(store.health().unwrap().integrity, "ok");
}

#[test]
fn an_unknown_and_an_ambiguous_prefix_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db")).unwrap();
    for i in 0..40 {
        store.put_document(&format!("s{i}"), "a", "text", None, None, "{}").unwrap();
    }
    assert!(matches!(store.resolve("pzz"), Err(StoreError::NotFound(_))));
    let ids: Vec<String> = store.papers().unwrap().into_iter().map(|p| p.id).collect();
    let twice = ids.iter().find(|a| ids.iter().filter(|b| b[..2] == a[..2]).count() > 1).unwrap();
    assert!(
        matches!(store.resolve(&twice[..2]), Err(StoreError::Ambiguous { matches, .. }) if matches.len() > 1)
    );
}

#[test]
fn stages_of_a_run_stay_when_it_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db")).unwrap();
    let run = store.start_run("research", "{}", false).unwrap();
    store.put_stage(&run, "first", "{\"a\":1}").unwrap();
    store.end_run(&run, "interrupted", None).unwrap();
    assert_eq!(store.start_run("research", "{}", false).unwrap(), run);
    assert_eq!(store.stages(&run).unwrap().len(), 1);
    store.start_run("research", "{}", true).unwrap();
    assert_eq!(store.stages(&run).unwrap().len(), 0);
}

#[test]
fn every_statement_fits_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db")).unwrap();
    for statement in sql::ALL {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {statement}"));
        store
            .runtime
            .block_on(sqlx::raw_sql(explain).execute(&store.pool))
            .unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

#[test]
fn garbage_a_newer_store_and_a_busy_one_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, vec![7u8; 9000]).unwrap();
    assert!(matches!(open(&garbage), Err(StoreError::Foreign { .. })));

    let path = folder.path().join("s.db");
    let first = open(&path).unwrap();
    let second = open(&path).unwrap();
    let held = first.runtime.block_on(first.pool.begin_with("BEGIN IMMEDIATE")).unwrap();
    let busy = second.put_document("s", "a", "text", None, None, "{}");
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    first.runtime.block_on(held.rollback()).unwrap();

    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', 1, x'00', 0)";
    first.runtime.block_on(sqlx::query(newer).execute(&first.pool)).unwrap();
    assert!(matches!(open(&path), Err(StoreError::NewerVersion(_))));
}

#[test]
fn many_processes_may_open_a_new_store_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Store::open(&path, OpenOptions::default()).map(|s| s.health().unwrap())))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for health in opened {
        assert_eq!(health.unwrap().integrity, "ok");
    }
}

#[test]
fn a_reviewer_and_a_stage_lead_to_the_words_they_were_asked_with() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db")).unwrap();
    store.put_document("s1", "a.pdf", "pdf", None, None, "{}").unwrap();
    let generation = NewGeneration {
        model: "abc".into(),
        reference: "m".into(),
        prompt_sha256: "h1".into(),
        dialogue: Some("{\"messages\":[]}".into()),
        seed: 7,
        sampling: "{}".into(),
        output: "weak".into(),
        tokens: 1,
    };
    store.put_generations(&[generation.clone(), generation.clone()]).unwrap();
    let review = r#"{"reviewers":[{"index":1,"prompt_sha256":"h1"},{"index":2,"prompt_sha256":"h2"}]}"#;
    let new = NewReview { key: &key("s1"), model_reference: "m", outcome: Ok(review), scores: &[] };
    let id = store.put_review(&new).unwrap();
    let failed = ReviewKey { seed: 1, ..key("s1") };
    let new = NewReview { key: &failed, model_reference: "m", outcome: Err("no"), scores: &[] };
    store.put_review(&new).unwrap();
    let run = store.start_run("research", "{}", false).unwrap();
    store.put_stage(&run, "first", r#"{"prompt_sha256":"h1"}"#).unwrap();
    let traced = "SELECT review || reviewer || generation FROM review_generations UNION ALL \
                  SELECT run || stage || generation FROM run_generations";
    let rows: Vec<(String,)> = store.runtime.block_on(sqlx::query_as(traced).fetch_all(&store.pool)).unwrap();
    let g = generation.id();
    assert_eq!(rows, [(format!("{id}1{g}"),), (format!("{run}first{g}"),)]);
}

#[test]
fn a_full_disk_says_how_much_is_free_and_what_was_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = open(&path).unwrap();
    store.put_document("s1", "a", "text", None, None, "{}").unwrap();
    // SQLite's own bound stands for the disk's.
    let bound = sqlx::raw_sql("PRAGMA max_page_count = 40");
    store.runtime.block_on(bound.execute(&store.pool)).unwrap();
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let full = store.put_document("s2", "b", "text", None, None, &large).unwrap_err();
    assert!(matches!(full, StoreError::Disk { .. }), "{full:?}");
    assert!(full.to_string().contains("bytes are free"), "{full}");
    assert_eq!(store.papers().unwrap().len(), 1);
}

#[test]
fn a_cut_store_and_another_programs_database_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    {
        let store = open(&path).unwrap();
        for i in 0..200 {
            store.put_document(&format!("s{i}"), "a", "text", None, None, &"1".repeat(4000)).unwrap();
        }
    }
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let cut = open(&path).and_then(|s| s.health());
    assert!(matches!(&cut, Err(StoreError::Damaged { .. })) || cut.is_ok_and(|h| h.integrity != "ok"));

    let path = folder.path().join("other.db");
    let store = open(&path).unwrap();
    let change = "DROP TABLE _sqlx_migrations";
    store.runtime.block_on(sqlx::raw_sql(change).execute(&store.pool)).unwrap();
    drop(store);
    assert!(matches!(open(&path), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_models_parents_are_named_with_the_run_that_made_it_and_a_model_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db")).unwrap();
    let run = store.start_run("train", "{}", false).unwrap();
    let from = |parent: &str, relation: &str, run: Option<&str>| Lineage {
        parent: parent.into(),
        parent_reference: format!("ref of {parent}"),
        relation: relation.into(),
        run: run.map(str::to_string),
    };
    let trained = from("base", "trained from", Some(&run));
    store.put_model("child", "out/final", &[trained.clone(), from("child", "held to", None)]).unwrap();
    store.put_model("child", "out/final", &[from("base", "trained from", None)]).unwrap();
    assert_eq!(store.parents("child").unwrap(), [trained]);
    assert!(store.parents("base").unwrap().is_empty());
}
