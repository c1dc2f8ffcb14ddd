//! What is wrong is refused with the right `Status`, and changes nothing.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::World;
use crate::kubectl::{contains, output_of};

/// One request and what must come back.
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    code: u16,
    reason: &'static str,
    /// Each must occur in the message.
    says: &'static [&'static str],
}

const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const CONFIGMAPS: &str = "/api/v1/namespaces/shop/configmaps";

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "malformed JSON", method: "POST", path: CONFIGMAPS, content_type: JSON, body: "{\"kind\":", code: 400, reason: "BadRequest", says: &[] },
    Case { name: "malformed YAML", method: "POST", path: CONFIGMAPS, content_type: "application/yaml", body: "a: [b", code: 400, reason: "BadRequest", says: &[] },
    Case { name: "malformed protobuf", method: "POST", path: CONFIGMAPS, content_type: "application/vnd.kubernetes.protobuf", body: "k8s\u{0}zzzz", code: 400, reason: "BadRequest", says: &[] },
    Case { name: "unknown content type", method: "POST", path: CONFIGMAPS, content_type: "text/html", body: "x", code: 415, reason: "UnsupportedMediaType", says: &["the body of the request was in an unknown format - accepted media types include: application/json"] },
    Case { name: "unknown field under Strict", method: "POST", path: "/api/v1/namespaces/shop/configmaps?fieldValidation=Strict", content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dato":{}}"#, code: 400, reason: "BadRequest", says: &["strict decoding error: unknown field \"dato\""] },
    Case { name: "wrong kind", method: "POST", path: CONFIGMAPS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#, code: 400, reason: "BadRequest", says: &["Secret"] },
    Case { name: "wrong namespace", method: "POST", path: CONFIGMAPS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"other"}}"#, code: 400, reason: "BadRequest", says: &["the namespace of the provided object does not match the namespace sent on the request"] },
    Case { name: "wrong name", method: "PUT", path: "/api/v1/namespaces/shop/configmaps/page", content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other"}}"#, code: 400, reason: "BadRequest", says: &["the name of the object (other) does not match the name on the URL (page)"] },
    Case { name: "bad name", method: "POST", path: CONFIGMAPS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Not_A_Name"}}"#, code: 422, reason: "Invalid", says: &["metadata.name", "a lowercase RFC 1123 subdomain must consist of"] },
    Case { name: "bad label", method: "POST", path: CONFIGMAPS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"a":"b c"}}}"#, code: 422, reason: "Invalid", says: &["metadata.labels", "a valid label must be"] },
    Case { name: "bad quantity", method: "POST", path: PODS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"lots"}}}]}}"#, code: 400, reason: "BadRequest", says: &["quantities must match the regular expression"] },
    Case { name: "bad port", method: "POST", path: "/api/v1/namespaces/shop/services", content_type: JSON, body: r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"ports":[{"port":70000}]}}"#, code: 422, reason: "Invalid", says: &["spec.ports[0].port", "must be between 1 and 65535, inclusive"] },
    Case { name: "bad DNS name", method: "POST", path: PODS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"hostname":"A_b","containers":[{"name":"c","image":"i"}]}}"#, code: 422, reason: "Invalid", says: &["spec.hostname", "a lowercase RFC 1123 label must consist of"] },
    Case { name: "several errors at once", method: "POST", path: PODS, content_type: JSON, body: r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"restartPolicy":"Maybe","containers":[{"name":"","image":""}]}}"#, code: 422, reason: "Invalid", says: &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value", "spec.restartPolicy: Unsupported value: \"Maybe\""] },
    Case { name: "wrong type", method: "POST", path: "/apis/apps/v1/namespaces/shop/deployments", content_type: JSON, body: r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"replicas":"three"}}"#, code: 400, reason: "BadRequest", says: &["cannot unmarshal string into Go struct field"] },
    Case { name: "immutable field", method: "PATCH", path: "/apis/apps/v1/namespaces/shop/deployments/web", content_type: "application/merge-patch+json", body: r#"{"spec":{"selector":{"matchLabels":{"app":"other"}}}}"#, code: 422, reason: "Invalid", says: &["field is immutable"] },
    Case { name: "stale resourceVersion", method: "PUT", path: "/api/v1/namespaces/shop/configmaps/page", content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"page","resourceVersion":"1"}}"#, code: 409, reason: "Conflict", says: &["the object has been modified; please apply your changes to the latest version and try again"] },
    Case { name: "no such object", method: "GET", path: "/api/v1/namespaces/shop/configmaps/none", content_type: JSON, body: "", code: 404, reason: "NotFound", says: &["configmaps \"none\" not found"] },
    Case { name: "no such resource", method: "GET", path: "/api/v1/namespaces/shop/nonsense", content_type: JSON, body: "", code: 404, reason: "NotFound", says: &["the server could not find the requested resource"] },
    Case { name: "no such namespace", method: "POST", path: "/api/v1/namespaces/none/configmaps", content_type: JSON, body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#, code: 404, reason: "NotFound", says: &["namespaces \"none\" not found"] },
    Case { name: "bad selector", method: "GET", path: "/api/v1/namespaces/shop/pods?fieldSelector=spec.nonsense%3Dx", content_type: JSON, body: "", code: 400, reason: "BadRequest", says: &["field label not supported: spec.nonsense"] },
    Case { name: "bad JSON patch", method: "PATCH", path: "/api/v1/namespaces/shop/configmaps/page", content_type: "application/json-patch+json", body: r#"[{"op":"remove","path":"/data/none"}]"#, code: 422, reason: "Invalid", says: &["the server rejected our request due to an error in our request"] },
];

pub(super) fn refused(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    let state = "get configmaps,pods,services,deployments -n shop -o jsonpath={.items[*].metadata.name}";
    let before = k.ok(state)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(super::clients::over_tls(&k.kubeconfig))?;
    for case in CASES {
        let request = http::Request::builder()
            .method(case.method)
            .uri(case.path)
            .header("content-type", case.content_type)
            .body(case.body.as_bytes().to_vec())?;
        let status = runtime.block_on(status_of(&client, request)).with_context(|| case.name)?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(
            status["kind"] == "Status"
                && status["code"] == case.code
                && status["reason"] == case.reason
                && case.says.iter().all(|s| message.contains(s)),
            "{}: {status:#}",
            case.name
        );
    }
    let huge = http::Request::builder()
        .method("POST")
        .uri(CONFIGMAPS)
        .header("content-type", JSON)
        .body(vec![b' '; 10 << 20])?;
    let status = runtime.block_on(status_of(&client, huge)).context("a body of 10 MB")?;
    ensure!(
        status["code"] == 413 && status["reason"] == "RequestEntityTooLarge",
        "a body of 10 MB: {status}"
    );

    k.refuses("get secrets -A --as=system:serviceaccount:shop:default", "", &["Error from server (Forbidden): secrets is forbidden: User \"system:serviceaccount:shop:default\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"])?;
    tokens(world)?;
    ensure!(world.kubectl().ok(state)? == before, "something changed");
    Ok(())
}

async fn status_of(client: &kube::Client, request: http::Request<Vec<u8>>) -> Result<Value> {
    let response = client.send(request.map(Into::into)).await?;
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())
}

/// A token that is not ours, and one that has been altered.
fn tokens(world: &World) -> Result<()> {
    let k = world.kubectl();
    let token = k.ok("-n shop create token default --duration=600s")?.trim().to_owned();
    let (head, signature) = token.rsplit_once('.').context("a JWT")?;
    let (header, claims) = head.split_once('.').context("a JWT")?;
    let altered = format!("{header}.{claims}.{}", signature.chars().rev().collect::<String>());
    let mut anonymous = k.clone();
    let dir = tempfile::tempdir()?;
    anonymous.kubeconfig = dir.path().join("config");
    let server = k.ok("config view --raw -o jsonpath={.clusters[0].cluster.server}")?;
    let ca = k.ok("config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data}")?;
    std::fs::write(
        &anonymous.kubeconfig,
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{}}}}], clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority-data: '{ca}'}}}}]}}"
        ),
    )?;
    anonymous.prints(&format!("--token={token} auth whoami"), &["system:serviceaccount:shop:default"])?;
    for bad in ["nonsense", &altered] {
        anonymous.refuses(&format!("--token={bad} get pods"), "", &["Unauthorized"])?;
    }
    // Without credentials kubectl would ask for a name and a password.
    let answer = output_of("curl", &["-s", "-k", "-m", "5", &format!("{server}/api/v1/pods")])?;
    contains("a request without credentials", &answer, &["\"Forbidden\"", "system:anonymous"])
}
