//! One phase of the suite: ginkgo over e2e.test, with progress, and with a cluster that may crash.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::junit;
use super::results::Results;
use super::selection::Test;
use crate::cluster::Cluster;

/// How to run upstream's programs against one cluster.
pub(super) struct Suite {
    pub programs: PathBuf,
    pub kubeconfig: PathBuf,
    pub no_node: bool,
    pub out: PathBuf,
}

/// How often a phase is begun again for tests that have no result (the runner or the cluster died).
const TRIES: usize = 3;

// === impl Suite ===

impl Suite {
    /// Runs `tests` and records each; what has no result after all tries is a failure that says so.
    pub(super) fn run(
        &self,
        phase: &str,
        tests: &[Test],
        procs: u8,
        cluster: &mut Option<Cluster>,
        results: &mut Results,
    ) -> Result<()> {
        let mut left: BTreeSet<&str> = tests.iter().map(|t| t.name.as_str()).collect();
        for attempt in 1..=TRIES {
            let report = self.out.join(format!("{phase}-{attempt}"));
            std::fs::create_dir_all(&report)?;
            self.ginkgo(phase, &left, procs, &report)?;
            for file in std::fs::read_dir(&report)?.flatten().map(|f| f.path()) {
                if file.extension().is_some_and(|e| e == "xml") {
                    for (name, outcome) in junit::parse(&std::fs::read_to_string(&file)?)? {
                        if let Some(name) = left.take(name.as_str()) {
                            results.record(name, outcome);
                        }
                    }
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            println!("{} tests of the {phase} phase have no result", left.len());
            if let Some(cluster) = cluster {
                cluster.restart_if_gone()?;
            }
        }
        for name in left {
            results.record(
                name,
                super::Outcome::failed(0.0, "no result: the suite or the cluster ended before it"),
            );
        }
        Ok(())
    }

    fn ginkgo(&self, phase: &str, names: &BTreeSet<&str>, procs: u8, report: &std::path::Path) -> Result<()> {
        let focus = names.iter().map(|n| regex::escape(n)).collect::<Vec<_>>().join("|");
        let mut command = Command::new(self.programs.join("ginkgo"));
        command
            .args([
                "-v",
                "--no-color",
                "--timeout=24h",
                &format!("--procs={procs}"),
                &format!("--focus={focus}"),
            ])
            .arg(self.programs.join("e2e.test"))
            .args(["--", "--provider=skeleton", "--disable-log-dump"])
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.programs.join("kubectl").display()))
            .arg(format!("--report-dir={}", report.display()));
        if self.no_node {
            command.args(["--num-nodes=1", "--allowed-not-ready-nodes=-1", "--minStartupPods=-1"]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting ginkgo")?;
        let mut log = File::create(report.join("ginkgo.log"))?;
        let mut progress = Counter { total: names.len(), done: 0, failed: 0, begun: Instant::now() };
        for line in BufReader::new(child.stdout.take().context("stdout")?).split(b'\n') {
            let line = line?;
            log.write_all(&line)?;
            log.write_all(b"\n")?;
            progress.see(phase, &String::from_utf8_lossy(&line));
        }
        // Its exit code says whether tests failed; the reports say which.
        child.wait()?;
        Ok(())
    }
}

/// Counts finished tests as ginkgo reports them.
struct Counter {
    total: usize,
    done: usize,
    failed: usize,
    begun: Instant,
}

impl Counter {
    fn see(&mut self, phase: &str, line: &str) {
        let Some(result) = line.strip_prefix("• [") else { return };
        self.done += 1;
        if result.starts_with("FAILED") || result.starts_with("PANICKED") || result.starts_with("TIMEDOUT") {
            self.failed += 1;
        }
        let per_test = self.begun.elapsed().as_secs_f64() / self.done as f64;
        let left = per_test * self.total.saturating_sub(self.done) as f64;
        println!(
            "{phase}: {} of {} done, {} failed, about {:.0} s left",
            self.done, self.total, self.failed, left
        );
    }
}
