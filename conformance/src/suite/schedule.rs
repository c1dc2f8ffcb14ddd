//! The phases of a run: tests in small portions, several processes at a time, over a cluster that may crash.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use super::e2e::{Observer, Suite};
use super::results::{Outcome, Results};
use super::selection::Test;
use super::supervise::Supervisor;
use super::{accounts, junit};
use crate::kept;

/// What the processes of a run share.
pub(super) struct Run<'a> {
    pub suite: Suite,
    /// Where logs and junit files go.
    pub out: PathBuf,
    /// Results are merged into this file test by test, so that a run that is cut short keeps what it has.
    pub keep: PathBuf,
    pub last: Results,
    pub supervisor: &'a Supervisor,
    pub stop: &'a AtomicBool,
    state: Mutex<State>,
}

struct State {
    results: Results,
    elements: Vec<String>,
    done: usize,
    failed: usize,
    /// Upstream's time of what is done and of all, for saying what is left.
    weight: f64,
    of: f64,
    total: usize,
    begun: Instant,
}

/// How often a portion that gives no result at all is tried.
const TRIES: usize = 3;

/// Tests of one process: enough that its start does not count, few enough that its end is near.
const PORTION: (usize, f64) = (10, 45.0);

/// Most of the server's log that is copied beside a failure.
const LOG: usize = 1 << 20;

// === impl Run ===

impl<'a> Run<'a> {
    pub(super) fn new(
        suite: Suite,
        out: PathBuf,
        keep: PathBuf,
        (last, results): (Results, Results),
        supervisor: &'a Supervisor,
        stop: &'a AtomicBool,
    ) -> Self {
        let begun = Instant::now();
        let state =
            State { results, elements: vec![], done: 0, failed: 0, weight: 0.0, of: 0.0, total: 0, begun };
        Run { suite, out, keep, last, supervisor, stop, state: Mutex::new(state) }
    }

    /// Runs a phase with `procs` processes at a time.
    pub(super) fn phase(&self, phase: &'static str, tests: &[Test], procs: u8) -> Result<()> {
        {
            let mut state = self.state();
            state.begun = Instant::now();
            (state.done, state.failed, state.weight) = (0, 0, 0.0);
            state.total = tests.len();
            state.of = tests.iter().map(weight).sum();
        }
        println!("{phase}: {} tests, {procs} at a time", tests.len());
        let portions = Mutex::new(portions(tests));
        let number = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(portion) = self.next(&portions) {
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    Worker { run: self, phase, name: format!("{phase}-{n}"), now: Mutex::default() }
                        .work(portion)?;
                }
                Ok(())
            };
            let workers: Vec<_> = (0..procs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|w| w.join().expect("a worker does not panic"))
        })?;
        std::fs::write(self.out.join("junit.xml"), junit::document(&self.state().elements))?;
        Ok(())
    }

    pub(super) fn into_results(self) -> Results {
        self.state.into_inner().expect("no worker panicked").results
    }

    fn next(&self, portions: &Mutex<VecDeque<Vec<Test>>>) -> Option<Vec<Test>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        portions.lock().expect("no worker panicked").pop_front()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no worker panicked")
    }

    fn record(&self, name: &str, outcome: Outcome) -> Result<()> {
        let mut state = self.state();
        state.results.record(name, outcome);
        kept::save(&self.last.clone().with(&state.results), &self.keep)
    }

    fn failure_log(&self, name: &str) -> PathBuf {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let mut plain = plain.split('-').filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-");
        plain.truncate(150);
        self.out.join("failures").join(plain + ".log")
    }
}

/// Long portions first, so that none begins when the others are through.
fn portions(tests: &[Test]) -> VecDeque<Vec<Test>> {
    let mut sorted = tests.to_vec();
    sorted.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    let mut portions: VecDeque<Vec<Test>> = VecDeque::new();
    let mut room = (0, 0.0);
    for test in sorted {
        let heavy = weight(&test);
        if room.0 == 0 || room.1 < heavy {
            portions.push_back(vec![]);
            room = PORTION;
        }
        room = (room.0 - 1, room.1 - heavy);
        portions.back_mut().expect("one was pushed").push(test);
    }
    portions
}

fn weight(test: &Test) -> f64 {
    2.0 + test.upstream_seconds.unwrap_or(30.0)
}

/// Takes one portion through to its end.
struct Worker<'a> {
    run: &'a Run<'a>,
    phase: &'static str,
    name: String,
    /// The running test's begin, as a place in the server's log.
    now: Mutex<u64>,
}

// === impl Worker ===

impl Worker<'_> {
    fn work(&self, portion: Vec<Test>) -> Result<()> {
        let mut left = portion;
        let mut again: BTreeSet<String> = BTreeSet::new();
        let mut fruitless = 0;
        while !left.is_empty() && !self.stopping() {
            let crashes = self.run.supervisor.crashes();
            let ran = self.run.suite.run(&left, &self.run.out.join(&self.name), self)?;
            let crashed = self.run.supervisor.crashes() != crashes;
            if self.stopping() {
                break;
            }
            fruitless = if ran.is_empty() { fruitless + 1 } else { 0 };
            if fruitless >= TRIES {
                for test in &left {
                    let outcome = Outcome::failed(0.0, "no result: e2e.test ended before the test began");
                    self.ended(&test.name, &outcome, "");
                    self.run.record(&test.name, outcome)?;
                }
                break;
            }
            for (name, outcome, xml) in ran {
                // What failed while the cluster was down gets one more chance.
                let retry = crashed && !outcome.is_passed() && again.insert(name.clone());
                self.explain(&name, &xml);
                self.run.record(&name, outcome)?;
                if !retry {
                    left.retain(|t| t.name != name);
                    if !xml.is_empty() {
                        self.run.state().elements.push(xml);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds to the log of a failure what the report says about it.
    fn explain(&self, name: &str, xml: &str) {
        let Some(message) = junit::message(xml) else { return };
        // A log that cannot be written costs no result.
        if let Ok(mut file) = File::options().append(true).open(self.run.failure_log(name)) {
            let _ = writeln!(file, "\n=== the failure, as reported\n{message}");
        }
    }

    fn log_failure(&self, name: &str, said: &str) -> Result<()> {
        let path = self.run.failure_log(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        let mut file = File::create(&path)?;
        file.write_all(said.as_bytes())?;
        if let Some(log) = self.run.supervisor.log_path() {
            writeln!(file, "\n=== the server's log of that time")?;
            let from = *self.now.lock().expect("no worker panicked");
            copy_from(&log, from, &mut file)?;
        }
        Ok(())
    }
}

/// Copies what a log tells from a place on, but not who asked for what: that has a table of its own.
fn copy_from(log: &Path, from: u64, to: &mut impl Write) -> Result<()> {
    let mut log = File::open(log)?;
    log.seek(SeekFrom::Start(from))?;
    let mut kept = VecDeque::new();
    let mut size = 0;
    for line in BufReader::new(log).split(b'\n') {
        let line = line?;
        if accounts::is_request(&line) {
            continue;
        }
        size += line.len() + 1;
        kept.push_back(line);
        while size > LOG {
            size -= kept.pop_front().map_or(size, |first| first.len() + 1);
        }
    }
    for line in kept {
        to.write_all(&line)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

impl Observer for Worker<'_> {
    fn began(&self, _: &str) {
        let log = self.run.supervisor.log_path();
        let length = log.and_then(|l| std::fs::metadata(l).ok()).map_or(0, |m| m.len());
        *self.now.lock().expect("no worker panicked") = length;
    }

    fn ended(&self, name: &str, outcome: &Outcome, said: &str) {
        if outcome.result == "failed"
            && let Err(e) = self.log_failure(name, said)
        {
            println!("the log of a failure could not be written: {e:#}");
        }
        let mut state = self.run.state();
        state.done += 1;
        state.failed += usize::from(outcome.result == "failed");
        let known = super::tests().ok().and_then(|all| all.into_iter().find(|t| t.name == name));
        state.weight += known.as_ref().map_or(0.0, weight);
        let per = state.begun.elapsed().as_secs_f64() / state.weight.max(1.0);
        println!(
            "{}: {} of {} done, {} failed, about {:.0} min left | {} {:.1} s  {name}",
            self.phase,
            state.done,
            state.total,
            state.failed,
            (per * (state.of - state.weight)).max(0.0) / 60.0,
            outcome.result,
            outcome.seconds
        );
    }

    fn stopping(&self) -> bool {
        self.run.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_failure_is_its_end_without_requests() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("data.log");
        let long = "x".repeat(LOG - 20);
        std::fs::write(
            &log,
            format!("before\nnow DEBUG coracle_apiserver::requests: user=\"a\"\n{long}\nlast"),
        )
        .unwrap();
        let mut copied = vec![];
        copy_from(&log, 7, &mut copied).unwrap();
        assert!(String::from_utf8(copied).unwrap() == format!("{long}\nlast\n"));
        let mut copied = vec![];
        std::fs::write(&log, format!("{long}\n{long}\nlast\n")).unwrap();
        copy_from(&log, 0, &mut copied).unwrap();
        assert!(String::from_utf8(copied).unwrap() == format!("{long}\nlast\n"));
    }

    #[test]
    fn portions_are_short_and_the_long_ones_come_first() {
        let all = super::super::tests().unwrap();
        let portions = portions(&all);
        assert_eq!(portions.iter().map(Vec::len).sum::<usize>(), all.len());
        assert!(portions.iter().all(|p| p.len() <= PORTION.0));
        assert!(
            portions.iter().all(|p| p.len() == 1 || p.iter().map(weight).sum::<f64>() <= PORTION.1 + 1e-6)
        );
        assert!(portions[0][0].upstream_seconds > Some(500.0));
    }
}
