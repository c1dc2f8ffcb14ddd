//! One process of upstream's e2e.test over a few tests, each held to a time limit.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::console::{Console, Event, Verdict};
use super::junit;
use super::results::Outcome;
use super::selection::Test;

/// How to run upstream's programs against one cluster.
pub(super) struct Suite {
    pub programs: PathBuf,
    pub kubeconfig: PathBuf,
    pub no_node: bool,
    /// What a test may take beyond upstream's own time.
    pub patience: Duration,
}

/// What the process tells while it runs.
pub(super) trait Observer {
    fn began(&self, name: &str);
    /// Called as soon as the verdict is printed; `said` is what the test printed.
    fn ended(&self, name: &str, outcome: &Outcome, said: &str);
    /// Whether the whole run shall end.
    fn stopping(&self) -> bool;
}

/// How long an interrupted test may clean up before it is told again, and then killed.
const GRACE: Duration = Duration::from_secs(20);

// === impl Suite ===

impl Suite {
    /// Runs the tests in one process. Gives what ran, with the junit elements of it: not all did when one was over its limit.
    pub(super) fn run(
        &self,
        tests: &[Test],
        report: &Path,
        observer: &impl Observer,
    ) -> Result<Vec<(String, Outcome, String)>> {
        let _ = std::fs::remove_dir_all(report);
        std::fs::create_dir_all(report)?;
        let mut child = self.command(tests, report).spawn().context("starting e2e.test")?;
        let lines = lines_of(&mut child)?;
        let mut watched = Watched { suite: self, tests, observer, running: None, ended: vec![] };
        watched.follow(&mut child, &lines);
        // Its exit code says whether tests failed; the reports say which.
        child.wait()?;
        let mut ran = vec![];
        for file in std::fs::read_dir(report)?.flatten().map(|f| f.path()) {
            if file.extension().is_some_and(|e| e == "xml") {
                ran.extend(junit::parse(&std::fs::read_to_string(&file)?)?);
            }
        }
        let _ = std::fs::remove_dir_all(report);
        Ok(watched.conclude(ran))
    }

    fn command(&self, tests: &[Test], report: &Path) -> Command {
        let focus = tests.iter().map(|t| regex::escape(&t.name)).collect::<Vec<_>>().join("|");
        let mut command = Command::new(self.programs.join("e2e.test"));
        command
            .args(["--ginkgo.v", "--ginkgo.no-color", "--ginkgo.timeout=24h", "--ginkgo.silence-skips"])
            .arg(format!("--ginkgo.focus={focus}"))
            .args(["--provider=skeleton", "--disable-log-dump"])
            .args(["--node-schedulable-timeout=2m", "--system-pods-startup-timeout=2m"])
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.programs.join("kubectl").display()))
            .arg(format!("--report-dir={}", report.display()));
        if self.no_node {
            command.args(["--num-nodes=1", "--allowed-not-ready-nodes=-1", "--minStartupPods=-1"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// How long a test may take.
    fn limit(&self, test: &Test) -> Duration {
        self.patience + Duration::from_secs_f64(1.25 * test.upstream_seconds.unwrap_or(60.0))
    }
}

/// The lines a child prints, as they come; the reader waits while nobody takes them.
fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let out = child.stdout.take().context("stdout")?;
    let (send, lines) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

/// The test that runs, and until when.
struct Running<'a> {
    test: &'a Test,
    begun: Instant,
    limit: Duration,
    interrupted: u8,
    /// The step it was at when it was interrupted.
    at: String,
}

struct Watched<'a, O> {
    suite: &'a Suite,
    tests: &'a [Test],
    observer: &'a O,
    running: Option<Running<'a>>,
    ended: Vec<(String, Outcome)>,
}

// === impl Watched ===

impl<O: Observer> Watched<'_, O> {
    fn follow(&mut self, child: &mut Child, lines: &Receiver<String>) {
        let mut console = Console::default();
        let tests = self.tests;
        let named = |line: &str| tests.iter().find(|t| line.starts_with(&t.name)).map(|t| t.name.clone());
        let mut stopped = false;
        loop {
            match lines.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => match console.take(&line, named) {
                    Some(Event::Began(name)) => self.began(&name),
                    Some(Event::Ended { verdict, seconds }) => self.finished(verdict, seconds, &console),
                    None => {}
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.observer.stopping() && !std::mem::replace(&mut stopped, true) {
                signal(child, Signal::SIGINT);
            }
            self.hold_to_limit(child, &console);
        }
        if let Some(running) = self.running.take() {
            let seconds = running.begun.elapsed().as_secs_f64();
            let error = if running.interrupted > 0 {
                over(&running)
            } else {
                format!("e2e.test ended during the test, at: {}", console.step)
            };
            self.end(&running.test.name, Outcome::failed(seconds, &error), &console.said);
        }
    }

    fn began(&mut self, name: &str) {
        let test = self.tests.iter().find(|t| t.name == name).expect("named from the same list");
        self.running = Some(Running {
            test,
            begun: Instant::now(),
            limit: self.suite.limit(test),
            interrupted: 0,
            at: String::new(),
        });
        self.observer.began(name);
    }

    fn finished(&mut self, verdict: Verdict, seconds: f64, console: &Console) {
        let Some(running) = self.running.take() else { return };
        let outcome = match verdict {
            Verdict::Passed => Outcome::passed(seconds),
            Verdict::Skipped => Outcome::skipped("skipped"),
            Verdict::Failed if running.interrupted > 0 => Outcome::failed(seconds, &over(&running)),
            Verdict::Failed => Outcome::failed(seconds, &format!("failed at: {}", console.step)),
        };
        self.end(&running.test.name, outcome, &console.said);
    }

    fn end(&mut self, name: &str, outcome: Outcome, said: &str) {
        self.observer.ended(name, &outcome, said);
        self.ended.push((name.to_owned(), outcome));
    }

    /// Interrupts a test that is over its limit: it may clean up, then the process ends.
    fn hold_to_limit(&mut self, child: &Child, console: &Console) {
        let Some(running) = &mut self.running else { return };
        let due = running.limit + GRACE * u32::from(running.interrupted);
        if running.begun.elapsed() > due && running.interrupted < 4 {
            if running.interrupted == 0 {
                running.at.clone_from(&console.step);
            }
            running.interrupted += 1;
            signal(child, if running.interrupted < 3 { Signal::SIGINT } else { Signal::SIGKILL });
        }
    }

    /// Puts what was seen and what the report says together: the report knows the error, the lines know the time limit.
    fn conclude(self, reported: Vec<(String, Outcome, String)>) -> Vec<(String, Outcome, String)> {
        let mut seen = self.ended;
        let mut ran: Vec<_> = reported
            .into_iter()
            .map(|(name, outcome, xml)| match seen.iter().position(|(n, _)| *n == name) {
                Some(at) => {
                    let (_, known) = seen.swap_remove(at);
                    let over = known.error.starts_with(OVER);
                    (name, if over { known } else { outcome }, xml)
                }
                None => (name, outcome, xml),
            })
            .collect();
        ran.retain(|(name, _, _)| self.tests.iter().any(|t| t.name == *name));
        ran.extend(seen.into_iter().map(|(name, outcome)| (name, outcome, String::new())));
        ran
    }
}

const OVER: &str = "over the time limit";

fn over(running: &Running<'_>) -> String {
    format!(
        "{OVER} (upstream takes {:.0} s), at: {}; limit {:.0} s",
        running.test.upstream_seconds.unwrap_or(0.0),
        running.at,
        running.limit.as_secs_f64()
    )
}

fn signal(child: &Child, signal: Signal) {
    // Already gone is fine.
    let _ = i32::try_from(child.id()).map(|pid| kill(Pid::from_raw(pid), signal));
}
