//! Aggregated API servers: a small one of our own, which believes whom a real one would (the ConfigMap for that), behind a
//! Service.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use coracle_apiserver::authn::User;
use coracle_apiserver::store::{Change, Expect};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Cluster, read, request};
use crate::tls;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const BOATS: &str = "/apis/boats.example.org/v1/namespaces/default/boats";
const PLAIN_AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// The groups as kubectl asks for them: of upstream's aggregated form.
async fn groups(c: &Cluster) -> Value {
    let mut plain = request("GET", "/apis", &Value::Null);
    plain.headers_mut().insert("accept", HeaderValue::from_static(PLAIN_AGGREGATED));
    read(c.answer(plain).await).await.1
}

/// Upgrades a connection, says something, and answers as much of what comes back.
async fn talk(c: &Cluster, path: &str, words: &[u8]) -> Vec<u8> {
    let (near, far) = tokio::io::duplex(1024);
    let server = hyper::server::conn::http1::Builder::new();
    let api = TowerToHyperService::new(c.api.clone());
    tokio::spawn(server.serve_connection(TokioIo::new(far), api).with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(path).header("connection", "Upgrade").header("upgrade", "echo");
    let answer = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut talk = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    talk.write_all(words).await.unwrap();
    let mut back = vec![0; words.len()];
    talk.read_exact(&mut back).await.unwrap();
    back
}

/// Waits until the condition of the `APIService` has this reason; answers its message.
async fn available(c: &Cluster, name: &str, reason: &str) -> String {
    let mut last = Value::Null;
    for _ in 0..500 {
        last = c.get(&format!("{SERVICES}/{name}")).await["status"]["conditions"][0].clone();
        if last["reason"] == reason {
            return last["message"].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} is not {reason}, but {last}");
}

/// An endpoint on this machine, which validation would refuse.
async fn add_endpoint(c: &Cluster, port: u16) {
    let slice = Object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "boats-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "boats"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]}));
    let (store, kind) = (&c.running.server.store, "discovery.k8s.io/endpointslices".into());
    let change = Change::Put(store.draft(&kind, &slice));
    store.commit(&kind, "default/boats-1", Expect::Absent, change).await.unwrap();
}

fn api_service(spec: &Value) -> Value {
    let mut all = json!({"group": "boats.example.org", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let name = format!("{}.{}", all["version"].as_str().unwrap(), all["group"].as_str().unwrap());
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}, "spec": all})
}

/// Serves TLS to those who show a certificate of `authority`. Answers its port and its certificate.
async fn aggregated_server(authority: &str) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    tls::serve("boats.default.svc", clients, boats).await
}

/// Discovery, OpenAPI, a watch that never ends, a connection that echoes, and else an echo of the request.
async fn boats(mut request: Request<Incoming>) -> Response<Body> {
    let answer = |code: StatusCode, body: Body| {
        let response = Response::builder().status(code).header("content-type", "application/json");
        response.body(body).unwrap()
    };
    let path = request.uri().path_and_query().unwrap().to_string();
    if request.headers().get("upgrade").is_some_and(|to| to == "echo") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut from, &mut to).await
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        return response
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .body(Body::empty())
            .unwrap();
    }
    let known = match &*path {
        "/apis" => return answer(StatusCode::NOT_FOUND, Body::empty()),
        "/apis/boats.example.org/v1" => {
            json!({"kind": "APIResourceList", "groupVersion": "boats.example.org/v1",
            "resources": [{"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat", "verbs": ["list"]}]})
        }
        "/openapi/v3" => json!({"paths": {"apis/boats.example.org/v1":
            {"serverRelativeURL": "/openapi/v3/apis/boats.example.org/v1?hash=1"}}}),
        "/openapi/v2" => json!({"swagger": "2.0", "paths": {
                "/apis/boats.example.org/v1/boats": {"get": {"operationId": "listBoat", "responses": {"200": {
                    "description": "OK", "schema": {"$ref": "#/definitions/org.example.boats.v1.Boat"}}}}},
                "/apis/boats.example.org/": {}, "/api/v1/pods": {"get": {}}},
            "definitions": {
                "org.example.boats.v1.Boat": {"type": "object", "properties": {
                    "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "Another one."},
                "io.k8s.api.core.v1.Pod": {"type": "object"}}}),
        path if path.contains("moved=") => {
            let code = path.rsplit('=').next().unwrap().parse().unwrap();
            let response = Response::builder().status::<u16>(code).header("location", "/api/v1/nodes");
            return response.body(Body::empty()).unwrap();
        }
        path if path.contains("watch=1") => {
            let first = futures::stream::once(async { Ok::<_, Infallible>("{\"type\":\"ADDED\"}\n") });
            let forever = futures::StreamExt::chain(first, futures::stream::pending());
            return answer(StatusCode::OK, Body::from_stream(forever));
        }
        _ => {
            let all = |name: &str| -> Vec<String> {
                let values = request.headers().get_all(name).iter();
                values.map(|v| v.to_str().unwrap().to_owned()).collect()
            };
            json!({"method": request.method().as_str(), "path": path, "user": all("x-remote-user"),
                "uid": all("x-remote-uid"), "groups": all("x-remote-group"), "secret": all("authorization"),
                "scopes": all("x-remote-extra-example.org%2fscopes"),
                "body": String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()})
        }
    };
    answer(StatusCode::OK, Body::from(known.to_string()))
}

#[tokio::test]
async fn another_server_answers_its_group_version() {
    let mut user = User::component("admin", &["system:masters"]);
    user.uid = "u-1".into();
    user.extra.insert("example.org/scopes".into(), vec!["a".into(), "b".into()]);
    let c = Cluster::start_as(user).await;
    let trust = c.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    assert_eq!(trust["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let (port, certificate) =
        aggregated_server(trust["data"]["requestheader-client-ca-file"].as_str().unwrap()).await;
    let bundle = STANDARD.encode(certificate);
    let service = json!({"namespace": "default", "name": "boats"});
    let object = api_service(&json!({"service": service, "caBundle": bundle}));
    let (code, made) = c.send("POST", SERVICES, object).await;
    assert_eq!((code, &made["spec"]["service"]["port"]), (201, &json!(443)), "{made}");

    // Nobody there: known to discovery, but not to be asked.
    let name = "v1.boats.example.org";
    let why = available(&c, name, "ServiceNotFound").await;
    assert_eq!(why, "service/boats in \"default\" is not present");
    assert_eq!(c.send("GET", BOATS, Value::Null).await, (503, json!("service unavailable\n")));
    let find = |list: Value| {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == "boats.example.org")
            .cloned()
            .unwrap()
    };
    assert_eq!(find(groups(&c).await)["versions"], json!([{"version": "v1", "freshness": "Stale"}]));

    let ports = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "boats"}, "spec": {"ports": [{"port": 443}]}});
    assert_eq!(c.send("POST", "/api/v1/namespaces/default/services", ports).await.0, 201);
    available(&c, name, "EndpointsNotFound").await;
    add_endpoint(&c, port).await;
    assert_eq!(available(&c, name, "Passed").await, "all checks passed");

    // The request as it was, in the name of its user and of nobody else.
    let mut put = request("PUT", &format!("{BOATS}/x?dryRun=All"), &json!({"a": 1}));
    put.headers_mut().insert("x-remote-user", HeaderValue::from_static("mallory"));
    let (code, seen) = read(c.answer(put).await).await;
    assert_eq!((code, &seen["method"], &seen["body"]), (200, &json!("PUT"), &json!("{\"a\":1}")), "{seen}");
    assert_eq!(seen["path"], json!(format!("{BOATS}/x?dryRun=All")));
    assert_eq!((&seen["user"], &seen["uid"]), (&json!(["admin"]), &json!(["u-1"])));
    assert_eq!(seen["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!((&seen["scopes"], &seen["secret"]), (&json!(["a", "b"]), &json!([])));
    let watch = Request::get(format!("{BOATS}?watch=1")).body(Body::empty()).unwrap();
    let event = c.answer(watch).await.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(event, "{\"type\":\"ADDED\"}\n");

    assert_eq!(talk(&c, &format!("{BOATS}/x/talk"), b"ahoy").await, b"ahoy");

    // CVE-2022-3172: a redirect would be followed with the client's own credentials.
    let refused = "the backend attempted to redirect this request, which is not permitted";
    for code in [301, 302, 307, 308] {
        let moved = c.send("GET", &format!("{BOATS}?moved={code}"), Value::Null).await;
        assert_eq!(moved, (502, json!(refused)), "{code}");
        let mut upgrade = request("GET", &format!("{BOATS}?moved={code}"), &Value::Null);
        upgrade.headers_mut().insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        upgrade.headers_mut().insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
        let (got, status) = read(c.answer(upgrade).await).await;
        let why = format!("Internal error occurred: invalid upgrade response: status code {code}");
        assert_eq!((got, &status["message"]), (500, &json!(why)), "{status}");
    }

    // Discovery: the group from here, the version from there.
    let group = c.get("/apis/boats.example.org").await;
    assert_eq!(group["preferredVersion"], json!({"groupVersion": "boats.example.org/v1", "version": "v1"}));
    assert_eq!(c.get("/apis/boats.example.org/v1").await["resources"][0]["kind"], "Boat");
    let mut version = Value::Null;
    for _ in 0..500 {
        version = find(groups(&c).await)["versions"][0].take();
        if version["freshness"] == "Current" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(version["resources"][0]["responseKind"]["kind"], "Boat", "{version}");
    let index = c.get("/openapi/v3").await;
    let url = index["paths"]["apis/boats.example.org/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(c.get(url).await["path"], json!(url));
    // Of its other document, what is about its group version; its own types under names of their own.
    let swagger = c.get("/openapi/v2").await;
    assert!(swagger["paths"]["/apis/boats.example.org/v1/boats"]["get"].is_object());
    assert!(swagger["paths"]["/api/v1/pods"]["get"]["operationId"].is_string());
    let boat = &swagger["definitions"]["org.example.boats.v1.Boat"];
    let metadata = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(boat["properties"]["metadata"]["$ref"], format!("#/definitions/{metadata}_v2"));
    assert_eq!(swagger["definitions"][format!("{metadata}_v2")]["description"], "Another one.");
    assert!(swagger["definitions"][metadata]["properties"]["name"].is_object());
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"]["properties"].is_object());

    // One whose certificate is not believed is not asked.
    let (_, other) = aggregated_server(trust["data"]["client-ca-file"].as_str().unwrap()).await;
    let patch = json!({"spec": {"caBundle": STANDARD.encode(other)}});
    c.send("PATCH", &format!("{SERVICES}/{name}"), patch).await;
    let why = available(&c, name, "FailedDiscoveryCheck").await;
    assert!(
        why.starts_with(&format!(
            "failing or missing response from https://127.0.0.1:{port}/apis/boats.example.org/v1: "
        )),
        "{why}"
    );
    assert!(
        why.ends_with("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        "{why}"
    );
    let patch = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    c.send("PATCH", &format!("{SERVICES}/{name}"), patch).await;
    available(&c, name, "Passed").await;

    c.send("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await;
    for _ in 0..500 {
        if c.send("GET", "/apis/boats.example.org", Value::Null).await.0 == 404 {
            return c.running.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the group is still there");
}

#[tokio::test]
async fn what_is_wrong_with_an_api_service_is_said_as_upstream_does() {
    let c = Cluster::start().await;
    let service = json!({"namespace": "default", "name": "boats", "port": 443});
    for (spec, why) in [
        (
            json!({"caBundle": "YQ=="}),
            "spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle",
        ),
        (
            json!({"insecureSkipTLSVerify": true}),
            "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
        ),
        (
            json!({"service": service, "caBundle": "YQ==", "insecureSkipTLSVerify": true}),
            "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
        ),
        (
            json!({"service": {"namespace": "", "name": "x", "port": 70000}}),
            "[spec.service.namespace: Required value, spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive]",
        ),
    ] {
        let (code, answer) = c.send("POST", SERVICES, api_service(&spec)).await;
        let expected =
            format!("APIService.apiregistration.k8s.io \"v1.boats.example.org\" is invalid: {why}");
        assert_eq!((code, answer["message"].as_str().unwrap()), (422, &*expected));
    }
    let (code, made) = c.send("POST", SERVICES, api_service(&json!({}))).await;
    assert_eq!((code, &made["status"]["conditions"][0]["reason"]), (201, &json!("Local")), "{made}");
    c.running.stop().await;
}
