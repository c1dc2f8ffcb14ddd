//! Documents compared as a whole, made alike in their order.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::compare::{Comparison, alike};
use super::generate;
use super::script::{Request, Script};
use super::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Name and path of what is no part of a group version.
const DOCUMENTS: &[(&str, &str)] = &[
    ("/api", "/api"),
    ("/apis", "/apis"),
    ("version", "/version"),
    ("cluster roles", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("cluster role bindings", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("roles", "/apis/rbac.authorization.k8s.io/v1/roles"),
    ("role bindings", "/apis/rbac.authorization.k8s.io/v1/rolebindings"),
    ("flow schemas", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"),
    ("priority levels", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"),
    ("priority classes", "/apis/scheduling.k8s.io/v1/priorityclasses"),
];

/// One script a document.
pub(super) async fn scripts(server: &mut Server) -> Result<Vec<Script>> {
    let script = |name: &str, request| Script { name: format!("whole: {name}"), requests: vec![request] };
    let mut scripts: Vec<Script> =
        DOCUMENTS.iter().map(|(name, path)| script(name, Request::whole(path))).collect();
    for path in ["/api", "/apis"] {
        scripts.push(script(&format!("{path} aggregated"), Request::whole(path).with("accept", AGGREGATED)));
    }
    for (path, name) in generate::versions(server).await? {
        scripts.push(script(&format!("discovery of {name}"), Request::whole(&path)));
        scripts.push(script(&format!("openapi of {name}"), Request::whole(&format!("/openapi/v3{path}"))));
    }
    Ok(scripts)
}

/// Where two documents differ once lists of named things are maps and descriptions are gone.
pub(super) fn compare(ours: &[u8], theirs: &[u8]) -> Result<Comparison> {
    let parse = |body: &[u8]| -> Result<Value> {
        let mut value =
            serde_json::from_slice(body).with_context(|| String::from_utf8_lossy(body).into_owned())?;
        in_order(&mut value);
        alike(&mut value);
        Ok(value)
    };
    let mut found = Comparison::default();
    found.values("$", &parse(ours)?, &parse(theirs)?);
    Ok(found)
}

/// Facts of one server, and texts, that are not compared.
const LEFT_OUT: [&str; 12] = [
    "description",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "serverAddressByClientCIDRs",
];

pub(super) fn in_order(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, inner| !LEFT_OUT.contains(&key.as_str()) || inner.is_object());
            fields.values_mut().for_each(in_order);
        }
        Value::Array(items) => {
            // What our own components are bound to: upstream's get it from whoever installs them.
            items.retain(|item| !item["metadata"]["name"].as_str().is_some_and(is_our_own));
            items.iter_mut().for_each(in_order);
            if let Some(named) = by_name(items) {
                *value = Value::Object(named.into_iter().collect());
            }
        }
        _ => {}
    }
}

/// A list of things with names of their own, as a map.
fn by_name(items: &[Value]) -> Option<BTreeMap<String, Value>> {
    let name = |item: &Value| {
        let namespace = item["metadata"]["namespace"].as_str().unwrap_or_default();
        let name = [&item["metadata"]["name"], &item["name"], &item["resource"]];
        let name = name.into_iter().find_map(Value::as_str)?;
        Some(format!("{namespace}/{name}"))
    };
    let named: BTreeMap<String, Value> =
        items.iter().map(|i| Some((name(i)?, i.clone()))).collect::<Option<_>>()?;
    (!named.is_empty() && named.len() == items.len()).then_some(named)
}

/// Roles and bindings of components that upstream does not have.
fn is_our_own(name: &str) -> bool {
    name.starts_with("coracle:")
}
