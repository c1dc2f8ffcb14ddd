//! Every kind, verb, subresource and form of a path, asked by who may do all in one namespace: nothing reaches out of it.

use std::collections::BTreeMap;

use coracle_apiserver::authn::User;
use coracle_apiserver::resource::Resource;
use coracle_apiserver::{Api, Config, Server};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Asked of every kind beside its own subresources.
const SUBRESOURCES: [&str; 8] =
    ["status", "scale", "finalize", "exec", "proxy/x", "log", "token", "approval"];
/// Where a path of a kind may lie: its name, what stands before the plural, and whether it is in the tenant's namespace.
const PLACES: [(&str, &str, bool); 14] = [
    ("all namespaces", "", false),
    ("own", "namespaces/team-a/", true),
    ("own, encoded", "namespaces%2Fteam-a%2f", true),
    ("other", "namespaces/team-b/", false),
    ("no name", "namespaces//", false),
    ("other below own", "namespaces/team-a/namespaces/team-b/", false),
    ("up and over", "namespaces/team-a/../team-b/", false),
    ("up and over, encoded", "namespaces/team-a%2F..%2Fteam-b/", false),
    ("old watch", "watch/", false),
    ("old watch, own", "watch/namespaces/team-a/", true),
    ("old watch, other", "watch/namespaces/team-b/", false),
    ("old proxy", "proxy/", false),
    ("old proxy, own", "proxy/namespaces/team-a/", true),
    ("twice watched", "watch/watch/namespaces/team-a/", false),
];

fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": scope, "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                                                          "statusReplicasPath": ".status.replicas"}},
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// A cluster with two teams, custom kinds of both scopes, and things named `victim`; and the tenant who owns `team-a`.
async fn two_teams() -> (Cluster, Api) {
    let c = Cluster::start().await;
    for team in ["team-a", "team-b"] {
        let namespace = json!({"metadata": {"name": team}});
        assert_eq!(c.send("POST", "/api/v1/namespaces", namespace).await.0, 201);
    }
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (plural, kind, scope) in [("widgets", "Widget", "Namespaced"), ("gadgets", "Gadget", "Cluster")] {
        assert_eq!(c.send("POST", definitions, definition(plural, kind, scope)).await.0, 201);
        let mut tries = 0;
        while c.send("GET", &format!("/apis/example.com/v1/{plural}"), Value::Null).await.0 != 200 {
            tries += 1;
            assert!(tries < 1000, "{plural} are not served");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let binding = json!({"metadata": {"name": "owner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings";
    assert_eq!(c.send("POST", bindings, binding).await.0, 201);
    for (path, object) in [
        ("/api/v1/nodes", json!({"metadata": {"name": "victim"}})),
        ("/api/v1/namespaces", json!({"metadata": {"name": "victim"}})),
        (
            "/apis/example.com/v1/gadgets",
            json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "victim"}}),
        ),
        (
            "/apis/example.com/v1/namespaces/team-b/widgets",
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "victim"}}),
        ),
        ("/api/v1/namespaces/team-b/secrets", json!({"metadata": {"name": "victim"}})),
        ("/api/v1/namespaces/team-b/configmaps", json!({"metadata": {"name": "victim"}})),
        ("/api/v1/namespaces/team-a/configmaps", json!({"metadata": {"name": "victim"}})),
    ] {
        let (code, answer) = c.send("POST", path, object).await;
        assert_eq!(code, 201, "{path}: {answer}");
    }
    // No groups: what everybody may ask would be told from what the binding gives by nothing.
    let tenant = User { name: "tenant".to_owned(), ..User::default() };
    let api = c.running.router(tenant);
    (c, api)
}

/// Every object outside the tenant's namespace, by kind and key, with its version.
async fn outside(c: &Cluster, kinds: &[std::sync::Arc<Resource>]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for kind in kinds.iter().filter(|kind| kind.serves("list")) {
        let list = c.get(&format!("{}{}", prefix(kind), kind.gvr.resource)).await;
        for item in list["items"].as_array().unwrap_or_else(|| panic!("{}: {list}", kind.gvr.resource)) {
            let metadata = &item["metadata"];
            let own = metadata["namespace"] == "team-a"
                || kind.gvr.resource == "namespaces" && metadata["name"] == "team-a";
            if !own {
                let key = format!("{:?} {}/{}", kind.gvr, metadata["namespace"], metadata["name"]);
                found.insert(key, metadata["resourceVersion"].clone());
            }
        }
    }
    found
}

fn prefix(kind: &Resource) -> String {
    match kind.gvr.group.as_str() {
        "" => format!("/api/{}/", kind.gvr.version),
        group => format!("/apis/{group}/{}/", kind.gvr.version),
    }
}

#[tokio::test]
async fn who_may_do_all_in_one_namespace_reaches_nothing_outside_it() {
    let (c, tenant) = two_teams().await;
    let kinds: Vec<_> = c.running.server.registry.snapshot().resources().cloned().collect();
    let before = outside(&c, &kinds).await;
    let (mut asked, mut inside, mut served, mut broken) = (0, 0, 0, vec![]);
    for kind in &kinds {
        let plural = &kind.gvr.resource;
        let mut suffixes =
            vec![String::new(), "/victim".to_owned(), "/victim/".to_owned(), "//status".to_owned()];
        let own = kind.subresources.iter().map(|s| s.name);
        let mut subresources: Vec<&str> = SUBRESOURCES.into_iter().chain(own).collect();
        subresources.sort_unstable();
        subresources.dedup();
        suffixes.extend(subresources.iter().map(|sub| format!("/victim/{sub}")));
        for ((place, base, is_own), suffix) in
            PLACES.iter().flat_map(|place| suffixes.iter().map(move |suffix| (place, suffix)))
        {
            // A namespaced kind in the tenant's own namespace, and nothing else, is the tenant's.
            let is_inside = *is_own && kind.namespaced();
            for method in METHODS {
                let dry = if is_inside { "?dryRun=All" } else { "" };
                let path = format!("{}{base}{plural}{suffix}{dry}", prefix(kind));
                let body = json!({"apiVersion": kind.gvk.api_version(), "kind": kind.gvk.kind,
                    "metadata": {"name": "victim"}});
                let body = if method == "GET" || method == "DELETE" { Value::Null } else { body };
                let code =
                    tenant.clone().oneshot(request(method, &path, &body)).await.unwrap().status().as_u16();
                asked += 1;
                if is_inside {
                    inside += 1;
                    served += usize::from(code < 300);
                    if code == 403 && place.starts_with("own") && method == "GET" {
                        broken.push(format!("{method} {path} ({place}): {code}, but it is the tenant's"));
                    }
                } else if !matches!(code, 403..=405) {
                    broken.push(format!("{method} {path} ({place}): {code}"));
                }
            }
        }
    }
    println!(
        "{asked} requests over {} kinds, {inside} of them inside, {served} of those served",
        kinds.len()
    );
    assert!(broken.is_empty(), "{} reach out:\n{}", broken.len(), broken.join("\n"));
    assert!(served > 200, "the tenant's own namespace is served: {served}");
    assert_eq!(outside(&c, &kinds).await, before, "nothing outside has changed");
}

#[tokio::test]
async fn collections_over_all_namespaces_are_read_and_no_more() {
    let (c, _) = two_teams().await;
    for kind in c.running.server.registry.snapshot().resources().filter(|kind| kind.namespaced()) {
        // Upstream's server of custom resources knows no path where it knows no verb.
        let refused = if kind.typed && kind.serves("list") { 405 } else { 404 };
        let path = format!("{}{}", prefix(kind), kind.gvr.resource);
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(c.send(method, &path, json!({})).await.0, refused, "{method} {path}");
        }
    }
    let (code, answer) = c.send("DELETE", "/api/v1/configmaps", Value::Null).await;
    let why = "the server does not allow this method on the requested resource";
    assert_eq!((code, &answer["reason"], &answer["message"]), (405, &json!("MethodNotAllowed"), &json!(why)));
    let kept = c.get("/api/v1/namespaces/team-b/configmaps/victim").await;
    assert_eq!(kept["metadata"]["name"], "victim");
}

#[tokio::test]
async fn a_name_in_an_old_watch_path_is_all_that_is_watched() {
    let (c, _) = two_teams().await;
    let maps = "/api/v1/namespaces/team-b/configmaps";
    // Before and after the one in the store.
    for name in ["a", "z"] {
        assert_eq!(c.send("POST", maps, json!({"metadata": {"name": name}})).await.0, 201);
    }
    let path = "/api/v1/watch/namespaces/team-b/configmaps/victim";
    let answer = c.answer(request("GET", path, &Value::Null)).await;
    assert_eq!(answer.status(), 200);
    let mut events = answer.into_body();
    let change = |value: &str| json!({"data": {"k": value}});
    assert_eq!(c.send("PATCH", &format!("{maps}/a"), change("no")).await.0, 200);
    assert_eq!(c.send("PATCH", &format!("{maps}/victim"), change("yes")).await.0, 200);
    let mut seen = String::new();
    while !seen.contains("yes") {
        let frame = events.frame().await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    for line in seen.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["object"]["metadata"]["name"], "victim");
    }
}

#[tokio::test]
async fn a_name_that_a_selector_demands_counts_for_reading_alone() {
    let (c, _) = two_teams().await;
    let role = json!({"metadata": {"name": "one"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"],
        "verbs": ["*"], "resourceNames": ["victim"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/team-b";
    assert_eq!(c.send("POST", &format!("{rbac}/roles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": "one"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}]});
    assert_eq!(c.send("POST", &format!("{rbac}/rolebindings"), binding).await.0, 201);
    let reader = c.running.router(User { name: "reader".to_owned(), ..User::default() });
    let maps = "/api/v1/namespaces/team-b/configmaps";
    for (method, query, code) in [
        ("GET", "?fieldSelector=metadata.name=victim", 200),
        ("GET", "?fieldSelector=metadata.name%3Dvictim,metadata.namespace!%3Dx", 200),
        ("GET", "?fieldSelector=metadata.name=other", 403),
        ("GET", "?fieldSelector=metadata.name!=victim", 403),
        ("GET", "?fieldSelector=&fieldSelector=metadata.name=victim", 403),
        ("GET", "?fieldSelector=metadata.name=other&fieldSelector=metadata.name=victim", 403),
        ("GET", "", 403),
        ("DELETE", "?fieldSelector=metadata.name=victim", 403),
    ] {
        let path = format!("{maps}{query}");
        let answer = reader.clone().oneshot(request(method, &path, &Value::Null)).await.unwrap();
        assert_eq!(read(answer).await.0, code, "{method} {path}");
    }
}

#[tokio::test]
async fn who_shows_nothing_is_served_only_where_that_is_wanted() {
    use coracle_apiserver::access::Options;
    use coracle_apiserver::chain::{Caller, handle};
    for (anonymous, code) in [(true, 200), (false, 401)] {
        let config = Config { access: Options { anonymous, ..Options::default() }, ..Config::default() };
        let running = Server::start(config, CancellationToken::new()).await.unwrap();
        let caller = Caller::Network(coracle_apiserver::authn::Peer::NoCertificate);
        let answer =
            handle(running.server.clone(), caller, request("GET", "/healthz", &Value::Null)).await.unwrap();
        assert_eq!(answer.status(), code, "anonymous: {anonymous}");
    }
}
