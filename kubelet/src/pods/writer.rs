//! The one writer of a pod's status: sends only what changed, retries, and ends a deleted pod with a final delete.

use std::{sync::Arc, time::Duration};

use coracle_client::errors::{is_conflict, is_not_found, is_other_object};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::conditions::OF_RESIZE;
use super::ownership::{FIELDS, own};
use super::view::{name_of, namespace_of, uid_of};

/// What the API server shall know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) status: PodStatus,
    /// All containers are gone: the object may be deleted once this status is written.
    pub(crate) finished: bool,
}

/// Runs until the sender is dropped or the object is gone.
pub(crate) async fn write_status(
    client: Client,
    pod: Arc<Pod>,
    mut reports: watch::Receiver<Option<Report>>,
) {
    let api: Api<Pod> = Api::namespaced(client, namespace_of(&pod));
    let mut written =
        pod.status.as_ref().and_then(|s| serde_json::to_value(own(s)).ok()).unwrap_or(Value::Null);
    let mut delay = Duration::from_millis(200);
    loop {
        let report = reports.borrow_and_update().clone();
        if let Some(report) = report {
            match write_one(&api, &pod, &mut written, &report).await {
                Ok(true) => return,
                Ok(false) => delay = Duration::from_millis(200),
                Err(error) => {
                    tracing::debug!(%error, pod = name_of(&pod), "status not written, will try again");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(10));
                    continue;
                }
            }
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// True when the object is gone or a new one has its name.
async fn write_one(
    api: &Api<Pod>,
    pod: &Pod,
    written: &mut Value,
    report: &Report,
) -> Result<bool, kube::Error> {
    let next = serde_json::to_value(&report.status).map_err(kube::Error::SerdeError)?;
    if let Some(change) = difference(written, &next) {
        let patch = serde_json::json!({"metadata": {"uid": uid_of(pod)}, "status": change});
        match api.patch_status(name_of(pod), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => *written = next,
            Err(error) if is_not_found(&error) || is_other_object(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    if !report.finished {
        return Ok(false);
    }
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid_of(pod).to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name_of(pod), &params).await {
        Ok(_) => Ok(true),
        // The uid is all that can conflict.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Conditions are merged by their type: what one no longer says must be taken back in so many words.
fn whole_conditions(old: Option<&Value>, conditions: &Value) -> Value {
    let has = |list: Option<&Value>, kind: &str| {
        list.and_then(Value::as_array).is_some_and(|list| list.iter().any(|c| c["type"] == kind))
    };
    let ended = OF_RESIZE.iter().filter(|kind| has(old, kind) && !has(Some(conditions), kind));
    let ended: Vec<Value> = ended.map(|kind| serde_json::json!({"$patch": "delete", "type": kind})).collect();
    let mut conditions = conditions.clone();
    for condition in conditions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
    conditions.as_array_mut().into_iter().for_each(|list| list.extend(ended.iter().cloned()));
    conditions
}

/// The strategic merge patch from one status to the next: changed fields whole, vanished ones null.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut change = Map::new();
    for (key, value) in new {
        if old.get(key) != Some(value) {
            if matches!(key.as_str(), "podIPs" | "hostIPs") && old.contains_key(key) {
                let mut list = value.as_array().cloned().unwrap_or_default();
                list.push(serde_json::json!({"$patch": "replace"}));
                change.insert(key.clone(), Value::Array(list));
            } else if key == "conditions" {
                change.insert(key.clone(), whole_conditions(old.get(key), value));
            } else {
                change.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|k| !new.contains_key(*k) && FIELDS.contains(&k.as_str())) {
        change.insert(key.clone(), Value::Null);
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// An API in which another pod has the name by now: what is for the former one is refused, with upstream's answers.
    fn replaced() -> Client {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let status = match *request.method() {
                Method::PATCH => {
                    json!({"code": 422, "reason": "Invalid", "message": "Pod \"p\" is invalid: metadata.uid",
                    "details": {"causes": [{"reason": "FieldValueInvalid", "message": "field is immutable", "field": "metadata.uid"}]}})
                }
                _ => json!({"code": 409, "reason": "Conflict", "message": "Precondition failed"}),
            };
            let code = u16::try_from(status["code"].as_u64().unwrap()).unwrap();
            let mut body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure"});
            body.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
            Response::builder().status(code).body(Body::from(body.to_string().into_bytes()))
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_for_a_pod_that_was_replaced_stops_at_once() {
        for (phase, finished) in [("Running", false), ("Failed", true)] {
            let old = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": {"phase": "Failed"}});
            let report =
                Report { status: serde_json::from_value(json!({"phase": phase})).unwrap(), finished };
            let (_told, reports) = watch::channel(Some(report));
            let pod = Arc::new(serde_json::from_value(old).unwrap());
            let writing = write_status(replaced(), pod, reports);
            tokio::time::timeout(Duration::from_millis(1), writing).await.expect("no second try");
        }
    }

    #[test]
    fn a_patch_leaves_alone_what_others_write() {
        let foreign = serde_json::json!({"nominatedNodeName": "n", "resize": "Deferred", "reason": "old"});
        let change = difference(&foreign, &serde_json::json!({}));
        assert_eq!(change, Some(serde_json::json!({"reason": null})));
    }

    #[test]
    fn a_patch_takes_back_what_no_longer_holds() {
        let condition = |ready: bool| match ready {
            true => serde_json::json!({"type": "Ready", "status": "True"}),
            false => serde_json::json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"}),
        };
        let status = |ready| serde_json::json!({"phase": "Running", "conditions": [condition(ready)]});
        assert_eq!(difference(&status(true), &status(true)), None);
        let change = difference(&status(false), &status(true)).unwrap();
        let want = serde_json::json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": null, "message": null}]});
        assert_eq!(change, want);
        let resizing = serde_json::json!({"conditions": [{"type": "PodResizePending", "status": "True"}]});
        let change = difference(&resizing, &serde_json::json!({"conditions": []})).unwrap();
        let want = serde_json::json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]});
        assert_eq!(change, want);
    }
}
