//! The log in SQLite: one connection that writes, one that reads the past, one that copies what was written ahead.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor, QueryBuilder, Row, Sqlite as Db};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::backend::{Backend, BackendError, Head, Record, Result, Step};
use super::checkpoint::{Ahead, PAGES};
use super::writer::BATCH;

/// `value` is JSON text, so that SQL can read it. `log_key` finds the states of one key, newest first.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS log(
  revision INTEGER PRIMARY KEY, resource TEXT NOT NULL, key TEXT NOT NULL, deleted INTEGER NOT NULL,
  at INTEGER NOT NULL, value TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS log_key ON log(resource, key, revision, deleted);
CREATE INDEX IF NOT EXISTS log_resource ON log(resource, revision);
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;";

/// Lines in one statement: SQLite binds 32,766 values at most, and each size of statement is kept prepared.
const ROWS: usize = BATCH;

pub(super) struct Sqlite {
    write: Arc<Mutex<SqliteConnection>>,
    /// The same connection as `write` where the database is in memory.
    read: Arc<Mutex<SqliteConnection>>,
    /// What is written ahead of the database, and who copies it; `None` where the database is in memory.
    ahead: Option<(Arc<Ahead>, AbortOnDropHandle<()>)>,
}

// === impl Sqlite ===

impl Sqlite {
    pub(super) async fn open(dir: Option<&Path>) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging()
            // The insert of each size of batch is a statement of its own.
            .statement_cache_capacity(2 * BATCH);
        let Some(dir) = dir else {
            let mut memory = options.in_memory(true).connect().await?;
            memory.execute(SCHEMA).await?;
            let memory = Arc::new(Mutex::new(memory));
            return Ok(Sqlite { write: memory.clone(), read: memory, ahead: None });
        };
        let options = options
            .filename(dir.join("coracle.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", "67108864");
        let mut write = options.connect().await?;
        write.execute(SCHEMA).await?;
        let read = options.connect().await?;
        let (write, read) = (Arc::new(Mutex::new(write)), Arc::new(Mutex::new(read)));
        let ahead = Arc::new(Ahead::default());
        let copies = tokio::spawn(ahead.clone().run(options.connect().await?, write.clone()));
        Ok(Sqlite { write, read, ahead: Some((ahead, AbortOnDropHandle::new(copies))) })
    }

    /// After a commit of so many bytes.
    async fn written(&self, bytes: usize, connection: &mut SqliteConnection) {
        if let Some((ahead, _)) = &self.ahead {
            ahead.add(bytes, connection).await;
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Sqlite {
    /// A row as nobody of this program writes it: revision and end, resource, key and value.
    pub(super) async fn plant(&self, numbers: [i64; 2], texts: [&[u8]; 3]) -> Result<()> {
        let [revision, deleted] = numbers;
        let [resource, key, value] = texts;
        let insert = sqlx::query(
            "INSERT INTO log(revision, deleted, at, resource, key, value) \
             VALUES (?1, ?2, ?1, CAST(?3 AS TEXT), CAST(?4 AS TEXT), CAST(?5 AS TEXT))",
        );
        let insert = insert.bind(revision).bind(deleted).bind(resource).bind(key).bind(value);
        insert.execute(&mut *self.write.lock().await).await?;
        Ok(())
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn load(&self, each: &mut (dyn FnMut(Record) + Send)) -> Result<Head> {
        let mut connection = self.read.lock().await;
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(revision), 0) FROM log")
            .fetch_one(&mut *connection)
            .await?;
        let compacted: i64 =
            sqlx::query_scalar("SELECT coalesce(max(value), 0) FROM meta WHERE name = 'compacted'")
                .fetch_one(&mut *connection)
                .await?;
        let mut rows = sqlx::query(
            "SELECT l.revision, l.resource, l.key, l.deleted, l.at, l.value \
             FROM (SELECT max(revision) AS revision FROM log GROUP BY resource, key) AS newest \
             JOIN log AS l USING (revision) WHERE l.deleted = 0",
        )
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            each(record(&row)?);
        }
        Ok(Head { revision: unsigned(newest.max(compacted)), compacted: unsigned(compacted) })
    }

    async fn append(&self, records: &[Record]) -> Result<()> {
        let mut values = Vec::with_capacity(records.len());
        for r in records {
            values.push((r, std::str::from_utf8(&r.value).map_err(|_| BackendError::NotText(r.revision))?));
        }
        let mut connection = self.write.lock().await;
        if values.len() <= ROWS {
            // One statement is one transaction by itself.
            insert(&mut connection, &values).await?;
        } else {
            let mut transaction = connection.begin().await?;
            for part in values.chunks(ROWS) {
                insert(&mut transaction, part).await?;
            }
            transaction.commit().await?;
        }
        self.written(values.iter().map(|(_, value)| value.len()).sum(), &mut connection).await;
        Ok(())
    }

    async fn newest(&self) -> Result<u64> {
        // The writer's connection: what is left of its failed transaction is rolled back first.
        let mut connection = self.write.lock().await;
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(revision), 0) FROM log")
            .fetch_one(&mut *connection)
            .await?;
        Ok(unsigned(newest))
    }

    async fn steps(
        &self,
        resource: &str,
        after: u64,
        upto: u64,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Step>> {
        let mut connection = self.read.lock().await;
        let mut rows = sqlx::query(
            "SELECT l.revision, l.resource, l.key, l.deleted, l.at, l.value, p.revision, p.deleted, p.value \
             FROM log AS l LEFT JOIN log AS p ON p.revision = (SELECT max(revision) FROM log \
               WHERE resource = l.resource AND key = l.key AND revision < l.revision) \
             WHERE l.resource = ?1 AND l.revision > ?2 AND l.revision <= ?3 ORDER BY l.revision LIMIT ?4",
        )
        .bind(resource)
        .bind(signed(after))
        .bind(signed(upto))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch(&mut *connection);
        let (mut steps, mut gathered) = (vec![], 0);
        while gathered < bytes
            && let Some(row) = rows.try_next().await?
        {
            let step = step(&row)?;
            gathered += step.record.value.len() + step.previous.as_ref().map_or(0, |(_, value)| value.len());
            steps.push(step);
        }
        Ok(steps)
    }

    async fn at(
        &self,
        resource: &str,
        prefix: &str,
        start: &str,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<Record>> {
        // Keys under a prefix are those from it up to the same with its last byte raised by one ('/' becomes '0').
        let end = prefix.strip_suffix('/').map(|p| format!("{p}0"));
        let mut connection = self.read.lock().await;
        let rows = sqlx::query(
            "SELECT l.revision, l.resource, l.key, l.deleted, l.at, l.value \
             FROM (SELECT max(revision) AS revision FROM log WHERE resource = ?1 AND key > ?2 AND key >= ?3 \
               AND (?4 IS NULL OR key < ?4) AND revision <= ?5 GROUP BY key) AS newest \
             JOIN log AS l USING (revision) WHERE l.deleted = 0 ORDER BY l.key LIMIT ?6",
        )
        .bind(resource)
        .bind(start)
        .bind(prefix)
        .bind(end)
        .bind(signed(revision))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
        rows.iter().map(record).collect()
    }

    async fn revision_before(&self, at: i64) -> Result<u64> {
        let mut connection = self.read.lock().await;
        // Time grows with the revision: walking up from the oldest line touches only what is old.
        let newest: Option<i64> = sqlx::query_scalar(
            "SELECT revision FROM log WHERE revision < coalesce((SELECT revision FROM log WHERE at >= ?1 \
             AND revision > (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'compacted') \
             ORDER BY revision LIMIT 1), 9223372036854775807) ORDER BY revision DESC LIMIT 1",
        )
        .bind(at)
        .fetch_optional(&mut *connection)
        .await?;
        Ok(unsigned(newest.unwrap_or(0)))
    }

    async fn set_compacted(&self, revision: u64) -> Result<()> {
        let mut connection = self.write.lock().await;
        sqlx::query("INSERT OR REPLACE INTO meta(name, value) VALUES ('compacted', ?1)")
            .bind(signed(revision))
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    async fn compact(&self, from: u64, upto: u64, span: u64) -> Result<u64> {
        let mut connection = self.write.lock().await;
        let end: Option<i64> = sqlx::query_scalar(
            "SELECT max(revision) FROM (SELECT revision FROM log WHERE revision > ?1 AND revision <= ?2 \
             ORDER BY revision LIMIT ?3)",
        )
        .bind(signed(from))
        .bind(signed(upto))
        .bind(signed(span))
        .fetch_one(&mut *connection)
        .await?;
        let Some(end) = end else { return Ok(upto) };
        let deleted = sqlx::query(
            "DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND (deleted = 1 OR EXISTS (SELECT 1 FROM log AS n \
             WHERE n.resource = log.resource AND n.key = log.key AND n.revision > log.revision AND n.revision <= ?3))",
        )
        .bind(signed(from))
        .bind(end)
        .bind(signed(upto))
        .execute(&mut *connection)
        .await?;
        let lines = usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX);
        self.written(lines.saturating_mul(PAGES), &mut connection).await;
        Ok(unsigned(end))
    }

    async fn close(&self) {
        let mut connection = self.write.lock().await;
        if let Err(e) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::debug!(error = %e, "no last checkpoint");
        }
    }
}

async fn insert(connection: &mut SqliteConnection, rows: &[(&Record, &str)]) -> Result<()> {
    let mut insert = QueryBuilder::<Db>::new("INSERT INTO log(revision, resource, key, deleted, at, value) ");
    insert.push_values(rows, |mut row, (r, value)| {
        row.push_bind(signed(r.revision))
            .push_bind(&*r.resource)
            .push_bind(&*r.key)
            .push_bind(i64::from(r.deleted))
            .push_bind(r.at)
            .push_bind(*value);
    });
    insert.build().execute(connection).await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<Record> {
    let text = |at| -> Result<&str> { Ok(row.try_get::<&str, usize>(at)?) };
    Ok(Record {
        revision: unsigned(row.try_get(0)?),
        resource: text(1)?.into(),
        key: text(2)?.into(),
        deleted: row.try_get::<i64, _>(3)? != 0,
        at: row.try_get(4)?,
        value: text(5)?.to_owned().into(),
    })
}

fn step(row: &SqliteRow) -> Result<Step> {
    let revision: Option<i64> = row.try_get(6)?;
    let lived = row.try_get::<Option<i64>, _>(7)? == Some(0);
    let value: Option<String> = row.try_get(8)?;
    let previous = revision.zip(value).filter(|_| lived).map(|(r, v)| (unsigned(r), v.into()));
    Ok(Step { record: record(row)?, previous })
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
