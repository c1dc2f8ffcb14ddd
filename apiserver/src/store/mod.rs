//! The log and the world in memory.

use std::time::Duration;

/// How much of the past the log keeps.
#[derive(Clone, Debug)]
pub struct History {
    pub age: Duration,
    pub revisions: u64,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0} is in use by another process")]
    Locked(std::path::PathBuf),
}

/// The store: cheap to clone.
#[derive(Clone)]
pub struct Store {}

impl Default for History {
    fn default() -> Self {
        History { age: Duration::from_secs(3600), revisions: 100_000 }
    }
}
