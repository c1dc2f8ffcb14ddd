//! When the node is short of something: upstream's signals, thresholds and their flags. Pure.

use std::{collections::BTreeMap, time::Duration};

use coracle_api::quantity::Quantity;

/// What is watched. Memory comes first: it is the first to be reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    /// What pods have left of the node's allocatable memory; its threshold is the hard one of memory.
    AllocatableMemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

/// What a signal measures, by the name in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

/// The Node's conditions, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    Disk,
    Memory,
    Pid,
}

/// An amount, or a part of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Quantity(Quantity),
    /// 0.1 is a tenth.
    Fraction(f64),
}

/// The node is short when less than `value` is left. A soft threshold has to be met for its grace period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: Amount,
    pub grace: Duration,
    /// How much more than `value` has to be there again before reclaiming ends.
    pub minimum_reclaim: Option<Amount>,
}

/// When and how pods are evicted.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionConfig {
    pub thresholds: Vec<Threshold>,
    /// How long a condition of the Node stays after it was last observed.
    pub transition: Duration,
    /// The longest grace period, in seconds, of a pod that a soft threshold evicts.
    pub max_pod_grace: i64,
}

/// The flags, as typed: `memory.available<100Mi,nodefs.available<10%` and their kin.
#[derive(Clone, Debug, Default)]
pub struct EvictionFlags {
    pub hard: Option<String>,
    pub soft: String,
    pub soft_grace_period: String,
    pub minimum_reclaim: String,
    pub transition: Duration,
    pub max_pod_grace: i64,
}

/// Upstream's defaults.
pub const HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";
pub const TRANSITION: Duration = Duration::from_secs(300);

const NAMES: [(Signal, &str, Resource, Condition); 7] = [
    (Signal::MemoryAvailable, "memory.available", Resource::Memory, Condition::Memory),
    (Signal::AllocatableMemoryAvailable, "allocatableMemory.available", Resource::Memory, Condition::Memory),
    (Signal::NodefsAvailable, "nodefs.available", Resource::EphemeralStorage, Condition::Disk),
    (Signal::NodefsInodesFree, "nodefs.inodesFree", Resource::Inodes, Condition::Disk),
    (Signal::ImagefsAvailable, "imagefs.available", Resource::EphemeralStorage, Condition::Disk),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree", Resource::Inodes, Condition::Disk),
    (Signal::PidAvailable, "pid.available", Resource::Pids, Condition::Pid),
];

// === impl Signal ===

impl Signal {
    fn row(self) -> &'static (Signal, &'static str, Resource, Condition) {
        NAMES.iter().find(|row| row.0 == self).expect("each signal has its row")
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    pub(crate) fn resource(self) -> Resource {
        self.row().2
    }

    pub(crate) fn condition(self) -> Condition {
        self.row().3
    }

    fn parse(name: &str) -> Result<Self, String> {
        let known = NAMES.iter().find(|row| row.1 == name);
        known.map(|row| row.0).ok_or_else(|| format!("unsupported eviction signal {name}"))
    }
}

// === impl Resource ===

impl Resource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }
}

// === impl Condition ===

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Condition::Disk => "DiskPressure",
            Condition::Memory => "MemoryPressure",
            Condition::Pid => "PIDPressure",
        }
    }
}

// === impl Amount ===

impl Amount {
    /// In whole units, of a capacity.
    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Amount::Quantity(quantity) => quantity.value(),
            Amount::Fraction(part) => (capacity as f64 * part) as i64,
        }
    }

    fn parse(what: &str, signal: Signal, text: &str) -> Result<Self, String> {
        let name = signal.name();
        if let Some(percent) = text.strip_suffix('%') {
            let part: f64 = percent.parse().map_err(|_| format!("{name}: invalid percentage {text:?}"))?;
            return match part / 100.0 {
                part if part < 0.0 => Err(format!("eviction percentage {what} {name} must be >= 0%: {text}")),
                part if part > 1.0 => {
                    Err(format!("eviction percentage {what} {name} must be <= 100%: {text}"))
                }
                part if part.is_nan() => Err(format!("{name}: invalid percentage {text:?}")),
                part => Ok(Amount::Fraction(part)),
            };
        }
        let quantity: Quantity = text.parse().map_err(|error| format!("{name}: {error}"))?;
        if quantity.is_negative() || quantity.is_zero() && what == "threshold" {
            return Err(format!("eviction {what} {name} must be positive: {quantity}"));
        }
        Ok(Amount::Quantity(quantity))
    }
}

// === impl Threshold ===

impl Threshold {
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

// === impl EvictionConfig ===

impl Default for EvictionConfig {
    fn default() -> Self {
        let flags = EvictionFlags { transition: TRANSITION, ..EvictionFlags::default() };
        Self::parse(&flags).expect("upstream's defaults can be read")
    }
}

impl EvictionConfig {
    /// Reads the flags; an error says which part of them upstream's kubelet would refuse, too.
    pub fn parse(flags: &EvictionFlags) -> Result<Self, String> {
        let mut thresholds = statements(flags.hard.as_deref().unwrap_or(HARD))?;
        let mut periods = BTreeMap::new();
        for (signal, text) in pairs(&flags.soft_grace_period, '=')? {
            let period = duration(text).ok_or_else(|| format!("invalid eviction grace period {text:?}"))?;
            periods.insert(signal, period);
        }
        for mut soft in statements(&flags.soft)? {
            let period = periods.get(&soft.signal).ok_or_else(|| {
                let name = soft.signal.name();
                format!("grace period must be specified for the soft eviction threshold {name}")
            })?;
            soft.grace = *period;
            thresholds.push(soft);
        }
        for (signal, text) in pairs(&flags.minimum_reclaim, '=')? {
            let amount = Amount::parse("minimum reclaim", signal, text)?;
            for threshold in thresholds.iter_mut().filter(|t| t.signal == signal) {
                threshold.minimum_reclaim = Some(amount);
            }
        }
        let hard = thresholds.iter().find(|t| t.signal == Signal::MemoryAvailable && t.is_hard());
        let allocatable = hard.map(|t| Threshold { signal: Signal::AllocatableMemoryAvailable, ..*t });
        thresholds.extend(allocatable);
        Ok(Self { thresholds, transition: flags.transition, max_pod_grace: flags.max_pod_grace })
    }

    /// What hard thresholds keep free of a resource's capacity, as Node Allocatable has it.
    pub(crate) fn reserved(&self, signal: Signal, capacity: i64) -> i64 {
        let hard = self.thresholds.iter().find(|t| t.signal == signal && t.is_hard());
        hard.map_or(0, |t| t.value.of(capacity))
    }
}

/// A duration as Go writes it; none below zero.
pub fn duration(text: &str) -> Option<Duration> {
    coracle_api::duration::parse(text)
        .ok()
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
}

/// `signal<value`, separated by commas. 0 % and 100 % stand for no threshold.
fn statements(text: &str) -> Result<Vec<Threshold>, String> {
    let mut thresholds = Vec::new();
    for (signal, value) in pairs(text, '<')? {
        if matches!(value, "0%" | "100%") {
            continue;
        }
        let value = Amount::parse("threshold", signal, value)?;
        thresholds.push(Threshold { signal, value, grace: Duration::ZERO, minimum_reclaim: None });
    }
    Ok(thresholds)
}

fn pairs(text: &str, separator: char) -> Result<Vec<(Signal, &str)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part
                .split_once(separator)
                .ok_or_else(|| format!("malformed pair, expect signal{separator}value: {part}"))?;
            Ok((Signal::parse(name.trim())?, value.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Result<EvictionConfig, String> {
        EvictionConfig::parse(&EvictionFlags {
            hard: (hard != "default").then(|| hard.to_owned()),
            soft: soft.to_owned(),
            soft_grace_period: grace.to_owned(),
            minimum_reclaim: reclaim.to_owned(),
            transition: TRANSITION,
            max_pod_grace: 0,
        })
    }

    fn told(config: &EvictionConfig) -> String {
        let amount = |a: Amount| match a {
            Amount::Quantity(q) => q.to_string(),
            Amount::Fraction(part) => format!("{}%", part * 100.0),
        };
        let one = |t: &Threshold| {
            let grace = if t.is_hard() { String::new() } else { format!(" for {}s", t.grace.as_secs()) };
            let more = t.minimum_reclaim.map_or(String::new(), |a| format!(" +{}", amount(a)));
            format!("{}<{}{grace}{more}", t.signal.name(), amount(t.value))
        };
        config.thresholds.iter().map(one).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        for (hard, soft, grace, reclaim, want) in [
            (
                "default",
                "",
                "",
                "",
                "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%,allocatableMemory.available<100Mi",
            ),
            ("", "", "", "", ""),
            ("memory.available<0%,nodefs.available<100%", "", "", "", ""),
            (
                "memory.available<150Mi",
                "memory.available<300Mi",
                "memory.available=30s",
                "memory.available=0",
                "memory.available<150Mi +0,memory.available<300Mi for 30s +0,allocatableMemory.available<150Mi +0",
            ),
            (
                "nodefs.available<10%",
                "nodefs.inodesFree<20%",
                "nodefs.inodesFree=1m30s",
                "nodefs.available=5%",
                "nodefs.available<10% +5%,nodefs.inodesFree<20% for 90s",
            ),
            ("pid.available<1k", "", "", "", "pid.available<1k"),
        ] {
            assert_eq!(
                flags(hard, soft, grace, reclaim).map(|c| told(&c)),
                Ok(want.to_owned()),
                "{hard} {soft}"
            );
        }
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        for (hard, soft, grace, reclaim, want) in [
            ("mem.available<1Mi", "", "", "", "unsupported eviction signal mem.available"),
            ("memory.available", "", "", "", "malformed pair, expect signal<value: memory.available"),
            (
                "memory.available<-1Mi",
                "",
                "",
                "",
                "eviction threshold memory.available must be positive: -1Mi",
            ),
            ("memory.available<0", "", "", "", "eviction threshold memory.available must be positive: 0"),
            (
                "memory.available<-5%",
                "",
                "",
                "",
                "eviction percentage threshold memory.available must be >= 0%: -5%",
            ),
            (
                "nodefs.available<101%",
                "",
                "",
                "",
                "eviction percentage threshold nodefs.available must be <= 100%: 101%",
            ),
            ("nodefs.available<x%", "", "", "", "nodefs.available: invalid percentage \"x%\""),
            (
                "",
                "memory.available<1Mi",
                "",
                "",
                "grace period must be specified for the soft eviction threshold memory.available",
            ),
            ("", "memory.available<1Mi", "memory.available=-3s", "", "invalid eviction grace period \"-3s\""),
            (
                "memory.available<1Mi",
                "",
                "",
                "memory.available=-1",
                "eviction minimum reclaim memory.available must be positive: -1",
            ),
        ] {
            assert_eq!(flags(hard, soft, grace, reclaim), Err(want.to_owned()), "{hard} {soft}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("4h0m0s", Some(14_400_000)),
            ("20ms", Some(20)),
            ("", None),
            ("30", None),
            ("-3s", None),
            ("s", None),
            ("3 s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn allocatable_keeps_what_the_hard_thresholds_do() {
        let config = EvictionConfig::default();
        assert_eq!(config.reserved(Signal::MemoryAvailable, 1 << 30), 100 << 20);
        assert_eq!(config.reserved(Signal::NodefsAvailable, 1000), 100);
        assert_eq!(config.reserved(Signal::PidAvailable, 1000), 0);
    }
}
