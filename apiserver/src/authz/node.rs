//! What a kubelet may do: its own node, the pods bound to it, and what those pods name.

use coracle_api::Object;
use serde_json::Value;

use super::{Asked, Decision};
use crate::cluster::{Cluster, core};

const NO_LEASE_VERB: &str = "can only get, create, update, patch, or delete a node lease";
const NO_CSI_VERB: &str = "can only get, create, update, patch, or delete a CSINode";

/// Decides about requests of the node `node`.
pub(super) fn decide(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if !asked.is_resource {
        return no_opinion();
    }
    match (asked.group, asked.resource) {
        ("", "secrets" | "configmaps") => read_namespaced(cluster, node, asked),
        ("", "persistentvolumeclaims") if asked.subresource == "status" => match asked.verb {
            "update" | "patch" => named_by_own_pod(cluster, node, asked),
            _ => deny("can only get/update/patch this type"),
        },
        ("", "persistentvolumeclaims") => get_named(cluster, node, asked, named_by_own_pod),
        ("", "persistentvolumes") => get_named(cluster, node, asked, own_volume),
        ("storage.k8s.io", "volumeattachments") => get_named(cluster, node, asked, own_attachment),
        ("", "serviceaccounts") if asked.verb == "get" && asked.subresource.is_empty() => {
            read_namespaced(cluster, node, asked)
        }
        ("", "serviceaccounts") => token(cluster, node, asked),
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => own_pod(cluster, node, asked),
        ("coordination.k8s.io", "leases") => own_lease(node, asked),
        ("storage.k8s.io", "csinodes") => own_csi_node(node, asked),
        _ if allowed_to_all(asked) => allow(),
        _ => no_opinion(),
    }
}

/// What every node may do, whoever's pods it runs.
fn allowed_to_all(asked: &Asked<'_>) -> bool {
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    match (asked.group, asked.resource, asked.subresource) {
        ("", "services", "")
        | ("storage.k8s.io", "csidrivers", "")
        | ("node.k8s.io", "runtimeclasses", "") => reads,
        ("", "endpoints", "") => asked.verb == "get",
        ("" | "events.k8s.io", "events", "") => matches!(asked.verb, "create" | "update" | "patch"),
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
            asked.verb == "create"
        }
        ("certificates.k8s.io", "certificatesigningrequests", "") => reads || asked.verb == "create",
        _ => false,
    }
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

fn deny(why: impl Into<String>) -> Decision {
    Decision::Deny(why.into())
}

fn no_opinion() -> Decision {
    Decision::Deny(String::new())
}

/// Secrets, config maps and accounts: read by name, where a pod of this node names them.
fn read_namespaced(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if !matches!(asked.verb, "get" | "list" | "watch") {
        return deny("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return deny("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return deny("can only read namespaced object of this type");
    }
    named_by_own_pod(cluster, node, asked)
}

type Relation = fn(&dyn Cluster, &str, &Asked<'_>) -> Decision;

fn get_named(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>, relation: Relation) -> Decision {
    if asked.verb != "get" {
        return deny("can only get individual resources of this type");
    }
    if !asked.subresource.is_empty() {
        return deny("cannot get subresource");
    }
    if asked.name.is_empty() {
        return deny("No Object name found");
    }
    relation(cluster, node, asked)
}

fn token(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if asked.verb != "create" || asked.name.is_empty() {
        return deny("can only create tokens for individual service accounts");
    }
    if asked.subresource != "token" {
        return deny("can only create token subresource of serviceaccount");
    }
    named_by_own_pod(cluster, node, asked)
}

fn own_node(node: &str, asked: &Asked<'_>) -> Decision {
    match (asked.subresource, asked.verb) {
        // Admission keeps a node to its own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") => match asked.name {
            own if own == node => allow(),
            "" => deny(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => deny(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => no_opinion(),
    }
}

fn own_pod(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    match (asked.subresource, asked.verb) {
        // Admission keeps a node to the pods bound to it.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
        ("", "get") => get_named(cluster, node, asked, bound),
        ("", "list" | "watch") if selects(asked.query, "spec.nodeName", node) => allow(),
        ("", "list" | "watch") if !asked.name.is_empty() => bound(cluster, node, asked),
        ("", "list" | "watch") => deny("can only list/watch pods with spec.nodeName field selector"),
        _ => no_opinion(),
    }
}

fn bound(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    let pod = cluster.get(&core("pods"), asked.namespace, asked.name);
    if pod.is_some_and(|p| p.str_at(&["spec", "nodeName"]) == node) { allow() } else { no_relationship(node) }
}

fn own_lease(node: &str, asked: &Asked<'_>) -> Decision {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return deny(NO_LEASE_VERB);
    }
    if asked.namespace != coracle_api::names::NAMESPACE_NODE_LEASE {
        return deny("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if asked.verb == "create" || asked.name == node {
        return allow();
    }
    deny("can only access node lease with the same name as the requesting node")
}

fn own_csi_node(node: &str, asked: &Asked<'_>) -> Decision {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return deny(NO_CSI_VERB);
    }
    if !asked.subresource.is_empty() {
        return deny("cannot authorize CSINode subresources");
    }
    if asked.verb == "create" || asked.name == node {
        return allow();
    }
    deny("can only access CSINode with the same name as the requesting node")
}

/// Whether a pod bound to the node names the object.
fn named_by_own_pod(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if asked.name.is_empty() {
        return deny("No Object name found");
    }
    let own = cluster.list_where(&core("pods"), asked.namespace, "spec.nodeName", node);
    if own.iter().any(|pod| names(pod, asked.resource, asked.name)) { allow() } else { no_relationship(node) }
}

fn own_volume(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    let Some(volume) = cluster.get(&core("persistentvolumes"), "", asked.name) else {
        return no_relationship(node);
    };
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

fn own_attachment(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    let attachments = coracle_api::Gvr::new("storage.k8s.io", "v1", "volumeattachments");
    let found = cluster.get(&attachments, "", asked.name);
    if found.is_some_and(|a| a.str_at(&["spec", "nodeName"]) == node) {
        allow()
    } else {
        no_relationship(node)
    }
}

fn no_relationship(node: &str) -> Decision {
    deny(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod's spec names a secret, config map, claim or service account.
fn names(pod: &Object, resource: &str, name: &str) -> bool {
    if resource == "serviceaccounts" {
        return pod.str_at(&["spec", "serviceAccountName"]) == name;
    }
    let fields: &[&str] = match resource {
        "secrets" => {
            &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets", "nodePublishSecretRef"]
        }
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        _ => &["claimName"],
    };
    let generic = resource == "persistentvolumeclaims"
        && pod.items_at(&["spec", "volumes"]).iter().any(|v| {
            v.get("ephemeral").is_some_and(|e| !e.is_null())
                && v.get("name")
                    .and_then(Value::as_str)
                    .is_some_and(|n| format!("{}-{n}", pod.name()) == name)
        });
    generic || pod.at(&["spec"]).is_some_and(|spec| mentions(spec, fields, name))
}

/// Looks for `field: name`, `field: {name: name}` and `field: [{name: name}]` anywhere below.
fn mentions(value: &Value, fields: &[&str], name: &str) -> bool {
    let is_named =
        |v: &Value| v.as_str() == Some(name) || v.get("name").and_then(Value::as_str) == Some(name);
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
        let selector =
            selector.replace("%3D", "=").replace("%3d", "=").replace("%2C", ",").replace("%2c", ",");
        selector
            .split(',')
            .filter_map(|term| term.split_once('='))
            .any(|(f, v)| f == field && v.trim_start_matches('=') == value)
    })
}
