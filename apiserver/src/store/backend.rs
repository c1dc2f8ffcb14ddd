//! What a SQL database must do for the store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub revision: u64,
    pub resource: Arc<str>,
    pub key: Arc<str>,
    /// Whether this line ends the object; `value` is then its last state.
    pub deleted: bool,
    pub value: Bytes,
    /// Unix seconds of the write.
    pub at: i64,
}

/// A line of the log with the state before it, where there was one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub record: Record,
    pub previous: Option<(u64, Bytes)>,
}

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub revision: u64,
    pub compacted: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0}")]
    Sql(#[from] sqlx::Error),
    #[error("the database holds data that is not text: revision {0}")]
    NotText(u64),
}

pub(super) type Result<T, E = BackendError> = std::result::Result<T, E>;

#[async_trait]
pub(super) trait Backend: Send + Sync {
    /// Hands over the newest line of every living key.
    async fn load(&self, each: &mut (dyn FnMut(Record) + Send)) -> Result<Head>;

    /// Appends all lines durably, or none.
    async fn append(&self, records: &[Record]) -> Result<()>;

    /// The newest line's revision, 0 where there is none: what a write that failed has left behind.
    async fn newest(&self) -> Result<u64>;

    /// The lines of a resource with `after < revision <= upto`, oldest first: at most `limit`, and none once they are of so
    /// many `bytes`.
    async fn steps(
        &self,
        resource: &str,
        after: u64,
        upto: u64,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Step>>;

    /// What lived under `prefix`, past the key `start`, at a revision; in key order.
    async fn at(
        &self,
        resource: &str,
        prefix: &str,
        start: &str,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<Record>>;

    /// The newest revision written before a time (Unix seconds); 0 where there is none.
    async fn revision_before(&self, at: i64) -> Result<u64>;

    /// Remembers that history up to a revision may go.
    async fn set_compacted(&self, revision: u64) -> Result<()>;

    /// Removes at most about `span` revisions of what was superseded up to `upto`, from `from` on. Answers where to go on.
    async fn compact(&self, from: u64, upto: u64, span: u64) -> Result<u64>;

    async fn close(&self);
}
