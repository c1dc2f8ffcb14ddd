//! The labels and the selector that a Job is given: cases asked of upstream.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn job(name: &str, labels: &Value, template: &Value, spec: &Value) -> Value {
    let mut job = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
    let container = json!({"name": "c", "image": "i"});
    job["spec"]["template"] = json!({"metadata": {"labels": template},
        "spec": {"restartPolicy": "Never", "containers": [container]}});
    job
}

#[tokio::test]
async fn a_job_is_given_upstreams_labels_and_selector() {
    let c = Cluster::start().await;
    let own = |made: &Value| {
        let (uid, name) = (&made["metadata"]["uid"], &made["metadata"]["name"]);
        json!({"controller-uid": uid, "job-name": name, "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": name})
    };
    let (none, xy) = (json!({}), json!({"x": "y"}));
    for (name, labels, template, follows) in [
        ("nothing", &none, &none, true),
        ("same", &xy, &xy, false),
        ("taken-over", &none, &xy, true),
        ("own", &json!({"l": "m"}), &none, false),
    ] {
        let (code, made) = c.send("POST", JOBS, job(name, labels, template, &json!({}))).await;
        assert_eq!(code, 201, "{made}");
        let mut all = own(&made);
        all.as_object_mut().unwrap().extend(template.as_object().unwrap().clone());
        assert_eq!(made["spec"]["template"]["metadata"]["labels"], all, "{name}");
        assert_eq!(made["metadata"]["labels"], if follows { all } else { labels.clone() }, "{name}");
        let uid = &made["metadata"]["uid"];
        let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        assert_eq!(made["spec"]["selector"], selector, "{name}");
    }
    for (name, selector) in [("manual", json!({"matchLabels": {"x": "y"}})), ("all", json!({}))] {
        let spec = json!({"manualSelector": true, "selector": selector});
        let (code, made) = c.send("POST", JOBS, job(name, &none, &xy, &spec)).await;
        assert_eq!((code, &made["metadata"]["labels"], &made["spec"]["selector"]), (201, &xy, &selector));
        assert_eq!(made["spec"]["template"]["metadata"]["labels"], xy);
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_selector_that_is_generated_is_not_the_users_to_set() {
    let c = Cluster::start().await;
    let (none, xy) = (json!({}), json!({"x": "y"}));
    let chosen = json!({"matchLabels": {"x": "y"}});
    let other = json!({"job-name": "other", "controller-uid": "z"});
    for (template, spec, fields) in [
        (&xy, json!({"manualSelector": true}), &["spec.selector", "spec.template.metadata.labels"][..]),
        (&xy, json!({"selector": chosen}), &["spec.selector"]),
        (&xy, json!({"selector": chosen, "manualSelector": false}), &["spec.selector"]),
        (&none, json!({"selector": chosen, "manualSelector": true}), &["spec.template.metadata.labels"]),
        (
            &other,
            json!({}),
            &["spec.template.metadata.labels[controller-uid]", "spec.template.metadata.labels[job-name]"],
        ),
        (
            &json!({"batch.kubernetes.io/job-name": "other"}),
            json!({}),
            &["spec.template.metadata.labels[batch.kubernetes.io/job-name]"],
        ),
    ] {
        let (code, refused) = c.send("POST", JOBS, job("j", &none, template, &spec)).await;
        assert_eq!(code, 422, "{refused}");
        let causes = refused["details"]["causes"].as_array().unwrap();
        let found: Vec<&str> = causes.iter().map(|c| c["field"].as_str().unwrap()).collect();
        assert_eq!(found, fields, "{refused}");
    }
    let (_, refused) =
        c.send("POST", JOBS, job("f", &none, &xy, &json!({"selector": {"matchLabels": {"x": "y"}}}))).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("Job.batch \"f\" is invalid: spec.selector: Invalid value: {\"matchLabels\":")
    );
    assert!(message.ends_with("\"x\":\"y\"}}: `selector` not auto-generated"), "{message}");
    c.running.stop().await;
}
