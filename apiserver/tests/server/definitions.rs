//! Custom resource definitions: how they come, what their objects may do, and how they go.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::cluster::{Cluster, read, request};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

pub(crate) fn widgets() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "name": {"type": "string", "maxLength": 63, "pattern": "^[\\w-.]+$"},
                        "namespace": {"type": "string"}},
                        "x-kubernetes-validations": [
                            {"rule": "!has(self.namespace) || self.namespace == self.__namespace__"},
                            {"rule": "!has(self.name) || format.dns1123Label().validate(self.name) != null"}]},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

/// Creates a definition and waits until it is served.
pub(crate) async fn create(c: &Cluster, crd: Value) {
    let (code, made) = c.send("POST", CRDS, crd).await;
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let version = text(&spec["versions"][0]["name"]);
    until(c, &format!("/apis/{group}/{version}/{plural}"), |code, _| code == 200).await;
}

/// Asks again and again until the answer is as wanted.
pub(crate) async fn until(c: &Cluster, path: &str, wanted: impl Fn(u16, &Value) -> bool) {
    let mut last = (0, Value::Null);
    for _ in 0..1000 {
        last = c.send("GET", path, Value::Null).await;
        if wanted(last.0, &last.1) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path}: {last:?}");
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"replicas": 2}})
}

/// The `Warning` headers of an answer.
async fn warnings(c: &Cluster, method: &str, path: &str, body: &Value) -> Vec<String> {
    let answer = c.answer(request(method, path, body)).await;
    let texts = answer.headers().get_all("warning").iter();
    let bare = |text: &str| text.trim_start_matches("299 - \"").trim_end_matches('"').to_owned();
    texts.map(|v| bare(&v.to_str().unwrap().replace("\\\"", "'"))).collect()
}

#[tokio::test]
async fn a_definition_that_goes_lets_its_objects_finish() {
    let c = Cluster::start().await;
    create(&c, widgets()).await;
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(c.send("POST", WIDGETS, held).await.0, 201);
    let crd = format!("{CRDS}/widgets.example.com");
    assert_eq!(c.send("DELETE", &crd, Value::Null).await.0, 200);
    let one = format!("{WIDGETS}/held");
    until(&c, &one, |_, object| object["metadata"]["deletionTimestamp"].is_string()).await;
    let (code, refused) = c.send("POST", WIDGETS, widget("new")).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused["message"],
        "widgets.example.com \"new\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    // What begins something is not told of any more.
    let list = c.get("/apis/example.com/v1").await;
    assert_eq!(list["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));
    let (code, changed) = c.send("PATCH", &one, json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &changed["spec"]["replicas"]), (200, &json!(3)), "{changed}");
    let (code, changed) = c.send("PATCH", &format!("{one}/status"), json!({"status": {"replicas": 3}})).await;
    assert_eq!(code, 200, "{changed}");
    let mut whole = c.get(&one).await;
    whole["spec"]["replicas"] = 4.into();
    assert_eq!(c.send("PUT", &one, whole).await.0, 200);
    assert_eq!(c.send("PATCH", &one, json!({"metadata": {"finalizers": null}})).await.0, 200);
    until(&c, &crd, |code, _| code == 404).await;
    until(&c, WIDGETS, |code, _| code == 404).await;
    c.running.stop().await;
}

#[tokio::test]
async fn a_scale_needs_the_number_it_is_a_view_of() {
    let c = Cluster::start().await;
    create(&c, widgets()).await;
    assert_eq!(c.send("POST", WIDGETS, widget("full")).await.0, 201);
    let mut empty = widget("empty");
    empty["spec"] = json!({});
    assert_eq!(c.send("POST", WIDGETS, empty).await.0, 201);
    let (code, missing) = c.send("GET", &format!("{WIDGETS}/empty/scale"), Value::Null).await;
    assert_eq!(
        (code, &missing["message"]),
        (500, &json!("Internal error occurred: the spec replicas field \".spec.replicas\" does not exist"))
    );
    let (code, refused) =
        c.send("PATCH", &format!("{WIDGETS}/empty/scale"), json!({"metadata": {"labels": {}}})).await;
    assert_eq!(
        (code, &refused["message"]),
        (400, &json!("the spec replicas field \".spec.replicas\" cannot be empty"))
    );
    let (code, scaled) =
        c.send("PATCH", &format!("{WIDGETS}/empty/scale"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(5)), "{scaled}");
    let table = Request::get(format!("{WIDGETS}/full/scale"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Body::empty())
        .unwrap();
    let (code, table) = read(c.answer(table).await).await;
    let names: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(
        (code, names),
        (
            200,
            vec!["Name", "Desired", "Available", "Age"]
                .into_iter()
                .map(Value::from)
                .collect::<Vec<_>>()
                .iter()
                .collect()
        )
    );
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("full"), json!(2), json!(0)]);
    c.running.stop().await;
}

#[tokio::test]
async fn definitions_are_warned_of_and_refused_as_upstream_does() {
    let c = Cluster::start().await;
    let mut odd = widgets();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    odd.pointer_mut(spec).unwrap()["when"] = json!({"type": "string", "format": "moon-phase"});
    assert_eq!(warnings(&c, "POST", CRDS, &odd).await, ["unrecognized format 'moon-phase'"]);
    let mut hooked = widgets();
    hooked["metadata"]["name"] = "gadgets.example.com".into();
    hooked["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"});
    hooked["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "http://127.0.0.1/convert"}}});
    let (code, refused) = c.send("POST", CRDS, hooked).await;
    let causes = &refused["details"]["causes"];
    assert_eq!(
        (code, &causes[0]["field"]),
        (422, &json!("spec.conversion.webhookClientConfig.url")),
        "{refused}"
    );
    assert_eq!(
        causes[0]["message"],
        "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"
    );
    for (pattern, why) in [
        ("a**", "invalid nested repetition operator: `**`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
    ] {
        let mut wrong = widgets();
        wrong.pointer_mut(spec).unwrap()["name"]["pattern"] = pattern.into();
        let (code, refused) = c.send("POST", CRDS, wrong).await;
        let message = refused["details"]["causes"][0]["message"].as_str().unwrap();
        assert!(code == 422 && message.ends_with(&format!("error parsing regexp: {why}")), "{message}");
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_deprecated_version_names_the_one_to_use() {
    let c = Cluster::start().await;
    let mut crd = widgets();
    let version = crd["spec"]["versions"][0].clone();
    for (name, deprecated) in [("v1beta1", true), ("v2alpha1", false), ("v2", false)] {
        let mut other = version.clone();
        other["name"] = name.into();
        other["storage"] = false.into();
        if deprecated {
            other["deprecated"] = true.into();
        }
        crd["spec"]["versions"].as_array_mut().unwrap().push(other);
    }
    create(&c, crd).await;
    let said = warnings(&c, "GET", "/apis/example.com/v1beta1/widgets", &Value::Null).await;
    assert_eq!(said, ["example.com/v1beta1 Widget is deprecated; use example.com/v2 Widget"]);
    c.running.stop().await;
}

#[tokio::test]
async fn metrics_forget_what_is_gone() {
    let c = Cluster::start().await;
    let metrics = async || c.get("/metrics").await.as_str().unwrap_or_default().to_owned();
    create(&c, widgets()).await;
    assert_eq!(c.send("POST", WIDGETS, widget("a")).await.0, 201);
    assert!(metrics().await.contains("widgets"));
    let crd = format!("{CRDS}/widgets.example.com");
    assert_eq!(c.send("DELETE", &crd, Value::Null).await.0, 200);
    until(&c, WIDGETS, |code, _| code == 404).await;
    until(&c, "/metrics", |_, text| !text.as_str().unwrap_or_default().contains("widgets")).await;
    // What clients make up is counted under one name.
    let before = metrics().await.lines().count();
    for i in 0..50 {
        c.send("GET", &format!("/apis/made-up-{i}.example.com/v1/things"), Value::Null).await;
    }
    assert!(metrics().await.lines().count() <= before + 20);
    c.running.stop().await;
}

#[tokio::test]
async fn the_pages_for_people_are_there() {
    let c = Cluster::start().await;
    for (path, part) in
        [("/statusz", "apiserver statusz"), ("/flagz", "service-cluster-ip-range=10.96.0.0/16")]
    {
        let (code, text) = c.send("GET", path, Value::Null).await;
        assert!(code == 200 && text.as_str().unwrap().contains(part), "{text}");
    }
    let object = Request::get("/statusz")
        .header("accept", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz")
        .body(Body::empty())
        .unwrap();
    let (code, object) = read(c.answer(object).await).await;
    assert_eq!(
        (code, &object["kind"], &object["apiVersion"]),
        (200, &json!("Statusz"), &json!("config.k8s.io/v1beta1"))
    );
    c.running.stop().await;
}

/// Prints what two hundred definitions of a usual size cost.
#[tokio::test]
#[ignore = "measures, and judges nothing"]
async fn what_definitions_cost() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024
    };
    let c = Cluster::start().await;
    let leaf = json!({"type": "string", "description": "What a field of a usual definition says of itself in a line.",
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63});
    let small = |n: usize| {
        let fields: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("field{i}"), leaf.clone())).collect();
        json!({"type": "object", "properties": fields})
    };
    let groups: serde_json::Map<String, Value> = (0..40)
        .map(|i| {
            (
                format!("group{i}"),
                json!({"type": "object", "properties": {"a": small(2), "b": small(6), "list":
            {"type": "array", "items": small(3)}}}),
            )
        })
        .collect();
    let mut before = resident();
    for i in 0..200 {
        let mut crd = widgets();
        let plural = format!("widget{i}s");
        crd["metadata"]["name"] = format!("{plural}.example{i}.com").into();
        crd["spec"]["group"] = format!("example{i}.com").into();
        crd["spec"]["names"] = json!({"plural": plural, "singular": format!("widget{i}"), "kind": format!("Widget{i}"), "listKind": format!("Widget{i}List")});
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
            groups.clone().into();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            .as_object_mut()
            .unwrap()
            .remove("x-kubernetes-validations");
        if i == 0 {
            println!("{} bytes each", crd.to_string().len());
        }
        create(&c, crd).await;
        if i % 50 == 49 {
            println!("{} KB each", (resident() - before) / 50);
            before = resident();
        }
    }
    c.running.stop().await;
}
