//! One client and the others: what a tenant holds keeps nobody from an answer, and is given back when it goes.

use axum::body::Body;
use bytes::Bytes;
use coracle_apiserver::authn::User;
use futures::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

fn pending(path: &str) -> Request<Body> {
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let request = Request::post(path).header("content-type", "application/json");
    request.body(Body::from_stream(never)).unwrap()
}

async fn metric(cluster: &Cluster, name: &str) -> String {
    let text = cluster.get("/metrics").await;
    let text = text.as_str().unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

/// A slow body has not taken a place; 200 of them stopped every node's lease.
#[tokio::test]
async fn bodies_that_never_come_keep_nobody_from_a_seat() {
    let cluster = Cluster::start().await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let node = User::component("system:node:a", &["system:nodes", "system:authenticated"]);
    let node = cluster.running.router(node);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let tenant = cluster.running.router(User::component("tenant", &["system:authenticated"]));
    let mut stalled = vec![];
    for _ in 0..900 {
        let mut asking = Box::pin(tenant.clone().oneshot(pending(review)));
        assert!(asking.as_mut().now_or_never().is_none());
        stalled.push(asking);
    }
    let inflight = "apiserver_current_inflight_requests{request_kind=\"mutating\"}";
    assert_eq!(metric(&cluster, inflight).await, "900");
    let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}, "spec": {}});
    let answer = node.oneshot(request("POST", lease, &object)).await.unwrap();
    let headers = answer.headers().clone();
    let (code, body) = read(answer).await;
    assert_eq!(code, 201, "{body}");
    let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let uid =
        cluster.get(&format!("{schemas}/flowschemas/system-node-high")).await["metadata"]["uid"].clone();
    assert_eq!(headers["x-kubernetes-pf-flowschema-uid"], uid.as_str().unwrap());
    let uid =
        cluster.get(&format!("{schemas}/prioritylevelconfigurations/node-high")).await["metadata"]["uid"]
            .clone();
    assert_eq!(headers["x-kubernetes-pf-prioritylevel-uid"], uid.as_str().unwrap());
    // The other tenants, too, are answered.
    let other = cluster.running.router(User::component("other", &["system:authenticated"]));
    let ask = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    assert_eq!(other.oneshot(request("POST", review, &ask)).await.unwrap().status(), 201);
    // Whoever goes away is not counted for ever.
    drop(stalled);
    assert_eq!(metric(&cluster, inflight).await, "0");
}

/// Upstream counts a watch as long as it is open.
#[tokio::test]
async fn a_watch_is_counted_to_its_end() {
    let cluster = Cluster::start().await;
    let name = "apiserver_longrunning_requests";
    let before = metric(&cluster, name).await;
    let path = "/api/v1/configmaps?watch=1&resourceVersion=0";
    let watch = cluster.answer(request("GET", path, &Value::Null)).await;
    let count = |text: &str| text.parse::<i64>().unwrap();
    assert_eq!(count(&metric(&cluster, name).await), count(&before) + 1);
    drop(watch);
    assert_eq!(metric(&cluster, name).await, before);
}

/// A level's queues are its own objects' to say: without any, more than its seats are refused, as upstream does.
#[tokio::test]
async fn levels_and_schemas_of_the_cluster_decide() {
    let cluster = Cluster::start().await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "none"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "blocked"},
        "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "none"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "blocked"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]}]}});
    let blocked = cluster.running.router(User::component("blocked", &["system:authenticated"]));
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let asked = || blocked.clone().oneshot(request("POST", review, &ask));
    assert_eq!(asked().await.unwrap().status(), 201);
    assert_eq!(cluster.send("POST", &format!("{group}/prioritylevelconfigurations"), level).await.0, 201);
    assert_eq!(cluster.send("POST", &format!("{group}/flowschemas"), schema).await.0, 201);
    let answer = asked().await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "1");
    let (code, body) = read(answer).await;
    assert_eq!((code, body["reason"].as_str()), (429, Some("TooManyRequests")));
    let refused = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"none\",flow_schema=\"blocked\",reason=\"concurrency-limit\"}";
    assert_eq!(metric(&cluster, refused).await, "1");
    assert_eq!(cluster.send("DELETE", &format!("{group}/flowschemas/blocked"), Value::Null).await.0, 200);
    assert_eq!(asked().await.unwrap().status(), 201);
}

/// Who runs the controllers is no matter: the server says it itself.
#[tokio::test]
async fn a_schema_is_told_whether_its_level_is_there() {
    let cluster = Cluster::start().await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schema = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "late"}}});
    let level = json!({"metadata": {"name": "late"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    assert_eq!(cluster.send("POST", &format!("{group}/flowschemas"), schema).await.0, 201);
    let told = async |status: &str| {
        let query = format!("{group}/flowschemas?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Ds");
        let answer = cluster.answer(request("GET", &query, &Value::Null)).await;
        let (mut body, mut text) = (answer.into_body(), String::new());
        while !text.contains(&format!("\"type\":\"Dangling\",\"status\":\"{status}\"")) {
            let frame = body.frame().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    told("True").await;
    assert_eq!(cluster.send("POST", &format!("{group}/prioritylevelconfigurations"), level).await.0, 201);
    told("False").await;
    let gone =
        cluster.send("DELETE", &format!("{group}/prioritylevelconfigurations/late"), Value::Null).await;
    assert_eq!(gone.0, 200, "{}", gone.1);
    told("True").await;
    cluster.running.stop().await;
}
