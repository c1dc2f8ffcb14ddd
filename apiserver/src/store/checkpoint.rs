//! What commits have written ahead goes into the database beside them: no write waits while pages are copied and made
//! durable, and the file they are written ahead to is begun again before it grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, Notify};

use super::backend::Result;

/// How much is written ahead before it is copied, in bytes, and how much at most: then the next commit waits for that.
const DUE: usize = 16 << 20;
const MOST: usize = 4 * DUE;
/// What a commit writes besides its values, and for each line that it removes: pages of the table and of its indexes.
pub(super) const PAGES: usize = 16 << 10;

const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// Counts what is written ahead.
#[derive(Default)]
pub(super) struct Ahead {
    bytes: AtomicUsize,
    due: Notify,
}

// === impl Ahead ===

impl Ahead {
    /// After a commit of so many bytes, on the connection that did it.
    pub(super) async fn add(&self, bytes: usize, committed: &mut SqliteConnection) {
        let more = bytes.saturating_add(PAGES);
        let bytes = self.bytes.fetch_add(more, Relaxed).saturating_add(more);
        if bytes >= MOST {
            // Whoever copies beside the commits does not keep up.
            told(self.copy(committed).await);
        } else if bytes >= DUE {
            self.due.notify_one();
        }
    }

    /// Copies on a connection of its own whenever that is due, until it is dropped.
    pub(super) async fn run(self: Arc<Self>, mut own: SqliteConnection, write: Arc<Mutex<SqliteConnection>>) {
        loop {
            self.due.notified().await;
            // Most of it while commits go on, and the rest between two of them: only what has been copied to its end is
            // begun again.
            let beside = self.copy(&mut own).await;
            let _between = write.lock().await;
            told(beside.and(self.copy(&mut own).await));
        }
    }

    async fn copy(&self, connection: &mut SqliteConnection) -> Result<()> {
        self.bytes.store(0, Relaxed);
        connection.execute(COPY).await?;
        Ok(())
    }
}

/// A copy that failed takes nothing from what was committed, and is tried again.
fn told(copied: Result<()>) {
    if let Err(e) = copied {
        tracing::warn!(error = %e, "what was written ahead is not in the database yet");
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::{Backend, Record};
    use super::super::sqlite::Sqlite;

    fn record(revision: u64, bytes: usize) -> Record {
        let value = format!("\"{}\"", "x".repeat(bytes)).into();
        Record { revision, resource: "r".into(), key: "k".into(), deleted: false, at: 0, value }
    }

    #[tokio::test]
    async fn the_file_that_is_written_ahead_is_begun_again_and_nothing_of_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = Sqlite::open(Some(dir.path())).await.unwrap();
        for revision in 1..=160 {
            log.append(&[record(revision, 1 << 20)]).await.unwrap();
        }
        let ahead = std::fs::metadata(dir.path().join("coracle.db-wal")).unwrap().len();
        assert!(ahead < 120 << 20, "{ahead} bytes of 160 MB");
        drop(log);
        let again = Sqlite::open(Some(dir.path())).await.unwrap();
        assert_eq!(again.newest().await.unwrap(), 160);
        assert_eq!(again.at("r", "", "", 17, 9).await.unwrap()[0].revision, 17);
    }
}
