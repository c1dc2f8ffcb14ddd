//! Keeps the cluster under test serving: started again when it has ended, killed first when it no longer answers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, pause};

/// The cluster of a run; none when it is somebody else's.
pub(super) struct Supervisor {
    cluster: Mutex<Option<Cluster>>,
    log: Option<PathBuf>,
    kubectl: Option<Kubectl>,
    crashes: AtomicUsize,
    over: AtomicBool,
}

/// How often the cluster is asked whether it is ready, and how many times in a row it may not answer.
const ASK_EVERY: Duration = Duration::from_secs(20);
const SILENT: u8 = 3;

// === impl Supervisor ===

impl Supervisor {
    pub(super) fn new(cluster: Option<Cluster>, kubectl: &Path) -> Self {
        Supervisor {
            log: cluster.as_ref().map(Cluster::log_path),
            kubectl: cluster.as_ref().map(|c| c.kubectl(kubectl)),
            cluster: Mutex::new(cluster),
            crashes: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// How many times it had to be started again.
    pub(super) fn crashes(&self) -> usize {
        self.crashes.load(Ordering::SeqCst)
    }

    pub(super) fn log_path(&self) -> Option<PathBuf> {
        self.log.clone()
    }

    /// Watches until the run is over; sets `stop` when the cluster cannot be started again.
    pub(super) fn watch(&self, stop: &AtomicBool) {
        let mut silent = 0;
        let mut asked = Instant::now();
        while !self.over.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
            pause(Duration::from_millis(500));
            if asked.elapsed() > ASK_EVERY {
                silent = if self.answers() { 0 } else { silent + 1 };
                asked = Instant::now();
            }
            let mut cluster = self.cluster.lock().expect("nobody panicked");
            let Some(cluster) = cluster.as_mut() else { return };
            if silent >= SILENT {
                println!("the cluster has not answered {SILENT} times; it is killed and started again");
                // Already gone is fine.
                let _ = cluster.pid().map(|pid| kill(pid, Signal::SIGKILL));
                silent = 0;
            }
            match cluster.restart_if_gone() {
                Ok(false) => {}
                Ok(true) => {
                    self.crashes.fetch_add(1, Ordering::SeqCst);
                }
                Err(e) => {
                    println!("the cluster cannot be started again: {e:#}");
                    self.crashes.fetch_add(1, Ordering::SeqCst);
                    stop.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Ends the watch.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(super) fn into_cluster(self) -> Option<Cluster> {
        self.cluster.into_inner().expect("nobody panicked")
    }

    fn answers(&self) -> bool {
        let Some(kubectl) = &self.kubectl else { return true };
        kubectl.run("get --raw /readyz --request-timeout=15s").is_ok_and(|p| p.code == Some(0))
    }
}
