//! `/openapi`: what Go clients, and kubectl first of all, ask of it.

use std::io::Read;

use axum::body::Body;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::definitions::{self, widgets};

/// The only form that client-go asks for.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

async fn ask(c: &Cluster, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer: Response<Body> = c.answer(request.body(Body::empty()).unwrap()).await;
    let (parts, body) = answer.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn has(document: &[u8], text: &str) -> bool {
    document.windows(text.len()).any(|w| w == text.as_bytes())
}

#[tokio::test]
async fn the_document_of_everything_is_there_in_protobuf() {
    let c = Cluster::start().await;
    let (code, headers, plain) = ask(&c, "/openapi/v2", &[("accept", PROTOBUF)]).await;
    assert_eq!(code, 200);
    assert_eq!(headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    for text in
        ["io.k8s.api.core.v1.Pod", "x-kubernetes-group-version-kind", "create a Pod", "List of containers"]
    {
        assert!(has(&plain, text), "{text}");
    }
    let (_, packed, body) =
        ask(&c, "/openapi/v2", &[("accept", PROTOBUF), ("accept-encoding", "gzip")]).await;
    assert_eq!(packed["content-encoding"], "gzip");
    let mut unpacked = vec![];
    flate2::read::GzDecoder::new(&*body).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain && body.len() * 4 < plain.len(), "{} of {}", body.len(), plain.len());
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (code, _, body) = ask(&c, "/openapi/v2", &[("accept", PROTOBUF), ("if-none-match", &tag)]).await;
    assert_eq!((code, body.len()), (304, 0));
    assert_eq!(ask(&c, "/openapi/v2", &[("accept", "application/yaml")]).await.0, 406);
    // A new kind is in it from when it is served, and its tag is another.
    let before = c.get("/openapi/v2").await;
    assert!(before["definitions"]["com.example.v1.Widget"].is_null());
    definitions::create(&c, widgets()).await;
    let (code, after, document) =
        ask(&c, "/openapi/v2", &[("accept", PROTOBUF), ("if-none-match", &tag)]).await;
    assert!(code == 200 && after["etag"] != headers["etag"] && has(&document, "com.example.v1.Widget"));
    // Both forms are of one document; `OPENAPI_OUT` keeps them, for other readers.
    let json = c.get("/openapi/v2").await;
    assert_eq!(json["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["type"], "object");
    assert_eq!(json["paths"]["/api/v1/pods"]["get"]["description"], "list or watch objects of kind Pod");
    assert!(json["definitions"]["io.k8s.api.core.v1.PodSpec"]["description"].is_string());
    if let Ok(folder) = std::env::var("OPENAPI_OUT") {
        std::fs::write(format!("{folder}/v2.pb"), document).unwrap();
        std::fs::write(format!("{folder}/v2.json"), json.to_string()).unwrap();
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_url_with_a_hash_is_of_one_document_for_ever() {
    let c = Cluster::start().await;
    let index = c.get("/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (code, headers, _) = ask(&c, &url, &[]).await;
    assert_eq!((code, &headers["cache-control"]), (200, &"public, immutable".parse().unwrap()));
    assert!(headers["expires"].to_str().unwrap().ends_with(" GMT"));
    let (code, headers, _) = ask(&c, "/openapi/v3/apis/apps/v1?hash=AB", &[]).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, &*url));
    let (code, headers, body) = ask(&c, "/openapi/v3/apis/apps/v1", &[("accept-encoding", "gzip")]).await;
    assert_eq!((code, &headers["content-encoding"]), (200, &"gzip".parse().unwrap()));
    assert!(headers.get("expires").is_none() && body.starts_with(&[0x1f, 0x8b]));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(ask(&c, "/openapi/v3/apis/apps/v1", &[("if-none-match", &tag)]).await.0, 304);
    assert_eq!(ask(&c, "/openapi/v3/apis/apps/v7", &[]).await.0, 404);
    let (_, headers, _) = ask(&c, "/openapi/v3", &[]).await;
    let tag = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(ask(&c, "/openapi/v3", &[("if-none-match", &tag)]).await.0, 304);
    c.running.stop().await;
}

#[tokio::test]
async fn an_integer_or_a_string_says_so_in_the_published_schema() {
    let c = Cluster::start().await;
    let mut crd = widgets();
    let port = json!({"x-kubernetes-int-or-string": true});
    let bounded = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"maximum": 3}]});
    let properties =
        &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["port"] = port;
    properties["bounded"] = bounded;
    definitions::create(&c, crd).await;
    let document = c.get("/openapi/v3/apis/example.com/v1").await;
    let spec =
        &document["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    assert_eq!(spec["port"], json!({"x-kubernetes-int-or-string": true, "anyOf": both}));
    assert_eq!(
        spec["bounded"],
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"maximum": 3}], "allOf": [{"anyOf": both}]})
    );
    let swagger: Value = c.get("/openapi/v2").await;
    let spec = &swagger["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    assert_eq!(spec["port"], json!({"x-kubernetes-int-or-string": true}));
    c.running.stop().await;
}
