//! What a delete does to an object, by its options, its finalizers and the time it has: upstream's decision, case by case.

use std::collections::HashMap;

use super::*;
use crate::authn::User;
use crate::registry::Registry;
use crate::request;
use crate::resource::Resource;
use crate::resources;

const NOW: &str = "2026-12-01T00:00:00Z";

fn resource(path: &str) -> Arc<Resource> {
    let info = request::parse(&http::Method::GET, path, "");
    Registry::new(resources::builtins()).lookup(&info.gvr()).unwrap()
}

fn ask<'a>(user: &'a User, resource: &'a Resource) -> Ask<'a> {
    let now = NOW.parse().unwrap();
    Ask { user, resource, subresource: "", namespace: "n", name: "x", now, dry_run: false, manager: None }
}

fn parse(body: &Value, query: &[(&str, &str)]) -> Result<Deletion> {
    let query: HashMap<&str, &str> = query.iter().copied().collect();
    let body = (!body.is_null()).then(|| Object(body.clone()));
    Deletion::parse(body.as_ref(), |name| query.get(name).map(|v| (*v).to_owned()))
}

#[test]
fn options_come_from_the_body_and_what_it_leaves_open_from_the_query() {
    let options = |body: Value, query: &[(&str, &str)]| {
        let how = parse(&body, query).unwrap();
        (how.grace_period_seconds, how.propagation.unwrap_or_default(), how.dry_run, how.cascades_asked)
    };
    let is = |grace: Option<i64>, propagation: &str, dry: bool, asked: bool| {
        (grace, propagation.to_owned(), dry, asked)
    };
    for (body, query, expected) in [
        (json!(null), &[][..], is(None, "", false, false)),
        (json!({"gracePeriodSeconds": 5}), &[("gracePeriodSeconds", "7")], is(Some(5), "", false, false)),
        (json!({}), &[("gracePeriodSeconds", "7")], is(Some(7), "", false, false)),
        (
            json!({"propagationPolicy": "Orphan"}),
            &[("propagationPolicy", "Foreground")],
            is(None, "Orphan", false, false),
        ),
        (json!(null), &[("propagationPolicy", "Foreground")], is(None, "Foreground", false, false)),
        (json!({"orphanDependents": true}), &[], is(None, "Orphan", false, false)),
        (json!({"orphanDependents": false}), &[], is(None, "Background", false, true)),
        (json!(null), &[("orphanDependents", "true")], is(None, "Orphan", false, false)),
        (json!({"dryRun": ["All"]}), &[], is(None, "", true, false)),
        (json!(null), &[("dryRun", "All")], is(None, "", true, false)),
        (json!({"dryRun": []}), &[("dryRun", "All")], is(None, "", true, false)),
    ] {
        assert_eq!(options(body.clone(), query), expected, "{body} {query:?}");
    }
    for (body, query, code, field) in [
        (json!({"propagationPolicy": "Sideways"}), &[][..], 422, "propagationPolicy"),
        (json!({"orphanDependents": true, "propagationPolicy": "Orphan"}), &[], 422, "propagationPolicy"),
        (json!({"dryRun": ["Some"]}), &[], 422, "dryRun"),
        (json!(null), &[("dryRun", "all")], 422, "dryRun"),
        (json!(null), &[("gracePeriodSeconds", "soon")], 400, "strconv.ParseInt"),
    ] {
        let refused = parse(&body, query).unwrap_err();
        assert_eq!(refused.code(), code, "{body} {query:?}");
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

/// The decision as `mark|remove|pending`, the seconds it leaves, its finalizers, and its generation.
fn decided(path: &str, how: &Value, metadata: &Value, more: &Value) -> String {
    let (user, resource) = (User::component("u", &[]), resource(path));
    let mut old = json!({"metadata": {"name": "x", "namespace": "n"}});
    json_patch::merge(&mut old["metadata"], metadata);
    json_patch::merge(&mut old, more);
    let step = plan(&ask(&user, &resource), &parse(how, &[]).unwrap(), &Object(old));
    let (what, new) = match step {
        Step::Pending => return "pending".to_owned(),
        Step::Mark(new) => ("mark", new),
        Step::Remove(new) => ("remove", new),
    };
    let seconds = new.deletion_grace_period_seconds().map_or("-".to_owned(), |s| s.to_string());
    let finalizers = new.finalizers().collect::<Vec<_>>().join(",");
    format!("{what} {seconds} [{finalizers}] {}", new.generation())
}

#[test]
fn an_object_goes_is_marked_or_waits() {
    const MAPS: &str = "/api/v1/namespaces/n/configmaps/x";
    const POD: &str = "/api/v1/namespaces/n/pods/x";
    let (none, running) =
        (|| json!({}), || json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}));
    let going = |seconds: i64| json!({"deletionTimestamp": NOW, "deletionGracePeriodSeconds": seconds, "generation": 2});
    for (path, how, metadata, more, expected) in [
        (MAPS, none(), none(), none(), "remove - [] 0"),
        (MAPS, none(), json!({"finalizers": ["a/b"]}), none(), "mark 0 [a/b] 0"),
        (MAPS, none(), json!({"finalizers": ["a/b"], "generation": 1}), none(), "mark 0 [a/b] 2"),
        (MAPS, json!({"propagationPolicy": "Foreground"}), none(), none(), "mark 0 [foregroundDeletion] 0"),
        (MAPS, json!({"propagationPolicy": "Orphan"}), none(), none(), "mark 0 [orphan] 0"),
        // One or the other, never both; what others have put there stays.
        (
            MAPS,
            json!({"propagationPolicy": "Orphan"}),
            json!({"finalizers": ["foregroundDeletion", "a/b"]}),
            none(),
            "mark 0 [a/b,orphan] 0",
        ),
        (
            MAPS,
            json!({"propagationPolicy": "Background"}),
            json!({"finalizers": ["orphan"]}),
            none(),
            "remove - [] 0",
        ),
        (MAPS, none(), json!({"finalizers": ["orphan"]}), none(), "mark 0 [orphan] 0"),
        // A pod has its time, or what is asked for, on a node; elsewhere nobody needs any.
        (POD, none(), none(), none(), "remove 0 [] 0"),
        (POD, none(), json!({"generation": 1}), running(), "mark 30 [] 2"),
        (POD, json!({"gracePeriodSeconds": 5}), none(), running(), "mark 5 [] 0"),
        (POD, json!({"gracePeriodSeconds": 0}), none(), running(), "remove 0 [] 0"),
        (POD, json!({"gracePeriodSeconds": -3}), none(), running(), "mark 1 [] 0"),
        (POD, json!({"gracePeriodSeconds": 0}), json!({"finalizers": ["a/b"]}), running(), "mark 0 [a/b] 0"),
        // Only a shorter time may follow, and the generation counts once.
        (POD, none(), going(30), running(), "pending"),
        (POD, json!({"gracePeriodSeconds": 60}), going(30), running(), "pending"),
        (POD, json!({"gracePeriodSeconds": 10}), going(30), running(), "mark 10 [] 2"),
        (POD, json!({"gracePeriodSeconds": 0}), going(30), running(), "remove 0 [] 2"),
        // One that did not finish.
        (POD, none(), going(0), running(), "remove 0 [] 2"),
    ] {
        let case = format!("{path} {how} {metadata} {more}");
        assert_eq!(decided(path, &how, &metadata, &more), expected, "{case}");
    }
}

#[test]
fn a_shorter_time_moves_the_end_nearer() {
    let (user, pods) = (User::component("u", &[]), resource("/api/v1/namespaces/n/pods/x"));
    let old = Object(json!({"metadata": {"name": "x", "deletionTimestamp": "2026-12-01T00:00:30Z",
        "deletionGracePeriodSeconds": 30}, "spec": {"nodeName": "a"}}));
    let how = parse(&json!({"gracePeriodSeconds": 10}), &[]).unwrap();
    let Step::Mark(new) = plan(&ask(&user, &pods), &how, &old) else { panic!("it is marked") };
    assert_eq!(new.deletion_timestamp(), Some("2026-12-01T00:00:10Z"));
}

#[test]
fn preconditions_are_of_the_object_that_is_there() {
    let (user, maps) = (User::component("u", &[]), resource("/api/v1/namespaces/n/configmaps/x"));
    let old = Object(json!({"metadata": {"name": "x", "uid": "u", "resourceVersion": "7"}}));
    for (preconditions, why) in [
        (json!({}), None),
        (json!({"uid": "u", "resourceVersion": "7"}), None),
        (
            json!({"uid": "v"}),
            Some(
                "the UID in the precondition (v) does not match the UID in record (u). The object \
            might have been deleted and then recreated",
            ),
        ),
        (
            json!({"resourceVersion": "6"}),
            Some(
                "the ResourceVersion in the precondition (6) does not match the \
            ResourceVersion in record (7). The object might have been modified",
            ),
        ),
    ] {
        let how = parse(&json!({"preconditions": preconditions}), &[]).unwrap();
        let checked = check_preconditions(&ask(&user, &maps), &how, &old);
        match (checked, why) {
            (Ok(()), None) => {}
            (Err(refused), Some(why)) => {
                assert_eq!(refused.code(), 409);
                assert!(refused.to_string().ends_with(why), "{refused}");
            }
            (other, _) => panic!("{preconditions}: {other:?}"),
        }
    }
}

#[test]
fn the_answer_is_the_object_or_a_status_that_names_it() {
    let user = User::component("u", &[]);
    let object = Object(json!({"metadata": {"name": "x", "uid": "u"}}));
    for (path, details) in [
        (
            "/apis/apps/v1/namespaces/n/statefulsets/x",
            Some(json!({"name": "x", "group": "apps", "kind": "statefulsets", "uid": "u"})),
        ),
        (
            "/api/v1/namespaces/n/replicationcontrollers/x",
            Some(json!({"name": "x", "kind": "replicationcontrollers", "uid": "u"})),
        ),
        ("/api/v1/namespaces/n/serviceaccounts/x", None),
    ] {
        let resource = resource(path);
        let answered = answer(&ask(&user, &resource), &object);
        assert_eq!(answered.get("details").cloned(), details, "{path}: {answered}");
    }
}
