//! The decision as a whole: which node, and upstream's words where there is none.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, Pod};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::decide::{Unschedulable, schedule};
use crate::owners::Kind;
use crate::pod::PodInfo;
use crate::preempt::{Budget, preempt};

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

fn decide(cluster: &mut Cluster, pod: &PodInfo) -> Result<String, String> {
    let why = match schedule(pod, cluster, &mut SmallRng::seed_from_u64(1)) {
        Ok(node) => return Ok(node),
        Err(why) => why,
    };
    let preemption = preempt(pod, cluster, &HashMap::new(), &why);
    Err(why.message(&preemption.err().unwrap_or_default()))
}

#[test]
fn a_pod_goes_where_it_fits() {
    let mut cluster = cluster();
    assert_eq!(decide(&mut cluster, &pod("p", json!({}))), Ok("big".to_owned()));
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": "tainted"}});
    assert_eq!(decide(&mut cluster, &pod("p", tolerant)), Ok("tainted".to_owned()));
}

#[test]
fn the_emptier_node_is_better() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({})));
    cluster.add_pod(std::sync::Arc::new(PodInfo { node_name: "a".to_owned(), ..pod("x", json!({})) }));
    assert_eq!(decide(&mut cluster, &pod("p", json!({}))), Ok("b".to_owned()));
}

#[test]
fn reasons_are_counted_as_upstream_words_them() {
    let mut cluster = cluster();
    let greedy =
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "9", "memory": "1Gi"}}}]});
    assert_eq!(
        decide(&mut cluster, &pod("p", greedy)).unwrap_err(),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
         2 Insufficient cpu. no new claims to deallocate, preemption: 0/4 nodes are available: \
         4 Preemption is not helpful for scheduling."
    );
    let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["small"]}]}]}}}});
    assert!(decide(&mut cluster, &pod("p", named)).unwrap_err().starts_with(
        "0/4 nodes are available: 1 Insufficient cpu, 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    ));
    assert_eq!(
        decide(&mut Cluster::default(), &pod("p", json!({}))).unwrap_err(),
        "no nodes available to schedule pods"
    );
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    assert!(
        decide(&mut cluster, &pod("p", claim))
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
    let why = decide(&mut cluster, &pod("p", port.clone())).unwrap_err();
    assert!(why.contains("1 node(s) didn't have free ports for the requested pod ports"), "{why}");
    for name in ["second", "third"] {
        cluster.add_pod(std::sync::Arc::new(pod(name, json!({}))).assumed_on("a"));
    }
    assert!(decide(&mut cluster, &pod("p", json!({}))).unwrap_err().contains("1 Too many pods"));
    cluster.remove_pod(&first);
    assert_eq!(decide(&mut cluster, &pod("p", port)), Ok("a".to_owned()));
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
    assert_eq!(decide(&mut cluster, &pod("p", json!({}))), Ok("b".to_owned()), "a running pod repels");
    cluster.add_pod(std::sync::Arc::new(pod("second", json!({}))).assumed_on("b"));
    let why = decide(&mut cluster, &pod("p", lonely)).unwrap_err();
    assert!(
        why.starts_with("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
        "{why}"
    );

    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "none"}}}]}}});
    let why = decide(&mut cluster, &pod("p", near)).unwrap_err();
    assert!(why.contains("2 node(s) didn't match pod affinity rules"), "{why}");

    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({"unschedulable": true})));
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]});
    cluster.add_pod(std::sync::Arc::new(pod("one", spread.clone())).assumed_on("a"));
    let why = decide(&mut cluster, &pod("p", spread)).unwrap_err();
    assert!(
        why.contains("1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable"),
        "{why}"
    );
}

fn two_nodes() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("a", "4", &json!({})));
    cluster.set_node(&node("b", "4", &json!({})));
    cluster
}

fn labelled(name: &str, spec: Value) -> PodInfo {
    PodInfo { labels: [("app".to_owned(), "web".to_owned())].into(), ..pod(name, spec) }
}

#[test]
fn soft_wishes_decide_between_nodes_that_fit() {
    let hostname = "kubernetes.io/hostname";
    let web = json!({"matchLabels": {"app": "web"}});
    let term = json!([{"weight": 100, "podAffinityTerm": {"topologyKey": hostname, "labelSelector": web}}]);
    let key = "preferredDuringSchedulingIgnoredDuringExecution";
    let soft = json!([{"maxSkew": 1, "topologyKey": hostname, "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": web}]);
    let tiny = json!([{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]);
    // One web pod on `a`, a bigger stranger on `b`: without a wish the emptier `a` is better.
    let cases = [
        ("none", json!({}), "a"),
        ("near", json!({"affinity": {"podAffinity": {key: term}}}), "a"),
        ("apart", json!({"affinity": {"podAntiAffinity": {key: term}}}), "b"),
        ("spread", json!({"topologySpreadConstraints": soft}), "b"),
    ];
    for (name, mut spec, want) in cases {
        let mut cluster = two_nodes();
        cluster.add_pod(Arc::new(labelled("first", json!({}))).assumed_on("a"));
        let stranger = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1200m"}}}]});
        cluster.add_pod(Arc::new(pod("stranger", stranger)).assumed_on("b"));
        spec["containers"] = tiny.clone();
        assert_eq!(decide(&mut cluster, &labelled("p", spec)), Ok(want.to_owned()), "{name}");
    }
    // A Service's pods are spread without having asked for it.
    let mut cluster = two_nodes();
    cluster.add_pod(Arc::new(labelled("first", json!({"containers": tiny}))).assumed_on("a"));
    let stranger = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]});
    cluster.add_pod(Arc::new(pod("stranger", stranger)).assumed_on("b"));
    let next = labelled("p", json!({"containers": tiny}));
    assert_eq!(decide(&mut cluster, &next), Ok("a".to_owned()));
    let selector = LabelSelector::of_labels(&next.labels);
    cluster.owners.set(Kind::Service, ("n".to_owned(), "web".to_owned()), Some(selector));
    assert_eq!(decide(&mut cluster, &next), Ok("b".to_owned()));
}

#[test]
fn the_least_important_pods_make_room() {
    let sized = |name: &str, cpu: &str, priority: i32, node: &str| {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        Arc::new(PodInfo { priority, node_name: node.to_owned(), ..labelled(name, spec) })
    };
    let victims = |cluster: &mut Cluster, budgets: &HashMap<_, _>, pod: &PodInfo| {
        let why = schedule(pod, cluster, &mut SmallRng::seed_from_u64(1)).unwrap_err();
        preempt(pod, cluster, budgets, &why)
            .map(|p| (p.node, p.victims.iter().map(|v| v.key.1.clone()).collect::<Vec<_>>()))
    };
    let mut cluster = two_nodes();
    for (name, cpu, priority, node) in
        [("a1", "2", 5, "a"), ("a2", "2", 1, "a"), ("b1", "3", 7, "b"), ("b2", "1", 1, "b")]
    {
        cluster.add_pod(sized(name, cpu, priority, node));
    }
    let none = HashMap::new();
    let important = sized("p", "2", 10, "");
    assert_eq!(victims(&mut cluster, &none, &important), Ok(("a".to_owned(), vec!["a2".to_owned()])));
    assert_eq!(cluster.nodes["a"].pods.len() + cluster.nodes["b"].pods.len(), 4, "nothing has changed");
    let budget = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}}));
    let mut budget: k8s_openapi::api::policy::v1::PodDisruptionBudget = budget.unwrap();
    budget.status.as_mut().unwrap().disrupted_pods = Some(
        [(
            "b1".to_owned(),
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        )]
        .into(),
    );
    let budgets = HashMap::from([(("n".to_owned(), "web".to_owned()), Budget::new(&budget))]);
    assert_eq!(victims(&mut cluster, &budgets, &important), Ok(("b".to_owned(), vec!["b1".to_owned()])));
    let why = victims(&mut cluster, &none, &sized("p", "2", 0, "")).unwrap_err();
    assert!(
        why.ends_with("0/2 nodes are available: 2 No preemption victims found for incoming pod."),
        "{why}"
    );
    let why = victims(&mut cluster, &none, &sized("p", "4", 3, "")).unwrap_err();
    assert!(why.ends_with("preemption: 0/2 nodes are available: 2 Insufficient cpu."), "{why}");
    let never = PodInfo { never_preempts: true, ..PodInfo::clone(&important) };
    let why = victims(&mut cluster, &none, &never).unwrap_err();
    assert!(why.ends_with("not eligible due to preemptionPolicy=Never."), "{why}");
}
