//! What e2e.test prints while it runs: which test began, how it ended, and what it said.

/// What a line means for the test that runs.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Began(String),
    Ended { verdict: Verdict, seconds: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// Follows the lines of one process.
#[derive(Debug, Default)]
pub(super) struct Console {
    after_rule: bool,
    /// The lines of the test that runs, cut when there are too many.
    pub said: String,
    /// The last step the test announced before it broke off.
    pub step: String,
    broken: bool,
}

/// What is kept of one test's lines.
const MOST: usize = 4 << 20;

/// How the lines begin after which a test only cleans up.
const ENDS: &[&str] = &["[FAILED] in [", "[PANICKED] in [", "[INTERRUPTED] in [", "[TIMEDOUT] in ["];

// === impl Console ===

impl Console {
    /// Takes a line; `is_test` says whether text is the head of a test that was chosen, and gives its name.
    pub(super) fn take(&mut self, line: &str, is_test: impl Fn(&str) -> Option<String>) -> Option<Event> {
        let head = std::mem::replace(&mut self.after_rule, line.starts_with("----------"));
        if head && let Some(name) = is_test(line) {
            self.said.clear();
            self.step.clear();
            self.broken = false;
            self.keep(line);
            return Some(Event::Began(name));
        }
        self.keep(line);
        self.broken |= ENDS.iter().any(|end| line.trim_start().starts_with(end));
        if !self.broken
            && let Some(step) = line.trim_start().strip_prefix("STEP: ")
        {
            step.split(" @ ").next().unwrap_or(step).clone_into(&mut self.step);
        }
        ended(line)
    }

    fn keep(&mut self, line: &str) {
        if self.said.len() < MOST {
            self.said.push_str(line);
            self.said.push('\n');
        }
    }
}

/// `• [0.174 seconds]`, `• [FAILED] [12.3 seconds]`, `S [SKIPPED] [0.0 seconds]`
fn ended(line: &str) -> Option<Event> {
    let (verdict, rest) = match (line.strip_prefix("• ["), line.strip_prefix("S [SKIPPED] [")) {
        (None, None) => return None,
        (_, Some(rest)) => (Verdict::Skipped, rest),
        (Some(rest), _) => match rest.split_once("] [") {
            Some((_, rest)) => (Verdict::Failed, rest),
            None => (Verdict::Passed, rest),
        },
    };
    let seconds = rest.split(' ').next()?.parse().ok()?;
    Some(Event::Ended { verdict, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_followed() {
        let lines = "------------------------------\n[sig-x] A does [Conformance] [sig-x]\nfile.go:1\n  STEP: waiting @ 11/21/26\n\
                     • [0.174 seconds]\n[sig-x] A does [Conformance] is no head\n------------------------------\n\
                     [sig-x] B does [Conformance]\n• [FAILED] [2.5 seconds]\nS [SKIPPED] [0.1 seconds]";
        let mut console = Console::default();
        let name = |line: &str| line.starts_with("[sig-x]").then(|| line[8..9].to_owned());
        let events: Vec<_> = lines.lines().filter_map(|l| console.take(l, name)).collect();
        let end = |verdict, seconds| Event::Ended { verdict, seconds };
        assert_eq!(
            events,
            [
                Event::Began("A".to_owned()),
                end(Verdict::Passed, 0.174),
                Event::Began("B".to_owned()),
                end(Verdict::Failed, 2.5),
                end(Verdict::Skipped, 0.1),
            ]
        );
    }
}
