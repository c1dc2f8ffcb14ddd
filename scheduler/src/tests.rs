//! The decision as a whole: which node, and upstream's words where there is none.

use k8s_openapi::api::core::v1::{Node, Pod};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::decide::{Unschedulable, schedule};
use crate::pod::PodInfo;

fn node(name: &str, cpu: &str, spec: &Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "3"}}
    }))
    .unwrap()
}

fn pod(name: &str, mut spec: Value) -> PodInfo {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
    }
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec}),
    )
    .unwrap();
    PodInfo::new(&pod)
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("small", "500m", &json!({})));
    cluster.set_node(&node("big", "4", &json!({})));
    cluster.set_node(&node("tainted", "4", &json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})));
    cluster.set_node(&node("closed", "4", &json!({"unschedulable": true})));
    cluster
}

fn decide(cluster: &Cluster, pod: &PodInfo) -> Result<String, String> {
    schedule(pod, cluster, &mut SmallRng::seed_from_u64(1))
        .map_err(|why| why.message(&why.preemption_in_vain(false)))
}

#[test]
fn a_pod_goes_where_it_fits() {
    let cluster = cluster();
    assert_eq!(decide(&cluster, &pod("p", json!({}))), Ok("big".to_owned()));
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": "tainted"}});
    assert_eq!(decide(&cluster, &pod("p", tolerant)), Ok("tainted".to_owned()));
}

#[test]
fn the_emptier_node_is_better() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({})));
    cluster.add_pod(std::sync::Arc::new(PodInfo { node_name: "a".to_owned(), ..pod("x", json!({})) }));
    assert_eq!(decide(&cluster, &pod("p", json!({}))), Ok("b".to_owned()));
}

#[test]
fn reasons_are_counted_as_upstream_words_them() {
    let cluster = cluster();
    let greedy =
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "9", "memory": "1Gi"}}}]});
    assert_eq!(
        decide(&cluster, &pod("p", greedy)).unwrap_err(),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
         2 Insufficient cpu. no new claims to deallocate, preemption: 0/4 nodes are available: \
         4 Preemption is not helpful for scheduling."
    );
    let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["small"]}]}]}}}});
    assert!(decide(&cluster, &pod("p", named)).unwrap_err().starts_with(
        "0/4 nodes are available: 1 Insufficient cpu, 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    ));
    assert_eq!(
        decide(&Cluster::default(), &pod("p", json!({}))).unwrap_err(),
        "no nodes available to schedule pods"
    );
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    assert!(
        decide(&cluster, &pod("p", claim))
            .unwrap_err()
            .starts_with("0/4 nodes are available: persistentvolumeclaim \"data\" not found.")
    );
}

#[test]
fn room_is_given_back_and_host_ports_and_pod_counts_hold() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let first = std::sync::Arc::new(pod("first", port.clone())).assumed_on("a");
    cluster.add_pod(first.clone());
    let why = decide(&cluster, &pod("p", port.clone())).unwrap_err();
    assert!(why.contains("1 node(s) didn't have free ports for the requested pod ports"), "{why}");
    for name in ["second", "third"] {
        cluster.add_pod(std::sync::Arc::new(pod(name, json!({}))).assumed_on("a"));
    }
    assert!(decide(&cluster, &pod("p", json!({}))).unwrap_err().contains("1 Too many pods"));
    cluster.remove_pod(&first);
    assert_eq!(decide(&cluster, &pod("p", port)), Ok("a".to_owned()));
    let empty = schedule(&pod("p", json!({})), &Cluster::default(), &mut SmallRng::seed_from_u64(1));
    assert_eq!(empty, Err(Unschedulable::NoNodes));
}

#[test]
fn init_containers_and_sidecars_count_as_upstream_counts_them() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let spec = json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": cpu("100m")},
            {"name": "init", "resources": cpu("2")}],
        "containers": [{"name": "c", "resources": cpu("1")}], "overhead": {"cpu": "10m"}
    });
    assert_eq!(pod("p", spec).requests.milli_cpu, 2110);
}

#[test]
fn pods_that_repel_each_other_and_spread_pods_keep_apart() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({})));
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {}});
    let lonely =
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    cluster.add_pod(std::sync::Arc::new(pod("first", lonely.clone())).assumed_on("a"));
    assert_eq!(decide(&cluster, &pod("p", json!({}))), Ok("b".to_owned()), "a running pod repels");
    cluster.add_pod(std::sync::Arc::new(pod("second", json!({}))).assumed_on("b"));
    let why = decide(&cluster, &pod("p", lonely)).unwrap_err();
    assert!(
        why.starts_with("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
        "{why}"
    );

    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "none"}}}]}}});
    let why = decide(&cluster, &pod("p", near)).unwrap_err();
    assert!(why.contains("2 node(s) didn't match pod affinity rules"), "{why}");

    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({"unschedulable": true})));
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]});
    cluster.add_pod(std::sync::Arc::new(pod("one", spread.clone())).assumed_on("a"));
    let why = decide(&cluster, &pod("p", spread)).unwrap_err();
    assert!(
        why.contains("1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable"),
        "{why}"
    );
}
