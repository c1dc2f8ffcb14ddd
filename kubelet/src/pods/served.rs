//! What the streaming server may know of this node's pods.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{
    Directory,
    node_context::NodeContext,
    view::{find_container, spec_of, uid_of},
};
use crate::{
    cri::{ContainerRecord, ContainerState},
    node::{configz, disks::Disks, metrics, stats},
    probes::METRICS,
    runtime::Runtime,
    streaming::{Absent, MetricsPage, Pods},
};

pub(crate) struct Served {
    pub(crate) node: Arc<NodeContext>,
    pub(crate) directory: Directory,
    pub(crate) disks: Disks,
}

impl Served {
    fn all(&self) -> Vec<Arc<Pod>> {
        self.directory.read().values().cloned().collect()
    }

    fn pod(&self, namespace: &str, pod: &str) -> Result<Arc<Pod>, Absent> {
        self.directory.read().get(&(namespace.to_owned(), pod.to_owned())).cloned().ok_or(Absent::Pod)
    }
}

impl Pods for Served {
    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRecord, Absent> {
        let object = self.pod(namespace, pod)?;
        find_container(spec_of(&object), container).ok_or_else(|| Absent::Container(container.to_owned()))?;
        let uid = uid_of(&object);
        let mut records = self.node.runtime.containers_of(uid);
        records.retain(|r| r.name == container);
        records.sort_by_key(|r| std::cmp::Reverse(r.attempt));
        let names = || (container.to_owned(), pod.to_owned());
        records.into_iter().nth(usize::from(previous)).ok_or_else(|| {
            let (container, pod) = names();
            if previous {
                Absent::Previous { container, pod }
            } else {
                Absent::Waiting { reason: waiting_reason(&object, &container), container, pod }
            }
        })
    }

    fn network(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, Absent> {
        let object = self.pod(namespace, pod)?;
        let sandboxes = self.node.runtime.sandboxes();
        let sandbox = sandboxes.into_iter().find(|s| s.pod_uid == uid_of(&object));
        sandbox.map(|s| s.netns).ok_or(Absent::Pod)
    }

    fn ended(&self, container_id: &str) -> CancellationToken {
        let token = CancellationToken::new();
        let (runtime, id, done) = (self.node.runtime.clone(), container_id.to_owned(), token.clone());
        let mut events = runtime.events();
        tokio::spawn(async move {
            while runs(&runtime, &id) {
                if matches!(events.recv().await, Err(RecvError::Closed)) {
                    break;
                }
            }
            done.cancel();
        });
        token
    }

    fn list(&self) -> Value {
        let items: Vec<Value> =
            self.directory.read().values().filter_map(|p| serde_json::to_value(&**p).ok()).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn summary(&self) -> BoxFuture<'_, Value> {
        stats::summary(&self.node, &self.disks, self.all()).boxed()
    }

    fn metrics(&self, page: MetricsPage) -> BoxFuture<'_, String> {
        match page {
            MetricsPage::Kubelet => std::future::ready(metrics::kubelet(&self.node)).boxed(),
            MetricsPage::Resource => stats::resource_metrics(&self.node, self.all()).boxed(),
            MetricsPage::Cadvisor => metrics::cadvisor(&self.node, self.all()).boxed(),
            MetricsPage::Probes => std::future::ready(METRICS.page()).boxed(),
        }
    }

    fn running(&self) -> Value {
        running(self.node.runtime.containers())
    }

    fn configz(&self) -> Value {
        configz::configz(&self.node.config)
    }
}

/// The pods that the runtime knows to run, with no more than it knows of them.
fn running(records: Vec<ContainerRecord>) -> Value {
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    let running = |r: &ContainerRecord| matches!(r.state, ContainerState::Running { .. });
    let mut records: Vec<_> = records.into_iter().filter(running).collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    for r in records {
        let pod = pods.entry(r.pod_uid.clone()).or_insert_with(|| {
            json!({
                "metadata": {"name": r.pod_name, "namespace": r.pod_namespace, "uid": r.pod_uid},
                "spec": {"containers": []},
                "status": {},
            })
        });
        if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
            containers.push(json!({"name": r.name, "image": r.image_id, "resources": {}}));
        }
    }
    let items: Vec<Value> = pods.into_values().collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// Why a container has no log yet, as its status tells.
fn waiting_reason(pod: &Pod, container: &str) -> String {
    let status = pod.status.as_ref();
    let lists =
        status.map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let state = all.find(|s| s.name == container).and_then(|s| s.state.as_ref());
    let reason = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.clone());
    reason.unwrap_or_else(|| "ContainerCreating".to_owned())
}

fn runs(runtime: &Runtime, id: &str) -> bool {
    runtime
        .container(id)
        .is_some_and(|r| matches!(r.state, ContainerState::Created { .. } | ContainerState::Running { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::plan::tests::record;

    #[test]
    fn running_pods_are_those_of_the_runtime() {
        let run = || ContainerState::Running { started: jiff::Timestamp::UNIX_EPOCH, pid: 1 };
        let list = running(vec![
            record("b", 0, run()),
            record("a", 3, run()),
            ContainerRecord { pod_uid: "gone".into(), ..record("x", 0, ContainerState::Unknown) },
        ]);
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0]["metadata"], json!({"name": "p", "namespace": "n", "uid": "u"}));
        let names: Vec<_> =
            items[0]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
