//! Looks at the program and at the disk while attackers are busy, from threads that they do not share.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::tenant::{PACE, Spread};

use crate::kubectl::pause;
use crate::process::Processes;

/// How often descriptors are counted: the kernel keeps no peak of them.
const OFTEN: Duration = Duration::from_millis(200);

/// The most descriptors a program had; looked at until the value is dropped.
pub(super) struct Peak {
    seen: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the disk takes for a little that must be durable, whatever the program does; written until the value is dropped.
pub(super) struct Disk {
    times: Arc<Mutex<Vec<Duration>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Peak ===

impl Peak {
    pub(super) fn watch(processes: Processes) -> Self {
        let (seen, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (most, end) = (seen.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Relaxed) {
                most.fetch_max(processes.descriptors(), Relaxed);
                pause(OFTEN);
            }
        });
        Peak { seen, ended, thread: Some(thread) }
    }

    pub(super) fn descriptors(&self) -> usize {
        self.seen.load(Relaxed)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Disk ===

impl Disk {
    /// In a file of its own below `dir`, as often as the tenant creates.
    pub(super) fn watch(dir: &Path) -> Result<Self> {
        let file = File::create(dir.join("witness"))?;
        let (times, ended) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicBool::new(false)));
        let (taken, end) = (times.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            for n in 0_u64.. {
                if end.load(Relaxed) {
                    break;
                }
                let begun = Instant::now();
                // A disk that fails is seen by the program, too.
                let _ = file.write_at(&n.to_le_bytes(), n % 512 * 8).and_then(|_| file.sync_data());
                let took = begun.elapsed();
                taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took);
                pause(PACE.saturating_sub(took));
            }
        });
        Ok(Disk { times, ended, thread: Some(thread) })
    }

    pub(super) fn times(&self) -> Spread {
        Spread::of(&mut self.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
