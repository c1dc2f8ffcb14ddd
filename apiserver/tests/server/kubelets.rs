//! What a kubelet that is not to be trusted may answer to those who read logs and open sessions through the API server.

use std::time::Duration;

use axum::body::Body;
use coracle_apiserver::pki::Leaf;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cluster::{Cluster, read, request};
use crate::tls;

/// A pod on a node whose kubelet listens at a port of loopback.
async fn pod_on(c: &Cluster, port: u16) {
    let made = c.send("POST", "/api/v1/nodes", json!({"metadata": {"name": "evil"}})).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let told = c.send("PATCH", "/api/v1/nodes/evil/status", status).await;
    assert_eq!(told.0, 200, "{}", told.1);
    let account = json!({"metadata": {"name": "default"}});
    c.send("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"nodeName": "evil", "containers": [{"name": "c", "image": "i"}]}});
    let made = c.send("POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.0, 201, "{}", made.1);
}

/// A kubelet with a good certificate that sends everybody to the API server's own page of nodes.
async fn redirecting(c: &Cluster) -> u16 {
    let leaf = Leaf::kubelet_server("evil", &["127.0.0.1".parse().unwrap()]);
    let own = c.running.server.access.pki.issue(&leaf, Timestamp::now()).unwrap();
    let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let answer = |request: Request<Incoming>| async move {
        let code = if request.uri().path().starts_with("/containerLogs") { 302 } else { 307 };
        let response = Response::builder().status::<u16>(code).header("location", "/api/v1/nodes");
        response.body(Body::empty()).unwrap()
    };
    tls::serve_with(chain, key, WebPkiClientVerifier::no_client_auth(), answer).await
}

fn upgrade(path: &str) -> Request<Body> {
    let mut request = request("POST", path, &Value::Null);
    request.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    request
}

/// CVE-2020-8559: clients would follow with their own credentials, and do what the node says.
#[tokio::test]
async fn a_node_leads_nobody_elsewhere() {
    let c = Cluster::start().await;
    pod_on(&c, redirecting(&c).await).await;
    let pod = "/api/v1/namespaces/default/pods/p";
    let (code, status) = c.send("GET", &format!("{pod}/log"), Value::Null).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")), "{status}");
    assert!(status["message"].as_str().unwrap().ends_with("redirects forbidden"), "{status}");
    for session in ["exec?command=x&stdout=1", "attach?stdout=1", "portforward?ports=80"] {
        let path = format!("{pod}/{session}");
        let (code, status) = read(c.answer(upgrade(&path)).await).await;
        let why = json!("Internal error occurred: invalid upgrade response: status code 307");
        assert_eq!((code, &status["message"]), (500, &why), "{session}");
        // Sessions need a connection of their own; the node is not asked for less.
        let (code, status) = c.send("POST", &path, Value::Null).await;
        assert_eq!((code, &status["message"]), (400, &json!("Upgrade request required")), "{session}");
    }
    c.running.stop().await;
}

/// A node that takes connections and says nothing holds nobody for longer than upstream's transports wait.
#[tokio::test]
async fn a_silent_node_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let c = Cluster::start().await;
    pod_on(&c, listener.local_addr().unwrap().port()).await;
    tokio::time::pause();
    let read = c.send("GET", "/api/v1/namespaces/default/pods/p/log", Value::Null);
    let (code, status) = tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    assert_eq!(code, 500);
    let why = "error dialing backend: net/http: TLS handshake timeout";
    assert_eq!(status["message"], why, "{status}");
    tokio::time::resume();
    c.running.stop().await;
}
