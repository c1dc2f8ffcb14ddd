//! What came out of the suite, test by test: the one source of the ratchet and of the status page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `passed`, `failed`, `skipped`
    pub result: String,
    pub seconds: f64,
    /// First line of the error; empty when it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Outcomes by test name, and of which commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub commit: String,
    /// Day of the run, as `2026-11-21`.
    pub date: String,
    pub tests: BTreeMap<String, Outcome>,
}

// === impl Outcome ===

impl Outcome {
    pub fn is_passed(&self) -> bool {
        self.result == "passed"
    }

    pub(super) fn passed(seconds: f64) -> Self {
        Outcome { result: "passed".to_owned(), seconds, error: String::new() }
    }

    pub(super) fn failed(seconds: f64, error: &str) -> Self {
        let first = error.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("failed");
        Outcome { result: "failed".to_owned(), seconds, error: first.chars().take(400).collect() }
    }

    pub(super) fn skipped(why: &str) -> Self {
        Outcome { result: "skipped".to_owned(), seconds: 0.0, error: why.to_owned() }
    }
}

// === impl Results ===

impl Results {
    pub(super) fn new(commit: String) -> Self {
        let date = jiff::Zoned::now().date().to_string();
        Results { commit, date, tests: BTreeMap::new() }
    }

    pub(super) fn record(&mut self, name: &str, outcome: Outcome) {
        self.tests.insert(name.to_owned(), outcome);
    }

    /// These results, overridden by newer ones.
    pub(super) fn with(mut self, newer: &Results) -> Self {
        self.tests.extend(newer.tests.clone());
        Results { commit: newer.commit.clone(), date: newer.date.clone(), tests: self.tests }
    }

    pub fn failed(&self, name: &str) -> bool {
        self.tests.get(name).is_some_and(|o| o.result == "failed")
    }

    pub fn failures(&self) -> impl Iterator<Item = (&String, &Outcome)> {
        self.tests.iter().filter(|(_, o)| o.result == "failed")
    }

    pub fn count(&self, result: &str) -> usize {
        self.tests.values().filter(|o| o.result == result).count()
    }

    /// The ratchet: what passed before stays listed until someone takes it out by hand, what passes now joins it.
    pub(super) fn passing(&self, before: &str) -> String {
        let mut names: std::collections::BTreeSet<&str> = before.lines().collect();
        names.extend(self.tests.iter().filter(|(_, o)| o.result == "passed").map(|(n, _)| n.as_str()));
        names.into_iter().map(|n| format!("{n}\n")).collect()
    }
}
