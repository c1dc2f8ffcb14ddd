//! Documents compared as a whole, made alike in their order.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::compare::Comparison;

/// Name and path of each.
pub(super) const DOCUMENTS: &[(&str, &str)] = &[
    ("whole: /api", "/api"),
    ("whole: /apis", "/apis"),
    ("whole: core/v1", "/api/v1"),
    ("whole: apps/v1", "/apis/apps/v1"),
    ("whole: batch/v1", "/apis/batch/v1"),
    ("whole: networking", "/apis/networking.k8s.io/v1"),
    ("whole: rbac", "/apis/rbac.authorization.k8s.io/v1"),
    ("whole: policy", "/apis/policy/v1"),
    ("whole: storage", "/apis/storage.k8s.io/v1"),
    ("whole: autoscaling/v2", "/apis/autoscaling/v2"),
    ("whole: version", "/version"),
    ("whole: cluster roles", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("whole: cluster role bindings", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("whole: roles", "/apis/rbac.authorization.k8s.io/v1/roles"),
    ("whole: role bindings", "/apis/rbac.authorization.k8s.io/v1/rolebindings"),
    ("whole: flow schemas", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"),
    ("whole: priority levels", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"),
    ("whole: priority classes", "/apis/scheduling.k8s.io/v1/priorityclasses"),
    ("whole: openapi core", "/openapi/v3/api/v1"),
    ("whole: openapi apps", "/openapi/v3/apis/apps/v1"),
    ("whole: openapi batch", "/openapi/v3/apis/batch/v1"),
];

/// Where two documents differ once lists of named things are maps and descriptions are gone.
pub(super) fn compare(ours: &[u8], theirs: &[u8]) -> Result<Comparison> {
    let parse = |body: &[u8]| -> Result<Value> {
        let mut value =
            serde_json::from_slice(body).with_context(|| String::from_utf8_lossy(body).into_owned())?;
        in_order(&mut value);
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

fn in_order(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, inner| !LEFT_OUT.contains(&key.as_str()) || inner.is_object());
            fields.values_mut().for_each(in_order);
        }
        Value::Array(items) => {
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
        let name = item["metadata"]["name"].as_str().or_else(|| item["name"].as_str())?;
        Some(format!("{namespace}/{name}"))
    };
    let named: BTreeMap<String, Value> =
        items.iter().map(|i| Some((name(i)?, i.clone()))).collect::<Option<_>>()?;
    (!named.is_empty() && named.len() == items.len()).then_some(named)
}
