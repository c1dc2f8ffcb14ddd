//! Who may do what to which object, case by case: tokens and what they are bound to, uids, sessions in containers, and the
//! namespace as a field. The answers are upstream's.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coracle_apiserver::access::Options;
use coracle_apiserver::authn::User;
use coracle_apiserver::{Config, Running};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

const NAMESPACE: &str = "/api/v1/namespaces/default";
const OTHER_UID: &str = "11111111-2222-3333-4444-555555555555";

fn admin() -> User {
    User::component("admin", &["system:masters"])
}

/// Accounts `a` and `b`, a pod `p` of `a`, a Secret `s`.
async fn with_accounts(config: Config) -> Cluster {
    let c = Cluster::start_with(config, admin()).await;
    for name in ["a", "b"] {
        let account = json!({"metadata": {"name": name}});
        assert_eq!(c.send("POST", &format!("{NAMESPACE}/serviceaccounts"), account).await.0, 201);
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "a",
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = c.send("POST", &format!("{NAMESPACE}/pods"), pod).await;
    assert_eq!(code, 201, "{made}");
    let secret = json!({"metadata": {"name": "s"}});
    assert_eq!(c.send("POST", &format!("{NAMESPACE}/secrets"), secret).await.0, 201);
    c
}

async fn token(c: &Cluster, account: &str, spec: Value) -> (u16, Value) {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    c.send("POST", &format!("{NAMESPACE}/serviceaccounts/{account}/token"), body).await
}

#[tokio::test]
async fn a_token_is_bound_to_what_is_there_and_is_the_accounts() {
    let c = with_accounts(Config::default()).await;
    let bound = |kind: &str, version: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": version, "name": name, "uid": uid}});
    let changed = |kind: &str, name: &str| {
        format!(
            "Operation cannot be fulfilled on {kind} \"{name}\": the UID in the bound object reference ({OTHER_UID}) \
             does not match the UID in record. The object might have been deleted and then recreated"
        )
    };
    let stranger =
        "cannot bind token for serviceaccount \"b\" to pod running with different serviceaccount name.";
    for (account, spec, code, message) in [
        ("a", bound("Pod", "v1", "p", ""), 201, String::new()),
        ("a", bound("Pod", "v2", "p", ""), 201, String::new()),
        ("a", bound("Secret", "v1", "s", ""), 201, String::new()),
        ("a", bound("Pod", "v1", "p", OTHER_UID), 409, changed("Pod", "p")),
        ("a", bound("Secret", "v1", "s", OTHER_UID), 409, changed("Secret", "s")),
        ("b", bound("Pod", "v1", "p", ""), 400, stranger.to_owned()),
        ("a", bound("Pod", "v1", "none", ""), 404, "pods \"none\" not found".to_owned()),
        ("a", bound("Secret", "v1", "none", ""), 404, "secrets \"none\" not found".to_owned()),
        ("a", bound("Node", "v1", "none", ""), 404, "nodes \"none\" not found".to_owned()),
        ("a", bound("Pod", "v1", "", ""), 400, "Name parameter required.".to_owned()),
        (
            "a",
            bound("ConfigMap", "v1", "m", ""),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap".to_owned(),
        ),
        (
            "a",
            bound("Pod", "apps/v1", "p", ""),
            400,
            "cannot bind token to object of type apps/v1, Kind=Pod".to_owned(),
        ),
        ("none", json!({}), 404, "serviceaccounts \"none\" not found".to_owned()),
    ] {
        let (found, answer) = token(&c, account, spec.clone()).await;
        assert_eq!(found, code, "{spec} {answer}");
        if code != 201 {
            assert_eq!(answer["message"], message, "{spec}");
        }
    }
    c.running.stop().await;
}

fn claims(answer: &Value) -> Value {
    let token = answer["status"]["token"].as_str().unwrap();
    serde_json::from_slice(&BASE64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// The test of CIS 1.2.30's flag: without it a pod's token lives as long as it says.
#[tokio::test]
async fn tokens_of_pods_are_extended_only_where_the_flag_says_so() {
    for extend_tokens in [true, false] {
        let access = Options { extend_tokens, ..Options::default() };
        let c = with_accounts(Config { access, ..Config::default() }).await;
        let of_pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "p"});
        for (spec, extended) in [
            (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod}), extend_tokens),
            (json!({"expirationSeconds": 3607}), false),
            (json!({"expirationSeconds": 3600, "boundObjectRef": of_pod}), false),
            (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod, "audiences": ["x"]}), false),
        ] {
            let (code, answer) = token(&c, "a", spec.clone()).await;
            assert_eq!(code, 201, "{answer}");
            let claims = claims(&answer);
            let lives = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
            let asked = spec["expirationSeconds"].as_i64().unwrap();
            assert_eq!(lives, if extended { 365 * 86_400 } else { asked }, "{extend_tokens} {spec}");
            let warns = claims["kubernetes.io"].get("warnafter").is_some();
            assert_eq!(warns, extended, "{claims}");
        }
        c.running.stop().await;
    }
}

/// A uid is a precondition of a PUT, and a field that nobody can change in a patch.
#[tokio::test]
async fn a_uid_of_another_object_is_refused_as_upstream_refuses_it() {
    let c = Cluster::start().await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    let maps = format!("{NAMESPACE}/configmaps");
    assert_eq!(c.send("POST", &maps, map).await.0, 201);
    let one = format!("{maps}/m");
    let before = c.get(&one).await;
    let uid = json!({"metadata": {"name": "m", "uid": OTHER_UID}});
    let (code, refused) = c.send("PUT", &one, uid.clone()).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
    let patch = async |path: &str, media: &str, body: &Value| {
        let request = Request::patch(format!("{path}?fieldManager=x")).header("content-type", media);
        read(c.answer(request.body(Body::from(body.to_string())).unwrap()).await).await
    };
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": uid["metadata"]});
    let operation = json!([{"op": "replace", "path": "/metadata/uid", "value": OTHER_UID}]);
    let namespace = json!({"metadata": {"uid": OTHER_UID}});
    for (path, media, body) in [
        (&*one, "application/merge-patch+json", &uid),
        (&one, "application/strategic-merge-patch+json", &uid),
        (&one, "application/json-patch+json", &operation),
        (&one, "application/apply-patch+yaml", &applied),
        ("/api/v1/namespaces/default/status", "application/merge-patch+json", &namespace),
    ] {
        let (code, refused) = patch(path, media, body).await;
        assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "{path} {media}: {refused}");
        let why = format!("metadata.uid: Invalid value: \"{OTHER_UID}\": field is immutable");
        assert!(refused["message"].as_str().unwrap().contains(&why), "{refused}");
    }
    let mut absent = applied.clone();
    absent["metadata"]["name"] = json!("none");
    let (code, refused) = patch(&format!("{maps}/none"), "application/apply-patch+yaml", &absent).await;
    let why = format!(
        "Operation cannot be fulfilled on configmaps \"none\": uid mismatch: the provided object specified uid \
         {OTHER_UID}, and no existing object was found"
    );
    assert_eq!((code, &refused["message"]), (409, &json!(why)));
    let missing = json!({"metadata": {"name": "none", "uid": OTHER_UID}});
    assert_eq!(c.send("PUT", &format!("{maps}/none"), missing).await.0, 404);
    let forgotten = json!({"metadata": {"uid": null}});
    assert_eq!(patch(&one, "application/merge-patch+json", &forgotten).await.0, 200);
    assert_eq!(c.get(&one).await, before, "nothing has changed");
    c.running.stop().await;
}

async fn bind(c: &Cluster, user: &str, verbs: &[&str]) {
    let resources = ["pods/exec", "pods/attach", "pods/portforward"];
    let role = json!({"metadata": {"name": user}, "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]});
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(c.send("POST", &format!("{group}/roles"), role).await.0, 201);
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
    let binding = json!({"metadata": {"name": user}, "roleRef": reference, "subjects": [subject]});
    assert_eq!(c.send("POST", &format!("{group}/rolebindings"), binding).await.0, 201);
}

/// A session as its client asks for it: a WebSocket begins with a GET, SPDY with a POST.
async fn session(running: &Running, user: &str, part: &str, protocol: &str) -> (u16, Value) {
    let (method, options) = match protocol {
        "websocket" => ("GET", [("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io")]),
        _ => ("POST", [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")]),
    };
    let path = format!("{NAMESPACE}/pods/p/{part}?container=c&command=id&stdout=true&ports=80");
    let mut request = request(method, &path, &Value::Null);
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    for (name, value) in options {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    read(running.router(User::component(user, &[])).oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn sessions_in_containers_take_create_however_they_are_asked_for() {
    let c = with_accounts(Config::default()).await;
    bind(&c, "getter", &["get"]).await;
    bind(&c, "maker", &["create"]).await;
    bind(&c, "both", &["get", "create"]).await;
    for part in ["exec", "attach", "portforward"] {
        for (user, protocol, allowed) in [
            ("getter", "websocket", false),
            ("getter", "spdy", false),
            ("maker", "spdy", true),
            ("both", "websocket", true),
            ("both", "spdy", true),
            ("nobody", "websocket", false),
            ("nobody", "spdy", false),
        ] {
            let (code, answer) = session(&c.running, user, part, protocol).await;
            match allowed {
                // The pod has no node yet: so far the request has come.
                true => assert_eq!(
                    (code, &answer["reason"]),
                    (400, &json!("BadRequest")),
                    "{user} {part} {protocol}: {answer}"
                ),
                false => assert_eq!(
                    (code, &answer["reason"]),
                    (403, &json!("Forbidden")),
                    "{user} {part} {protocol}: {answer}"
                ),
            }
        }
    }
    c.running.stop().await;
}

/// Upstream was asked for every kind: those of the cluster that have fields of their own refuse it, all others take it.
#[tokio::test]
async fn the_namespace_is_a_field_of_every_kind_but_four() {
    let c = with_accounts(Config::default()).await;
    let mut paths = vec!["/api/v1".to_owned()];
    for group in c.get("/apis").await["groups"].as_array().unwrap() {
        paths.push(format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap()));
    }
    let mut asked = 0;
    for path in paths {
        for resource in c.get(&path).await["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let lists = resource["verbs"].as_array().unwrap().contains(&json!("list"));
            if name.contains('/') || !lists {
                continue;
            }
            asked += 1;
            let refuses = ["namespaces", "nodes", "certificatesigningrequests", "resourceslices"];
            let query =
                |namespace: &str| format!("{path}/{name}?fieldSelector=metadata.namespace%3D{namespace}");
            let (code, answer) = c.send("GET", &query("default"), Value::Null).await;
            match refuses.contains(&name) {
                true => assert_eq!(code, 400, "{path}/{name}: {answer}"),
                false => assert_eq!(code, 200, "{path}/{name}: {answer}"),
            }
            if code == 200 {
                let (_, none) = c.send("GET", &query("elsewhere"), Value::Null).await;
                assert_eq!(none["items"], json!([]), "{path}/{name}");
                let namespaced = resource["namespaced"] == true;
                let own = answer["items"].as_array().unwrap();
                assert!(namespaced || own.is_empty(), "{path}/{name}");
                assert!(own.iter().all(|o| o["metadata"]["namespace"] == "default"), "{path}/{name}");
            }
        }
    }
    assert!(asked > 40, "{asked} kinds");
    c.running.stop().await;
}
