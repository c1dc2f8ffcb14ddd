//! What a kubelet may do: its own node, the pods bound to it, and what those pods name.

use coracle_api::{Gvr, Object};

use super::references::{self, MIRROR};
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
        ("resource.k8s.io", "resourceclaims") => get_named(cluster, node, asked, named_by_own_pod),
        ("resource.k8s.io", "resourceslices") => own_slice(cluster, node, asked),
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
        ("", "list" | "watch") if demands(asked, "spec.nodeName", node) => allow(),
        ("", "list" | "watch") if !asked.name.is_empty() => bound(cluster, node, asked),
        ("", "list" | "watch") => deny("can only list/watch pods with spec.nodeName field selector"),
        _ => no_opinion(),
    }
}

fn bound(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    let pod = cluster.get(&core("pods"), asked.namespace, asked.name);
    related(node, pod.is_some_and(|p| p.str_at(&["spec", "nodeName"]) == node))
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

/// Device resources published by this node's drivers. Admission keeps it to its own where the object is not known here.
fn own_slice(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if !asked.subresource.is_empty() {
        return deny("cannot authorize ResourceSlice subresources");
    }
    match asked.verb {
        "create" => allow(),
        "get" | "update" | "patch" | "delete" => {
            let slices = Gvr::new("resource.k8s.io", "v1", "resourceslices");
            if asked.name.is_empty() {
                return deny("No Object name found");
            }
            let found = cluster.get(&slices, "", asked.name);
            related(node, found.is_some_and(|s| s.str_at(&["spec", "nodeName"]) == node))
        }
        "watch" | "list" | "deletecollection" if demands(asked, "spec.nodeName", node) => allow(),
        "watch" | "list" | "deletecollection" => {
            deny("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => deny(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
             deletecollection",
        ),
    }
}

/// Whether a pod bound to the node names the object, itself or through a volume of its.
fn named_by_own_pod(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> Decision {
    if asked.name.is_empty() {
        return deny("No Object name found");
    }
    let own = pods_with_references(cluster, node, asked.namespace);
    let named = own.iter().any(|pod| names(pod, asked.resource, asked.name));
    related(node, named || asked.resource == "secrets" && named_by_own_volume(cluster, node, asked))
}

/// The pods bound to a node that give it access to what they name. Mirror pods give none: the node itself writes them.
fn pods_with_references(cluster: &dyn Cluster, node: &str, namespace: &str) -> Vec<Object> {
    let mut own = cluster.list_where(&core("pods"), namespace, "spec.nodeName", node);
    own.retain(|pod| pod.annotation(MIRROR).is_none());
    own
}

/// Whether a volume that is bound to a claim of a pod of this node names the secret.
fn named_by_own_volume(cluster: &dyn Cluster, node: &str, asked: &Asked<'_>) -> bool {
    pods_with_references(cluster, node, "").iter().any(|pod| {
        references::claims(pod).iter().any(|name| {
            let claim = cluster.get(&core("persistentvolumeclaims"), pod.namespace(), name);
            let volume = claim.and_then(|claim| {
                let volume = claim.str_at(&["spec", "volumeName"]);
                cluster.get(&core("persistentvolumes"), "", volume)
            });
            volume.is_some_and(|volume| {
                let bound = |field: &str| volume.str_at(&["spec", "claimRef", field]);
                bound("namespace") == pod.namespace()
                    && bound("name") == name
                    && references::volume_secrets(&volume).contains(&(asked.namespace, asked.name))
            })
        })
    })
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
    let attachments = Gvr::new("storage.k8s.io", "v1", "volumeattachments");
    let found = cluster.get(&attachments, "", asked.name);
    related(node, found.is_some_and(|a| a.str_at(&["spec", "nodeName"]) == node))
}

fn related(node: &str, is_related: bool) -> Decision {
    if is_related { allow() } else { no_relationship(node) }
}

fn no_relationship(node: &str) -> Decision {
    deny(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod names an object of a kind.
fn names(pod: &Object, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == name,
        "secrets" => references::secrets(pod).contains(&name),
        "configmaps" => references::config_maps(pod).contains(&name),
        "persistentvolumeclaims" => references::claims(pod).iter().any(|claim| claim == name),
        "resourceclaims" => references::resource_claims(pod).contains(&name),
        _ => false,
    }
}

/// Whether the request's field selector demands a value.
fn demands(asked: &Asked<'_>, field: &str, value: &str) -> bool {
    asked.fields.iter().any(|term| term.equal && term.field == field && term.value == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::Fixed;
    use crate::request;
    use serde_json::{Value, json};

    const POD: &str = r#"{"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "own"}}"#;

    type Objects = Vec<(&'static str, &'static str, Value)>;

    /// A pod of the node with more in its spec, and with what goes with it.
    fn pod(spec: Value, others: Objects) -> Objects {
        let mut pod: Value = serde_json::from_str(POD).unwrap();
        let Value::Object(fields) = spec else { panic!("{spec} is no object") };
        for (key, value) in fields {
            pod["spec"][key] = value;
        }
        let mut objects = vec![("", "pods", pod)];
        objects.extend(others);
        objects
    }

    fn volume(source: Value) -> Value {
        let mut volume = source;
        volume["name"] = "v".into();
        json!({"volumes": [volume]})
    }

    /// A claim bound to the volume `x`, which names the secret `x` of another namespace.
    fn bound() -> Objects {
        let claim = json!({"metadata": {"name": "x", "namespace": "n"}, "spec": {"volumeName": "x"}});
        let secret = json!({"name": "x", "namespace": "m"});
        let volume = json!({"metadata": {"name": "x"}, "spec": {"claimRef": {"name": "x", "namespace": "n"},
            "csi": {"driver": "d", "nodePublishSecretRef": secret}}});
        vec![("", "persistentvolumeclaims", claim), ("", "persistentvolumes", volume)]
    }

    fn asks(objects: Objects, method: &str, uri: &str) -> bool {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = request::parse(&method.parse().unwrap(), path, query);
        matches!(decide(&Fixed::new(objects), "own", &Asked::from(&info)), Decision::Allow(_))
    }

    /// Whether a node may ask, without and with what relates the object to it.
    #[test]
    fn every_edge_of_the_graph_is_needed_and_enough() {
        let claim = || volume(json!({"persistentVolumeClaim": {"claimName": "x"}}));
        let attachment = |node: &str| {
            vec![(
                "storage.k8s.io",
                "volumeattachments",
                json!({"metadata": {"name": "x"}, "spec": {"nodeName": node}}),
            )]
        };
        let slice = |node: &str| {
            vec![(
                "resource.k8s.io",
                "resourceslices",
                json!({"metadata": {"name": "x"}, "spec": {"nodeName": node}}),
            )]
        };
        let other = |spec: Value| {
            let mut objects = pod(spec, vec![]);
            objects[0].2["spec"]["nodeName"] = "other".into();
            objects
        };
        let mirror = |spec: Value| {
            let mut objects = pod(spec, bound());
            objects[0].2["metadata"]["annotations"] = json!({MIRROR: "x"});
            objects
        };
        let nothing = || pod(json!({}), vec![]);
        let mut templated =
            pod(json!({"resourceClaims": [{"name": "r", "resourceClaimTemplateName": "t"}]}), vec![]);
        let without_status = templated.clone();
        templated[0].2["status"] =
            json!({"resourceClaimStatuses": [{"name": "r", "resourceClaimName": "x"}]});
        let mut free = bound();
        free[1].2["spec"]["claimRef"]["namespace"] = "m".into();
        let secret = || volume(json!({"secret": {"secretName": "x"}}));
        let map = || json!({"containers": [{"envFrom": [{"configMapRef": {"name": "x"}}]}]});
        let account = || json!({"serviceAccountName": "x"});
        for (method, uri, without, with) in [
            ("GET", "/api/v1/namespaces/n/pods/p", other(json!({})), nothing()),
            ("GET", "/api/v1/namespaces/n/secrets/x", nothing(), pod(secret(), vec![])),
            ("GET", "/api/v1/namespaces/n/secrets/x", other(secret()), pod(secret(), vec![])),
            ("GET", "/api/v1/namespaces/n/secrets/x", mirror(secret()), pod(secret(), vec![])),
            (
                "GET",
                "/api/v1/namespaces/n/secrets?fieldSelector=metadata.name=x",
                nothing(),
                pod(secret(), vec![]),
            ),
            (
                "GET",
                "/api/v1/namespaces/n/secrets?watch=1&fieldSelector=metadata.name=x",
                nothing(),
                pod(secret(), vec![]),
            ),
            ("GET", "/api/v1/namespaces/m/secrets/x", pod(secret(), bound()), pod(claim(), bound())),
            ("GET", "/api/v1/namespaces/m/secrets/x", pod(claim(), free.clone()), pod(claim(), bound())),
            ("GET", "/api/v1/namespaces/m/secrets/x", mirror(claim()), pod(claim(), bound())),
            ("GET", "/api/v1/namespaces/n/configmaps/x", nothing(), pod(map(), vec![])),
            ("GET", "/api/v1/namespaces/n/configmaps/x", mirror(map()), pod(map(), vec![])),
            ("GET", "/api/v1/namespaces/n/persistentvolumeclaims/x", nothing(), pod(claim(), vec![])),
            (
                "GET",
                "/api/v1/namespaces/n/persistentvolumeclaims/p-v",
                nothing(),
                pod(volume(json!({"ephemeral": {}})), vec![]),
            ),
            (
                "PATCH",
                "/api/v1/namespaces/n/persistentvolumeclaims/x/status",
                nothing(),
                pod(claim(), vec![]),
            ),
            ("GET", "/api/v1/persistentvolumes/x", pod(json!({}), bound()), pod(claim(), bound())),
            ("GET", "/api/v1/persistentvolumes/x", pod(claim(), free), pod(claim(), bound())),
            ("GET", "/api/v1/namespaces/n/serviceaccounts/x", nothing(), pod(account(), vec![])),
            ("POST", "/api/v1/namespaces/n/serviceaccounts/x/token", nothing(), pod(account(), vec![])),
            (
                "POST",
                "/api/v1/namespaces/n/serviceaccounts/x/token",
                mirror(account()),
                pod(account(), vec![]),
            ),
            ("GET", "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims/x", without_status, templated),
            (
                "GET",
                "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims/x",
                nothing(),
                pod(json!({"resourceClaims": [{"name": "r", "resourceClaimName": "x"}]}), vec![]),
            ),
            ("GET", "/apis/storage.k8s.io/v1/volumeattachments/x", attachment("other"), attachment("own")),
            ("GET", "/apis/resource.k8s.io/v1/resourceslices/x", slice("other"), slice("own")),
            ("DELETE", "/apis/resource.k8s.io/v1/resourceslices/x", slice("other"), slice("own")),
            ("PUT", "/apis/resource.k8s.io/v1/resourceslices/x", slice("other"), slice("own")),
        ] {
            assert!(!asks(without.clone(), method, uri), "{method} {uri} with {without:?}");
            assert!(asks(with.clone(), method, uri), "{method} {uri} with {with:?}");
        }
    }

    #[test]
    fn what_takes_no_edge() {
        for (method, uri, allowed) in [
            ("GET", "/api/v1/nodes/own", true),
            ("GET", "/api/v1/nodes/other", false),
            ("GET", "/api/v1/nodes", false),
            ("GET", "/api/v1/nodes?fieldSelector=metadata.name=own", true),
            ("GET", "/api/v1/nodes/own/proxy/pods", false),
            ("DELETE", "/api/v1/nodes/own", false),
            ("PATCH", "/api/v1/nodes/other/status", true), // Admission's.
            ("POST", "/api/v1/namespaces/n/pods", true),
            ("POST", "/api/v1/namespaces/n/pods/p/eviction", true),
            ("POST", "/api/v1/namespaces/n/pods/p/exec", false),
            ("POST", "/api/v1/namespaces/n/pods/p/binding", false),
            ("PATCH", "/api/v1/namespaces/n/pods/p", false),
            ("PATCH", "/api/v1/namespaces/n/pods/p/ephemeralcontainers", false),
            ("DELETE", "/api/v1/namespaces/n/pods", false),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=own", true),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=other,spec.nodeName=x", false),
            ("GET", "/api/v1/watch/pods?fieldSelector=spec.nodeName=own", false),
            ("GET", "/api/v1/secrets", false),
            ("GET", "/api/v1/namespaces/n/secrets", false),
            ("PUT", "/api/v1/namespaces/n/secrets/x", false),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/own", true),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/other", false),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/own", false),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", false),
            ("PUT", "/apis/storage.k8s.io/v1/csinodes/own", true),
            ("PUT", "/apis/storage.k8s.io/v1/csinodes/other", false),
            ("GET", "/apis/storage.k8s.io/v1/csinodes", false),
            ("GET", "/apis/resource.k8s.io/v1/resourceslices", false),
            ("GET", "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName=own", true),
            ("DELETE", "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName=own", true),
            ("GET", "/apis/resource.k8s.io/v1/resourceclaims", false),
            ("GET", "/apis/certificates.k8s.io/v1beta1/podcertificaterequests", false),
            ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", true),
            ("PUT", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", false),
        ] {
            assert_eq!(asks(vec![], method, uri), allowed, "{method} {uri}");
        }
    }
}
