//! Parameters: the objects a binding hands to its policy.

use std::sync::Arc;

use coracle_api::Gvk;
use coracle_api::selector::LabelSelector;
use serde_json::Value;

use super::compiled::{Binding, Policy};
use crate::Server;
use crate::resource::Resource;

/// The resource of a policy's `paramKind`, where it has one.
pub(super) fn resource(server: &Server, policy: &Policy) -> Result<Option<Arc<Resource>>, String> {
    let Some((api_version, kind)) = &policy.param_kind else { return Ok(None) };
    let gvk = Gvk::from_api_version(api_version, kind);
    let unknown = || format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'");
    server.registry.kind(&gvk).map(Some).ok_or_else(unknown)
}

/// The parameters a policy is evaluated with, once for each; a policy without any is evaluated once.
pub(super) fn collect(
    server: &Server,
    kind: Option<&Resource>,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(wanted)) = (kind, &binding.param_ref) else { return Ok(vec![None]) };
    let text = |key: &str| wanted[key].as_str().unwrap_or_default();
    let namespace = match (kind.namespaced(), text("namespace")) {
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "") if namespace.is_empty() => {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => namespace,
        (true, own) => own,
    };
    let found: Vec<Option<Value>> = match text("name") {
        "" => {
            let selector = LabelSelector::of_json(&wanted["selector"]);
            let all = server.list(&kind.gvr, namespace).unwrap_or_default();
            let selected = all.into_iter().filter(|o| selector.matches(|key| o.label(key)));
            selected.map(|o| Some(o.0)).collect()
        }
        name => server.get(&kind.gvr, namespace, name).ok().map(|o| Some(o.0)).into_iter().collect(),
    };
    if found.is_empty() && text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
