//! Running checks one after the other and saying how each went, in the words of a test runner.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::Result;

/// One named check.
pub struct Check<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// What became of a list of checks.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failed: Vec<String>,
    pub skipped: usize,
}

/// Runs something; a panic is a failure of it alone.
pub fn quietly<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked (the message is above)")))
}

// === impl Report ===

impl Report {
    /// Runs a check unless its name does not contain `filter`; a failure does not stop the next one.
    pub fn check(&mut self, filter: &str, check: Check<'_>) {
        if !check.name.contains(filter) {
            self.skipped += 1;
            return;
        }
        let begun = Instant::now();
        let outcome = quietly(check.run);
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {:6.1} s  {}", seconds, check.name);
            }
            Err(e) => {
                println!("FAILED  {:6.1} s  {}\n        {e:#}", seconds, check.name);
                self.failed.push(check.name.to_owned());
            }
        }
    }

    /// The closing line; an error when anything failed.
    pub fn finish(self) -> Result<()> {
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped);
        anyhow::ensure!(self.failed.is_empty(), "{} checks failed", self.failed.len());
        Ok(())
    }
}
