//! What the streaming server may know of this node's pods.

use std::{path::PathBuf, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{Directory, node_context::NodeContext, view::{find_container, spec_of, uid_of}};
use crate::{cri::{ContainerRecord, ContainerState}, runtime::Runtime, streaming::{Absent, Pods}};

pub(crate) struct Served {
    pub(crate) node: Arc<NodeContext>,
    pub(crate) directory: Directory,
}

impl Served {
    fn pod(&self, namespace: &str, pod: &str) -> Result<Arc<k8s_openapi::api::core::v1::Pod>, Absent> {
        self.directory.read().get(&(namespace.to_owned(), pod.to_owned())).cloned().ok_or(Absent::Pod)
    }
}

impl Pods for Served {
    fn container(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<ContainerRecord, Absent> {
        let object = self.pod(namespace, pod)?;
        find_container(spec_of(&object), container).ok_or_else(|| Absent::Container(container.to_owned()))?;
        let uid = uid_of(&object);
        let mut records = self.node.runtime.containers();
        records.retain(|r| r.pod_uid == uid && r.name == container);
        records.sort_by_key(|r| std::cmp::Reverse(r.attempt));
        let names = || (container.to_owned(), pod.to_owned());
        records.into_iter().nth(usize::from(previous)).ok_or_else(|| {
            let (container, pod) = names();
            if previous { Absent::Previous { container, pod } } else { Absent::Waiting { container, pod, reason: "ContainerCreating".to_owned() } }
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
        let items: Vec<Value> = self.directory.read().values().filter_map(|p| serde_json::to_value(&**p).ok()).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn summary(&self) -> BoxFuture<'_, Value> {
        async move {
            let pods: Vec<_> = self.directory.read().values().cloned().collect();
            let mut out = Vec::new();
            for pod in pods {
                let Ok(s) = self.node.runtime.pod_stats(uid_of(&pod)).await else { continue };
                let m = &pod.metadata;
                out.push(json!({
                    "podRef": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
                    "cpu": {"time": jiff::Timestamp::now(), "usageCoreNanoSeconds": s.cpu_usage_nanos},
                    "memory": {"time": jiff::Timestamp::now(), "usageBytes": s.memory_usage_bytes,
                        "workingSetBytes": s.memory_working_set_bytes, "rssBytes": s.memory_rss_bytes},
                }));
            }
            json!({"node": {"nodeName": self.node.config.node_name}, "pods": out})
        }
        .boxed()
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        async move {
            let pods: Vec<_> = self.directory.read().values().cloned().collect();
            let mut out = String::from("# TYPE pod_memory_working_set_bytes gauge\n");
            for pod in pods {
                let Ok(s) = self.node.runtime.pod_stats(uid_of(&pod)).await else { continue };
                let (ns, name) = (super::view::namespace_of(&pod), super::view::name_of(&pod));
                out.push_str(&format!("pod_memory_working_set_bytes{{namespace=\"{ns}\",pod=\"{name}\"}} {}\n", s.memory_working_set_bytes));
            }
            out
        }
        .boxed()
    }
}

fn runs(runtime: &Runtime, id: &str) -> bool {
    runtime.container(id).is_some_and(|r| matches!(r.state, ContainerState::Created { .. } | ContainerState::Running { .. }))
}
