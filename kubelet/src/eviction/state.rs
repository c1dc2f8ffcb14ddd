//! From what is observed to what is to be done: conditions of the Node, and the thresholds that are due. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::thresholds::{Condition, Signal, Threshold};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

/// What could not be measured is not here.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// What is remembered from one look to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Thresholds that are met, since when.
    first_met: Vec<(Threshold, Instant)>,
    /// Thresholds met for their grace period whose minimum reclaim is not there yet.
    due: Vec<Threshold>,
    conditions: BTreeMap<Condition, Instant>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) conditions: BTreeSet<Condition>,
    /// Memory first.
    pub(crate) due: Vec<Threshold>,
}

// === impl State ===

impl State {
    pub(crate) fn look(
        &mut self,
        thresholds: &[Threshold],
        observed: &Observations,
        transition: Duration,
        now: Instant,
    ) -> Verdict {
        let mut met = met(thresholds, observed, false);
        for unresolved in self::met(&self.due, observed, true) {
            if !met.contains(&unresolved) {
                met.push(unresolved);
            }
        }
        let since = |t: &Threshold| self.first_met.iter().find(|(known, _)| known == t).map(|(_, at)| *at);
        self.first_met = met.iter().map(|t| (*t, since(t).unwrap_or(now))).collect();
        self.conditions.extend(met.iter().map(|t| (t.signal.condition(), now)));
        self.conditions.retain(|_, at| now.duration_since(*at) < transition || *at == now);
        let due = self.first_met.iter().filter(|(t, at)| now.duration_since(*at) >= t.grace);
        self.due = due.map(|(t, _)| *t).collect();
        let mut due = self.due.clone();
        due.sort_by_key(|t| t.signal);
        Verdict { conditions: self.conditions.keys().copied().collect(), due }
    }
}

/// The thresholds that are met, whatever their grace period. With `reclaim`, those whose minimum reclaim is not there yet.
pub(crate) fn met(thresholds: &[Threshold], observed: &Observations, reclaim: bool) -> Vec<Threshold> {
    let is_met = |t: &&Threshold| {
        observed.get(&t.signal).is_some_and(|o| {
            let more = t.minimum_reclaim.filter(|_| reclaim).map_or(0, |a| a.of(o.capacity));
            o.available < t.value.of(o.capacity).saturating_add(more)
        })
    };
    thresholds.iter().filter(is_met).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::thresholds::{EvictionConfig, EvictionFlags};

    const GI: i64 = 1 << 30;

    fn memory(available: i64) -> Observations {
        BTreeMap::from([(Signal::MemoryAvailable, Observation { available, capacity: 4 * GI })])
    }

    fn config(hard: &str, soft: &str, grace: &str, reclaim: &str) -> EvictionConfig {
        EvictionConfig::parse(&EvictionFlags {
            hard: Some(hard.to_owned()),
            soft: soft.to_owned(),
            soft_grace_period: grace.to_owned(),
            minimum_reclaim: reclaim.to_owned(),
            transition: Duration::from_secs(300),
            max_pod_grace: 5,
        })
        .unwrap()
    }

    /// At each second, so much memory (in Gi) is left: whether there is pressure, and whether something is due.
    fn run(config: &EvictionConfig, story: &[(u64, i64)]) -> Vec<(u64, bool, bool)> {
        let (start, mut state) = (Instant::now(), State::default());
        let at = |(second, gib): &(u64, i64)| {
            let now = start + Duration::from_secs(*second);
            let verdict = state.look(&config.thresholds, &memory(gib * GI), config.transition, now);
            (*second, verdict.conditions.contains(&Condition::Memory), !verdict.due.is_empty())
        };
        story.iter().map(at).collect()
    }

    #[test]
    fn a_hard_threshold_is_due_at_once_and_its_condition_stays_for_the_transition_period() {
        let got = run(
            &config("memory.available<1Gi", "", "", ""),
            &[(0, 3), (10, 1), (20, 0), (30, 2), (319, 2), (320, 2), (330, 0)],
        );
        let want = [
            (0, false, false),
            (10, false, false),
            (20, true, true),
            (30, true, false),
            (319, true, false),
            (320, false, false),
            (330, true, true),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn a_soft_threshold_is_due_after_its_grace_period_and_its_condition_is_true_at_once() {
        let got = run(
            &config("", "memory.available<2Gi", "memory.available=2m", ""),
            &[(0, 1), (60, 1), (90, 3), (100, 1), (219, 1), (220, 1)],
        );
        let want = [
            (0, true, false),
            (60, true, false),
            // The period begins anew when the threshold was not met in between.
            (90, true, false),
            (100, true, false),
            (219, true, false),
            (220, true, true),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn reclaiming_goes_on_until_the_minimum_is_there() {
        let config = config("memory.available<1Gi", "", "", "memory.available=1Gi");
        let got = run(&config, &[(0, 1), (10, 0), (20, 1), (30, 2), (40, 1)]);
        let due: Vec<bool> = got.iter().map(|(_, _, due)| *due).collect();
        assert_eq!(due, [false, true, true, false, false]);
    }

    #[test]
    fn memory_is_reclaimed_before_disks_and_each_has_its_condition() {
        let config = config("nodefs.available<10%,pid.available<100,memory.available<1Gi", "", "", "");
        let observed = BTreeMap::from([
            (Signal::MemoryAvailable, Observation { available: 0, capacity: GI }),
            (Signal::NodefsAvailable, Observation { available: 9, capacity: 100 }),
            (Signal::PidAvailable, Observation { available: 99, capacity: 1000 }),
        ]);
        let verdict = State::default().look(&config.thresholds, &observed, config.transition, Instant::now());
        let due: Vec<&str> = verdict.due.iter().map(|t| t.signal.name()).collect();
        assert_eq!(due, ["memory.available", "nodefs.available", "pid.available"]);
        let conditions: Vec<&str> = verdict.conditions.iter().map(|c| c.name()).collect();
        assert_eq!(conditions, ["DiskPressure", "MemoryPressure", "PIDPressure"]);
        let exact = BTreeMap::from([(Signal::NodefsAvailable, Observation { available: 10, capacity: 100 })]);
        assert!(met(&config.thresholds, &exact, false).is_empty(), "exactly the threshold is enough");
    }
}
