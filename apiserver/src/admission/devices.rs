//! Who may have devices that others use: claims with admin access are for namespaces that a label sets apart.

use coracle_api::Object;
use serde_json::Value;

use super::{Attributes, Operation, gvr};
use crate::Server;
use crate::field::FieldError;
use crate::status::{Result, Status};

const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    let Some(new) = new.filter(|_| what.resource.gvr.group == "resource.k8s.io") else { return Ok(()) };
    let (path, told) = match (what.operation, &*what.resource.gvr.resource, what.subresource) {
        (Operation::Create, "resourceclaims", "") => (&["spec", "devices", "requests"][..], SPEC),
        (Operation::Create, "resourceclaimtemplates", "") => {
            (&["spec", "spec", "devices", "requests"][..], SPEC)
        }
        (Operation::Update, "resourceclaims", "status") => {
            (&["status", "allocation", "devices", "results"][..], RESULTS)
        }
        _ => return Ok(()),
    };
    let wanted = |of: &Object| of.items_at(path).iter().position(is_admin);
    let Some(i) = wanted(new).filter(|_| old.and_then(wanted).is_none()) else { return Ok(()) };
    let namespace = server.get(&gvr("", "v1", "namespaces"), "", what.namespace)?;
    let marked = namespace.labels().and_then(|labels| labels.get(LABEL)).is_some_and(|value| value == "true");
    if marked {
        return Ok(());
    }
    let why =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let error = FieldError::forbidden(format!("{told}[{i}].adminAccess"), why);
    Err(Status::invalid(&what.resource.gvk, what.name, &[error]))
}

/// As upstream calls the requests of claims and of templates.
const SPEC: &str = "spec.devices.requests";
const RESULTS: &str = "status.allocation.devices.results";

/// A request has it within what it asks exactly, a result by itself.
fn is_admin(of: &Value) -> bool {
    of["adminAccess"] == true || of["exactly"]["adminAccess"] == true
}
