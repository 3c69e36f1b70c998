//! The [`Store`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::runtime::Runtime;

use crate::error::StoreError;
use crate::rows::{
    Health, Item, Lineage, NewGeneration, NewReview, PairRow, PaperRow, ReviewKey, ReviewRow, RunRow,
    StoredReview, VersionRow, id,
};
use crate::sql;

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
    wait: Duration,
    pub(crate) pool: SqlitePool,
    pub(crate) runtime: Runtime,
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
        let start = Instant::now();
        let mut tries: u32 = 0;
        let pool = loop {
            let error = match runtime.block_on(connect(path, options.wait)) {
                Ok(pool) => break pool,
                Err(error) => error,
            };
            tries += 1;
            // Whoever makes the file, turns its journal to WAL or migrates it shuts others out for a moment, and SQLite
            // answers these at once with "busy" (it would be a deadlock to wait), or a table is there already.
            let again = match error {
                StoreError::Busy { .. } => start.elapsed() < options.wait,
                StoreError::Query { .. } => tries < 5,
                _ => false,
            };
            if !again {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(u64::from(tries.min(10)) * 20));
        };
        Ok(Self { path: path.into(), wait: options.wait, pool, runtime })
    }

    fn fail(&self) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        |e| StoreError::from_sqlx(&self.path, self.wait, &e)
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
        let valid = !prefix.is_empty() && prefix.chars().all(|c| c.is_ascii_alphanumeric());
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

    /// The id of the run of this kind and configuration, whether it was started or not.
    pub fn run_id(kind: &str, config: &str) -> String {
        id('x', &format!("{kind}\n{config}"))
    }

    /// Starts a run, or takes up the one with the same kind and configuration. Returns its id.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn start_run(&self, kind: &str, config: &str, afresh: bool) -> Result<String, StoreError> {
        let run = Self::run_id(kind, config);
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

    /// Stores a stage of a run that has none of this name; gives the one that it has now.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn claim_stage(&self, run: &str, name: &str, value: &str) -> Result<Value, StoreError> {
        let query = sqlx::query(sql::CLAIM_STAGE).bind(run).bind(name).bind(value);
        self.runtime.block_on(query.execute(&self.pool)).map_err(self.fail())?;
        Ok(self.stages(run)?.into_iter().find(|(n, _)| n == name).map(|(_, v)| v).unwrap_or_default())
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

    /// Puts rows of a loop's iteration, all or none; a row that is there stays as it is.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_loop_rows(
        &self,
        run: &str,
        iteration: usize,
        kind: &str,
        rows: &[(String, Value)],
    ) -> Result<(), StoreError> {
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                for (id, value) in rows {
                    sqlx::query(sql::PUT_LOOP_ROW)
                        .bind(run)
                        .bind(iteration as i64)
                        .bind(kind)
                        .bind(id)
                        .bind(value.to_string())
                        .execute(&mut *t)
                        .await?;
                }
                t.commit().await
            })
            .map_err(self.fail())
    }

    /// Rows of a loop's iteration, in the order of their ids.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn loop_rows(
        &self,
        run: &str,
        iteration: usize,
        kind: &str,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let query = sqlx::query_as(sql::LIST_LOOP_ROWS).bind(run).bind(iteration as i64).bind(kind);
        let rows: Vec<(String, String)> =
            self.runtime.block_on(query.fetch_all(&self.pool)).map_err(self.fail())?;
        Ok(rows.into_iter().map(|(id, value)| (id, json(&value))).collect())
    }

    /// Every pair of every loop.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn pairs(&self) -> Result<Vec<PairRow>, StoreError> {
        type Tuple = (String, i64, String, String, String, String, bool, bool, f64, String);
        let rows: Vec<Tuple> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_PAIRS).fetch_all(&self.pool))
            .map_err(self.fail())?;
        let row = |row: Tuple| {
            let (
                run,
                iteration,
                id,
                prompt,
                chosen,
                rejected,
                chosen_open,
                rejected_open,
                difference,
                policy,
            ) = row;
            PairRow {
                id,
                run,
                iteration,
                prompt,
                chosen,
                rejected,
                chosen_open,
                rejected_open,
                difference,
                policy,
            }
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Stores what a model wrote, with its prompts, in one transaction.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_generations(&self, generations: &[NewGeneration]) -> Result<(), StoreError> {
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                for g in generations {
                    sqlx::query(sql::PUT_MODEL).bind(&g.model).bind(&g.reference).execute(&mut *t).await?;
                    if let Some(dialogue) = &g.dialogue {
                        let query = sqlx::query(sql::PUT_PROMPT).bind(&g.prompt_sha256).bind(dialogue);
                        query.execute(&mut *t).await?;
                    }
                    sqlx::query(sql::PUT_GENERATION)
                        .bind(g.id())
                        .bind(&g.model)
                        .bind(&g.prompt_sha256)
                        .bind(g.seed)
                        .bind(&g.sampling)
                        .bind(&g.output)
                        .bind(g.tokens)
                        .execute(&mut *t)
                        .await?;
                }
                t.commit().await
            })
            .map_err(self.fail())
    }

    /// Stores a model and what it was made from, in one transaction.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_model(&self, id: &str, reference: &str, parents: &[Lineage]) -> Result<(), StoreError> {
        self.runtime
            .block_on(async {
                let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query(sql::PUT_MODEL).bind(id).bind(reference).execute(&mut *t).await?;
                for l in parents.iter().filter(|l| l.parent != id) {
                    let parent = sqlx::query(sql::PUT_MODEL).bind(&l.parent).bind(&l.parent_reference);
                    parent.execute(&mut *t).await?;
                    let line = sqlx::query(sql::PUT_LINEAGE).bind(id).bind(&l.parent).bind(&l.relation);
                    line.bind(&l.run).execute(&mut *t).await?;
                }
                t.commit().await
            })
            .map_err(self.fail())
    }

    /// What a model was made from, oldest first; nothing where nobody stored it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn parents(&self, id: &str) -> Result<Vec<Lineage>, StoreError> {
        let rows: Vec<(String, String, String, Option<String>)> = self
            .runtime
            .block_on(sqlx::query_as(sql::LIST_PARENTS).bind(id).fetch_all(&self.pool))
            .map_err(self.fail())?;
        let lineage =
            |(parent, parent_reference, relation, run)| Lineage { parent, parent_reference, relation, run };
        Ok(rows.into_iter().map(lineage).collect())
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

impl Drop for Store {
    /// Closes the connection, so that the file is whole without its write-ahead log.
    fn drop(&mut self) {
        self.runtime.block_on(self.pool.close());
    }
}

/// Applies what migrations/ has and the store has not. Two processes may open a new store at the same time: the one that
/// comes second fails on what the first has made, looks again, and finds it done.
/// One try to open a store and bring it to this version.
async fn connect(path: &Path, wait: Duration) -> Result<SqlitePool, StoreError> {
    let fail = |e: sqlx::Error| StoreError::from_sqlx(path, wait, &e);
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(wait)
        .foreign_keys(true);
    // One connection: calls are short and blocking; SQLite has one writer anyway.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(wait + Duration::from_secs(2))
        .connect_with(connect)
        .await
        .map_err(fail)?;
    let (others,): (i64,) = sqlx::query_as(sql::OTHERS).fetch_one(&pool).await.map_err(fail)?;
    if others > 0 {
        let what = "it holds another program's tables".to_string();
        return Err(StoreError::Foreign { path: path.into(), what });
    }
    sqlx::migrate!("../../migrations").run(&pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            StoreError::NewerVersion(path.into())
        }
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => fail(e),
        other => StoreError::Damaged { path: path.into(), what: other.to_string() },
    })?;
    Ok(pool)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}
