//! Upstream's behaviour on what clients send, kind by kind where it differs.

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::*;

fn schema(api_version: &str, kind: &str) -> Arc<Schema> {
    Schema::builtin(&Gvk::from_api_version(api_version, kind)).expect("a built-in kind")
}

fn normalized(mut value: Value) -> (Value, Vec<String>) {
    let mut object = Object(value.take());
    let noticed = schema(object.api_version(), object.kind()).normalize(&mut object).expect("fits its type");
    (object.0, noticed.0)
}

fn refused(value: Value) -> String {
    let mut object = Object(value);
    schema(object.api_version(), object.kind()).normalize(&mut object).expect_err("does not fit").0.message
}

#[test]
fn deployment_gets_the_zero_structs_go_prints() {
    let (object, noticed) = normalized(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "creationTimestamp": null, "labels": {}},
        "spec": {"replicas": 0, "minReadySeconds": 0, "paused": false, "selector": null, "template": {"spec": {"containers": [
            {"name": "c", "image": "", "env": [], "resources": {"limits": {"cpu": "1000m", "memory": 1048576}}}]}}}}));
    assert_eq!(
        object,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1048576"}}}]}}}, "status": {}})
    );
    assert!(noticed.is_empty());
}

#[test]
fn unknown_fields_are_dropped_and_named_by_path() {
    let (object, noticed) = normalized(json!({
        "apiVersion": "v1", "kind": "Pod", "foo": 1, "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a"}, {"name": "c", "bar": {"baz": 1}}], "volumes": [{"name": "v", "emptyDir": {"x": 1}}]}}));
    assert_eq!(object["spec"]["containers"][1], json!({"name": "c", "resources": {}}));
    let wanted = [
        "unknown field \"foo\"",
        "unknown field \"spec.containers[1].bar\"",
        "unknown field \"spec.volumes[0].emptyDir.x\"",
    ];
    assert_eq!(noticed, wanted);
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": spec});
    let table = [
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "x"}}),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            pod(json!({"containers": [{"name": 1}]})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            pod(json!({"containers": "a"})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "x"}}}]})),
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            pod(json!({"activeDeadlineSeconds": 1.5})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "b*"}}),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 1",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": 1}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"creationTimestamp": "yesterday"}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": ["a"]}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            pod(json!({"volumes": [{"name": "a", "hostPath": {"path": 1}}]})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field HostPathVolumeSource.spec.volumes.VolumeSource.hostPath.path of type string",
        ),
    ];
    for (object, message) in table {
        assert_eq!(refused(object), message);
    }
}

#[test]
fn every_kind_of_the_table_normalizes_its_zero_value_to_itself() {
    for ((group_version, kind), root) in &BUILTIN.kinds {
        let schema = Schema(Form::Builtin(*root));
        let mut object = Object(BUILTIN.zero(*root));
        let before = object.clone();
        assert_eq!(schema.normalize(&mut object), Ok(Noticed::default()), "{group_version} {kind}");
        assert_eq!(object, before, "{group_version} {kind}");
    }
}

#[test]
fn every_type_referred_to_is_described() {
    for ty in &BUILTIN.all {
        if let Type::Struct(s) = ty {
            assert!(!s.name.is_empty() || &*s.go_type == "v1.Never", "{}", s.go_type);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_pod() {
    let loaded = std::time::Instant::now();
    let schema = schema("v1", "Pod");
    println!("load: {:?}", loaded.elapsed());
    let containers: Vec<Value> = (0..3)
        .map(|i| {
            json!({"name": format!("c{i}"), "image": "registry/image:tag", "env": [{"name": "A", "value": "b"}],
                   "ports": [{"containerPort": 80, "name": "http"}],
                   "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
        })
        .collect();
    let pod =
        Object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}},
                            "spec": {"containers": containers, "volumes": [{"name": "v", "emptyDir": {}}]}}));
    let mut copies = vec![pod; 10_000];
    let start = std::time::Instant::now();
    for copy in &mut copies {
        schema.normalize(copy).unwrap();
    }
    println!("normalize: {:?} a pod", start.elapsed() / 10_000);
}
