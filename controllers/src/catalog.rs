//! The list of controllers, and how a choice of them is read.

use crate::runtime::Runtime;
use crate::{Config, Error};

pub(crate) struct Controller {
    pub(crate) name: &'static str,
    /// The ServiceAccount it acts as, in `kube-system`; empty for what acts as the program itself.
    pub(crate) account: &'static str,
    pub(crate) start: fn(&mut Runtime, &Config),
}

const fn row(name: &'static str, account: &'static str, start: fn(&mut Runtime, &Config)) -> Controller {
    Controller { name, account, start }
}

/// Under upstream's names, with upstream's accounts.
#[rustfmt::skip]
pub(crate) const CONTROLLERS: &[Controller] = &[
    row("replicaset-controller", "replicaset-controller", crate::replicaset::start::<crate::replicaset::ReplicaSet>),
    row("replicationcontroller-controller", "replication-controller", crate::replicaset::start::<crate::replicaset::ReplicationController>),
    row("deployment-controller", "deployment-controller", crate::deployment::start),
    row("serviceaccount-controller", "service-account-controller", crate::service_account::start),
    row("endpointslice-controller", "endpointslice-controller", crate::endpoints::start_slices),
    row("endpoints-controller", "endpoint-controller", crate::endpoints::start_legacy),
    row("endpointslice-mirroring-controller", "endpointslicemirroring-controller", crate::endpoints::start_mirror),
    row("namespace-controller", "namespace-controller", crate::namespace::start),
    row("garbage-collector-controller", "generic-garbage-collector", crate::gc::start),
    row("node-ipam-controller", "node-controller", crate::node_ipam::start),
    row("node-lifecycle-controller", "node-controller", crate::node_lifecycle::start),
    row("pod-garbage-collector-controller", "pod-garbage-collector", crate::pod_gc::start),
    row("taint-eviction-controller", "node-controller", crate::taint_eviction::start),
    row("clusterrole-aggregation-controller", "clusterrole-aggregation-controller", crate::cluster_role_aggregation::start),
    row("daemonset-controller", "daemon-set-controller", crate::daemonset::start),
    row("statefulset-controller", "statefulset-controller", crate::statefulset::start),
    row("job-controller", "job-controller", crate::job::start),
    row("ttl-after-finished-controller", "ttl-after-finished-controller", crate::job::start_ttl),
    row("cronjob-controller", "cronjob-controller", crate::cronjob::start),
    row("disruption-controller", "disruption-controller", crate::disruption::start),
    row("resourcequota-controller", "resourcequota-controller", crate::resource_quota::start),
    row("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", crate::root_ca::start),
    row("certificatesigningrequest-approving-controller", "certificate-controller", crate::certificates::start_approving),
    row("certificatesigningrequest-signing-controller", "certificate-controller", crate::certificates::start_signing),
    row("certificatesigningrequest-cleaner-controller", "certificate-controller", crate::certificates::start_cleaning),
    row("persistentvolumeclaim-protection-controller", "pvc-protection-controller", crate::volume_protection::start_claims),
    row("persistentvolume-protection-controller", "pv-protection-controller", crate::volume_protection::start_volumes),
    row("volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", crate::volume_protection::start_classes),
    row("serviceaccount-token-controller", "", crate::service_account_tokens::start),
    row("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", crate::service_account_tokens::start_cleaning),
];

/// `*` stands for all; `-name` takes one out; the order does not matter.
pub(crate) fn choose(names: &[String]) -> Result<Vec<&'static Controller>, Error> {
    for name in names.iter().filter(|n| *n != "*") {
        let name = name.strip_prefix('-').unwrap_or(name);
        if !CONTROLLERS.iter().any(|c| c.name == name) {
            return Err(Error::UnknownController(name.to_owned()));
        }
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    let wanted = |c: &&Controller| !has(&format!("-{}", c.name)) && (has("*") || has(c.name));
    Ok(CONTROLLERS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_names_all_some_or_all_but_some() {
        let count = |names: &[&str]| {
            choose(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).map(|c| c.len()).ok()
        };
        assert_eq!(count(&["*"]), Some(CONTROLLERS.len()));
        assert_eq!(count(&["*", "-deployment-controller"]), Some(CONTROLLERS.len() - 1));
        assert_eq!(count(&["deployment-controller"]), Some(1));
        assert_eq!(count(&["nonsense"]), None);
    }
}
