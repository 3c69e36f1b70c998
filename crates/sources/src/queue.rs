//! A list of work in SQLite. A task is done in one transaction with the tasks that follow from it, so a crawl that is
//! killed at any moment loses at most the request in hand, and running it again does only the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use serde_json::Value;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::error::SourceError;

/// A file of tasks.
#[derive(Debug)]
pub struct Queue {
    path: PathBuf,
    pool: SqlitePool,
}

/// Work to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// What kind of work.
    pub kind: String,
    /// On what; a second task of this kind and key is the first one.
    pub key: String,
    /// Tasks of a kind come in the order of place and key.
    pub place: i64,
    /// What the worker needs to know.
    pub payload: Value,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Not begun.
    Waiting,
    /// Its value is there.
    Done,
    /// Its reason is there.
    Failed,
}

/// Work, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The row.
    pub id: i64,
    /// On what.
    pub key: String,
    /// Its place in the requested order.
    pub place: i64,
    /// What the worker needs to know.
    pub payload: Value,
    /// How far it is.
    pub state: TaskState,
    /// What came of it; null while waiting or failed.
    pub value: Value,
    /// Why it failed.
    pub reason: Option<String>,
}

type Row = (i64, String, i64, String, String, Option<String>, Option<String>);
const COLUMNS: &str = "SELECT id, key, place, payload, state, value, reason FROM tasks";

fn task((id, key, place, payload, state, value, reason): Row) -> Task {
    let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let state = match state.as_str() {
        "done" => TaskState::Done,
        "failed" => TaskState::Failed,
        _ => TaskState::Waiting,
    };
    let (payload, value) = (json(&payload), value.map_or(Value::Null, |v| json(&v)));
    Task { id, key, place, payload, state, value, reason }
}

impl Queue {
    /// Opens a queue, or makes one.
    ///
    /// # Errors
    /// If the file cannot be made or is no database.
    pub async fn open(path: &Path) -> Result<Self, SourceError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let fail = |e: sqlx::Error| SourceError::Disk { path: path.into(), what: e.to_string() };
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(fail)?;
        sqlx::raw_sql(include_str!("queue.sql")).execute(&pool).await.map_err(fail)?;
        Ok(Self { path: path.into(), pool })
    }

    fn fail(&self) -> impl Fn(sqlx::Error) -> SourceError + '_ {
        |e| SourceError::Disk { path: self.path.clone(), what: e.to_string() }
    }

    /// A fact about the crawl as a whole (which specification it follows).
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn fact(&self, name: &str) -> Result<Option<String>, SourceError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT value FROM facts WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.fail())?;
        Ok(row.map(|r| r.0))
    }

    /// Keeps a fact.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn put_fact(&self, name: &str, value: &str) -> Result<(), SourceError> {
        sqlx::query("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)")
            .bind(name)
            .bind(value)
            .execute(&self.pool)
            .await
            .map_err(self.fail())?;
        Ok(())
    }

    /// Adds tasks; those that are there already stay as they are.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn add(&self, tasks: &[NewTask]) -> Result<(), SourceError> {
        self.end(None, tasks).await
    }

    /// A task is done, and these follow from it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn finish(&self, id: i64, value: &Value, next: &[NewTask]) -> Result<(), SourceError> {
        self.end(Some((id, "done", Some(value.to_string()), None)), next).await
    }

    /// A task cannot be done.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn fail_task(&self, id: i64, reason: &str) -> Result<(), SourceError> {
        self.fail_task_with(id, reason, &[]).await
    }

    /// A task cannot be done, and these are to be tried instead.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn fail_task_with(&self, id: i64, reason: &str, next: &[NewTask]) -> Result<(), SourceError> {
        self.end(Some((id, "failed", None, Some(reason))), next).await
    }

    /// Tasks that failed for a reason that begins so wait again.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn retry(&self, reason: &str) -> Result<(), SourceError> {
        sqlx::query("UPDATE tasks SET state = 'waiting', reason = NULL WHERE state = 'failed' AND substr(reason, 1, length(?1)) = ?1")
            .bind(reason)
            .execute(&self.pool)
            .await
            .map_err(self.fail())?;
        Ok(())
    }

    async fn end(
        &self,
        task: Option<(i64, &str, Option<String>, Option<&str>)>,
        next: &[NewTask],
    ) -> Result<(), SourceError> {
        let work = async {
            let mut t = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            if let Some((id, state, value, reason)) = task {
                sqlx::query("UPDATE tasks SET state = ?, value = ?, reason = ? WHERE id = ?")
                    .bind(state)
                    .bind(value)
                    .bind(reason)
                    .bind(id)
                    .execute(&mut *t)
                    .await?;
            }
            for new in next {
                sqlx::query("INSERT OR IGNORE INTO tasks (kind, key, place, payload) VALUES (?, ?, ?, ?)")
                    .bind(&new.kind)
                    .bind(&new.key)
                    .bind(new.place)
                    .bind(new.payload.to_string())
                    .execute(&mut *t)
                    .await?;
            }
            t.commit().await
        };
        work.await.map_err(self.fail())
    }

    /// Forgets all tasks of a kind.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn forget(&self, kind: &str) -> Result<(), SourceError> {
        sqlx::query("DELETE FROM tasks WHERE kind = ?")
            .bind(kind)
            .execute(&self.pool)
            .await
            .map_err(self.fail())?;
        Ok(())
    }

    /// The next waiting task of a kind.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn next(&self, kind: &str) -> Result<Option<Task>, SourceError> {
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE kind = ? AND state = 'waiting' ORDER BY place, key LIMIT 1"
        )))
        .bind(kind)
        .fetch_optional(&self.pool)
        .await
        .map_err(self.fail())?;
        Ok(row.map(task))
    }

    /// All tasks of a kind in the requested order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn all(&self, kind: &str) -> Result<Vec<Task>, SourceError> {
        let rows: Vec<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE kind = ? ORDER BY place, key")))
                .bind(kind)
                .fetch_all(&self.pool)
                .await
                .map_err(self.fail())?;
        Ok(rows.into_iter().map(task).collect())
    }

    /// Calls `f` with the tasks of a kind in the requested order, one in memory at a time.
    ///
    /// # Errors
    /// If the file cannot be read, or `f` fails.
    pub async fn each<E: From<SourceError>>(
        &self,
        kind: &str,
        mut f: impl FnMut(Task) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE kind = ? ORDER BY place, key"));
        let mut rows = sqlx::query_as::<_, Row>(sql).bind(kind).fetch(&self.pool);
        while let Some(row) = rows.try_next().await.map_err(self.fail())? {
            f(task(row))?;
        }
        Ok(())
    }

    /// Waiting, done and failed tasks of a kind.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn counts(&self, kind: &str) -> Result<[i64; 3], SourceError> {
        let row: (i64, i64, i64) = sqlx::query_as(
            "SELECT COALESCE(SUM(state = 'waiting'), 0), COALESCE(SUM(state = 'done'), 0), \
             COALESCE(SUM(state = 'failed'), 0) FROM tasks WHERE kind = ?",
        )
        .bind(kind)
        .fetch_one(&self.pool)
        .await
        .map_err(self.fail())?;
        Ok([row.0, row.1, row.2])
    }
}
