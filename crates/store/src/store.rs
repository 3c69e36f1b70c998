//! The [`Store`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::runtime::Runtime;

use crate::error::StoreError;
use crate::rows::{
    Health, Item, NewReview, PaperRow, ReviewKey, ReviewRow, RunRow, StoredReview, VersionRow, id,
};

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// How long to wait for another process that writes.
    pub wait: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { wait: Duration::from_secs(5) }
    }
}

/// One SQLite file.
pub struct Store {
    path: PathBuf,
    pool: SqlitePool,
    runtime: Runtime,
}

mod sql {
    pub(super) const PUT_PAPER: &str =
        "INSERT INTO papers (id, title) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
    pub(super) const PUT_VERSION: &str = "INSERT INTO versions (sha256, paper, path, source, pages, document) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sha256) DO UPDATE SET document = ?6, path = ?3, source = ?4, pages = ?5";
    pub(super) const PAPER_OF: &str = "SELECT paper FROM versions WHERE sha256 = ?1";
    pub(super) const PUT_MODEL: &str = "INSERT INTO models (id, reference) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE \
         SET reference = ?2";
    pub(super) const PUT_REVIEW: &str = "INSERT INTO reviews (id, version, form, mode, reviewers, model, seed, sampling, \
         status, reason, review) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO UPDATE SET \
         status = ?9, reason = ?10, review = ?11, created_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') \
         WHERE NOT (reviews.status = 'done' AND excluded.status = 'failed')";
    pub(super) const DROP_SCORES: &str = "DELETE FROM scores WHERE review = ?1";
    pub(super) const PUT_SCORE: &str = "INSERT INTO scores (review, reviewer, name, value, expected, distribution) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    pub(super) const GET_REVIEW: &str = "SELECT r.id, v.paper, r.status, r.reason, r.review FROM reviews r \
         JOIN versions v ON v.sha256 = r.version WHERE r.id = ?1";
    pub(super) const LIST_PAPERS: &str = "SELECT p.id, p.title, (SELECT count(*) FROM versions v WHERE v.paper = p.id), \
         (SELECT count(*) FROM reviews r JOIN versions v ON v.sha256 = r.version WHERE v.paper = p.id), p.created_at \
         FROM papers p ORDER BY p.created_at, p.id";
    pub(super) const LIST_VERSIONS: &str = "SELECT sha256, path, source, pages, created_at FROM versions WHERE paper = ?1 \
         ORDER BY created_at, sha256";
    pub(super) const GET_DOCUMENT: &str =
        "SELECT document FROM versions WHERE paper = ?1 ORDER BY created_at DESC, sha256 DESC LIMIT 1";
    pub(super) const LIST_REVIEWS: &str = "SELECT r.id, v.paper, p.title, r.form, m.reference, r.seed, r.status, r.reason, \
         (SELECT avg(s.value) FROM scores s WHERE s.review = r.id AND s.name = 'rating'), r.created_at FROM reviews r \
         JOIN versions v ON v.sha256 = r.version JOIN papers p ON p.id = v.paper JOIN models m ON m.id = r.model \
         ORDER BY r.created_at, r.id";
    pub(super) const LIST_RUNS: &str = "SELECT x.id, x.kind, x.status, x.reason, \
         (SELECT count(*) FROM stages s WHERE s.run = x.id), x.created_at, x.finished_at FROM runs x \
         ORDER BY x.created_at, x.id";
    pub(super) const GET_RUN_CONFIG: &str = "SELECT config FROM runs WHERE id = ?1";
    pub(super) const PUT_RUN: &str = "INSERT INTO runs (id, kind, config, status) VALUES (?1, ?2, ?3, 'running') \
         ON CONFLICT (id) DO UPDATE SET status = 'running', reason = NULL, finished_at = NULL";
    pub(super) const END_RUN: &str = "UPDATE runs SET status = ?2, reason = ?3, \
         finished_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1";
    pub(super) const PUT_STAGE: &str = "INSERT INTO stages (run, position, name, value) VALUES \
         (?1, (SELECT count(*) FROM stages WHERE run = ?1), ?2, ?3) ON CONFLICT (run, name) DO UPDATE SET value = ?3";
    pub(super) const LIST_STAGES: &str = "SELECT name, value FROM stages WHERE run = ?1 ORDER BY position";
    pub(super) const DROP_STAGES: &str = "DELETE FROM stages WHERE run = ?1";
    pub(super) const PUT_GENERATION: &str = "INSERT INTO generations (id, model, prompt_sha256, seed, sampling, output, \
         tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
    pub(super) const FIND: &str = "SELECT id FROM papers WHERE id LIKE ?1 UNION SELECT id FROM reviews WHERE id LIKE ?1 \
         UNION SELECT id FROM runs WHERE id LIKE ?1 ORDER BY 1 LIMIT 10";
    pub(super) const COUNTS: &str =
        "SELECT (SELECT count(*) FROM papers), (SELECT count(*) FROM reviews), (SELECT count(*) FROM runs)";
    pub(super) const CHECK: &str = "PRAGMA quick_check";

    #[cfg(test)]
    pub(super) const ALL: [&str; 23] = [
        PAPER_OF,
        PUT_PAPER,
        PUT_VERSION,
        PUT_MODEL,
        PUT_REVIEW,
        DROP_SCORES,
        PUT_SCORE,
        GET_REVIEW,
        LIST_PAPERS,
        LIST_VERSIONS,
        GET_DOCUMENT,
        LIST_REVIEWS,
        LIST_RUNS,
        GET_RUN_CONFIG,
        PUT_RUN,
        END_RUN,
        PUT_STAGE,
        LIST_STAGES,
        DROP_STAGES,
        PUT_GENERATION,
        FIND,
        COUNTS,
        CHECK,
    ];
}

type Row10 =
    (String, String, Option<String>, String, String, i64, String, Option<String>, Option<f64>, String);
type RunTuple = (String, String, String, Option<String>, i64, String, Option<String>);

impl Store {
    /// Opens a store; creates it, and the folders above it, where there is none.
    ///
    /// # Errors
    /// [`StoreError`] says what is wrong with the file.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, StoreError> {
        let disk = |e: std::io::Error| StoreError::Disk { path: path.into(), what: e.to_string() };
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(disk)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(disk)?;
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(options.wait)
            .foreign_keys(true);
        let fail = |e: sqlx::Error| StoreError::from_sqlx(path, &e);
        let pool = runtime.block_on(async {
            // One connection: calls are short and blocking; SQLite has one writer anyway.
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .acquire_timeout(options.wait + Duration::from_secs(2))
                .connect_with(connect)
                .await
                .map_err(fail)?;
            sqlx::migrate!("../../migrations").run(&pool).await.map_err(|e| match e {
                MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                    StoreError::NewerVersion(path.into())
                }
                MigrateError::Execute(e) => StoreError::from_sqlx(path, &e),
                MigrateError::ExecuteMigration(e, _) => StoreError::from_sqlx(path, &e),
                other => StoreError::Damaged { path: path.into(), what: other.to_string() },
            })?;
            Ok::<_, StoreError>(pool)
        })?;
        Ok(Self { path: path.into(), pool, runtime })
    }

    fn fail(&self) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        |e| StoreError::from_sqlx(&self.path, &e)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores a document; papers of one title are one paper. Returns the paper's id.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_document(
        &self,
        sha256: &str,
        path: &str,
        source: &str,
        title: Option<&str>,
        pages: Option<usize>,
        document: &str,
    ) -> Result<String, StoreError> {
        let normal: Option<String> = title
            .map(|t| t.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect())
            .filter(|t: &String| t.len() > 8);
        let fresh = id('p', normal.as_deref().unwrap_or(sha256));
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                // A file that was read before stays with its paper, whatever title is read from it now.
                let known: Option<(String,)> =
                    sqlx::query_as(sql::PAPER_OF).bind(sha256).fetch_optional(&mut *t).await?;
                let paper = known.map_or(fresh, |k| k.0);
                sqlx::query(sql::PUT_PAPER).bind(&paper).bind(title).execute(&mut *t).await?;
                sqlx::query(sql::PUT_VERSION)
                    .bind(sha256)
                    .bind(&paper)
                    .bind(path)
                    .bind(source)
                    .bind(pages.map(|p| p as i64))
                    .bind(document)
                    .execute(&mut *t)
                    .await?;
                t.commit().await?;
                Ok(paper)
            })
            .map_err(self.fail())
    }

    /// Stores a review or its failure, its scores with it, in one transaction. Returns its id.
    ///
    /// # Errors
    /// If the store cannot be written, or the version is not in it.
    pub fn put_review(&self, review: &NewReview<'_>) -> Result<String, StoreError> {
        let key = review.key;
        let id = key.id();
        let (status, reason, json) = match review.outcome {
            Ok(json) => ("done", None, Some(json)),
            Err(reason) => ("failed", Some(reason), None),
        };
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query(sql::PUT_MODEL)
                    .bind(&key.model)
                    .bind(review.model_reference)
                    .execute(&mut *t)
                    .await?;
                let written = sqlx::query(sql::PUT_REVIEW)
                    .bind(&id)
                    .bind(&key.version)
                    .bind(&key.form)
                    .bind(&key.mode)
                    .bind(key.reviewers)
                    .bind(&key.model)
                    .bind(key.seed)
                    .bind(&key.sampling)
                    .bind(status)
                    .bind(reason)
                    .bind(json)
                    .execute(&mut *t)
                    .await?;
                if written.rows_affected() == 0 {
                    // A finished review is not replaced by a failure to do it again.
                    return t.rollback().await;
                }
                sqlx::query(sql::DROP_SCORES).bind(&id).execute(&mut *t).await?;
                for s in review.scores.iter().filter(|s| s.value.is_finite()) {
                    sqlx::query(sql::PUT_SCORE)
                        .bind(&id)
                        .bind(s.reviewer)
                        .bind(&s.name)
                        .bind(s.value)
                        .bind(s.expected)
                        .bind(&s.distribution)
                        .execute(&mut *t)
                        .await?;
                }
                t.commit().await
            })
            .map_err(self.fail())?;
        Ok(id)
    }

    /// The review with exactly this key.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn find_review(&self, key: &ReviewKey) -> Result<Option<StoredReview>, StoreError> {
        self.review(&key.id())
    }

    fn review(&self, id: &str) -> Result<Option<StoredReview>, StoreError> {
        let row: Option<(String, String, String, Option<String>, Option<String>)> = self
            .runtime
            .block_on(sqlx::query_as(sql::GET_REVIEW).bind(id).fetch_optional(&self.pool))
            .map_err(self.fail())?;
        Ok(row.map(|(id, paper, _, reason, review)| StoredReview {
            id,
            paper,
            outcome: review.ok_or_else(|| reason.unwrap_or_default()),
        }))
    }

    /// All papers, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn papers(&self) -> Result<Vec<PaperRow>, StoreError> {
        let rows: Vec<(String, Option<String>, i64, i64, String)> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_PAPERS).fetch_all(&self.pool))
            .map_err(self.fail())?;
        let paper = |(id, title, versions, reviews, created_at)| PaperRow {
            id,
            title,
            versions,
            reviews,
            created_at,
        };
        Ok(rows.into_iter().map(paper).collect())
    }

    /// All reviews, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn reviews(&self) -> Result<Vec<ReviewRow>, StoreError> {
        let rows: Vec<Row10> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_REVIEWS).fetch_all(&self.pool))
            .map_err(self.fail())?;
        Ok(rows
            .into_iter()
            .map(|(id, paper, title, form, model, seed, status, reason, rating, created_at)| ReviewRow {
                id,
                paper,
                title,
                form,
                model,
                seed,
                status,
                reason,
                rating,
                created_at,
            })
            .collect())
    }

    /// All runs, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn runs(&self) -> Result<Vec<RunRow>, StoreError> {
        let rows: Vec<RunTuple> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_RUNS).fetch_all(&self.pool))
            .map_err(self.fail())?;
        Ok(rows
            .into_iter()
            .map(|(id, kind, status, reason, stages, created_at, finished_at)| RunRow {
                id,
                kind,
                status,
                reason,
                stages,
                created_at,
                finished_at,
            })
            .collect())
    }

    /// The one id that begins with `prefix`.
    ///
    /// # Errors
    /// If none does, or several do.
    pub fn resolve(&self, prefix: &str) -> Result<String, StoreError> {
        let valid = prefix.len() >= 2 && prefix.chars().all(|c| c.is_ascii_alphanumeric());
        if !valid {
            return Err(StoreError::NotFound(prefix.into()));
        }
        let mut matches: Vec<(String,)> = self
            .runtime
            .block_on(sqlx::query_as(sql::FIND).bind(format!("{prefix}%")).fetch_all(&self.pool))
            .map_err(self.fail())?;
        match matches.len() {
            0 => Err(StoreError::NotFound(prefix.into())),
            1 => Ok(matches.remove(0).0),
            _ => Err(StoreError::Ambiguous {
                prefix: prefix.into(),
                matches: matches.into_iter().map(|m| m.0).collect(),
            }),
        }
    }

    /// What a prefix names.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn show(&self, prefix: &str) -> Result<Item, StoreError> {
        let id = self.resolve(prefix)?;
        let gone = || StoreError::NotFound(id.clone());
        match id.as_bytes().first() {
            Some(b'r') => Ok(Item::Review(self.review(&id)?.ok_or_else(gone)?)),
            Some(b'x') => {
                let run = self.runs()?.into_iter().find(|r| r.id == id).ok_or_else(gone)?;
                let (config,): (String,) = self
                    .runtime
                    .block_on(sqlx::query_as(sql::GET_RUN_CONFIG).bind(&id).fetch_one(&self.pool))
                    .map_err(self.fail())?;
                Ok(Item::Run { run, config: json(&config), stages: self.stages(&id)? })
            }
            _ => {
                let paper = self.papers()?.into_iter().find(|p| p.id == id).ok_or_else(gone)?;
                let versions: Vec<(String, String, String, Option<i64>, String)> = self
                    .runtime
                    .block_on(sqlx::query_as(sql::LIST_VERSIONS).bind(&id).fetch_all(&self.pool))
                    .map_err(self.fail())?;
                let document: Option<(String,)> = self
                    .runtime
                    .block_on(sqlx::query_as(sql::GET_DOCUMENT).bind(&id).fetch_optional(&self.pool))
                    .map_err(self.fail())?;
                Ok(Item::Paper {
                    paper,
                    versions: versions
                        .into_iter()
                        .map(|(sha256, path, source, pages, created_at)| VersionRow {
                            sha256,
                            path,
                            source,
                            pages,
                            created_at,
                        })
                        .collect(),
                    document: document.map(|d| json(&d.0)),
                })
            }
        }
    }

    /// Starts a run, or takes up the one with the same kind and configuration. Returns its id.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn start_run(&self, kind: &str, config: &str, afresh: bool) -> Result<String, StoreError> {
        let run = id('x', &format!("{kind}\n{config}"));
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query(sql::PUT_RUN).bind(&run).bind(kind).bind(config).execute(&mut *t).await?;
                if afresh {
                    sqlx::query(sql::DROP_STAGES).bind(&run).execute(&mut *t).await?;
                }
                t.commit().await
            })
            .map_err(self.fail())?;
        Ok(run)
    }

    /// Stores a stage of a run.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_stage(&self, run: &str, name: &str, value: &str) -> Result<(), StoreError> {
        let query = sqlx::query(sql::PUT_STAGE).bind(run).bind(name).bind(value);
        self.runtime.block_on(query.execute(&self.pool)).map_err(self.fail())?;
        Ok(())
    }

    /// The stages of a run, in order.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn stages(&self, run: &str) -> Result<Vec<(String, Value)>, StoreError> {
        let rows: Vec<(String, String)> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_STAGES).bind(run).fetch_all(&self.pool))
            .map_err(self.fail())?;
        Ok(rows.into_iter().map(|(n, v)| (n, json(&v))).collect())
    }

    /// Ends a run: `done`, or `failed` or `interrupted` with a reason.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn end_run(&self, run: &str, status: &str, reason: Option<&str>) -> Result<(), StoreError> {
        let query = sqlx::query(sql::END_RUN).bind(run).bind(status).bind(reason);
        let done = self.runtime.block_on(query.execute(&self.pool)).map_err(self.fail())?;
        if done.rows_affected() == 0 { Err(StoreError::NotFound(run.into())) } else { Ok(()) }
    }

    /// Stores what a model wrote.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_generation(
        &self,
        model: (&str, &str),
        prompt_sha256: &str,
        seed: i64,
        sampling: &str,
        output: &str,
        tokens: usize,
    ) -> Result<String, StoreError> {
        let generation = id('g', &format!("{}\n{prompt_sha256}\n{seed}\n{sampling}\n{output}", model.0));
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query(sql::PUT_MODEL).bind(model.0).bind(model.1).execute(&mut *t).await?;
                sqlx::query(sql::PUT_GENERATION)
                    .bind(&generation)
                    .bind(model.0)
                    .bind(prompt_sha256)
                    .bind(seed)
                    .bind(sampling)
                    .bind(output)
                    .bind(tokens as i64)
                    .execute(&mut *t)
                    .await?;
                t.commit().await
            })
            .map_err(self.fail())?;
        Ok(generation)
    }

    /// Size, counts and SQLite's own check.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn health(&self) -> Result<Health, StoreError> {
        let (papers, reviews, runs): (i64, i64, i64) =
            self.runtime.block_on(sqlx::query_as(sql::COUNTS).fetch_one(&self.pool)).map_err(self.fail())?;
        let (integrity,): (String,) =
            self.runtime.block_on(sqlx::query_as(sql::CHECK).fetch_one(&self.pool)).map_err(self.fail())?;
        let bytes = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        Ok(Health { path: self.path.clone(), bytes, papers, reviews, runs, integrity })
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ScoreRow;

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
            let paper =
                store.put_document("s1", "a.pdf", "pdf", Some("A long title"), Some(3), "{}").unwrap();
            assert_eq!(store.find_review(&key("s1")).unwrap(), None);
            let score = ScoreRow {
                reviewer: 1,
                name: "rating".into(),
                value: 5.0,
                expected: None,
                distribution: None,
            };
            let new = NewReview {
                key: &key("s1"),
                model_reference: "m",
                outcome: Ok("{\"x\":1}"),
                scores: &[score],
            };
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
        assert!(matches!(open(&garbage), Err(StoreError::Damaged { .. })));

        let path = folder.path().join("s.db");
        let first = open(&path).unwrap();
        let second = open(&path).unwrap();
        let held = first.runtime.block_on(first.pool.begin_with("BEGIN IMMEDIATE")).unwrap();
        let busy = second.put_document("s", "a", "text", None, None, "{}");
        assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
        first.runtime.block_on(held.rollback()).unwrap();

        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'later', 1, x'00', 0)";
        first.runtime.block_on(sqlx::query(newer).execute(&first.pool)).unwrap();
        assert!(matches!(open(&path), Err(StoreError::NewerVersion(_))));
    }
}
