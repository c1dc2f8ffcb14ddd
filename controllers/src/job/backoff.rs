//! How long a Job waits before it makes a pod in place of one that failed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use super::plan::is_failed;
use crate::pods;

const BASE: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(600);

/// Doubles with each failure since the last success.
pub(super) fn of_all(pods: &[Arc<Pod>], spec: &JobSpec, now: Timestamp) -> Duration {
    let succeeded = pods.iter().filter(|p| pods::phase(p) == "Succeeded").filter_map(|p| ended(p)).max();
    let failed = pods.iter().filter(|p| is_failed(p, spec)).filter_map(|p| ended(p));
    let since: Vec<_> = failed.filter(|at| succeeded.is_none_or(|success| *at > success)).collect();
    since.iter().max().map_or(Duration::ZERO, |last| left(since.len(), *last, now))
}

/// The same for one index, by the failures its last pod knows of.
pub(super) fn of_index(failed: &Pod, now: Timestamp) -> Duration {
    let before = indexes::failures(failed).saturating_add(indexes::ignored_failures(failed));
    let failures = usize::try_from(before.saturating_add(1)).unwrap_or(1);
    ended(failed).map_or(Duration::ZERO, |last| left(failures, last, now))
}

fn left(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    let exponent = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let wait = BASE.saturating_mul(1 << exponent).min(MAX);
    let elapsed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
    wait.saturating_sub(elapsed)
}

/// When the last container ended, or else when the pod stopped being ready, was deleted or made.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let times: Option<Vec<_>> =
        statuses.map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0)).collect();
    let unready = || {
        let ready = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        at.checked_sub(jiff::SignedDuration::from_secs(grace)).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    times.and_then(|times| times.into_iter().max()).or_else(unready).or_else(deleted).or_else(created)
}
