//! NamespaceLifecycle: nothing is made in a namespace that is not there or on its way out; some namespaces stay for ever.

use coracle_api::names::{NAMESPACE_DEFAULT, NAMESPACE_PUBLIC, NAMESPACE_SYSTEM};
use serde_json::json;

use super::{Attributes, Operation, gvr};
use crate::cluster::{Cluster, core};
use crate::resource::Scope;
use crate::status::{Result, Status};

const IMMORTAL: &[&str] = &[NAMESPACE_DEFAULT, NAMESPACE_SYSTEM, NAMESPACE_PUBLIC];

pub(super) fn admit(cluster: &dyn Cluster, what: &Attributes<'_>) -> Result<()> {
    if what.operation == Operation::Delete {
        let immortal = what.is("", "namespaces") && IMMORTAL.contains(&what.name);
        return if immortal { Err(what.refuse("this namespace may not be deleted")) } else { Ok(()) };
    }
    let review = what.resource.gvr.group == "authorization.k8s.io";
    if what.resource.scope == Scope::Cluster || what.namespace.is_empty() || review {
        return Ok(());
    }
    let Some(namespace) = cluster.get(&core("namespaces"), "", what.namespace) else {
        return Err(Status::not_found(&gvr("", "v1", "namespaces"), what.namespace));
    };
    let ending = namespace.is_being_deleted() || namespace.str_at(&["status", "phase"]) == "Terminating";
    if !ending || what.operation != Operation::Create {
        return Ok(());
    }
    let name = what.namespace;
    let mut status = what
        .refuse(format!("unable to create new content in namespace {name} because it is being terminated"));
    if let Some(details) = &mut status.0.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
    }
    Err(status)
}
