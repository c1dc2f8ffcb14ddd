//! What an attack may do, and what it did.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::book::Attack;
use super::cost::{MB, Spent};
use super::tenant::{Spread, Times};

/// What must hold during and after each attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The tenant's 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// How long a newcomer may take at most, in milliseconds.
    pub join_ms: f64,
    /// How much the program's memory may grow, in bytes.
    pub rss_growth: u64,
    /// What may still be there of it, and of descriptors, when everything is said to be back.
    pub rss_left: u64,
    pub descriptors_left: usize,
    /// How long that may take.
    pub back_within: Duration,
}

/// What was left when an attack was over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct After {
    /// Until everything was back, or until that was given up.
    pub seconds: f64,
    pub rss_left: u64,
    pub descriptors_left: usize,
    /// Processes, mounts, links, objects.
    pub left: Vec<String>,
}

/// One attack's figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    pub attack: String,
    pub findings: String,
    pub by: String,
    /// What became of it.
    pub refused: String,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub rss_growth: u64,
    pub descriptors_growth: usize,
    pub disk_growth: u64,
    pub tenant: Times,
    /// How long the disk took meanwhile for a little that somebody else made durable.
    #[serde(default)]
    pub disk: Spread,
    pub ready: bool,
    pub after: After,
    /// What must not have been; nothing of it means that the attack was held.
    pub faults: Vec<String>,
}

/// The whole book.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub commit: String,
    pub cores: usize,
    pub limits: Limits,
    /// The tenant alone, before the first attack and after the last one.
    pub quiet: Times,
    pub quiet_after: Times,
    pub rows: Vec<Row>,
}

// === impl Limits ===

impl Limits {
    /// As long may the tenant wait, in a hundredth of its requests longer.
    pub const P99_MS: f64 = 100.0;

    pub(super) fn is_back(&self, after: &After) -> bool {
        after.rss_left <= self.rss_left
            && after.descriptors_left <= self.descriptors_left
            && after.left.is_empty()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            p99_ms: Limits::P99_MS,
            join_ms: 5000.0,
            rss_growth: 256 << 20,
            rss_left: 32 << 20,
            descriptors_left: 16,
            back_within: Duration::from_secs(60),
        }
    }
}

// === impl Row ===

impl Row {
    pub(super) fn of(
        attack: &Attack,
        seconds: f64,
        outcome: Result<String>,
        tenant: Times,
        spent: &Spent,
        after: After,
    ) -> Self {
        let (refused, faults) = match outcome {
            Ok(refused) => (refused, vec![]),
            Err(error) => (String::new(), vec![format!("{error:#}")]),
        };
        Row {
            attack: attack.name.to_owned(),
            findings: attack.findings.to_owned(),
            by: attack.by.to_string(),
            refused,
            seconds,
            cpu_seconds: spent.cpu_seconds,
            rss_growth: spent.rss_growth,
            descriptors_growth: spent.descriptors_growth,
            disk_growth: spent.disk_growth,
            tenant,
            disk: spent.disk,
            ready: true,
            after,
            faults,
        }
    }

    /// Adds what must not have been.
    pub(super) fn judge(&mut self, limits: &Limits, ready: bool, alive: bool, canary: Result<()>) {
        self.ready = ready;
        let faults = &mut self.faults;
        let mut never = |held: bool, fault: String| {
            if !held {
                faults.push(fault);
            }
        };
        never(alive, "the program ended".to_owned());
        never(ready, "the node was not Ready".to_owned());
        if let Err(error) = canary {
            never(false, format!("{error:#}"));
        }
        let tenant = &self.tenant;
        for (what, spread) in [("GET", &tenant.get), ("create", &tenant.create)] {
            never(spread.count > 0, format!("the tenant's {what} had no answer"));
            let p99 = spread.p99_ms;
            never(p99 < limits.p99_ms, format!("the tenant's {what} p99 was {p99:.0} ms"));
        }
        let most = tenant.join.most_ms;
        never(most < limits.join_ms, format!("a new client waited {most:.0} ms"));
        let grown = self.rss_growth;
        never(grown < limits.rss_growth, format!("memory grew by {:.0} MB", grown as f64 / MB));
        let after = &self.after;
        let within = limits.back_within.as_secs();
        let (rss, descriptors) = (after.rss_left, after.descriptors_left);
        never(rss <= limits.rss_left, format!("{:.0} MB are not back after {within} s", rss as f64 / MB));
        never(
            descriptors <= limits.descriptors_left,
            format!("{descriptors} descriptors are not back after {within} s"),
        );
        never(after.left.is_empty(), format!("left after {within} s: {}", after.left.join(", ")));
    }

    /// Whether nothing is held against the attack but that creates took long while the disk did so for everybody.
    pub(super) fn blames_the_disk(&self, limits: &Limits) -> bool {
        let slow_creates = self.tenant.create.p99_ms >= limits.p99_ms;
        slow_creates && self.faults.len() == 1 && self.disk.p99_ms > limits.p99_ms / 4.0
    }

    pub(super) fn print(&self) {
        let word = if self.faults.is_empty() { "held  " } else { "BROKE " };
        println!("{word} {:6.1} s  {} ({}): {}", self.seconds, self.attack, self.by, self.refused);
        println!("         {}", self.cost());
        for fault in &self.faults {
            println!("         FAULT {}", fault.chars().take(2000).collect::<String>());
        }
    }

    fn cost(&self) -> String {
        let Row { tenant, after, .. } = self;
        let again = match (&tenant.why, tenant.again) {
            (Some(why), again) => format!(", {again} again ({why})"),
            (None, _) => String::new(),
        };
        format!(
            "cpu {:.2} s, rss +{:.0} MB (left {:.0}), fds +{} (left {}), disk +{:.1} MB (others wait {} for it); tenant GET {}, create {}, new {}{again}; back in {:.1} s",
            self.cpu_seconds,
            self.rss_growth as f64 / MB,
            after.rss_left as f64 / MB,
            self.descriptors_growth,
            after.descriptors_left,
            self.disk_growth as f64 / MB,
            self.disk,
            tenant.get,
            tenant.create,
            tenant.join,
            after.seconds
        )
    }
}

// === impl Run ===

impl Run {
    pub(super) fn begin(quiet: Times, limits: Limits) -> Self {
        Run {
            date: jiff::Zoned::now().date().to_string(),
            commit: crate::suite::git_head(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            limits,
            quiet,
            ..Run::default()
        }
    }

    /// The worst p99 of the tenant while it was alone.
    pub(super) fn quiet_p99(&self, of: fn(&Times) -> &Spread) -> f64 {
        of(&self.quiet).p99_ms.max(of(&self.quiet_after).p99_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Row {
        let spread = Spread { count: 100, p50_ms: 1.0, p99_ms: 2.0, most_ms: 3.0 };
        Row {
            tenant: Times { get: spread, create: spread, join: spread, again: 0, why: None },
            ..Row::default()
        }
    }

    #[test]
    fn each_limit_is_a_fault_of_its_own() {
        let limits = Limits::default();
        let judged = |spoil: fn(&mut Row)| {
            let mut row = good();
            spoil(&mut row);
            row.judge(&limits, true, true, Ok(()));
            row.faults
        };
        assert_eq!(judged(|_| {}), Vec::<String>::new());
        assert_eq!(judged(|r| r.tenant.get.p99_ms = 100.0), ["the tenant's GET p99 was 100 ms"]);
        assert_eq!(judged(|r| r.tenant.create.count = 0), ["the tenant's create had no answer"]);
        assert_eq!(judged(|r| r.tenant.join.most_ms = 5000.0), ["a new client waited 5000 ms"]);
        assert_eq!(judged(|r| r.rss_growth = 256 << 20), ["memory grew by 268 MB"]);
        assert_eq!(judged(|r| r.after.rss_left = 40_000_000), ["40 MB are not back after 60 s"]);
        assert_eq!(judged(|r| r.after.descriptors_left = 17), ["17 descriptors are not back after 60 s"]);
        assert_eq!(judged(|r| r.after.left = vec!["mount /x".into()]), ["left after 60 s: mount /x"]);
        let spoiled = |get: f64, create: f64, disk: f64| {
            let mut row = good();
            (row.tenant.get.p99_ms, row.tenant.create.p99_ms, row.disk.p99_ms) = (get, create, disk);
            row.judge(&limits, true, true, Ok(()));
            row.blames_the_disk(&limits)
        };
        let blames = [(2.0, 2.0, 90.0), (2.0, 130.0, 90.0), (2.0, 130.0, 9.0), (110.0, 130.0, 90.0)];
        assert_eq!(blames.map(|(get, create, disk)| spoiled(get, create, disk)), [false, true, false, false]);
        let mut row = good();
        row.judge(&limits, false, false, Err(anyhow::anyhow!("read")));
        assert_eq!(row.faults, ["the program ended", "the node was not Ready", "read"]);
    }
}
