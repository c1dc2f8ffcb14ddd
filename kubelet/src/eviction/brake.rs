//! Slowing pods down before the machine stands still.
//!
//! Pods that take memory faster than the node can look at it would make the kernel give up the pages of everything else,
//! this program's own among them, long before their common limit holds them. On cgroup version 2 their group therefore has a
//! mark (`memory.high`) above which each allocation waits: it lies a little below the threshold of eviction, which so has the
//! time to act.

use super::{
    state::Observations,
    thresholds::{Signal, Threshold},
};

/// Bytes that all pods may have together before they are slowed down: what they have, and what is left but for the part
/// of the hard threshold that is kept for all else. `None` where nothing would be evicted for memory.
pub(super) fn mark(thresholds: &[Threshold], observed: &Observations) -> Option<i64> {
    let free = observed.get(&Signal::MemoryAvailable)?;
    let pods = observed.get(&Signal::AllocatableMemoryAvailable)?;
    let hard = thresholds.iter().filter(|t| t.signal == Signal::MemoryAvailable && t.is_hard());
    let threshold = hard.map(|t| t.value.of(free.capacity)).max()?;
    let used = pods.capacity - pods.available;
    Some((used + free.available - threshold / 4 * 3).max(threshold))
}

/// Whether the mark has moved far enough to be set again: a hundredth.
pub(super) fn moved(set: Option<i64>, mark: i64) -> bool {
    set.is_none_or(|set| (set - mark).abs() > mark / 100)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{state::Observation, thresholds::Amount};
    use super::*;

    #[test]
    fn pods_are_slowed_down_a_little_below_the_threshold() {
        let threshold = |signal, grace| Threshold {
            signal,
            value: Amount::Fraction(0.05),
            grace: Duration::from_secs(grace),
            minimum_reclaim: None,
        };
        let seen = |free: i64, used: i64| -> Observations {
            [
                (Signal::MemoryAvailable, Observation { available: free, capacity: 2000 }),
                (Signal::AllocatableMemoryAvailable, Observation { available: 2000 - used, capacity: 2000 }),
            ]
            .into()
        };
        let memory = [threshold(Signal::MemoryAvailable, 0)];
        // All else has 300; with 1625 for pods 75 are left, fewer than the 100 at which pods are evicted.
        for (free, used) in [(1700, 0), (1000, 700), (100, 1600), (50, 1650)] {
            assert_eq!(mark(&memory, &seen(free, used)), Some(1625), "{free} free, {used} used");
        }
        // Where all else has taken everything, pods still get as much as the node keeps.
        assert_eq!(mark(&memory, &seen(0, 10)), Some(100));
        for none in
            [vec![], vec![threshold(Signal::MemoryAvailable, 1)], vec![threshold(Signal::PidAvailable, 0)]]
        {
            assert_eq!(mark(&none, &seen(1000, 0)), None);
        }
        assert_eq!(mark(&memory, &Observations::new()), None);
    }

    #[test]
    fn the_mark_is_set_again_when_it_has_moved() {
        assert!(moved(None, 1000));
        assert!(!moved(Some(1000), 1009));
        assert!(moved(Some(1000), 1020) && moved(Some(1000), 900));
    }
}
