//! What became of named checks of something that is not ours: kept as JSON, shown on the status page.

use std::fmt::Write;
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::report::quietly;

/// What one subject said, or why it was not asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// What was checked, and its version.
    pub subject: String,
    pub date: String,
    pub commit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    pub checks: Vec<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub check: String,
    pub outcome: Verdict,
    pub seconds: f64,
    /// The first line of what went wrong, or why the check was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Failed,
    Skipped,
}

// === impl Ran ===

impl Ran {
    /// Nothing has been checked yet.
    pub(crate) fn now(subject: &str) -> Self {
        println!("{subject}");
        let (date, commit) = (jiff::Zoned::now().date().to_string(), crate::suite::git_head());
        Ran { subject: subject.to_owned(), date, commit, ..Ran::default() }
    }

    pub(crate) fn skip(&mut self, why: &str) {
        println!("skipped: {why}");
        self.skipped = Some(why.to_owned());
    }

    pub(crate) fn keep(&mut self, outcome: Outcome) {
        let outcome = outcome.brief();
        outcome.print();
        self.checks.push(outcome);
    }

    pub(crate) fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        self.keep(Outcome::of(name, run));
    }

    /// What was in the way of all further checks is a failure like theirs.
    pub(crate) fn whole(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.keep(Outcome::failed("as a whole", 0.0, format!("{error:#}")));
        }
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|c| c.outcome == verdict).count()
    }
}

// === impl Outcome ===

impl Outcome {
    fn of(check: &str, run: impl FnOnce() -> Result<()>) -> Self {
        let begun = Instant::now();
        let outcome = quietly(run);
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => Outcome { check: check.to_owned(), outcome: Verdict::Ok, seconds, error: None },
            Err(error) => Outcome::failed(check, seconds, format!("{error:#}")),
        }
    }

    fn failed(check: &str, seconds: f64, error: String) -> Self {
        Outcome { check: check.to_owned(), outcome: Verdict::Failed, seconds, error: Some(error) }
    }

    /// Keeps the first line of the error, and not all of that.
    fn brief(mut self) -> Self {
        self.error = self.error.map(|e| e.lines().next().unwrap_or_default().chars().take(400).collect());
        self.seconds = (self.seconds * 1000.0).round() / 1000.0;
        self
    }

    fn print(&self) {
        let word = match self.outcome {
            Verdict::Ok => "ok     ",
            Verdict::Failed => "FAILED ",
            Verdict::Skipped => "skipped",
        };
        println!("{word} {:6.1} s  {}", self.seconds, self.check);
        if let Some(error) = &self.error {
            println!("        {error}");
        }
    }
}

/// One part of the status page: a row for each subject, then what did not go well.
pub(crate) fn section(out: &mut String, title: &str, all: &[&Ran]) -> std::fmt::Result {
    writeln!(out, "## {title}\n\n| | passed | failed | skipped | run |\n|---|---:|---:|---:|---|")?;
    for ran in all {
        match &ran.skipped {
            Some(why) => writeln!(out, "| {} | - | - | - | {}: {why} |", ran.subject, ran.date)?,
            None => writeln!(
                out,
                "| {} | {} | {} | {} | {} at {} |",
                ran.subject,
                ran.count(Verdict::Ok),
                ran.count(Verdict::Failed),
                ran.count(Verdict::Skipped),
                ran.date,
                ran.commit
            )?,
        }
    }
    writeln!(out)?;
    for ran in all {
        for check in ran.checks.iter().filter(|c| c.outcome != Verdict::Ok) {
            let error = check.error.as_deref().unwrap_or_default().replace('`', "'");
            let word = if check.outcome == Verdict::Failed { "" } else { " (skipped)" };
            writeln!(out, "- {}: {}{word}: `{error}`", ran.subject, check.check)?;
        }
    }
    writeln!(out)
}
