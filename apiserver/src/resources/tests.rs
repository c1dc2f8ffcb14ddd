//! Rows and defaults against what upstream v1.36 answers.

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::builtins;
use crate::authn::User;
use crate::resource::{Resource, Row, WriteContext};
use crate::schema::{LeafKind, Node, Schema, Type};

fn row(gvk: &Gvk) -> &'static Row {
    builtins()
        .find(|r| (r.group, r.version, r.kind) == (&gvk.group, &gvk.version, &gvk.kind))
        .expect("a row for every kind of the table")
}

#[test]
fn every_row_has_a_schema_and_starts_its_table_as_upstream() {
    for r in builtins() {
        let gvk = Gvk::new(r.group, r.version, r.kind);
        assert!(Schema::builtin(&gvk).is_some(), "{gvk}");
        let first = r.columns.first().map_or("Name", |c| c.name);
        assert!(matches!(first, "Name" | "Last Seen"), "{gvk}: {first}");
    }
}

/// Bodies as users write them, with the spec that upstream answers.
#[test]
fn defaults_are_upstreams() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../tests/data/defaults.json")).expect("the table is JSON");
    for case in cases {
        let mut object = Object(case["body"].clone());
        let gvk = object.gvk();
        let schema = Schema::builtin(&gvk).expect("a schema for every kind of the table");
        schema.normalize(&mut object).expect("the bodies fit their schemas");
        row(&gvk).strategy.default(&mut object);
        schema.normalize(&mut object).expect("defaults fit the schemas");
        assert_eq!(object.0["spec"], case["spec"], "{gvk}");
    }
}

/// Bodies that upstream refuses, with the causes it gives: reason, field and message, in its order.
#[test]
fn causes_are_upstreams() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../tests/data/invalid.json")).expect("the table is JSON");
    let user = User::default();
    let mut wrong = vec![];
    for case in cases.iter().filter(|c| !is_found_later(c)) {
        let mut object = Object(case["body"].clone());
        let gvk = object.gvk();
        let resource = Resource::from(row(&gvk));
        let cx = WriteContext {
            user: &user,
            resource: &resource,
            subresource: "",
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: true,
            labelled: true,
        };
        if resource.namespaced() {
            object.set(&["metadata", "namespace"], "d2");
        }
        resource.schema.normalize(&mut object).expect("the bodies fit their schemas");
        resource.strategy.default(&mut object);
        if let Some(status) = &resource.first_status {
            object.set(&["status"], status.clone());
        }
        resource.strategy.prepare(&cx, &mut object, None);
        if gvk.kind == "Pod" {
            // Admission comes before validation, and gives every pod an account.
            object.set_default(&["spec", "serviceAccountName"], "default");
        }
        resource.schema.normalize(&mut object).expect("defaults fit the schemas");
        let found = resource.strategy.validate(&cx, &object, None);
        let found: Vec<Value> =
            found.iter().map(|e| serde_json::json!([e.cause.reason(), e.field, e.body()])).collect();
        if case["causes"] != Value::Array(found.clone()) {
            wrong.push(format!("{gvk}\n  upstream {}\n  ours     {}", case["causes"], Value::Array(found)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Causes that are found where addresses are allocated, at the commit.
fn is_found_later(case: &Value) -> bool {
    case["causes"].to_string().contains("failed to allocate IP")
}

/// Fields that upstream takes from nobody, or only keeps where they are: whether they are there after a create, and
/// after an update of an object that has them.
#[test]
fn what_upstream_drops_in_silence_is_dropped() {
    let claim = |spec: Value| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": spec});
    let source = |group: &str, kind: &str| json!({"apiGroup": group, "kind": kind, "name": "x"});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}});
    let far = json!({"apiGroup": "g", "kind": "K", "name": "x", "namespace": "other"});
    let source_at = "/spec/dataSource";
    let cases = [
        (claim(json!({"dataSource": source("", "PersistentVolumeClaim")})), source_at, true, true),
        (
            claim(json!({"dataSource": source("snapshot.storage.k8s.io", "VolumeSnapshot")})),
            source_at,
            true,
            true,
        ),
        (claim(json!({"dataSource": source("example.com", "Populator")})), source_at, false, true),
        (
            claim(json!({"dataSource": source("example.com", "PersistentVolumeClaim")})),
            source_at,
            false,
            true,
        ),
        (claim(json!({"dataSourceRef": source("example.com", "Populator")})), source_at, true, true),
        (claim(json!({"dataSourceRef": far})), "/spec/dataSourceRef", false, true),
        (set, "/spec/updateStrategy/rollingUpdate/maxUnavailable", false, true),
    ];
    let user = User::default();
    for (body, path, on_create, on_update) in cases {
        let gvk = Object(body.clone()).gvk();
        let resource = Resource::from(row(&gvk));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cx = WriteContext {
            user: &user,
            resource: &resource,
            subresource: "",
            now,
            dry_run: true,
            labelled: true,
        };
        for (old, kept) in [(None, on_create), (Some(Object(body.clone())), on_update)] {
            let mut new = Object(body.clone());
            row(&gvk).strategy.prepare(&cx, &mut new, old.as_ref());
            assert_eq!(new.0.pointer(path).is_some(), kept, "{body} {path} update: {}", old.is_some());
        }
    }
}

/// An object in which every field is there, once, with the value of its type that says least.
fn whole(node: Node<'_>, depth: usize) -> Value {
    match node.ty() {
        Type::Struct(s) if depth > 0 => {
            let fields = s.fields.iter().filter_map(|f| Some((f.name.to_string(), node.child(&f.name)?)));
            fields.map(|(name, child)| (name, whole(child, depth - 1))).collect()
        }
        Type::Struct(_) => json!({}),
        Type::List(_) => {
            json!([node.item().map_or(Value::Null, |item| whole(item, depth.saturating_sub(1)))])
        }
        Type::Map(_) => {
            json!({"a": node.child("a").map_or(Value::Null, |v| whole(v, depth.saturating_sub(1)))})
        }
        Type::Leaf(leaf) => match leaf.kind {
            LeafKind::Bool => json!(true),
            LeafKind::Int32 | LeafKind::Int64 | LeafKind::Double | LeafKind::IntOrString => json!(1),
            LeafKind::Quantity => json!("1"),
            LeafKind::Time | LeafKind::MicroTime => json!("2026-01-01T00:00:00Z"),
            LeafKind::Duration => json!("1s"),
            LeafKind::String => json!("a"),
            _ => json!({}),
        },
    }
}

/// A rule that names a field its type does not have fails in debug builds: here every rule is walked.
#[test]
fn rules_name_fields_that_are_there() {
    let user = User::default();
    let mut told = 0;
    for row in builtins() {
        let gvk = Gvk::new(row.group, row.version, row.kind);
        let root = Schema::builtin_root(&gvk).expect("a schema for every row");
        let resource = Resource::from(row);
        let mut full = Object(whole(root, 14));
        full.set_gvk(&gvk);
        let mut empty = Object::default();
        empty.set_gvk(&gvk);
        for subresource in ["", "status"].into_iter().filter(|s| s.is_empty() || row.status) {
            let now = jiff::Timestamp::UNIX_EPOCH;
            let (resource, labelled) = (&resource, false);
            let cx = WriteContext { user: &user, resource, subresource, now, dry_run: true, labelled };
            for (new, old) in [(&full, None), (&empty, None), (&full, Some(&empty)), (&empty, Some(&full))] {
                told += row.strategy.validate(&cx, new, old).len();
                row.strategy.warnings(new, old);
            }
        }
    }
    assert!(told > 5_000, "{told}");
}
