//! Looks at the program while attackers are busy, from a thread that they do not share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

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
