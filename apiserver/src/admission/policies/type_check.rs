//! What the expressions of validating policies get wrong about the kinds they are about: their status says so, as upstream's
//! controller of it does. Nothing is refused for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::{Gvk, Gvr, Object};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::expressions::{Declared, declare_variable, environment};
use crate::Server;
use crate::apart;
use crate::cel::{Environment, ObjectType, Type};
use crate::crd;
use crate::registry::Catalog;
use crate::resource::Resource;
use crate::schema::{self, LeafKind, Node};

const STORAGE: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
/// How many kinds one rule of a policy is held against.
const MAX_KINDS: usize = 10;

/// Keeps the statuses of policies in step with them until the server stops.
pub(crate) async fn run(server: Arc<Server>, stop: CancellationToken) {
    let storage: Arc<str> = STORAGE.into();
    loop {
        let mut changes = server.store.watch(&storage, "", server.store.revision());
        for stored in server.store.list(STORAGE, "").items {
            let policy = stored.object();
            let seen = policy.i64_at(&["status", "observedGeneration"]).unwrap_or(0);
            if seen < policy.generation() {
                judge(&server, policy).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // Whatever changed, and also a cursor that fell behind: the generations tell.
            _ = changes.next() => {}
        }
    }
}

async fn judge(server: &Arc<Server>, policy: Object) {
    let (catalog, name, generation) =
        (server.registry.snapshot(), policy.name().to_owned(), policy.generation());
    let Ok(warnings) = apart::spawn(move || check(&catalog, &policy)).await else { return };
    let change = |policy: &mut Object| {
        let found = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        policy.set(&["status", "typeChecking"], found);
        policy.set(&["status", "observedGeneration"], generation);
        Ok(())
    };
    let gvr = Gvr::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
    let user = crate::bootstrap::system();
    match server.modify(&user, &gvr, "status", "", &name, false, &change).await {
        Err(e) if e.code() != 404 => {
            tracing::warn!(policy = name, error = %e, "cannot write a policy's status")
        }
        _ => {}
    }
}

/// `expressionWarnings` of a policy.
fn check(catalog: &Catalog, policy: &Object) -> Vec<Value> {
    let kinds: Vec<(Gvk, Type)> =
        kinds(catalog, policy).into_iter().filter_map(|r| Some((r.gvk.clone(), kind_type(&r)?))).collect();
    let params = policy.at(&["spec", "paramKind"]).map(|kind| {
        let text = |key: &str| kind[key].as_str().unwrap_or_default();
        let known = catalog.kind(&Gvk::from_api_version(text("apiVersion"), text("kind")));
        known.and_then(|r| kind_type(r)).unwrap_or(Type::Dyn)
    });
    let environments: Vec<(&Gvk, Environment)> = kinds
        .iter()
        .map(|(gvk, ty)| {
            let declared = Declared { params: params.is_some(), authorizer: true, ..Declared::default() };
            let mut declared = environment(declared);
            declared.declare("object", ty.clone());
            declared.declare("oldObject", ty.clone());
            if let Some(params) = &params {
                declared.declare("params", params.clone());
            }
            for variable in policy.items_at(&["spec", "variables"]) {
                let text = |key: &str| variable[key].as_str().unwrap_or_default();
                // One that is wrong is of no type; its own expression is not what is checked.
                drop(declare_variable(&mut declared, text("name"), text("expression")));
            }
            (gvk, declared)
        })
        .collect();
    let mut warnings = vec![];
    for (i, validation) in policy.items_at(&["spec", "validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(text) = validation[field].as_str().filter(|t| !t.is_empty()) else { continue };
            let wrong: Vec<String> = environments
                .iter()
                .filter_map(|(gvk, declared)| {
                    let why = declared.compile(text).err()?;
                    Some(format!("{gvk}: compilation failed: {why}\n"))
                })
                .collect();
            if !wrong.is_empty() {
                let field = format!("spec.validations[{i}].{field}");
                warnings.push(json!({"fieldRef": field, "warning": wrong.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that a policy names one by one, in order.
fn kinds(catalog: &Catalog, policy: &Object) -> Vec<Arc<Resource>> {
    let mut found: BTreeMap<[String; 3], Arc<Resource>> = BTreeMap::new();
    for rule in policy.items_at(&["spec", "matchConstraints", "resourceRules"]) {
        let words = |key: &str| -> BTreeSet<&str> {
            rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (groups, versions) = (words("apiGroups"), words("apiVersions"));
        if groups.iter().chain(&versions).any(|w| w.contains('*')) {
            continue;
        }
        let plurals = words("resources");
        let plurals = plurals.iter().filter(|p| !p.contains(['*', '/']));
        let all = groups.iter().flat_map(|g| versions.iter().map(move |v| (g, v)));
        let named = all.flat_map(|(g, v)| plurals.clone().map(move |p| Gvr::new(*g, *v, *p)));
        for resource in named.filter_map(|gvr| catalog.lookup(&gvr).cloned()).take(MAX_KINDS) {
            let Gvk { group, version, kind } = resource.gvk.clone();
            found.insert([group, version, kind], resource);
        }
    }
    found.into_values().collect()
}

/// How expressions see a kind; `None` where its schema says nothing.
fn kind_type(resource: &Resource) -> Option<Type> {
    if !resource.typed {
        let written = resource.schema.definition()?.written();
        return crd::expression_type(&written, &resource.gvk.kind);
    }
    Some(node_type(resource.schema.root(), &resource.gvk.kind, &mut vec![]))
}

/// `above`: the structs that this place is in, some of which hold themselves.
fn node_type<'n>(node: Node<'n>, name: &str, above: &mut Vec<&'n str>) -> Type {
    match node.ty() {
        schema::Type::Struct(s) if above.contains(&&*s.name) => Type::Dyn,
        schema::Type::Struct(s) => {
            above.push(&s.name);
            let mut fields = BTreeMap::new();
            for field in &s.fields {
                if let Some(escaped) = crd::escape_field(&field.name) {
                    let inner = node_type(node.at(field.ty), &format!("{name}.{}", field.name), above);
                    fields.insert(escaped, inner);
                }
            }
            above.pop();
            Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }))
        }
        schema::Type::List(_) => {
            let item = node.item().map(|item| node_type(item, &format!("{name}.@items"), above));
            Type::list(item.unwrap_or(Type::Dyn))
        }
        schema::Type::Map(_) => {
            let value = node.child("").map(|value| node_type(value, &format!("{name}.@values"), above));
            Type::map(Type::String, value.unwrap_or(Type::Dyn))
        }
        schema::Type::Leaf(leaf) => match leaf.kind {
            LeafKind::String | LeafKind::Quantity | LeafKind::Duration => Type::String,
            LeafKind::Bool => Type::Bool,
            LeafKind::Int32 | LeafKind::Int64 => Type::Int,
            LeafKind::Double => Type::Double,
            LeafKind::Bytes => Type::Bytes,
            LeafKind::Time | LeafKind::MicroTime => Type::Timestamp,
            LeafKind::IntOrString
            | LeafKind::Raw
            | LeafKind::Fields
            | LeafKind::Json
            | LeafKind::SchemaOrBool
            | LeafKind::SchemaOrArray
            | LeafKind::SchemaOrStrings => Type::Dyn,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn policy(resources: &Value, expression: &str) -> Object {
        Object(json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": resources}]},
            "variables": [{"name": "containers", "expression": "object.spec.template.spec.containers"}],
            "validations": [{"expression": expression}]}}))
    }

    #[test]
    fn expressions_are_held_against_the_kinds_that_are_named() {
        let catalog = Registry::new(crate::resources::builtins()).snapshot();
        for (resources, expression, wanted) in [
            (json!(["deployments"]), "object.spec.replicas > 1", None),
            (json!(["deployments"]), "object.metadata.labels['a'] == 'b'", None),
            (json!(["deployments"]), "variables.containers.all(c, c.image.startsWith('a'))", None),
            (
                json!(["deployments"]),
                "object.spec.template.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')",
                None,
            ),
            (json!(["*"]), "object.nope", None),
            (json!(["deployments/scale"]), "object.nope", None),
            (
                json!(["deployments"]),
                "object.spec.replicas > '1'",
                Some(
                    "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'",
                ),
            ),
            (
                json!(["deployments", "replicasets"]),
                "variables.containers.all(c, c.nope == 1)",
                Some(
                    "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:30: undefined field 'nope'",
                ),
            ),
        ] {
            let found = check(&catalog, &policy(&resources, expression));
            match wanted {
                None => assert_eq!(found, Vec::<Value>::new(), "{expression}"),
                Some(wanted) => {
                    assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
                    let warning = found[0]["warning"].as_str().unwrap();
                    assert!(warning.starts_with(wanted), "{warning}");
                }
            }
        }
    }
}
