//! How probes went, `/metrics/probes`: counted for as long as the pod is here.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Kind, Outcome};
use crate::node::exposition::{Exposition, labels};

/// The pod and container that are probed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) container: String,
}

/// Upper bounds of the durations, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Debug, Default)]
struct Counts {
    successful: u64,
    failed: u64,
    unknown: u64,
    /// Tries that took no longer than each bound.
    buckets: [u64; BUCKETS.len()],
    sum: Duration,
}

#[derive(Default)]
pub(crate) struct ProbeMetrics(Mutex<HashMap<(Subject, Kind), Counts>>);

/// Those of this program's node.
pub(crate) static METRICS: std::sync::LazyLock<ProbeMetrics> =
    std::sync::LazyLock::new(ProbeMetrics::default);

// === impl ProbeMetrics ===

impl ProbeMetrics {
    pub(super) fn count(&self, subject: &Subject, kind: Kind, outcome: &Outcome, took: Duration) {
        let mut all = self.0.lock();
        let counts = all.entry((subject.clone(), kind)).or_default();
        *match outcome {
            Outcome::Success | Outcome::Warning(_) => &mut counts.successful,
            Outcome::Failure(_) => &mut counts.failed,
            Outcome::Error(_) => &mut counts.unknown,
        } += 1;
        counts.sum += took;
        for (bound, count) in BUCKETS.iter().zip(&mut counts.buckets) {
            *count += u64::from(took.as_secs_f64() <= *bound);
        }
    }

    /// The pod is gone.
    pub(super) fn forget(&self, pod_uid: &str) {
        self.0.lock().retain(|(subject, _), _| subject.pod_uid != pod_uid);
    }

    pub(crate) fn page(&self) -> String {
        let sorted: BTreeMap<(Subject, Kind), Counts> =
            self.0.lock().iter().map(|(key, counts)| (key.clone(), counts.clone())).collect();
        let mut page = Exposition::untimed("");
        let mut totals = Vec::new();
        let mut durations = Vec::new();
        for ((s, kind), counts) in &sorted {
            let common = [
                ("container", s.container.as_str()),
                ("namespace", &s.namespace),
                ("pod", &s.pod),
                ("probe_type", kind.word()),
            ];
            let results =
                [("failed", counts.failed), ("successful", counts.successful), ("unknown", counts.unknown)];
            for (result, count) in results.into_iter().filter(|(_, count)| *count > 0) {
                let own =
                    [&common[..3], &[("pod_uid", s.pod_uid.as_str())], &common[3..], &[("result", result)]];
                totals.push((labels(&own.concat()), count.to_string()));
            }
            let all = counts.successful + counts.failed + counts.unknown;
            let bounds = BUCKETS.iter().map(ToString::to_string).zip(counts.buckets);
            let bounds = bounds.chain([("+Inf".to_owned(), all)]);
            let sample = |suffix: &str, labels: &str, value: String| {
                format!("prober_probe_duration_seconds{suffix}{{{labels}}} {value}\n")
            };
            for (bound, count) in bounds {
                let own = [&common[..], &[("le", bound.as_str())]].concat();
                durations.push(sample("_bucket", &labels(&own), count.to_string()));
            }
            durations.push(sample("_sum", &labels(&common), counts.sum.as_secs_f64().to_string()));
            durations.push(sample("_count", &labels(&common), all.to_string()));
        }
        let help =
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
        page.family(
            "prober_probe_total",
            "counter",
            help,
            totals.iter().map(|(l, v)| (l.as_str(), v.clone())),
        );
        let mut text = page.finish();
        if !durations.is_empty() {
            text +=
                "# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.\n";
            text += "# TYPE prober_probe_duration_seconds histogram\n";
            durations.iter().for_each(|line| text += line);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_by_result_and_forgotten_with_their_pod() {
        let metrics = ProbeMetrics::default();
        let subject = |pod: &str| Subject {
            namespace: "ns".into(),
            pod: pod.into(),
            pod_uid: format!("{pod}-uid"),
            container: "c".into(),
        };
        let took = Duration::from_millis(30);
        let failure = Outcome::Failure(String::new());
        for outcome in [&Outcome::Success, &Outcome::Warning(String::new()), &failure] {
            metrics.count(&subject("a"), Kind::Liveness, outcome, took);
        }
        metrics.count(&subject("b"), Kind::Readiness, &Outcome::Error(String::new()), took);
        let page = metrics.page();
        let a = r#"container="c",namespace="ns",pod="a""#;
        for line in [
            format!(
                r#"prober_probe_total{{{a},pod_uid="a-uid",probe_type="Liveness",result="successful"}} 2"#
            ),
            format!(r#"prober_probe_total{{{a},pod_uid="a-uid",probe_type="Liveness",result="failed"}} 1"#),
            format!(r#"prober_probe_duration_seconds_bucket{{{a},probe_type="Liveness",le="0.025"}} 0"#),
            format!(r#"prober_probe_duration_seconds_bucket{{{a},probe_type="Liveness",le="0.05"}} 3"#),
            format!(r#"prober_probe_duration_seconds_bucket{{{a},probe_type="Liveness",le="+Inf"}} 3"#),
            format!(r#"prober_probe_duration_seconds_count{{{a},probe_type="Liveness"}} 3"#),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert!(page.contains(r#"probe_type="Readiness",result="unknown"} 1"#));
        metrics.forget("a-uid");
        assert!(!metrics.page().contains("pod=\"a\""));
        metrics.forget("b-uid");
        assert_eq!(metrics.page(), "");
    }
}
