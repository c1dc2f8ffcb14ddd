//! Who ends when, and how long it may take. Pure.

use std::{sync::Arc, time::Duration};

use coracle_api::duration::print_span;
use coracle_api::priority::is_critical;
use k8s_openapi::api::core::v1::Pod;

use crate::pods::view::spec_of;

/// How long the machine's end is put off for its pods. Zero: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownPeriods {
    /// For all pods together.
    pub all: Duration,
    /// The last part of it, for the critical ones.
    pub critical: Duration,
}

/// Pods that end together.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    /// What they have, in whole seconds.
    pub(super) seconds: i64,
    pub(super) pods: Vec<Arc<Pod>>,
}

// === impl ShutdownPeriods ===

impl ShutdownPeriods {
    /// Upstream's rules, in its words.
    pub fn check(self) -> Result<(), String> {
        let whole = |name: &str, period: Duration| match period {
            p if p.is_zero() || p >= Duration::from_secs(1) => Ok(()),
            p => Err(format!("{name} {} must be either zero or otherwise >= 1 sec", print_span(p))),
        };
        if self.critical > self.all {
            return Err(format!(
                "shutdownGracePeriodCriticalPods {} must be <= shutdownGracePeriod {}",
                print_span(self.critical),
                print_span(self.all)
            ));
        }
        whole("shutdownGracePeriod", self.all)?;
        whole("shutdownGracePeriodCriticalPods", self.critical)
    }

    /// What logind is asked to wait for.
    pub(super) fn requested(self) -> Duration {
        let [others, critical] = self.seconds();
        Duration::from_secs(others + critical)
    }

    /// Of the pods that are not critical, and of those that are.
    fn seconds(self) -> [u64; 2] {
        [self.all.saturating_sub(self.critical).as_secs(), self.critical.as_secs()]
    }

    /// The groups in the order in which they end. Those without a pod are left out: nobody waits for them.
    pub(super) fn groups(self, pods: Vec<Arc<Pod>>) -> Vec<Group> {
        let (critical, others) = pods.into_iter().partition(|pod| is_critical(spec_of(pod).priority));
        let groups = self.seconds().into_iter().zip([others, critical]);
        let groups =
            groups.map(|(seconds, pods)| Group { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), pods });
        groups.filter(|group| !group.pods.is_empty()).collect()
    }
}

// === impl Group ===

impl Group {
    /// The seconds that one of its pods has: its own, if they are fewer.
    pub(super) fn grace(&self, pod: &Pod) -> i64 {
        let own = spec_of(pod).termination_grace_period_seconds.unwrap_or(self.seconds);
        own.clamp(0, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn periods(all: u64, critical: u64) -> ShutdownPeriods {
        ShutdownPeriods { all: Duration::from_millis(all), critical: Duration::from_millis(critical) }
    }

    fn pod(name: &str, priority: Option<i32>, grace: Option<i64>) -> Arc<Pod> {
        let spec = serde_json::json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
        let pod = serde_json::json!({"metadata": {"name": name}, "spec": spec});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn critical_pods_end_last_and_have_their_part() {
        let pods = [
            ("a", None),
            ("b", Some(1_999_999_999)),
            ("c", Some(2_000_000_000)),
            ("d", Some(-1)),
            ("e", Some(i32::MAX)),
        ];
        let pods = pods.map(|(name, priority)| pod(name, priority, None)).to_vec();
        let names = |groups: Vec<Group>| -> Vec<(i64, String)> {
            let name = |pod: &Arc<Pod>| pod.metadata.name.clone().unwrap();
            groups.iter().map(|g| (g.seconds, g.pods.iter().map(name).collect())).collect()
        };
        let both = periods(30_000, 10_000);
        assert_eq!(names(both.groups(pods.clone())), [(20, "abd".to_owned()), (10, "ce".to_owned())]);
        assert_eq!(both.requested(), Duration::from_secs(30));
        assert_eq!(names(periods(10_000, 10_000).groups(pods.clone()))[0].0, 0);
        assert_eq!(
            names(both.groups(vec![pods[2].clone()])),
            [(10, "c".to_owned())],
            "nobody waits for no pod"
        );
        assert!(both.groups(vec![]).is_empty());
    }

    #[test]
    fn a_pod_has_no_more_than_its_own_grace_period() {
        let group = Group { seconds: 20, pods: vec![] };
        for (own, want) in [(None, 20), (Some(5), 5), (Some(20), 20), (Some(600), 20), (Some(-1), 0)] {
            assert_eq!(group.grace(&pod("a", None, own)), want, "{own:?}");
        }
    }

    #[test]
    fn periods_are_judged_as_upstream_does() {
        for (all, critical, why) in [
            (0, 0, None),
            (30_000, 10_000, None),
            (30_000, 0, None),
            (1_000, 1_000, None),
            (0, 10_000, Some("must be <= shutdownGracePeriod")),
            (10_000, 90_000, Some("Pods 1m30s must be <= shutdownGracePeriod 10s")),
            (500, 0, Some("shutdownGracePeriod 500ms must be either zero or otherwise >= 1 sec")),
            (30_000, 500, Some("shutdownGracePeriodCriticalPods 500ms must be either")),
        ] {
            let got = periods(all, critical).check();
            match why {
                None => assert_eq!(got, Ok(()), "{all} {critical}"),
                Some(why) => {
                    assert!(got.as_ref().is_err_and(|e| e.contains(why)), "{all} {critical}: {got:?}")
                }
            }
        }
    }
}
