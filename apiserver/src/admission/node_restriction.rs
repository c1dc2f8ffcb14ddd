//! NodeRestriction: a kubelet writes only about its own node and its own pods.

use std::collections::BTreeSet;

use coracle_api::Object;
use coracle_api::names::{GROUP_NODES, NAMESPACE_NODE_LEASE};
use serde_json::Value;

use super::{Attributes, Operation, certificates};
use crate::Server;
use crate::authz::references::{self, MIRROR};
use crate::authz::{Asked, Decision};
use crate::cluster::{Cluster, core};
use crate::status::{Result, Status};

const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that kubelets may set on their node all the same.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Who signs the certificates of nodes.
const NODE_SIGNERS: &[&str] =
    &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
const KUBELET_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Also for calls such as `serviceaccounts/token`, whose body is `new`.
pub(super) fn check(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    if !what.user.in_group(GROUP_NODES) || what.operation == Operation::Connect {
        return Ok(());
    }
    let Some(node) = what.user.name.strip_prefix("system:node:") else { return Ok(()) };
    if node.is_empty() {
        return Err(what.refuse(format!("could not determine node from user {:?}", what.user.name)));
    }
    let gvr = &what.resource.gvr;
    match (gvr.group.as_str(), gvr.resource.as_str(), what.subresource) {
        ("", "pods", "") => pod(server, what, node, new, old),
        ("", "pods", "status") => pod_status(what, node, new, old),
        ("", "pods", "eviction") => {
            let pod = server.get(&core("pods"), what.namespace, what.name)?;
            if pod.str_at(&["spec", "nodeName"]) == node {
                return Ok(());
            }
            Err(what.refuse(format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
        ("", "pods", other) => Err(what.refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        ))),
        ("", "nodes", _) => own_node(what, node, new, old),
        ("", "persistentvolumeclaims", "status") => claim_status(what, node, new, old),
        ("", "persistentvolumeclaims", _) => Err(what.refuse("may only update PVC status")),
        ("coordination.k8s.io", "leases", "") => {
            if what.namespace != NAMESPACE_NODE_LEASE {
                let why = format!("can only access leases in the {NAMESPACE_NODE_LEASE:?} system namespace");
                return Err(what.refuse(why));
            }
            same_name(what, node, "node lease")
        }
        ("storage.k8s.io", "csinodes", _) => same_name(what, node, "CSINode"),
        ("", "serviceaccounts", "token") => bound_token(server, what, node, new),
        ("resource.k8s.io", "resourceslices", _) => own_slice(what, node, new, old),
        (certificates::GROUP, certificates::REQUESTS, "") if what.operation == Operation::Create => {
            new.map_or(Ok(()), |request| own_request(what, node, request))
        }
        _ => Ok(()),
    }
}

fn same_name(what: &Attributes<'_>, node: &str, kind: &str) -> Result<()> {
    if what.name == node {
        return Ok(());
    }
    Err(what.refuse(format!("can only access {kind} with the same name as the requesting node")))
}

/// What a node publishes of its devices, and takes back; updates cannot change whose it is.
fn own_slice(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (verb, slice) = match what.operation {
        Operation::Create => ("create", new),
        Operation::Delete => ("delete", old),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if slice.is_some_and(|s| s.str_at(&["spec", "nodeName"]) == node) {
        return Ok(());
    }
    Err(what.refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

/// A node asks for certificates in its own name only.
fn own_request(what: &Attributes<'_>, node: &str, request: &Object) -> Result<()> {
    if !NODE_SIGNERS.contains(&request.str_at(&["spec", "signerName"])) {
        return Ok(());
    }
    let name = certificates::common_name(request.str_at(&["spec", "request"]));
    let name = name.map_err(|why| what.refuse(format!("unable to parse csr: {why}")))?;
    if name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(what.refuse(format!("can only create a node CSR with CN=system:node:{node}")))
}

fn pod(
    server: &Server,
    what: &Attributes<'_>,
    node: &str,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    match (what.operation, new, old) {
        (Operation::Create, Some(pod), _) => mirror(server, what, node, pod),
        (Operation::Delete, _, Some(pod)) if pod.str_at(&["spec", "nodeName"]) != node => {
            Err(what.refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        (Operation::Create | Operation::Delete, ..) => Ok(()),
        (Operation::Update | Operation::Connect, ..) => Err(what.refuse(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        ))),
    }
}

/// The only pods a kubelet creates: mirrors of what it runs from files, owned by its node, with nothing of the API in them.
fn mirror(server: &Server, what: &Attributes<'_>, node: &str, pod: &Object) -> Result<()> {
    let refuse = |why: String| Err(what.refuse(why));
    if pod.annotation(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.owner_references() {
        [one] => one,
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let uid = server.get(&core("nodes"), "", node)?.uid().to_owned();
    if owner["uid"] != uid.as_str() {
        let given = owner["uid"].as_str().unwrap_or_default();
        return refuse(format!("node {node} UID mismatch: expected {given} got {uid}"));
    }
    match references::named(pod) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => refuse(format!("node {node:?} can not create pods that reference {what}")),
        Err(why) => refuse(format!("error checking mirror pod for API references: {why}")),
    }
}

fn pod_status(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    if old.str_at(&["spec", "nodeName"]) != node {
        let why =
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return Err(what.refuse(why));
    }
    if labels(new).ne(labels(old)) {
        return Err(what.refuse(format!("node {node:?} cannot update labels through pod status")));
    }
    let claims = &["status", "resourceClaimStatuses"];
    if new.items_at(claims) != old.items_at(claims) {
        return Err(what.refuse(format!("node {node:?} cannot update resource claim statues")));
    }
    let extended = &["status", "extendedResourceClaimStatus"];
    if new.at(extended) != old.at(extended) {
        return Err(what.refuse(format!("node {node:?} cannot update extended resource claim status")));
    }
    Ok(())
}

fn claim_status(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    let rest = |claim: &Object| {
        let mut claim = claim.clone();
        for path in [
            &["metadata", "resourceVersion"][..],
            &["metadata", "managedFields"],
            &["status", "capacity"],
            &["status", "conditions"],
            &["status", "allocatedResourceStatuses"],
            &["status", "allocatedResources"],
        ] {
            claim.remove(path);
        }
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    Err(what.refuse(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    )))
}

fn own_node(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    if what.name != node {
        return Err(what.refuse(format!("node {node:?} is not allowed to modify node {:?}", what.name)));
    }
    let Some(new) = new else { return Ok(()) };
    let source = &["spec", "configSource"];
    let Some(old) = old else {
        if new.at(source).is_some_and(|s| !s.is_null()) {
            let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
            return Err(what.refuse(why));
        }
        let forbidden = forbidden_labels(new, &Object::default());
        if forbidden.is_empty() {
            return Ok(());
        }
        return Err(
            what.refuse(format!("node {node:?} is not allowed to set the following labels: {forbidden}"))
        );
    };
    if new.at(source).is_some_and(|s| !s.is_null()) && new.at(source) != old.at(source) {
        let why =
            format!("node {node:?} is not allowed to update configSource to a new non-nil configSource");
        return Err(what.refuse(why));
    }
    if new.items_at(&["spec", "taints"]) != old.items_at(&["spec", "taints"]) {
        return Err(what.refuse(format!("node {node:?} is not allowed to modify taints")));
    }
    if new.owner_references() != old.owner_references() {
        return Err(what.refuse(format!("node {node:?} is not allowed to modify ownerReferences")));
    }
    let forbidden = forbidden_labels(new, old);
    if forbidden.is_empty() {
        return Ok(());
    }
    Err(what.refuse(format!("is not allowed to modify labels: {forbidden}")))
}

fn labels(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    object.labels().into_iter().flatten()
}

/// The changed labels that are not a kubelet's to change, sorted and joined.
fn forbidden_labels(new: &Object, old: &Object) -> String {
    let differs = |a: &Object, key: &str, value: &Value| a.label(key) != value.as_str();
    let changed = labels(new)
        .filter(|(k, v)| differs(old, k, v))
        .chain(labels(old).filter(|(k, v)| differs(new, k, v)));
    let keys: BTreeSet<&str> = changed.map(|(k, _)| k.as_str()).filter(|key| is_forbidden(key)).collect();
    keys.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within =
        |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|d| d.ends_with('.'));
    if within(RESTRICTED_LABELS) {
        return true;
    }
    let kubelets = KUBELET_LABELS.contains(&label) || KUBELET_LABEL_DOMAINS.iter().any(|d| within(d));
    (within("kubernetes.io") || within("k8s.io")) && !kubelets
}

/// A kubelet asks for tokens of its own pods only, and only for audiences those pods name.
fn bound_token(server: &Server, what: &Attributes<'_>, node: &str, new: Option<&Object>) -> Result<()> {
    let Some(request) = new else { return Ok(()) };
    let reference = |field: &str| request.str_at(&["spec", "boundObjectRef", field]);
    if reference("apiVersion") != "v1" || reference("kind") != "Pod" || reference("name").is_empty() {
        return Err(what.refuse("node requested token not bound to a pod"));
    }
    let uid = reference("uid");
    if uid.is_empty() {
        return Err(what.refuse("node requested token with a pod binding without a uid"));
    }
    let pod = server.get(&core("pods"), what.namespace, reference("name"))?;
    if pod.uid() != uid {
        return Err(what.refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        )));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(what.refuse("node requested token bound to a pod scheduled on a different node"));
    }
    audience(server, what, request, &pod)
}

fn audience(server: &Server, what: &Attributes<'_>, request: &Object, pod: &Object) -> Result<(), Status> {
    let audience = match request.items_at(&["spec", "audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(what.refuse("node may only request 0 or 1 audiences")),
    };
    if pod.items_at(&["spec", "volumes"]).iter().any(|volume| wants_audience(server, pod, volume, audience)) {
        return Ok(());
    }
    let asked = Asked {
        verb: "request-serviceaccounts-token-audience",
        version: "v1",
        resource: audience,
        namespace: what.namespace,
        name: what.name,
        ..Asked::RESOURCE
    };
    let cluster: &dyn Cluster = server;
    match server.access.authz.decide(cluster, what.user, &asked) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(_) => Err(what.refuse(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            what.user.name
        ))),
    }
}

/// Whether a volume of a pod needs tokens for an audience: itself, or its CSI driver.
fn wants_audience(server: &Server, pod: &Object, volume: &Value, audience: &str) -> bool {
    let named = |request: &Value| request["audience"].as_str().unwrap_or_default() == audience;
    let items = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let projected = items(volume.pointer("/projected/sources"));
    if projected.iter().filter_map(|s| s.get("serviceAccountToken")).any(|t| !t.is_null() && named(t)) {
        return true;
    }
    let cluster: &dyn Cluster = server;
    let of_claim = |claim: &str| {
        let claim = cluster.get(&core("persistentvolumeclaims"), pod.namespace(), claim)?;
        let volume = cluster.get(&core("persistentvolumes"), "", claim.str_at(&["spec", "volumeName"]))?;
        Some(volume.str_at(&["spec", "csi", "driver"]).to_owned())
    };
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
    let driver = if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
        of_claim(&format!("{}-{}", pod.name(), text("/name").unwrap_or_default()))
    } else if let Some(claim) = text("/persistentVolumeClaim/claimName") {
        of_claim(claim)
    } else {
        text("/csi/driver").map(str::to_owned)
    };
    let drivers = coracle_api::Gvr::new("storage.k8s.io", "v1", "csidrivers");
    let driver = driver.filter(|d| !d.is_empty()).and_then(|d| cluster.get(&drivers, "", &d));
    driver.is_some_and(|d| d.items_at(&["spec", "tokenRequests"]).iter().any(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_set_their_own_labels_of_kubernetes_domains_and_no_others() {
        for (label, forbidden) in [
            ("kubernetes.io/hostname", false),
            ("example.com/a", false),
            ("plain", false),
            ("a.node.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("my.node-restriction.kubernetes.io/x", true),
            ("notkubernetes.io/x", false),
            ("foo.k8s.io/a", true),
        ] {
            assert_eq!(is_forbidden(label), forbidden, "{label}");
        }
    }
}
