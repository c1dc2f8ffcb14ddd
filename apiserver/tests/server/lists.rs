//! Lists in every form and encoding: none is ever in memory as a whole.

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What goes out at once, one object more, and the list's own head.
const PIECE: usize = (64 << 10) + 8192;

async fn get(c: &Cluster, path: &str, accept: &str) -> Response<Body> {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    c.answer(request).await
}

/// The media type, and the body's pieces.
async fn pieces(c: &Cluster, path: &str, accept: &str) -> (String, Vec<Vec<u8>>) {
    let answer = get(c, path, accept).await;
    assert_eq!(answer.status(), 200, "{accept}");
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let (mut body, mut pieces) = (answer.into_body(), vec![]);
    while let Some(frame) = body.frame().await {
        pieces.push(frame.unwrap().into_data().unwrap().to_vec());
    }
    (media, pieces)
}

async fn text(c: &Cluster, path: &str, accept: &str) -> String {
    String::from_utf8(pieces(c, path, accept).await.1.concat()).unwrap()
}

#[tokio::test]
async fn lists_go_out_in_pieces_whatever_their_form() {
    let c = Cluster::start().await;
    let autoscalers = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    for n in 0..60 {
        let annotations = json!({"example.com/a": "x".repeat(4000), "example.com/b": "y"});
        let metadata = json!({"name": format!("n{n:02}"), "annotations": annotations});
        let map = json!({"metadata": metadata, "data": {"k": "v".repeat(100)}});
        assert_eq!(c.send("POST", MAPS, map).await.0, 201);
        let target = json!({"kind": "Deployment", "apiVersion": "apps/v1", "name": "d"});
        let scaler = json!({"metadata": metadata, "spec": {"maxReplicas": 2, "scaleTargetRef": target,
            "targetCPUUtilizationPercentage": 50}});
        assert_eq!(c.send("POST", autoscalers, scaler).await.0, 201);
    }
    let meta = "g=meta.k8s.io;v=v1";
    for path in [MAPS, autoscalers] {
        for encoding in ["json", "yaml", "vnd.kubernetes.protobuf"] {
            for form in ["", ";as=PartialObjectMetadataList;", ";as=Table;"] {
                if encoding.ends_with("protobuf") && form.contains("Table") {
                    continue;
                }
                let meta = if form.is_empty() { "" } else { meta };
                let accept = format!("application/{encoding}{form}{meta}");
                let (media, pieces) = pieces(&c, path, &accept).await;
                assert_eq!(media, format!("application/{encoding}"), "{accept}");
                assert!(pieces.len() > 2, "{path} as {accept}: {} pieces", pieces.len());
                for piece in &pieces {
                    assert!(piece.len() < PIECE, "{path} as {accept}: a piece of {}", piece.len());
                }
            }
        }
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_yaml_list_is_upstreams() {
    let c = Cluster::start().await;
    assert_eq!(
        text(&c, "/api/v1/namespaces/none/secrets", "application/yaml")
            .await
            .replace(&c.running.server.store.revision().to_string(), "R"),
        "apiVersion: v1\nitems: []\nkind: SecretList\nmetadata:\n  resourceVersion: \"R\"\n"
    );
    let map = json!({"metadata": {"name": "a", "labels": {"b": "true", "a10": "x", "a9": "y"}},
        "data": {"script": "if a; then\n  b\nfi\n", "port": "80", "empty": "", "note": "it is: so"}});
    let (_, made) = c.send("POST", MAPS, map).await;
    let metadata = &made["metadata"];
    let of = |key: &str| metadata[key].as_str().unwrap();
    let owner = &metadata["managedFields"][0];
    let head = format!(
        "  metadata:\n    creationTimestamp: \"{}\"\n    labels:\n      a9: \"y\"\n      a10: x\n      b: \"true\"\n",
        of("creationTimestamp")
    );
    let fields = "      fieldsType: FieldsV1\n      fieldsV1:\n        f:data:\n          .: {}\n          f:empty: {}\n          f:note: {}\n          f:port: {}\n          f:script: {}\n        f:metadata:\n          f:labels:\n            .: {}\n            f:a9: {}\n            f:a10: {}\n            f:b: {}\n";
    let managed = format!(
        "    managedFields:\n    - apiVersion: v1\n{fields}      manager: {}\n      operation: Update\n      time: \"{}\"\n",
        owner["manager"].as_str().unwrap(),
        owner["time"].as_str().unwrap()
    );
    let tail = format!(
        "    name: a\n    namespace: default\n    resourceVersion: \"{}\"\n    uid: {}\n",
        of("resourceVersion"),
        of("uid")
    );
    let revision = c.running.server.store.revision();
    let list = format!("metadata:\n  resourceVersion: \"{revision}\"\n");
    let data = "  data:\n    empty: \"\"\n    note: 'it is: so'\n    port: \"80\"\n    script: |\n      if a; then\n        b\n      fi\n  kind: ConfigMap\n";
    let only = format!("{MAPS}?fieldSelector=metadata.name%3Da");
    assert_eq!(
        text(&c, &only, "application/yaml").await,
        format!(
            "apiVersion: v1\nitems:\n- apiVersion: v1\n{data}{head}{managed}{tail}kind: ConfigMapList\n{list}"
        )
    );
    assert_eq!(
        text(&c, &only, "application/yaml;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await,
        format!(
            "apiVersion: meta.k8s.io/v1\nitems:\n- apiVersion: meta.k8s.io/v1\n  kind: PartialObjectMetadata\n{head}{managed}{tail}kind: PartialObjectMetadataList\n{list}"
        )
    );
    let one = text(&c, &format!("{MAPS}/a"), "application/yaml").await;
    assert!(one.starts_with("apiVersion: v1\ndata:\n  empty: \"\"\n"), "{one}");
    let table = text(&c, &only, "application/yaml;as=Table;g=meta.k8s.io;v=v1").await;
    assert!(table.contains("kind: Table\nmetadata:\n  resourceVersion:"), "{table}");
    assert!(table.contains("\nrows:\n- cells:\n  - a\n  - 4\n"), "{table}");
    c.running.stop().await;
}

/// The other forms of a kind whose versions a function makes are of the version that is asked for.
#[tokio::test]
async fn lists_of_converted_kinds_are_of_the_version_that_is_asked_for() {
    let c = Cluster::start().await;
    let path = |v: &str| format!("/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers");
    let scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "apiVersion": "apps/v1", "name": "d"}}});
    assert_eq!(c.send("POST", &path("v1"), scaler).await.0, 201);
    let list = c.get(&path("v1")).await;
    assert_eq!(list["items"][0]["apiVersion"], "autoscaling/v1");
    assert_eq!(list["items"][0]["spec"]["targetCPUUtilizationPercentage"], 50, "{list}");
    let yaml = text(&c, &path("v1"), "application/yaml").await;
    assert!(yaml.contains("\n    targetCPUUtilizationPercentage: 50\n"), "{yaml}");
    let newer = text(&c, &path("v2"), "application/yaml").await;
    assert!(
        newer.contains("\n        averageUtilization: 50\n") || newer.contains("averageUtilization: 50"),
        "{newer}"
    );
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial: Value = serde_json::from_str(&text(&c, &path("v1"), partial).await).unwrap();
    assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(partial["items"][0]["metadata"]["name"], "s");
    c.running.stop().await;
}
