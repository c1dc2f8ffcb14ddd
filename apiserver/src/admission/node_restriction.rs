//! NodeRestriction: a kubelet writes only about its own node and its own pods.

use coracle_api::Object;
use coracle_api::names::{GROUP_NODES, NAMESPACE_NODE_LEASE};

use super::{Attributes, Operation};
use crate::Server;
use crate::cluster::{Cluster, core};
use crate::status::Result;

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    if !what.user.in_group(GROUP_NODES) {
        return Ok(());
    }
    let Some(node) = what.user.name.strip_prefix("system:node:") else { return Ok(()) };
    let gvr = &what.resource.gvr;
    match (gvr.group.as_str(), gvr.resource.as_str(), what.subresource) {
        ("", "pods", "") => pod(what, node, new, old),
        ("", "pods", "status") => match old {
            Some(pod) if pod.str_at(&["spec", "nodeName"]) != node => {
                Err(what.refuse(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")))
            }
            _ => Ok(()),
        },
        ("", "pods", "eviction") => {
            let bound = server.get(&core("pods"), what.namespace, what.name);
            match bound {
                Ok(pod) if pod.str_at(&["spec", "nodeName"]) != node => {
                    Err(what.refuse(format!("node {node:?} can only evict pods with spec.nodeName set to itself")))
                }
                _ => Ok(()),
            }
        }
        ("", "nodes", _) => own_node(what, node, new, old),
        ("coordination.k8s.io", "leases", "") => {
            if what.namespace != NAMESPACE_NODE_LEASE {
                let why = format!("can only access leases in the {NAMESPACE_NODE_LEASE:?} system namespace");
                return Err(what.refuse(why));
            }
            let name = new.or(old).map_or(what.name, Object::name);
            if name == node { Ok(()) } else { Err(what.refuse("can only access node lease with the same name as the requesting node")) }
        }
        ("", "serviceaccounts", "token") => bound_token(server, what, node, new),
        _ => Ok(()),
    }
}

fn pod(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    match what.operation {
        Operation::Create => {
            let Some(pod) = new else { return Ok(()) };
            if pod.annotation(MIRROR).is_none() {
                return Err(what.refuse(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods")));
            }
            if pod.str_at(&["spec", "nodeName"]) != node {
                return Err(what.refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself")));
            }
            if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
                return Err(what.refuse(format!("node {node:?} can not create pods that reference a service account")));
            }
            Ok(())
        }
        Operation::Delete => match old {
            Some(pod) if pod.str_at(&["spec", "nodeName"]) != node => {
                Err(what.refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
            }
            _ => Ok(()),
        },
        Operation::Update | Operation::Connect => Err(what.refuse("unexpected operation \"UPDATE\"")),
    }
}

fn own_node(what: &Attributes<'_>, node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let name = new.or(old).map_or(what.name, Object::name);
    if name != node {
        return Err(what.refuse_named(name, format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    if what.subresource.is_empty() && new.at(&["spec", "taints"]) != old.at(&["spec", "taints"]) {
        return Err(what.refuse(format!("node {node:?} is not allowed to modify taints")));
    }
    Ok(())
}

/// A kubelet asks for tokens of its own pods only.
fn bound_token(server: &Server, what: &Attributes<'_>, node: &str, new: Option<&Object>) -> Result<()> {
    let Some(request) = new else { return Ok(()) };
    let reference = |field: &str| request.str_at(&["spec", "boundObjectRef", field]);
    if reference("kind") != "Pod" || reference("name").is_empty() {
        return Err(what.refuse("node requested token not bound to a pod"));
    }
    if reference("uid").is_empty() {
        return Err(what.refuse("node requested token with a pod binding without a uid"));
    }
    let pod = Cluster::get(server, &core("pods"), what.namespace, reference("name"));
    match pod {
        Some(pod) if pod.uid() == reference("uid") && pod.str_at(&["spec", "nodeName"]) == node => Ok(()),
        _ => Err(what.refuse("node requested token bound to a pod scheduled on a different node")),
    }
}
