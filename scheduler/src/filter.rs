//! The checks of one pod against one node, in upstream's order: the first that fails gives the reasons.

use coracle_api::names::TAINT_UNSCHEDULABLE;
use coracle_api::taint::tolerated;
use k8s_openapi::api::core::v1::Taint;

use crate::cluster::{Cluster, NodeInfo};
use crate::decide::Rejection;
use crate::pod::{HostPort, PodInfo};
use crate::topology::Constraints;

pub(crate) fn check(
    pod: &PodInfo,
    node: &NodeInfo,
    cluster: &Cluster,
    constraints: &Constraints<'_>,
) -> Result<(), Rejection> {
    unschedulable(pod, node)?;
    taints(pod, node)?;
    if !pod.node.allows(&node.name, Some(&node.labels)) {
        return Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector".to_owned()));
    }
    ports(pod, node)?;
    resources(pod, node)?;
    cluster.volumes.check(pod, node)?;
    constraints.check(node)
}

fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let taint =
        Taint { key: TAINT_UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if node.unschedulable && !tolerated(Some(&pod.tolerations), &taint) {
        return Err(Rejection::unresolvable("node(s) were unschedulable".to_owned()));
    }
    Ok(())
}

pub(crate) fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let forbids = |t: &&Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
    if node.taints.iter().filter(forbids).any(|taint| !tolerated(Some(&pod.tolerations), taint)) {
        return Err(Rejection::unresolvable("node(s) had untolerated taint(s)".to_owned()));
    }
    Ok(())
}

fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if pod.host_ports.is_empty() {
        return Ok(());
    }
    let taken = node.pods.values().flat_map(|p| &p.host_ports);
    if taken.into_iter().any(|have| pod.host_ports.iter().any(|want| conflict(want, have))) {
        let reason = "node(s) didn't have free ports for the requested pod ports".to_owned();
        return Err(Rejection::resolvable(vec![reason]));
    }
    Ok(())
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    const ANY: &str = "0.0.0.0";
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == ANY || b.ip == ANY)
}

fn resources(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let (want, used, have) = (&pod.requests, &node.requested, &node.allocatable);
    let mut reasons = Vec::new();
    // No eviction helps where even an empty node is too small.
    let mut hopeless = false;
    if node.pods.len() as i64 + 1 > node.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut need = |name: &str, want: i64, used: i64, have: i64| {
        if want > 0 && want > have - used {
            reasons.push(format!("Insufficient {name}"));
            hopeless |= want > have;
        }
    };
    need("cpu", want.milli_cpu, used.milli_cpu, have.milli_cpu);
    need("memory", want.memory, used.memory, have.memory);
    need("ephemeral-storage", want.ephemeral_storage, used.ephemeral_storage, have.ephemeral_storage);
    for (name, amount) in &want.scalar {
        let of = |r: &crate::resources::Resources| r.scalar.get(name).copied().unwrap_or(0);
        need(name, *amount, of(used), of(have));
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Rejection { reasons, resolvable: !hopeless }),
    }
}
