//! Tasks that outlive their own faults: a panic is told, counted and contained, and what must go on is begun anew after a
//! back-off.

use std::{panic::AssertUnwindSafe, time::Duration};

use coracle_api::panics;
use futures::FutureExt as _;
use tokio::time::Instant;

/// The first pause, the longest, and how long a task must have run to begin with the first again.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(600);

/// What stands between a task's panic and its next beginning.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    failures: u32,
}

// === impl BackOff ===

impl BackOff {
    /// The pause after a life of this length.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        self.failures = if lived >= SETTLED { 1 } else { self.failures.saturating_add(1) };
        LONGEST.min(FIRST * 2_u32.saturating_pow(self.failures - 1))
    }

    /// How many lives in a row ended early.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// Runs `work`; a panic in it is logged, counted, and becomes the error that says so.
pub(crate) async fn contained<F: Future>(task: &'static str, work: F) -> Result<F::Output, String> {
    // What the task shared is behind locks that do not poison, or is dropped with it.
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let why = panics::count(task, &*panic);
        tracing::error!(task, panic = why, "a task panicked");
        format!("internal error: {why}")
    })
}

/// Runs what `begin` makes until it ends by itself. One that panics is begun anew. The panics are on the `/metrics` of the
/// kubelet and of the API server, where they run in the same program.
pub async fn supervised<F: Future>(task: &'static str, mut begin: impl FnMut() -> F) -> F::Output {
    let mut back_off = BackOff::default();
    loop {
        let begun = Instant::now();
        match contained(task, async { begin().await }).await {
            Ok(output) => return output,
            Err(_) => tokio::time::sleep(back_off.after(begun.elapsed())).await,
        }
    }
}

/// A task that ends with its owner, also when the owner panics.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn count(task: &str) -> u64 {
        panics::counts().into_iter().find(|(name, _)| *name == task).map_or(0, |(_, count)| count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_begun_anew_with_a_back_off() {
        let (lives, start) = (Cell::new(0), Instant::now());
        let begin = || {
            lives.set(lives.get() + 1);
            let life = lives.get();
            async move {
                assert!(life > 3, "life {life}");
                life
            }
        };
        assert_eq!(supervised("test of supervision", begin).await, 4);
        assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4);
        assert_eq!(count("test of supervision"), 3);
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_in_its_own_words() {
        let byte = contained("test of words", async { assert!(!"é".is_char_boundary(1), "inside é") }).await;
        assert_eq!(byte, Ok(()));
        let failed: Result<(), String> =
            contained("test of words", async { panic!("byte {} is not a boundary", 1) }).await;
        assert_eq!(failed.unwrap_err(), "internal error: byte 1 is not a boundary");
        assert_eq!(count("test of words"), 1);
    }

    #[test]
    fn the_back_off_grows_to_a_bound_and_is_forgotten_after_a_long_life() {
        let mut back_off = BackOff::default();
        let short = Duration::from_secs(5);
        let pauses: Vec<u64> = (0..8).map(|_| back_off.after(short).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(back_off.failures(), 8);
        assert_eq!(back_off.after(SETTLED).as_secs(), 1);
        assert_eq!(back_off.failures(), 1);
    }
}
