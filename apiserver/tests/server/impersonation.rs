//! Who acts as another, over the wire: every header counts, and the other is passed on whole.

use coracle_apiserver::authn::User;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

/// Code and answer of a question with headers, asked by `user`.
async fn ask(c: &Cluster, user: &str, headers: &[(&str, &[u8])], path: &str, body: Value) -> (u16, Value) {
    let mut request = request("POST", path, &body);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let groups: &[&str] = if user == "root" { &["system:masters"] } else { &[] };
    let api = c.running.router(User::component(user, groups));
    read(api.oneshot(request).await.unwrap()).await
}

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn another_is_impersonated_whole_or_not_at_all() {
    let c = Cluster::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let jane: &[(&str, &[u8])] = &[
        ("impersonate-user", "jané".as_bytes()),
        ("impersonate-uid", b"7"),
        ("impersonate-group", b"sailors"),
        ("impersonate-extra-example.org%2fscopes", b"a"),
        ("impersonate-extra-example.org%2fscopes", b"b"),
    ];
    let (code, answer) = ask(&c, "root", jane, WHOAMI, review.clone()).await;
    let expected = json!({"username": "jané", "uid": "7", "groups": ["sailors", "system:authenticated"],
        "extra": {"example.org/scopes": ["a", "b"]}});
    assert_eq!((code, &answer["status"]["userInfo"]), (201, &expected));
    for lines in [
        &[("impersonate-uid", &b"7"[..])][..],
        &[("impersonate-extra-x", b"7")],
        &[("impersonate-group", b"system:masters")],
        &[("impersonate-user", b"jan\xe9")],
        &[("impersonate-user", b"jane"), ("impersonate-uid", b"\xff")],
    ] {
        let (code, answer) = ask(&c, "root", lines, WHOAMI, review.clone()).await;
        assert_eq!((code, &answer["reason"]), (400, &json!("BadRequest")), "{lines:?}: {answer}");
    }
    for lines in [jane, &[("impersonate-user", b"root")]] {
        let (code, _) = ask(&c, "mallory", lines, WHOAMI, review.clone()).await;
        assert_eq!(code, 403, "{lines:?}");
    }
}

#[tokio::test]
async fn each_part_takes_its_own_permission() {
    let c = Cluster::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let rules = json!([
        {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["jane"]},
        {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["sailors"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "verbs": ["impersonate"],
         "resourceNames": ["7"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"],
         "resourceNames": ["a"]}]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "as-jane"}, "rules": rules});
    assert_eq!(c.send("POST", &format!("{rbac}/clusterroles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": "as-jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "as-jane"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "proxy"}]});
    assert_eq!(c.send("POST", &format!("{rbac}/clusterrolebindings"), binding).await.0, 201);
    for (lines, code) in [
        (&[("impersonate-user", &b"jane"[..])][..], 201),
        (&[("impersonate-user", b"joe")], 403),
        (&[("impersonate-user", b"jane"), ("impersonate-group", b"sailors")], 201),
        (&[("impersonate-user", b"jane"), ("impersonate-group", b"system:masters")], 403),
        (&[("impersonate-user", b"jane"), ("impersonate-uid", b"7")], 201),
        (&[("impersonate-user", b"jane"), ("impersonate-uid", b"8")], 403),
        (&[("impersonate-user", b"jane"), ("impersonate-extra-scopes", b"a")], 201),
        (&[("impersonate-user", b"jane"), ("impersonate-extra-scopes", b"b")], 403),
        (&[("impersonate-user", b"jane"), ("impersonate-extra-other", b"a")], 403),
        (&[("impersonate-user", b"system:serviceaccount:default:default")], 403),
        (&[("impersonate-user", b"system:serviceaccount:default:a:b")], 403),
    ] {
        let (got, answer) = ask(&c, "proxy", lines, WHOAMI, review.clone()).await;
        assert_eq!(got, code, "{lines:?}: {answer}");
    }
}

#[tokio::test]
async fn a_certificate_request_tells_who_asked_whole() {
    let c = Cluster::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let request =
        rcgen::CertificateParams::new(vec![]).unwrap().serialize_request(&key).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    let body = json!({"metadata": {"name": "r"}, "spec": {"request": request, "signerName": "example.com/x",
        "usages": ["client auth"], "username": "forged"}});
    let jane: &[(&str, &[u8])] = &[
        ("impersonate-user", b"jane"),
        ("impersonate-uid", b"7"),
        ("impersonate-group", b"system:masters"),
        ("impersonate-extra-scopes", b"a"),
    ];
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (code, answer) = ask(&c, "root", jane, path, body).await;
    assert_eq!(code, 201, "{answer}");
    let spec = &answer["spec"];
    assert_eq!((&spec["username"], &spec["uid"]), (&json!("jane"), &json!("7")));
    assert_eq!(spec["extra"], json!({"scopes": ["a"]}));
    assert_eq!(spec["groups"], json!(["system:masters", "system:authenticated"]));
}
