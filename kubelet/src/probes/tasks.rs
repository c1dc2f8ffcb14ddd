//! The probe tasks of one pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Kind, METRICS, Subject, Target, Verdict, run};
use crate::{
    cri::ContainerState,
    pods::view::{ContainerView, PodView, SandboxView, init_containers, name_of, namespace_of, spec_of},
    runtime::Runtime,
    tasks::supervised,
};

/// Verdicts that wait for the worker; a task with one more waits itself.
const QUEUE: usize = 64;

pub(crate) struct Probes {
    /// By container id; dropping a set ends its task. One that has ended by itself stays, lest it be started again.
    tasks: BTreeMap<(String, Kind), JoinSet<()>>,
    /// Whose probes they are; their counts go with this.
    pod_uid: String,
    sender: mpsc::Sender<Verdict>,
    receiver: mpsc::Receiver<Verdict>,
}

impl Probes {
    pub(crate) fn new(pod_uid: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { tasks: BTreeMap::new(), pod_uid: pod_uid.to_owned(), sender, receiver }
    }

    pub(crate) async fn next(&mut self) -> Option<Verdict> {
        self.receiver.recv().await
    }

    /// Starts the probes that are due for running containers and ends those that are not.
    pub(crate) fn adjust(&mut self, pod: &Pod, view: &PodView, runtime: &Runtime) {
        let ip = match &view.sandbox {
            SandboxView::Ready { ips } => ips.first().copied(),
            SandboxView::Absent | SandboxView::Pending { .. } => None,
        };
        let mut due = BTreeMap::new();
        for (name, v) in &view.containers {
            let Some(c) = probed(spec_of(pod), name) else { continue };
            let Some(record) = &v.current else { continue };
            let ContainerState::Running { started, .. } = record.state else { continue };
            let kinds = [Kind::Startup, Kind::Liveness, Kind::Readiness];
            for kind in kinds.into_iter().filter(|kind| is_due(*kind, v, view.terminating.is_some())) {
                due.extend(probe(c, kind).map(|p| ((record.id.clone(), kind), (c, p, started))));
            }
        }
        self.tasks.retain(|key, _| due.contains_key(key));
        let Some(ip) = ip else { return };
        for ((id, kind), (container, probe, started)) in due {
            self.tasks.entry((id.clone(), kind)).or_insert_with(|| {
                let subject = Subject {
                    namespace: namespace_of(pod).to_owned(),
                    pod: name_of(pod).to_owned(),
                    pod_uid: self.pod_uid.clone(),
                    container: container.name.clone(),
                };
                let (runtime, container) = (runtime.clone(), container.clone());
                let target = Target { runtime, container, id, ip, started, subject };
                let mut task = JoinSet::new();
                let (probe, sender) = (probe.clone(), self.sender.clone());
                let begin = move || run(target.clone(), kind, probe.clone(), sender.clone());
                task.spawn(supervised("probe", begin));
                task
            });
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // First the tasks, lest one of them counts again.
        self.tasks.clear();
        METRICS.forget(&self.pod_uid);
    }
}

/// Startup comes first. A pod that ends is no longer restarted, but still asked whether it takes requests.
fn is_due(kind: Kind, v: &ContainerView, terminating: bool) -> bool {
    let stays = v.stopping.is_none() && !terminating;
    match kind {
        Kind::Startup => stays && !v.probe.started,
        Kind::Liveness => stays && v.probe.started,
        Kind::Readiness => v.probe.started,
    }
}

fn probed<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.containers.iter().chain(init_containers(spec)).find(|c| c.name == name)
}

fn probe(c: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => c.startup_probe.as_ref(),
        Kind::Liveness => c.liveness_probe.as_ref(),
        Kind::Readiness => c.readiness_probe.as_ref(),
    }
}
