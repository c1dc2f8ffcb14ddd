//! Being told when files change.
//!
//! One instance of the kernel's serves all who wait: a user may have few of them (`fs.inotify.max_user_instances`, often 128),
//! and all root's processes on the machine share these, those in pods too. So it is taken early, and where a pod has left
//! nothing of instances or watches, files are looked at every second.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::beneath::{Dir, File};

/// As many may wait at once: the node's endpoints have places for half as many.
const MOST: usize = 4096;
/// Events are taken together, so that who writes without pause wakes its readers a hundred times a second at most.
const APART: Duration = Duration::from_millis(10);
/// As often is looked where nothing is told.
const LOOK: Duration = Duration::from_secs(1);
/// As often is read in a row.
const READS: usize = 64;

/// Lets many wait for changes of files.
pub struct Watcher {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    instance: Option<Instance>,
    /// Who waits for which watch of the instance.
    waiting: HashMap<WatchDescriptor, HashMap<u64, Arc<Waiter>>>,
    /// How many wait, and the number of the next.
    count: usize,
    next: u64,
    /// Whether the system refused the last watch.
    refused: bool,
    #[cfg(test)]
    refuses: bool,
}

struct Instance {
    watches: Arc<AsyncFd<Watches>>,
    reader: AbortHandle,
}

/// Lends tokio the descriptor, which the library gives only as a borrowed one.
struct Watches(Inotify);

struct Waiter {
    name: OsString,
    /// Keeps one call for who does not wait yet.
    told: Notify,
    replaced: AtomicBool,
    failed: AtomicBool,
}

/// Tells when a file was written to, or when another took its name, as rotation does; until it is dropped.
pub struct Changes {
    id: u64,
    watches: Vec<WatchDescriptor>,
    waiter: Arc<Waiter>,
    watcher: Arc<Watcher>,
    /// Nothing is told: it is the caller who has to look.
    blind: bool,
}

impl AsRawFd for Watches {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl Watcher ===

impl Watcher {
    /// Takes nothing of the kernel before there is something to watch, or it is told to `prepare`.
    pub fn new() -> Arc<Watcher> {
        Arc::new(Watcher { state: Arc::default() })
    }

    /// Takes its instance now, while there are some. Needs a runtime.
    pub fn prepare(&self) {
        if let Err(error) = self.state.lock().instance(&self.state) {
            tracing::warn!(%error, "logs may be followed by looking at them every second");
        }
    }

    /// Watches the file, which is `name` in the directory. Changes from now on are told. Needs a runtime.
    ///
    /// # Errors
    ///
    /// When too many wait.
    pub fn watch(self: &Arc<Self>, file: &File, dir: &Dir, name: &OsStr) -> io::Result<Changes> {
        let held = |fd: BorrowedFd<'_>| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let wanted = [
            (held(file.as_fd()), AddWatchFlags::IN_MODIFY),
            (held(dir.as_fd()), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO),
        ];
        let waiter = Arc::new(Waiter {
            name: name.to_owned(),
            told: Notify::new(),
            replaced: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let mut state = self.state.lock();
        if state.count >= MOST {
            return Err(io::Error::other("too many files are watched"));
        }
        state.next += 1;
        state.count += 1;
        let mut changes =
            Changes { id: state.next, watches: vec![], waiter, watcher: self.clone(), blind: false };
        let added = state.instance(&self.state).and_then(|watches| state.add(&watches, wanted, &mut changes));
        changes.blind = added.is_err();
        match added {
            Ok(()) => state.refused = false,
            Err(error) if !std::mem::replace(&mut state.refused, true) => {
                tracing::warn!(%error, "followed logs are looked at every second");
            }
            Err(_) => {}
        }
        drop(state);
        Ok(changes)
    }

    /// As if the kernel had lost events.
    #[cfg(test)]
    pub fn wake_all(&self) {
        self.state.lock().wake_all();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(instance) = self.state.lock().instance.take() {
            instance.reader.abort();
        }
    }
}

// === impl State ===

impl State {
    fn instance(&mut self, shared: &Arc<Mutex<State>>) -> io::Result<Arc<AsyncFd<Watches>>> {
        if let Some(instance) = &self.instance {
            return Ok(instance.watches.clone());
        }
        let inotify = match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
            Ok(inotify) => inotify,
            Err(Errno::EMFILE) => {
                return Err(io::Error::other(
                    "no more inotify instances (fs.inotify.max_user_instances) or open files",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        // SAFETY: `Watches` owns its descriptor and gives the same one for as long as it lives.
        let watches = Arc::new(unsafe { AsyncFd::register(Watches(inotify)) }?);
        let (state, read) = (shared.clone(), watches.clone());
        let reader = tokio::spawn(async move {
            let Err(error) = tell(&read, &state).await;
            tracing::warn!(%error, "changes of files are not told any more");
            state.lock().fail();
        });
        self.instance = Some(Instance { watches: watches.clone(), reader: reader.abort_handle() });
        Ok(watches)
    }

    fn add(
        &mut self,
        instance: &AsyncFd<Watches>,
        wanted: [(PathBuf, AddWatchFlags); 2],
        changes: &mut Changes,
    ) -> io::Result<()> {
        for (path, events) in wanted {
            // What is watched already has the same events, and gives the same number.
            let watch = match instance.get_ref().0.add_watch(&path, events) {
                #[cfg(test)]
                _ if self.refuses => Err(Errno::ENOSPC),
                added => added,
            };
            let watch = watch.map_err(|error| match error {
                Errno::ENOSPC => {
                    io::Error::other("the system has no more inotify watches (fs.inotify.max_user_watches)")
                }
                error => error.into(),
            })?;
            self.waiting.entry(watch).or_default().insert(changes.id, changes.waiter.clone());
            changes.watches.push(watch);
        }
        Ok(())
    }

    fn take_in(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self.wake_all();
        }
        for waiter in self.waiting.get(&event.wd).into_iter().flat_map(HashMap::values) {
            match &event.name {
                Some(name) if *name == waiter.name => waiter.tell(true),
                // Another file of the directory.
                Some(_) => {}
                None => waiter.tell(false),
            }
        }
        // The directory is gone, or its file system: the kernel has ended the watch.
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.waiting.remove(&event.wd);
        }
    }

    /// Some events were lost: anything may have happened.
    fn wake_all(&self) {
        self.waiting.values().flat_map(HashMap::values).for_each(|waiter| waiter.tell(true));
    }

    /// Ends the wait of all; who comes next begins with a new instance.
    fn fail(&mut self) {
        for waiter in self.waiting.values().flat_map(HashMap::values) {
            waiter.failed.store(true, Ordering::Release);
            waiter.told.notify_one();
        }
        self.waiting.clear();
        if let Some(instance) = self.instance.take() {
            instance.reader.abort();
        }
    }
}

/// Passes events on to who waits for them; ends with why it cannot.
async fn tell(watches: &AsyncFd<Watches>, state: &Mutex<State>) -> io::Result<std::convert::Infallible> {
    loop {
        let mut ready = watches.readable().await?;
        for _ in 0..READS {
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let mut state = state.lock();
                    events.iter().for_each(|event| state.take_in(event));
                }
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drop(ready);
        tokio::time::sleep(APART).await;
    }
}

// === impl Waiter ===

impl Waiter {
    fn tell(&self, replaced: bool) {
        if replaced {
            self.replaced.store(true, Ordering::Release);
        }
        self.told.notify_one();
    }
}

// === impl Changes ===

impl Changes {
    /// Waits for a change since the last call; whether the name may now stand for another file.
    pub async fn next(&mut self) -> io::Result<bool> {
        if self.blind {
            tokio::time::sleep(LOOK).await;
            return Ok(true);
        }
        self.waiter.told.notified().await;
        if self.waiter.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("changes of the file are not told any more"));
        }
        Ok(self.waiter.replaced.swap(false, Ordering::AcqRel))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut state = self.watcher.state.lock();
        let state = &mut *state;
        state.count -= 1;
        for watch in &self.watches {
            let Some(waiting) = state.waiting.get_mut(watch) else { continue };
            // A number of an instance that failed may be another file's by now.
            if waiting.remove(&self.id).is_some() && waiting.is_empty() {
                state.waiting.remove(watch);
                if let Some(instance) = &state.instance {
                    // It may have ended by itself.
                    let _ = instance.watches.get_ref().0.rm_watch(*watch);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::FutureExt;

    use super::*;
    use crate::beneath::Links;

    fn watch(watcher: &Arc<Watcher>, dir: &Path, name: &str) -> io::Result<Changes> {
        let dir = Dir::open(dir)?;
        watcher.watch(&dir.file(name, Links::Refused)?, &dir, OsStr::new(name))
    }

    fn write(dir: &Path, name: &str) {
        use std::io::Write;
        let file = std::fs::File::options().create(true).append(true).open(dir.join(name));
        file.unwrap().write_all(b"x").unwrap();
    }

    /// The watches that the kernel keeps for it.
    fn kept(watcher: &Watcher) -> usize {
        let state = watcher.state.lock();
        let fd = state.instance.as_ref().unwrap().watches.as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        text.lines().filter(|line| line.starts_with("inotify ")).count()
    }

    #[tokio::test]
    async fn one_instance_tells_each_of_many_of_its_own_file() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        let names: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        names.iter().for_each(|name| write(dir.path(), name));
        let mut all: Vec<_> = names.iter().map(|name| watch(&watcher, dir.path(), name).unwrap()).collect();
        assert_eq!(kept(&watcher), 301, "the directory once");
        write(dir.path(), "7");
        assert!(!all[7].next().await.unwrap());
        std::fs::rename(dir.path().join("8"), dir.path().join("9")).unwrap();
        assert!(all[9].next().await.unwrap(), "another took its name");
        // That one may be told of its old file's end as well.
        for (n, changes) in all.iter_mut().enumerate().filter(|(n, _)| *n != 9) {
            assert!(changes.next().now_or_never().is_none(), "{n} was told of another's");
        }
        drop(all);
        assert_eq!(kept(&watcher), 0);
        assert!(watcher.state.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_file_is_watched_until_the_last_who_waits_is_gone() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        write(dir.path(), "log");
        let [one, mut other] = [(); 2].map(|()| watch(&watcher, dir.path(), "log").unwrap());
        assert_eq!(kept(&watcher), 2);
        drop(one);
        // A change before the wait is told as well.
        write(dir.path(), "log");
        assert!(!other.next().await.unwrap());
        drop(other);
        assert_eq!(kept(&watcher), 0);
    }

    #[tokio::test]
    async fn a_directory_that_goes_takes_its_watch_along() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        let pod = dir.path().join("pod");
        std::fs::create_dir(&pod).unwrap();
        write(&pod, "log");
        let mut changes = watch(&watcher, &pod, "log").unwrap();
        std::fs::remove_dir_all(&pod).unwrap();
        assert!(!changes.next().await.unwrap());
        drop(changes);
        assert_eq!((kept(&watcher), watcher.state.lock().waiting.len()), (0, 0));
    }

    #[tokio::test]
    async fn lost_events_and_a_lost_instance_wake_all() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        ["a", "b"].iter().for_each(|name| write(dir.path(), name));
        let mut all = ["a", "b"].map(|name| watch(&watcher, dir.path(), name).unwrap());
        watcher.state.lock().wake_all();
        for changes in &mut all {
            assert!(changes.next().await.unwrap());
        }
        watcher.state.lock().fail();
        for changes in &mut all {
            assert!(changes.next().await.is_err());
        }
        let mut again = watch(&watcher, dir.path(), "a").unwrap();
        drop(all);
        write(dir.path(), "a");
        assert!(!again.next().await.unwrap());
    }

    /// A pod that runs as root may take all of root's watches.
    #[tokio::test(start_paused = true)]
    async fn without_watches_the_caller_looks_every_second() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        write(dir.path(), "log");
        watcher.prepare();
        watcher.state.lock().refuses = true;
        let begun = tokio::time::Instant::now();
        let mut blind = watch(&watcher, dir.path(), "log").unwrap();
        for _ in 0..3 {
            assert!(blind.next().await.unwrap(), "it may be another file");
        }
        assert_eq!(begun.elapsed(), 3 * LOOK);
        watcher.state.lock().refuses = false;
        let mut again = watch(&watcher, dir.path(), "log").unwrap();
        write(dir.path(), "log");
        assert!(!again.next().await.unwrap());
        drop((blind, again));
        assert_eq!((kept(&watcher), watcher.state.lock().count), (0, 0));
    }

    /// The kernel keeps some 16,384 events (`fs.inotify.max_queued_events`).
    #[tokio::test]
    async fn a_writer_who_is_too_fast_to_be_told_of_wakes_all() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        ["a", "b", "c"].iter().for_each(|name| write(dir.path(), name));
        let [_a, _b, mut c] = ["a", "b", "c"].map(|name| watch(&watcher, dir.path(), name).unwrap());
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let files = ["a", "b"].map(|name| std::fs::File::create(dir.path().join(name)).unwrap());
        for _ in 0..limit.trim().parse::<usize>().unwrap() {
            files.iter().for_each(|mut file| std::io::Write::write_all(&mut file, b"x").unwrap());
        }
        assert!(c.next().await.unwrap(), "anything may have happened to it");
    }

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let (dir, watcher) = (tempfile::tempdir().unwrap(), Watcher::new());
        write(dir.path(), "log");
        let mut all: Vec<_> =
            std::iter::from_fn(|| watch(&watcher, dir.path(), "log").ok()).take(MOST + 1).collect();
        assert_eq!(all.len(), MOST);
        all.pop();
        assert!(watch(&watcher, dir.path(), "log").is_ok());
    }
}
