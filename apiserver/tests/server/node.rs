//! What a node's own credentials reach: its pods and what they name, however it asks.

use coracle_apiserver::Api;
use coracle_apiserver::authn::User;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

async fn send(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    read(api.clone().oneshot(request(method, path, &body)).await.unwrap()).await
}

/// A cluster with the node `evil`, its credentials, and a secret that is none of its business.
async fn cluster() -> (Cluster, Api) {
    let c = Cluster::start().await;
    for node in ["evil", "good"] {
        assert_eq!(c.send("POST", "/api/v1/nodes", json!({"metadata": {"name": node}})).await.0, 201);
    }
    for path in ["secrets", "configmaps", "serviceaccounts"] {
        let victim = json!({"metadata": {"name": "victim"}});
        assert_eq!(c.send("POST", &format!("/api/v1/namespaces/default/{path}"), victim).await.0, 201);
    }
    let evil = c.running.router(User::component("system:node:evil", &["system:nodes"]));
    (c, evil)
}

/// A pod from a file of the node.
async fn mirror(c: &Cluster, name: &str, spec: Value) -> Value {
    let uid = c.get("/api/v1/nodes/evil").await["metadata"]["uid"].clone();
    let mut pod = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "evil", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "evil", "containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn a_mirror_pod_gives_its_node_nothing_to_read() {
    let (c, evil) = cluster().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, spec) in [
        (
            "a",
            json!({"nodeSelector": {"secretName": "victim", "configMap": "victim", "claimName": "victim"}}),
        ),
        ("b", json!({"volumes": [{"name": "victim", "hostPath": {"path": "/secretName"}}]})),
        ("d", json!({"tolerations": [{"key": "secretName", "value": "victim", "operator": "Equal"}]})),
    ] {
        let (code, answer) = send(&evil, "POST", pods, mirror(&c, name, spec).await).await;
        assert_eq!(code, 201, "{answer}");
    }
    for spec in [
        json!({"imagePullSecrets": [{"name": "victim"}]}),
        json!({"serviceAccountName": "victim"}),
        json!({"volumes": [{"name": "v", "secret": {"secretName": "victim"}}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "victim"}}]}),
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "victim"}}]}),
        json!({"volumes": [{"name": "v", "rbd": {"monitors": ["m"], "image": "i", "secretRef": {"name": "victim"}}}]}),
        json!({"initContainers": [{"name": "i", "image": "i", "envFrom": [{"secretRef": {"name": "victim"}}]}]}),
        json!({"resourceClaims": [{"name": "r", "resourceClaimName": "victim"}]}),
    ] {
        let (code, answer) = send(&evil, "POST", pods, mirror(&c, "x", spec.clone()).await).await;
        assert_eq!(code, 403, "{spec}: {answer}");
    }
    // Nor does anybody else make one that names something.
    let mut pod =
        mirror(&c, "z", json!({"volumes": [{"name": "v", "secret": {"secretName": "victim"}}]})).await;
    pod["metadata"]["ownerReferences"] = json!([]);
    let (code, answer) = c.send("POST", pods, pod).await;
    assert_eq!(code, 403, "{answer}");
    for path in ["secrets/victim", "configmaps/victim", "serviceaccounts/victim"] {
        let (code, _) = send(&evil, "GET", &format!("/api/v1/namespaces/default/{path}"), Value::Null).await;
        assert_eq!(code, 403, "{path}");
    }
    let token = "/api/v1/namespaces/default/serviceaccounts/victim/token";
    assert_eq!(send(&evil, "POST", token, json!({"spec": {}})).await.0, 403);
    let plain = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "evil", "serviceAccountName": "victim",
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "secret": {"secretName": "victim"}}]}});
    assert_eq!(c.send("POST", pods, plain).await.0, 201);
    let victim = "/api/v1/namespaces/default/secrets/victim";
    assert_eq!(send(&evil, "GET", victim, Value::Null).await.0, 200, "a pod that runs there does");
}

#[tokio::test]
async fn a_node_lists_its_own_pods_however_it_writes_the_selector() {
    let (_c, evil) = cluster().await;
    for (query, code) in [
        ("?fieldSelector=spec.nodeName=evil", 200),
        ("?fieldSelector=spec.nodeName%3Devil", 200),
        ("?fieldSelector=status.phase!%3DFailed%2Cspec.nodeName%3D%3Devil", 200),
        ("?fieldSelector=spec.nodeName=evil&watch=1", 200),
        ("?fieldSelector=spec.nodeName=good", 403),
        ("?fieldSelector=spec.nodeName!=evil", 403),
        ("?fieldSelector=spec.nodeName%21%3Devil", 403),
        ("?fieldSelector=&fieldSelector=spec.nodeName=evil", 403),
        ("?fieldSelector=spec.nodeName=good&fieldSelector=spec.nodeName=evil", 403),
        ("?labelSelector=spec.nodeName=evil", 403),
        ("?%66ieldSelector=&fieldSelector=spec.nodeName=evil", 403),
        ("?fieldSelector=status.phase=spec.nodeName%5C=evil", 403),
        ("?fieldSelector=status.phase=a%5C,spec.nodeName=evil", 403),
        ("", 403),
    ] {
        let asked = request("GET", &format!("/api/v1/pods{query}"), &Value::Null);
        let got = evil.clone().oneshot(asked).await.unwrap().status();
        assert_eq!(got.as_u16(), code, "{query}");
    }
}

#[tokio::test]
async fn a_node_writes_about_itself_alone() {
    let (c, evil) = cluster().await;
    let token = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "x"}});
    let slice = |node: &str| {
        json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": "d.example.com",
        "nodeName": node, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": []}})
    };
    for (path, body, code) in [
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", token("evil"), 201),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", token("good"), 403),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", token("evil"), 403),
        (
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"metadata": {"name": "evil"}, "spec": {"drivers": []}}),
            201,
        ),
        (
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"metadata": {"name": "good"}, "spec": {"drivers": []}}),
            403,
        ),
        ("/apis/resource.k8s.io/v1/resourceslices", slice("evil"), 201),
        ("/apis/resource.k8s.io/v1/resourceslices", slice("good"), 403),
        ("/api/v1/nodes", json!({"metadata": {"name": "another"}}), 403),
    ] {
        let (got, answer) = send(&evil, "POST", path, body.clone()).await;
        assert_eq!(got, code, "{path} {body}: {answer}");
    }
    for (path, body, code) in [
        ("/api/v1/nodes/evil", json!({"metadata": {"labels": {"example.com/a": "b"}}}), 200),
        (
            "/api/v1/nodes/evil",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            403,
        ),
        ("/api/v1/nodes/evil", json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}), 403),
        ("/api/v1/nodes/good", json!({"metadata": {"labels": {"example.com/a": "b"}}}), 403),
        ("/api/v1/nodes/good/status", json!({"status": {"phase": "Running"}}), 403),
    ] {
        let (got, answer) = send(&evil, "PATCH", path, body.clone()).await;
        assert_eq!(got, code, "{path} {body}: {answer}");
    }
    assert_eq!(c.send("POST", "/apis/resource.k8s.io/v1/resourceslices", slice("good")).await.0, 201);
    for (path, code) in [
        ("/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName=good", 403),
        ("/apis/resource.k8s.io/v1/resourceslices", 403),
        ("/apis/resource.k8s.io/v1/resourceslices/slice-good", 403),
        ("/apis/resource.k8s.io/v1/resourceslices/slice-evil", 200),
    ] {
        assert_eq!(send(&evil, "DELETE", path, Value::Null).await.0, code, "{path}");
    }
}
