//! Ownership and apply, case by case: upstream's answers to the same steps.

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::*;
use crate::status::Status;

/// One write to an object.
enum Step {
    /// By manager and operation: `Apply`, `Force`, or `Update` with the whole new object.
    Apply(&'static str, Value),
    Force(&'static str, Value),
    Update(&'static str, Value),
}
use Step::{Apply, Force, Update};

/// A deployment's spec at work, or a config map: enough for every sort of list and map.
fn kind(api_version: &str, kind: &str) -> (std::sync::Arc<Schema>, Gvk) {
    let gvk = Gvk::from_api_version(api_version, kind);
    (Schema::builtin(&gvk).expect("a built-in kind"), gvk)
}

/// Does the steps; answers the object and its owners, or why the last step failed.
fn play(gvk: &Gvk, schema: &Schema, steps: Vec<Step>) -> Result<Object, Status> {
    let mut live: Option<Object> = None;
    for step in steps {
        let (manager, mut body, force) = match step {
            Apply(manager, body) => (manager, Object(body), Some(false)),
            Force(manager, body) => (manager, Object(body), Some(true)),
            Update(manager, body) => (manager, Object(body), None),
        };
        body.set_gvk(gvk);
        body.set(&["metadata", "name"], "x");
        let writing = Writing {
            schema,
            gvk,
            manager,
            subresource: "",
            now: "2026-01-01T00:00:00Z",
            resets: &[&["status"]],
            served: &|_| true,
        };
        let mut new = match force {
            Some(force) => apply(&writing, live.as_ref(), &body, force)?,
            None => {
                let owners = track(&writing, live.as_ref(), &mut body);
                owners.into_iter().for_each(|list| body.set(&MANAGED_FIELDS, list));
                body
            }
        };
        schema.normalize(&mut new)?;
        new.set(&["metadata", "uid"], "u");
        live = Some(new);
    }
    Ok(live.expect("there are steps"))
}

/// `manager operation fields` of each entry, the fields as JSON.
fn owners(object: &Object) -> Vec<String> {
    let entries = object.items_at(&MANAGED_FIELDS).iter();
    entries
        .map(|e| {
            let text = |key: &str| e[key].as_str().unwrap_or_default();
            format!("{} {} {}", text("manager"), text("operation"), e["fieldsV1"])
        })
        .collect()
}

#[allow(clippy::needless_pass_by_value, reason = "tests pass literals")]
fn data(data: Value) -> Value {
    json!({"data": data})
}

#[test]
fn values_are_owned_shared_taken_and_given_up() {
    let (schema, gvk) = kind("v1", "ConfigMap");
    type Case = (&'static str, fn() -> Vec<Step>, Value, &'static [&'static str]);
    let table: [Case; 8] = [
        (
            "an update owns what it adds, maps and all",
            || vec![Update("u", data(json!({"a": "1"})))],
            json!({"a": "1"}),
            &[r#"u Update {"f:data":{".":{},"f:a":{}}}"#],
        ),
        (
            "an apply owns the leaves it names",
            || vec![Apply("a", data(json!({"a": "1"})))],
            json!({"a": "1"}),
            &[r#"a Apply {"f:data":{"f:a":{}}}"#],
        ),
        (
            "the same value is shared, and stays when one gives it up",
            || {
                let both = || data(json!({"a": "1"}));
                vec![Apply("a", both()), Apply("b", both()), Apply("a", data(json!({"b": "2"})))]
            },
            json!({"a": "1", "b": "2"}),
            &[r#"b Apply {"f:data":{"f:a":{}}}"#, r#"a Apply {"f:data":{"f:b":{}}}"#],
        ),
        (
            "what nobody else owns goes",
            || vec![Apply("a", data(json!({"a": "1", "b": "2"}))), Apply("a", data(json!({"b": "2"})))],
            json!({"b": "2"}),
            &[r#"a Apply {"f:data":{"f:b":{}}}"#],
        ),
        (
            "force takes",
            || vec![Apply("a", data(json!({"a": "1", "b": "1"}))), Force("b", data(json!({"a": "2"})))],
            json!({"a": "2", "b": "1"}),
            &[r#"a Apply {"f:data":{"f:b":{}}}"#, r#"b Apply {"f:data":{"f:a":{}}}"#],
        ),
        (
            "an update takes what it changes and nothing else",
            || {
                vec![
                    Apply("a", data(json!({"a": "1", "b": "1"}))),
                    Update("u", data(json!({"a": "2", "b": "1"}))),
                ]
            },
            json!({"a": "2", "b": "1"}),
            &[r#"u Update {"f:data":{"f:a":{}}}"#],
        ),
        (
            "an update that removes leaves no owner",
            || vec![Update("u", data(json!({"a": "1", "b": "1"}))), Update("v", data(json!({"a": "1"})))],
            json!({"a": "1"}),
            &[],
        ),
        (
            "keys are quoted as HTML wants them, and empty maps are leaves",
            || vec![Apply("a", json!({"data": {}, "metadata": {"finalizers": ["x.y/<z>"]}}))],
            Value::Null,
            &[r#"a Apply {"f:data":{},"f:metadata":{"f:finalizers":{"v:\"x.y/\\u003cz\\u003e\"":{}}}}"#],
        ),
    ];
    for (name, steps, wanted, owned) in table {
        let object = play(&gvk, &schema, steps()).expect(name);
        assert_eq!(object.0["data"], wanted, "{name}");
        if !owned.is_empty() {
            let found = owners(&object);
            assert!(owned.iter().all(|o| found.iter().any(|f| f == o)), "{name}: {found:#?}");
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "tests pass literals")]
fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn lists_are_merged_by_key_and_keep_an_order() {
    let (schema, gvk) = kind("v1", "Pod");
    let names = |object: &Object| -> Vec<String> {
        let items = object.items_at(&["spec", "containers"]).iter();
        items.map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let table = [
        (json!([{"name": "a"}, {"name": "b"}]), json!([{"name": "c"}]), "a b c"),
        (
            json!([{"name": "a"}, {"name": "b"}]),
            json!([{"name": "c"}, {"name": "b"}, {"name": "a"}]),
            "c b a",
        ),
        (
            json!([{"name": "a"}, {"name": "b"}, {"name": "d"}]),
            json!([{"name": "c"}, {"name": "b"}]),
            "a c b d",
        ),
    ];
    for (first, second, wanted) in table {
        let steps = vec![Apply("a", containers(first)), Apply("b", containers(second.clone()))];
        assert_eq!(names(&play(&gvk, &schema, steps).unwrap()).join(" "), wanted, "{second}");
    }
    // A default is part of a key: these are two ports, each once.
    let ports = |list: Value| containers(json!([{"name": "a", "ports": list}]));
    let steps = vec![
        Apply("a", ports(json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]))),
        Apply("b", ports(json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}]))),
    ];
    let object = play(&gvk, &schema, steps).unwrap();
    assert_eq!(object.0["spec"]["containers"][0]["ports"].as_array().map(Vec::len), Some(2));
    let own = r#"b Apply {"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:name":{},"f:protocol":{}}}}}}}"#;
    assert_eq!(owners(&object)[1], own);
}

#[test]
fn conflicts_name_every_field_and_owner() {
    let (schema, gvk) = kind("v1", "ConfigMap");
    let refused = |steps| play(&gvk, &schema, steps).expect_err("a conflict").0;
    let one = refused(vec![Update("u", data(json!({"a": "1"}))), Apply("a", data(json!({"a": "2"})))]);
    assert_eq!(one.message, "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.a");
    let two = refused(vec![
        Apply("a", data(json!({"a": "1", "b": "1"}))),
        Apply("b", data(json!({"a": "2", "b": "2"}))),
    ]);
    assert_eq!(two.message, "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.a\n- .data.b");
    assert_eq!((two.code, &*two.reason), (409, "Conflict"));
    let causes = &two.details.expect("details")["causes"];
    assert_eq!(
        causes[0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".data.a"})
    );
}

#[test]
fn what_does_not_fit_the_schema_is_refused() {
    let (schema, gvk) = kind("apps/v1", "Deployment");
    let spec = |spec: Value| json!({"spec": spec});
    let pod = |containers: Value| spec(json!({"template": {"spec": {"containers": containers}}}));
    for (body, why) in [
        (spec(json!({"nothing": 1})), ".spec.nothing: field not declared in schema"),
        (spec(json!({"replicas": "1"})), ".spec.replicas: expected numeric (int or float), got string"),
        (
            pod(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (pod(json!({})), ".spec.template.spec.containers: expected list, got &{map[]}"),
        (pod(json!([{"name": "a", "ports": [{"name": "x"}]}])), ""),
    ] {
        let answer = play(&gvk, &schema, vec![Apply("a", body)]);
        match (answer, why) {
            (Ok(_), "") => {}
            (Err(status), why) => assert_eq!(
                status.0.message,
                format!("failed to create typed patch object (/x; apps/v1, Kind=Deployment): {why}")
            ),
            (Ok(object), why) => panic!("{why}: {object:?}"),
        }
    }
}

#[test]
fn only_so_many_updates_are_told_apart() {
    let (schema, gvk) = kind("v1", "ConfigMap");
    const MANAGERS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let steps = (0..12).map(|n| {
        let all =
            MANAGERS[..=n].iter().map(|m| ((*m).to_owned(), json!("1"))).collect::<serde_json::Map<_, _>>();
        Update(MANAGERS[n], data(all.into()))
    });
    let found = owners(&play(&gvk, &schema, steps.collect()).unwrap());
    assert_eq!(found.len(), 10);
    assert!(
        found.iter().any(|o| o == r#"ancient-changes Update {"f:data":{".":{},"f:a":{},"f:b":{},"f:c":{}}}"#),
        "{found:#?}"
    );
}

#[test]
fn who_scales_owns_the_replicas() {
    let (schema, gvk) = kind("apps/v1", "Deployment");
    let body = json!({"spec": {"replicas": 2, "paused": true}});
    let object = play(&gvk, &schema, vec![Apply("a", body)]).unwrap();
    let (scale, scale_gvk) = kind("autoscaling/v1", "Scale");
    let path = ["spec", "replicas"];
    let mut before = Object(json!({"metadata": {"name": "x", "uid": "u"}, "spec": {"replicas": 2}}));
    before.set_gvk(&scale_gvk);
    before.set(&MANAGED_FIELDS, to_scale(&object, &path, &scale_gvk).expect("somebody owns the replicas"));
    assert_eq!(owners(&before), [r#"a Apply {"f:spec":{"f:replicas":{}}}"#]);
    for (replicas, wanted) in [
        (2, &[r#"a Apply {"f:spec":{"f:paused":{},"f:replicas":{}}}"#][..]),
        (3, &[r#"a Apply {"f:spec":{"f:paused":{}}}"#, r#"b Update {"f:spec":{"f:replicas":{}}}"#]),
    ] {
        let writing = Writing {
            schema: &scale,
            gvk: &scale_gvk,
            manager: "b",
            subresource: "scale",
            now: "2026-01-01T00:00:00Z",
            resets: &[],
            served: &|_| true,
        };
        let mut view = before.clone();
        view.set(&["spec", "replicas"], replicas);
        let view = track(&writing, Some(&before), &mut view);
        let mut scaled = object.clone();
        scaled.set(&MANAGED_FIELDS, from_scale(&object, &path, &gvk, view.as_ref()).expect("owners"));
        assert_eq!(owners(&scaled), wanted);
    }
}
