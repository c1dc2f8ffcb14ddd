//! What a kubelet may do: its own node, the pods bound to it, and what those pods name.

use coracle_api::Object;
use serde_json::Value;

use super::{Asked, Decision};
use crate::cluster::{Cluster, core};

/// Decides about requests of the node `node`.
pub(super) fn decide(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if !asked.is_resource {
        return Decision::Deny(String::new());
    }
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    match (asked.group, asked.resource, asked.subresource) {
        ("", "secrets" | "configmaps", "") => {
            if reads { named_by_own_pod(cluster, node, asked) } else { only_read("can only read resources of this type") }
        }
        ("", "persistentvolumeclaims", "") if asked.verb == "get" => named_by_own_pod(cluster, node, asked),
        ("", "persistentvolumes", "") if asked.verb == "get" => own_volume(cluster, node, asked),
        ("", "serviceaccounts", "token") if asked.verb == "create" => named_by_own_pod(cluster, node, asked),
        ("", "serviceaccounts", "") if asked.verb == "get" => named_by_own_pod(cluster, node, asked),
        ("", "nodes", "" | "status") => own_node(node, asked),
        ("", "pods", sub) => own_pod(cluster, node, asked, sub),
        ("coordination.k8s.io", "leases", "") => own_lease(node, asked),
        ("storage.k8s.io", "csinodes", "") => match asked.verb {
            "get" | "create" | "update" | "patch" | "delete" if asked.name == node || asked.name.is_empty() => allow(),
            _ => only_read("can only access CSINode with the same name as the requesting node"),
        },
        ("", "services", "") | ("discovery.k8s.io", "endpointslices", "") | ("", "namespaces", "") if reads => allow(),
        ("storage.k8s.io", "csidrivers" | "volumeattachments", "") | ("node.k8s.io", "runtimeclasses", "") if reads => {
            allow()
        }
        ("", "events", "") | ("events.k8s.io", "events", "") if matches!(asked.verb, "create" | "update" | "patch") => {
            allow()
        }
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "")
            if asked.verb == "create" =>
        {
            allow()
        }
        ("certificates.k8s.io", "certificatesigningrequests", "")
            if matches!(asked.verb, "create" | "get" | "list" | "watch") =>
        {
            allow()
        }
        _ => Decision::Deny(String::new()),
    }
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

fn only_read(why: &str) -> Decision {
    Decision::Deny(why.to_owned())
}

fn own_node(node: &str, asked: &Asked<'_>) -> Decision {
    let why = || Decision::Deny(format!("node {node:?} cannot read {:?}, only its own Node object", asked.name));
    match asked.verb {
        "create" => allow(),
        "get" | "update" | "patch" if asked.name == node => allow(),
        "list" | "watch" if asked.name == node || selects(asked.query, "metadata.name", node) => allow(),
        "get" => why(),
        "list" | "watch" => Decision::Deny(format!(
            "node {node:?} cannot read all nodes, only its own Node object"
        )),
        _ => Decision::Deny(String::new()),
    }
}

fn own_pod(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>, subresource: &str) -> Decision {
    let bound = || {
        let pod = cluster.get(&core("pods"), asked.namespace, asked.name);
        pod.is_some_and(|p| p.str_at(&["spec", "nodeName"]) == node)
    };
    match (asked.verb, subresource) {
        // Mirror pods; admission checks that they are bound to this node.
        ("create", "") => allow(),
        ("create", "eviction") | ("delete", "") | ("get", "") if bound() => allow(),
        ("update" | "patch", "status") if bound() => allow(),
        ("watch" | "list", "") if selects(asked.query, "spec.nodeName", node) => allow(),
        ("watch" | "list", "") if !asked.name.is_empty() && bound() => allow(),
        ("watch" | "list", "") => Decision::Deny(
            "can only list/watch pods with spec.nodeName field selector".to_owned(),
        ),
        _ => no_relationship(node),
    }
}

fn own_lease(node: &str, asked: &Asked<'_>) -> Decision {
    if asked.namespace != coracle_api::names::NAMESPACE_NODE_LEASE {
        return only_read("can only access leases in the \"kube-node-lease\" system namespace");
    }
    match asked.verb {
        "create" => allow(),
        "get" | "update" | "patch" | "delete" if asked.name == node => allow(),
        "get" | "update" | "patch" | "delete" => only_read("can only access node lease with the same name as the requesting node"),
        _ => only_read("can only get, create, update, patch, or delete a node lease"),
    }
}

/// Whether a pod bound to the node names the object.
fn named_by_own_pod(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if asked.name.is_empty() {
        return only_read("can only read namespaced object of this type");
    }
    let pods = cluster.list(&core("pods"), asked.namespace);
    let mut own = pods.iter().filter(|p| p.str_at(&["spec", "nodeName"]) == node);
    if own.any(|pod| names(pod, asked.resource, asked.name)) { allow() } else { no_relationship(node) }
}

fn own_volume(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    let Some(volume) = cluster.get(&core("persistentvolumes"), "", asked.name) else { return no_relationship(node) };
    let claim = Asked {
        resource: "persistentvolumeclaims",
        namespace: volume.str_at(&["spec", "claimRef", "namespace"]),
        name: volume.str_at(&["spec", "claimRef", "name"]),
        ..*asked
    };
    match named_by_own_pod(cluster, node, &claim) {
        Decision::Allow(why) => Decision::Allow(why),
        Decision::Deny(_) => no_relationship(node),
    }
}

fn no_relationship(node: &str) -> Decision {
    Decision::Deny(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod's spec names a secret, config map, claim or service account.
fn names(pod: &Object, resource: &str, name: &str) -> bool {
    if resource == "serviceaccounts" {
        return pod.str_at(&["spec", "serviceAccountName"]) == name;
    }
    let fields: &[&str] = match resource {
        "secrets" => &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets", "nodePublishSecretRef"],
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        _ => &["claimName"],
    };
    let generic = resource == "persistentvolumeclaims"
        && pod.items_at(&["spec", "volumes"]).iter().any(|v| {
            v.get("ephemeral").is_some_and(|e| !e.is_null())
                && v.get("name").and_then(Value::as_str).is_some_and(|n| format!("{}-{n}", pod.name()) == name)
        });
    generic || pod.at(&["spec"]).is_some_and(|spec| mentions(spec, fields, name))
}

/// Looks for `field: name`, `field: {name: name}` and `field: [{name: name}]` anywhere below.
fn mentions(value: &Value, fields: &[&str], name: &str) -> bool {
    let is_named = |v: &Value| v.as_str() == Some(name) || v.get("name").and_then(Value::as_str) == Some(name);
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            let here = fields.contains(&key.as_str())
                && (is_named(inner) || inner.as_array().is_some_and(|items| items.iter().any(is_named)));
            here || mentions(inner, fields, name)
        }),
        Value::Array(items) => items.iter().any(|inner| mentions(inner, fields, name)),
        _ => false,
    }
}

/// Whether a query's field selector demands `field=value`.
fn selects(query: &str, field: &str, value: &str) -> bool {
    query.split('&').filter_map(|pair| pair.strip_prefix("fieldSelector=")).any(|selector| {
        let selector = selector.replace("%3D", "=").replace("%3d", "=").replace("%2C", ",").replace("%2c", ",");
        selector.split(',').filter_map(|term| term.split_once('=')).any(|(f, v)| f == field && v.trim_start_matches('=') == value)
    })
}
