//! The store: a log in SQL, and the world in memory.
//!
//! One revision counter serves the whole cluster; it grows in commit order. Writes queue to one [`writer`], which commits
//! what is waiting as one transaction and then publishes it. Reads are answered from memory; watchers are [`Cursor`]s.
//! The store knows keys, revisions, bytes, labels and selectable fields; it knows no kind.

mod backend;
mod checkpoint;
mod compaction;
mod cursor;
mod draft;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod past;
mod sqlite;
mod world;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use coracle_api::Object;

use crate::resource::IndexedField;
use backend::Backend;

pub use backend::BackendError;
pub use cursor::{Cursor, Event, Expired};
pub use draft::Draft;
pub use past::Page;
use world::Shelf;
pub use world::{Index, Stored, View, field_value};

/// How much of the past the log keeps: a revision goes when it is older than `age` or when more than `revisions` follow it.
#[derive(Clone, Debug)]
pub struct History {
    pub age: Duration,
    pub revisions: u64,
}

impl Default for History {
    fn default() -> Self {
        History { age: Duration::from_secs(3600), revisions: 100_000 }
    }
}

/// What the store needs to know to open.
pub struct Options {
    /// The directory of the database; `None` is memory.
    pub dir: Option<PathBuf>,
    pub history: History,
    /// The selectable fields of each storage (`group/plural`).
    pub fields: HashMap<Arc<str>, Vec<IndexedField>>,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the database cannot be used")]
    Backend(#[from] BackendError),
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The key is not at the expected revision; what is there now.
    #[error("another write came first")]
    Conflict(Option<Arc<Stored>>),
    /// The same of one of the writes that were to happen with it.
    #[error("another write came before one that goes with this")]
    Stale,
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    #[error("the store is closed")]
    Closed,
}

/// What a write expects to find under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Revision(u64),
}

/// What a write leaves under its key.
#[derive(Debug, Clone)]
pub enum Change {
    Put(Draft),
    /// The object's last state, as watchers shall see it.
    Delete(Draft),
}

/// One write, decided by what it finds.
#[derive(Debug, Clone)]
pub struct Write {
    /// `group/plural`.
    pub resource: Arc<str>,
    pub key: Arc<str>,
    pub expect: Expect,
    pub change: Change,
}

/// What a write has set aside outside the store. It is held until the write has happened or not, whoever still waits for
/// that; dropped without [`Hold::keep`], it gives back what it holds.
pub trait Hold: Send + Sync {
    /// The write has happened, and readers see it.
    fn keep(&self);
}

/// What a write holds, where it holds anything.
pub type Holding = Option<Arc<dyn Hold>>;

/// A write on its way, with those that happen with it or not at all.
struct Queued {
    write: Placed,
    with: Vec<Placed>,
    hold: Holding,
    reply: oneshot::Sender<Result<Arc<Stored>, CommitError>>,
}

/// A write and the shelf that it is for.
struct Placed {
    shelf: Arc<Shelf>,
    key: Arc<str>,
    expect: Expect,
    change: Change,
}

/// The store: cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    shelves: RwLock<HashMap<Arc<str>, Arc<Shelf>>>,
    fields: HashMap<Arc<str>, Vec<IndexedField>>,
    /// The newest published revision.
    head: AtomicU64,
    /// The revision up to which history is gone.
    compacted: AtomicU64,
    /// The revision found at the start: rings know nothing of what came before.
    origin: AtomicU64,
    writes: mpsc::Sender<Queued>,
    history: History,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held for as long as the store is open: one process owns a database.
    _owner: Option<std::fs::File>,
}

// === impl Store ===

impl Store {
    /// Opens the database, reads the world into memory, and starts the writer and the compactor.
    pub async fn open(options: Options) -> Result<Store, OpenError> {
        let owner = options.dir.as_ref().map(own).transpose()?;
        let backend = Arc::new(sqlite::Sqlite::open(options.dir.as_deref()).await?);
        Store::with_backend(backend, options, owner).await
    }

    async fn with_backend(
        backend: Arc<dyn Backend>,
        options: Options,
        owner: Option<std::fs::File>,
    ) -> Result<Store, OpenError> {
        let (writes, queue) = mpsc::channel(1024);
        let store = Store(Arc::new(Inner {
            backend,
            shelves: RwLock::default(),
            fields: options.fields,
            head: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            origin: AtomicU64::new(0),
            writes,
            history: options.history,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _owner: owner,
        }));
        store.load().await?;
        let inner = &store.0;
        inner.tasks.spawn(writer::run(Arc::downgrade(inner), queue, inner.stop.clone()));
        inner.tasks.spawn(compaction::run(Arc::downgrade(inner), inner.stop.clone()));
        Ok(store)
    }

    async fn load(&self) -> Result<(), OpenError> {
        let inner = &self.0;
        let head = inner
            .backend
            .load(&mut |record| {
                let shelf = self.shelf(&record.resource);
                shelf.load(record);
            })
            .await?;
        inner.head.store(head.revision, Ordering::Release);
        inner.origin.store(head.revision, Ordering::Release);
        inner.compacted.store(head.compacted, Ordering::Release);
        for shelf in inner.shelves.read().values() {
            shelf.set_origin(head.revision);
        }
        Ok(())
    }

    pub fn is_open(&self) -> bool {
        !self.0.stop.is_cancelled()
    }

    /// The newest revision that readers can see.
    pub fn revision(&self) -> u64 {
        self.0.head.load(Ordering::Acquire)
    }

    /// The revision up to which history is gone.
    pub fn compacted(&self) -> u64 {
        self.0.compacted.load(Ordering::Acquire)
    }

    pub fn get(&self, resource: &str, key: &str) -> Option<Arc<Stored>> {
        self.find(resource)?.get(key)
    }

    /// How many objects there are.
    pub fn count(&self, resource: &str) -> usize {
        self.find(resource).map_or(0, |s| s.len())
    }

    /// The objects of each resource, for metrics.
    pub fn counts(&self) -> Vec<(Arc<str>, usize)> {
        self.0.shelves.read().iter().map(|(name, s)| (name.clone(), s.len())).collect()
    }

    /// The newest revision any object of a resource was written at.
    pub fn resource_revision(&self, resource: &str) -> u64 {
        self.find(resource).map_or(0, |s| s.newest())
    }

    /// What is there now: all keys that begin with `prefix`, and the revision of this view.
    pub fn list(&self, resource: &str, prefix: &str) -> View {
        self.select(resource, prefix, "", usize::MAX, |_| true)
    }

    /// The first `limit` wanted objects of a prefix, from the key `start` (exclusive) on.
    pub fn select(
        &self,
        resource: &str,
        prefix: &str,
        start: &str,
        limit: usize,
        wanted: impl Fn(&Stored) -> bool,
    ) -> View {
        match self.find(resource) {
            Some(shelf) => shelf.list(prefix, start, self.revision(), limit, wanted),
            None => View { revision: self.revision(), items: vec![], more: 0 },
        }
    }

    /// Encodes an object for a write to a resource.
    pub fn draft(&self, resource: &Arc<str>, object: &Object) -> Draft {
        self.shelf(resource).draft(object)
    }

    /// Commits one change and answers what is now stored (for a delete: the last state).
    pub async fn commit(
        &self,
        resource: &Arc<str>,
        key: impl Into<Arc<str>>,
        expect: Expect,
        change: Change,
    ) -> Result<Arc<Stored>, CommitError> {
        let write = Write { resource: resource.clone(), key: key.into(), expect, change };
        self.commit_with(write, vec![], None).await
    }

    /// Commits a write together with others: all of them, or none. Answers what is now stored under the first one's key.
    ///
    /// Once a write is queued it is the writer's, which brings it to its end and settles its hold, whether or not this
    /// future is still there to hear of it; before that, dropping this future drops the write.
    pub async fn commit_with(
        &self,
        write: Write,
        with: Vec<Write>,
        hold: Holding,
    ) -> Result<Arc<Stored>, CommitError> {
        let place = |w: Write| Placed {
            shelf: self.shelf(&w.resource),
            key: w.key,
            expect: w.expect,
            change: w.change,
        };
        let (reply, answer) = oneshot::channel();
        let with = with.into_iter().map(place).collect();
        let queued = Queued { write: place(write), with, hold, reply };
        self.0.writes.send(queued).await.map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)?
    }

    /// Everything that happens to keys with this prefix after revision `from`.
    pub fn watch(&self, resource: &Arc<str>, prefix: &str, from: u64) -> Cursor {
        Cursor::new(self.clone(), self.shelf(resource), prefix.into(), from)
    }

    /// Stops the tasks once everything acknowledged is on disk.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.shelves.read().values().for_each(|shelf| shelf.wake());
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.backend.close().await;
    }

    fn find(&self, resource: &str) -> Option<Arc<Shelf>> {
        self.0.shelves.read().get(resource).cloned()
    }

    /// The shelf of a resource, made where it is not there yet.
    fn shelf(&self, resource: &Arc<str>) -> Arc<Shelf> {
        if let Some(shelf) = self.find(resource) {
            return shelf;
        }
        let fields = self.0.fields.get(resource).cloned().unwrap_or_default();
        let origin = self.0.origin.load(Ordering::Acquire);
        let mut shelves = self.0.shelves.write();
        shelves
            .entry(resource.clone())
            .or_insert_with(|| Arc::new(Shelf::new(resource.clone(), fields, origin)))
            .clone()
    }
}

/// Takes the data directory for this process, or says who cannot have it.
fn own(dir: &PathBuf) -> Result<std::fs::File, OpenError> {
    let failed = |source| OpenError::Io { path: dir.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("owner.lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked(dir.clone())),
        Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}
