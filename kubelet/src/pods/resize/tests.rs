//! What a resize does, and in which order.

use serde_json::{Value, json};

use super::*;
use crate::cri::{ContainerRecord, ContainerState};

fn requirements(value: Value) -> ResourceRequirements {
    serde_json::from_value(value).unwrap()
}

fn pod(containers: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})).unwrap()
}

/// CPU and memory of a container, as request and limit alike.
fn container(name: &str, cpu: &str, memory: &str, policies: &Value) -> Value {
    let list = json!({"cpu": cpu, "memory": memory});
    json!({"name": name, "resizePolicy": policies, "resources": {"requests": list, "limits": list}})
}

/// The containers run, and have the resources of `before`.
fn running(before: &Pod) -> PodView {
    let mut view = PodView::default();
    for c in &spec_of(before).containers {
        let record = ContainerRecord {
            id: format!("id-{}", c.name),
            pod_uid: String::new(),
            pod_namespace: String::new(),
            pod_name: String::new(),
            name: c.name.clone(),
            attempt: 0,
            init: false,
            image: String::new(),
            image_id: String::new(),
            log_path: "/log".into(),
            user: None,
            state: ContainerState::Running { started: Timestamp::UNIX_EPOCH, pid: 1 },
        };
        let v = view.containers.entry(c.name.clone()).or_default();
        (v.current, v.actual) = (Some(record), c.resources.clone());
    }
    view
}

fn told(steps: &[Step]) -> Vec<String> {
    let line = |step: &Step| {
        let set = &step.set;
        let words = [("memory", set.memory_limit), ("quota", set.cpu_quota)];
        let mut words: Vec<String> =
            words.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?))).collect();
        words.extend(set.cpu_shares.map(|shares| format!("shares {shares}")));
        format!("{}: {}", step.container.as_deref().unwrap_or("pod"), words.join(", "))
    };
    steps.iter().map(line).collect()
}

#[test]
fn cgroups_are_set_in_an_order_that_never_overcommits() {
    let none = json!([]);
    let pair = |a: (&str, &str), b: (&str, &str)| {
        pod(json!([container("a", a.0, a.1, &none), container("b", b.0, b.1, &none)]))
    };
    let before = pair(("1", "100"), ("1", "100"));
    let cases = [
        (
            pair(("2", "300"), ("500m", "50")),
            &[
                "pod: memory 350",
                "id-b: memory 50",
                "id-a: memory 300",
                "pod: shares 2560",
                "pod: quota 250000",
                "id-b: quota 50000, shares 512",
                "id-a: quota 200000, shares 2048",
            ][..],
        ),
        (
            pair(("1", "100"), ("500m", "50")),
            &[
                "id-b: memory 50",
                "pod: memory 150",
                "pod: shares 1536",
                "id-b: quota 50000, shares 512",
                "pod: quota 150000",
            ],
        ),
        (before.clone(), &["pod: shares 2048"]),
    ];
    let view = running(&before);
    let current = super::super::resources::pod_resources(&before);
    for (after, want) in cases {
        let wanted = super::super::resources::pod_resources(&after);
        assert_eq!(told(&steps(&current, &wanted, &changes(&after, &view, 1 << 30))), want);
    }
    let unlimited = Resources::default();
    let wanted = super::super::resources::pod_resources(&before);
    let lowered = steps(&unlimited, &wanted, &[]);
    assert_eq!(told(&lowered), ["pod: memory 200", "pod: shares 2048", "pod: quota 200000"]);
}

#[test]
fn only_the_changed_resource_asks_for_a_restart() {
    let policies = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
        {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
    let at = |cpu: &str, memory: &str| pod(json!([container("a", cpu, memory, &policies)]));
    let view = running(&at("1", "100"));
    for (cpu, memory, changed, restart) in
        [("1000m", "100", false, false), ("2", "100", true, false), ("1", "200", true, true)]
    {
        let after = at(cpu, memory);
        let (spec, c) = (spec_of(&after), &spec_of(&after).containers[0]);
        let v = view.container("a");
        assert_eq!((in_progress(spec, &view), requires_restart(c, v)), (changed, restart), "{cpu} {memory}");
    }
}

#[test]
fn limits_below_what_is_used_are_refused_in_upstreams_words() {
    let none = json!([]);
    let before = pod(json!([container("a", "1", "200", &none)]));
    let after = pod(json!([container("a", "1", "100", &none)]));
    let resources = super::super::resources::pod_resources;
    let (current, wanted) = (resources(&before), resources(&after));
    let changes = changes(&after, &running(&before), 1 << 30);
    let falling = falling_limits(&current, &wanted, &changes);
    let both = "cannot decrease memory limits: [attempting to set pod memory limit (100) below current usage (150), \
        attempting to set container \"a\" memory limit (100) below current usage (120)]";
    let pod_only =
        "cannot decrease memory limits: attempting to set pod memory limit (100) below current usage (100)";
    for (usage, want) in [([150, 120], Some(both)), ([100, 90], Some(pod_only)), ([99, 90], None)] {
        assert_eq!(memory_complaint(&falling, &usage).as_deref(), want);
    }
    let raised = falling_limits(&wanted, &current, &[]);
    assert!(raised.is_empty(), "a higher limit is no concern");
}

#[test]
fn a_new_process_learns_the_grant_from_the_status() {
    let mut adopted = pod(json!([container("a", "2", "200", &json!([]))]));
    let status = |requests: Value, shown: Value| {
        json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "",
        "ready": true, "restartCount": 0, "allocatedResources": requests, "resources": shown}]})
    };
    let old = json!({"cpu": "1", "memory": "100"});
    adopted.status =
        serde_json::from_value(status(old.clone(), json!({"requests": old, "limits": old}))).unwrap();
    let granted = granted_before(&adopted);
    let same = pod(json!([container("a", "1", "100", &json!([]))]));
    assert!(same_resources(&granted, &same) && !same_resources(&granted, &adopted));
    adopted.status = None;
    assert!(same_resources(&granted_before(&adopted), &adopted));
}

#[test]
fn the_status_shows_what_is_granted_and_what_is_there() {
    let granted =
        requirements(json!({"requests": {"cpu": "2", "example.com/x": "1"}, "limits": {"memory": "10"}}));
    let actual = requirements(json!({"requests": {"cpu": "1", "memory": "5"}}));
    let want = requirements(
        json!({"requests": {"cpu": "1", "memory": "5", "example.com/x": "1"}, "limits": {"memory": "10"}}),
    );
    assert_eq!(shown(granted.clone(), Some(&actual)), want);
    assert_eq!(shown(granted.clone(), None), granted);
}

#[test]
fn events_carry_the_resources() {
    let pod =
        pod(json!([{"name": "c0", "resources": {"limits": {"cpu": "100m"}, "requests": {"cpu": "100m"}}}]));
    let resources = r#"{"limits":{"cpu":"100m"},"requests":{"cpu":"100m"}}"#;
    let want = format!(
        r#"Pod resize Deferred: {{"containers":[{{"name":"c0","resources":{resources}}}],"generation":1,"error":"no"}}"#
    );
    assert_eq!(event_message("Deferred", &pod, Some(1), "no"), want);
}
