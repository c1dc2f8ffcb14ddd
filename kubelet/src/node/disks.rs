//! What pods take of the node's disk, for who asks what they use. To measure it is a walk over all that they have written:
//! that is done once a minute at most, as upstream's `volumeStatsAggPeriod` has it, however often somebody asks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    eviction::{Usage, disk_of},
    pods::{node_context::NodeContext, view::uid_of},
};

const PERIOD: Duration = Duration::from_secs(60);

/// The last measurements, by the pod's uid.
#[derive(Default)]
pub(crate) struct Disks(Mutex<BTreeMap<String, Measured>>);

struct Measured {
    /// When the newest measurement began.
    begun: Instant,
    usage: Option<Arc<Usage>>,
}

// === impl Disks ===

impl Disks {
    /// What each of these pods took a minute ago at most. One that is being measured for the first time is left out; of
    /// others than these nothing is kept.
    pub(super) async fn of(&self, node: &NodeContext, pods: &[Arc<Pod>]) -> BTreeMap<String, Arc<Usage>> {
        for pod in self.due(pods, Instant::now()) {
            let usage = Arc::new(disk_of(node, &pod).await);
            self.keep(uid_of(&pod), usage);
        }
        let known = self.0.lock();
        known.iter().filter_map(|(uid, m)| Some((uid.clone(), m.usage.clone()?))).collect()
    }

    /// The pods whose measurement is over age: now they are the caller's to measure.
    fn due(&self, pods: &[Arc<Pod>], now: Instant) -> Vec<Arc<Pod>> {
        let mut known = self.0.lock();
        known.retain(|uid, _| pods.iter().any(|pod| uid_of(pod) == uid));
        let mut due = vec![];
        for pod in pods {
            let measured = known.get_mut(uid_of(pod));
            if measured.as_ref().is_some_and(|m| now.duration_since(m.begun) < PERIOD) {
                continue;
            }
            due.push(pod.clone());
            match measured {
                Some(measured) => measured.begun = now,
                None => {
                    known.insert(uid_of(pod).to_owned(), Measured { begun: now, usage: None });
                }
            }
        }
        due
    }

    fn keep(&self, uid: &str, usage: Arc<Usage>) {
        if let Some(measured) = self.0.lock().get_mut(uid) {
            measured.usage = Some(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_measured_once_a_minute_and_forgotten_when_it_goes() {
        let pod = |uid: &str| {
            let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": uid}})).unwrap();
            Arc::new(pod)
        };
        let disks = Disks::default();
        let both = [pod("a"), pod("b")];
        let due = |disks: &Disks, pods: &[Arc<Pod>]| {
            let due = disks.due(pods, Instant::now());
            due.iter().map(|pod| uid_of(pod).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(due(&disks, &both), ["a", "b"]);
        assert!(due(&disks, &both).is_empty(), "whoever asks meanwhile measures nothing");
        tokio::time::advance(PERIOD - Duration::from_secs(1)).await;
        assert!(due(&disks, &both).is_empty());
        assert!(due(&disks, &both[..1]).is_empty());
        assert_eq!(due(&disks, &both), ["b"], "it had gone, and has come back");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(due(&disks, &both), ["a"]);
        disks.keep("a", Arc::default());
        disks.keep("gone", Arc::default());
        assert_eq!(disks.0.lock().len(), 2);
    }
}
