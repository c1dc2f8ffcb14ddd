//! The list of controllers, and how a choice of them is read.

use crate::runtime::Runtime;
use crate::{Config, Error};

pub(crate) struct Controller {
    pub(crate) name: &'static str,
    pub(crate) start: fn(&mut Runtime, &Config),
}

/// Under upstream's names.
pub(crate) const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "replicaset-controller",
        start: crate::replicaset::start::<crate::replicaset::ReplicaSet>,
    },
    Controller {
        name: "replicationcontroller-controller",
        start: crate::replicaset::start::<crate::replicaset::ReplicationController>,
    },
    Controller { name: "deployment-controller", start: crate::deployment::start },
    Controller { name: "serviceaccount-controller", start: crate::service_account::start },
    Controller { name: "endpointslice-controller", start: crate::endpoints::start_slices },
    Controller { name: "endpoints-controller", start: crate::endpoints::start_legacy },
    Controller { name: "endpointslice-mirroring-controller", start: crate::endpoints::start_mirror },
    Controller { name: "namespace-controller", start: crate::namespace::start },
    Controller { name: "garbage-collector-controller", start: crate::gc::start },
    Controller { name: "node-ipam-controller", start: crate::node_ipam::start },
    Controller { name: "node-lifecycle-controller", start: crate::node_lifecycle::start },
    Controller { name: "pod-garbage-collector-controller", start: crate::pod_gc::start },
    Controller { name: "taint-eviction-controller", start: crate::taint_eviction::start },
    Controller { name: "clusterrole-aggregation-controller", start: crate::cluster_role_aggregation::start },
    Controller { name: "flow-schema-status-controller", start: crate::flow_schema::start },
    Controller { name: "daemonset-controller", start: crate::daemonset::start },
    Controller { name: "statefulset-controller", start: crate::statefulset::start },
    Controller { name: "job-controller", start: crate::job::start },
    Controller { name: "ttl-after-finished-controller", start: crate::job::start_ttl },
    Controller { name: "cronjob-controller", start: crate::cronjob::start },
    Controller { name: "disruption-controller", start: crate::disruption::start },
    Controller { name: "resourcequota-controller", start: crate::resource_quota::start },
    Controller { name: "root-ca-certificate-publisher-controller", start: crate::root_ca::start },
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
