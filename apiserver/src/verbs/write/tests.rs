//! What an update is checked for and which parts it may write, case by case.

use coracle_api::Gvr;
use serde_json::json;

use super::*;
use crate::registry::Registry;
use crate::resources;

fn resource(path: &str) -> Arc<Resource> {
    let (api_version, plural) = path.rsplit_once('/').unwrap();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    Registry::new(resources::builtins()).lookup(&Gvr::new(group, version, plural)).unwrap()
}

/// A request about `x` in the namespace `n`.
fn ask<'a>(user: &'a User, resource: &'a Resource, subresource: &'a str) -> Ask<'a> {
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    Ask { user, resource, subresource, namespace: "n", name: "x", now, dry_run: false, manager: None }
}

fn object(metadata: &Value, more: &Value) -> Object {
    let mut object = json!({"metadata": {"name": "x", "namespace": "n", "uid": "u", "resourceVersion": "7"}});
    json_patch::merge(&mut object["metadata"], metadata);
    json_patch::merge(&mut object, more);
    Object(object)
}

/// An error as `code reason: message`, or what it is about.
fn told<T>(outcome: Result<T>) -> String {
    outcome.map_or_else(|e| format!("{} {}: {e}", e.code(), e.0.reason), |_| "ok".to_owned())
}

#[test]
fn a_namespace_is_the_requests_or_a_contradiction() {
    let user = User::component("u", &[]);
    let contradiction = "400 BadRequest: the namespace of the provided object does not match the namespace sent on the request";
    for (path, given, outcome, kept) in [
        ("v1/serviceaccounts", json!(null), "ok", json!("n")),
        ("v1/serviceaccounts", json!(""), "ok", json!("n")),
        ("v1/serviceaccounts", json!("n"), "ok", json!("n")),
        ("v1/serviceaccounts", json!("other"), contradiction, json!("other")),
        // What is of the whole cluster forgets it.
        ("v1/persistentvolumes", json!("other"), "ok", json!(null)),
        ("v1/persistentvolumes", json!(null), "ok", json!(null)),
    ] {
        let resource = resource(path);
        let mut new = Object(json!({"metadata": {"name": "x", "namespace": given}}));
        assert_eq!(told(match_namespace(&mut new, &ask(&user, &resource, ""))), outcome, "{path} {given}");
        assert_eq!(new.0["metadata"]["namespace"], kept, "{path} {given}");
    }
}

#[test]
fn a_revision_or_a_uid_that_is_named_must_be_that_of_the_object() {
    let user = User::component("u", &[]);
    let claims = resource("v1/persistentvolumeclaims");
    let leases = resource("coordination.k8s.io/v1/leases");
    let modified = "409 Conflict: Operation cannot be fulfilled on persistentvolumeclaims \"x\": the object has been \
                    modified; please apply your changes to the latest version and try again";
    for (given, outcome) in [
        (json!(null), "ok".to_owned()),
        (json!("0"), "ok".to_owned()),
        (json!("7"), "ok".to_owned()),
        (json!("6"), modified.to_owned()),
        (json!("8"), modified.to_owned()),
        (
            json!("x"),
            "400 BadRequest: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
                .to_owned(),
        ),
    ] {
        let (old, mut new) = (object(&json!({}), &json!({})), object(&json!({"resourceVersion": given}), &json!({})));
        let checked = check_revision(&mut new, &old, &ask(&user, &claims, ""));
        assert_eq!(told(checked), outcome, "{given}");
        if outcome == "ok" {
            assert_eq!(new.str_at(&["metadata", "resourceVersion"]), "7");
        }
    }
    // A kind that may not be updated without one.
    let mut new = object(&json!({"resourceVersion": null}), &json!({}));
    let conditional = check_revision(&mut new, &object(&json!({}), &json!({})), &ask(&user, &leases, ""));
    match leases.conditional_update {
        true => assert!(told(conditional).contains("must be specified for an update")),
        false => assert_eq!(told(conditional), "ok"),
    }
    let precondition = "409 Conflict: Operation cannot be fulfilled on persistentvolumeclaims \"x\": Precondition failed: \
                        UID in precondition: other, UID in object meta: u";
    for (given, outcome) in [(json!(null), "ok"), (json!("u"), "ok"), (json!("other"), precondition)] {
        let new = object(&json!({"uid": given}), &json!({}));
        assert_eq!(told(check_uid(&new, &object(&json!({}), &json!({})), &ask(&user, &claims, ""))), outcome);
    }
    for (name, outcome) in [
        ("x", "ok"),
        (
            "",
            "400 BadRequest: the name of the object (x based on URL) was undeterminable: name must be provided",
        ),
        ("y", "400 BadRequest: the name of the object (y) does not match the name on the URL (x)"),
    ] {
        assert_eq!(told(check_name(&object(&json!({"name": name}), &json!({})), "x")), outcome);
    }
}

#[test]
fn an_endpoint_writes_its_own_part_and_no_other() {
    let user = User::component("u", &[]);
    let claims = resource("v1/persistentvolumeclaims");
    let old = object(
        &json!({"labels": {"a": "1"}}),
        &json!({"spec": {"volumeName": "v"}, "status": {"phase": "Pending"}}),
    );
    let written = object(
        &json!({"labels": {"a": "2"}, "annotations": {"b": "1"}, "finalizers": ["f/g"], "generateName": "g"}),
        &json!({"spec": {"volumeName": "w"}, "status": {"phase": "Bound"}}),
    );
    let cases: [(&str, Object); 2] = [
        ("", {
            let mut kept = written.clone();
            kept.set(&["status"], json!({"phase": "Pending"}));
            kept
        }),
        ("status", {
            let mut kept = old.clone();
            for path in [
                &["status"][..],
                &["metadata", "labels"],
                &["metadata", "annotations"],
                &["metadata", "finalizers"],
            ] {
                kept.set(path, written.at(path).unwrap().clone());
            }
            kept
        }),
    ];
    for (subresource, kept) in cases {
        let mut new = written.clone();
        isolate(&mut new, &old, &ask(&user, &claims, subresource));
        assert_eq!(new, kept, "{subresource:?}");
    }
    // A status that is not there is not made by the main endpoint.
    let mut new = written.clone();
    isolate(&mut new, &object(&json!({}), &json!({})), &ask(&user, &claims, ""));
    assert_eq!(new.at(&["status"]), None);
    // A part that the kind does not have is nobody's to write.
    let mut new = written.clone();
    isolate(&mut new, &old, &ask(&user, &claims, "nonsense"));
    assert_eq!(new, written);
}

#[test]
fn a_generation_counts_what_is_asked_for_not_what_is_said_of_it() {
    let user = User::component("u", &[]);
    let sets = resource("apps/v1/statefulsets");
    let claims = resource("v1/persistentvolumeclaims");
    let old = object(&json!({"generation": 3}), &json!({"spec": {"replicas": 1}, "status": {"replicas": 1}}));
    for (resource, subresource, change, generation) in [
        (&sets, "", json!({"spec": {"replicas": 2}}), 4),
        (&sets, "", json!({"metadata": {"labels": {"a": "b"}}}), 3),
        (&sets, "status", json!({"status": {"replicas": 2}}), 3),
        (&sets, "", json!({}), 3),
        (&sets, "binding", json!({"spec": {"replicas": 2}}), 3),
        // A kind that does not count.
        (&claims, "", json!({"spec": {"replicas": 2}}), 3),
    ] {
        let mut new = old.clone();
        json_patch::merge(&mut new.0, &change);
        count_generation(&mut new, &old, &ask(&user, resource, subresource));
        assert_eq!(new.generation(), generation, "{} {subresource} {change}", resource.gvr.resource);
    }
}
