//! What a person sees while a cluster starts: one line a step, with the time since the start.

use std::io::Write;
use std::time::Instant;

/// Prints steps to standard output as they happen.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
}

impl Progress {
    pub fn begin() -> Self {
        Progress { begun: Instant::now() }
    }

    /// `  0.12 s  store opened`
    pub fn step(&self, text: impl std::fmt::Display) {
        self.line(format_args!("{:7.2} s  {text}", self.begun.elapsed().as_secs_f64()));
    }

    /// A line without a time: what the user needs next.
    pub fn line(&self, text: impl std::fmt::Display) {
        // A closed pipe must not end the cluster.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}
