//! What can be done to a pod besides writing it: binding it to a node, evicting it.

use std::sync::Arc;

use coracle_api::pod::{is_active, is_ready};
use coracle_api::selector::LabelSelector;
use coracle_api::{Gvr, Object};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Server;
use crate::authn::User;
use crate::cluster::core;
use crate::resource::{Call, Invocation};
use crate::status::{Result, Status};
use crate::verbs::inner::Deletion;

/// `pods/binding` and `bindings`: the scheduler's word.
pub(super) struct Bind;
/// Evictions that the controller of a budget has not seen yet.
const MOST_DISRUPTED: usize = 2000;

/// `pods/eviction`: a delete that asks the disruption budgets first.
pub(super) struct Evict;

/// `Status` of a success without an object.
fn success(code: u16) -> Object {
    Object(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}))
}

impl Call for Bind {
    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            let binding = &call.body;
            if !call.name.is_empty() && call.name != binding.name() {
                return Err(Status::bad_request("name in URL does not match name in Binding object"));
            }
            let name = binding.name();
            let kind = binding.str_at(&["target", "kind"]);
            if !matches!(kind, "" | "Node") {
                return Err(invalid_target(format!(
                    "target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""
                )));
            }
            if binding.str_at(&["target", "name"]).is_empty() {
                return Err(invalid_target("target.name: Required value".to_owned()));
            }
            let now = Timestamp::now();
            let assign = |pod: &mut Object| assign(pod, binding, now);
            server
                .modify(call.user, &core("pods"), "binding", call.namespace, name, call.dry_run, &assign)
                .await?;
            Ok(success(201))
        }
        .boxed()
    }
}

/// Upstream answers these without a reason.
fn invalid_target(why: String) -> Status {
    Status::new(500, "", why)
}

/// Puts a pod on the binding's node.
fn assign(pod: &mut Object, binding: &Object, now: Timestamp) -> Result<()> {
    let name = pod.name().to_owned();
    let refuse = |why: String| Status::conflict(&core("pods/binding"), &name, &why);
    if !binding.uid().is_empty() && binding.uid() != pod.uid() {
        return Err(refuse(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            pod.uid()
        )));
    }
    if pod.is_being_deleted() {
        return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let node = pod.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        return Err(refuse(format!("pod {name} is already assigned to node {node:?}")));
    }
    if !pod.items_at(&["spec", "schedulingGates"]).is_empty() {
        return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    pod.set(&["spec", "nodeName"], binding.str_at(&["target", "name"]));
    for (key, value) in binding.annotations().into_iter().flatten() {
        pod.set(&["metadata", "annotations", key], value.clone());
    }
    set_condition(pod, "PodScheduled", "True", None, now);
    Ok(())
}

/// Writes a condition of the pod's status; the time moves only when the status does.
fn set_condition(pod: &mut Object, kind: &str, status: &str, reason: Option<(&str, &str)>, now: Timestamp) {
    let list = pod.entry(&["status", "conditions"]);
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null,
                               "lastTransitionTime": coracle_api::time::seconds(now)});
    if let Some((reason, message)) = reason {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) if old["status"] == status => {}
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}

impl Call for Evict {
    /// Both versions there have been say the same.
    fn accepts(&self, api_version: &str) -> bool {
        api_version == "policy/v1beta1"
    }

    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            if call.name != call.body.name() {
                return Err(Status::bad_request("name in URL does not match name in Eviction object"));
            }
            let pod = server.get(&core("pods"), call.namespace, call.name)?;
            let options = |field: &str| call.body.at(&["deleteOptions", field]);
            let how = Deletion {
                grace_period_seconds: options("gracePeriodSeconds").and_then(Value::as_i64),
                uid: call
                    .body
                    .at(&["deleteOptions", "preconditions", "uid"])
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                propagation: options("propagationPolicy").and_then(Value::as_str).map(str::to_owned),
                dry_run: call.dry_run || options("dryRun").is_some(),
                ..Deletion::default()
            };
            let eviction = Eviction { user: call.user.clone(), pod, how, dry_run: call.dry_run };
            // A disruption that is taken from a budget is one that happens.
            let on = server.clone();
            server.see_through(async move { eviction.carry_out(&on).await }).await
        }
        .boxed()
    }
}

/// An eviction that has been asked for.
struct Eviction {
    user: User,
    pod: Object,
    how: Deletion,
    /// Of the request; that of its options is in `how`, and is of the delete alone.
    dry_run: bool,
}

impl Eviction {
    async fn carry_out(&self, server: &Server) -> Result<Object> {
        let Eviction { user, pod, how, .. } = self;
        let phase = pod.str_at(&["status", "phase"]);
        let harmless = phase == "Pending" || !is_active(pod);
        if !harmless {
            self.take_from_budget(server).await?;
        }
        let (pods, namespace, name) = (core("pods"), pod.namespace(), pod.name());
        if !pod.is_being_deleted() {
            let now = Timestamp::now();
            let mark = |pod: &mut Object| {
                let why = ("EvictionByEvictionAPI", "Eviction API: evicting");
                set_condition(pod, "DisruptionTarget", "True", Some(why), now);
                Ok(())
            };
            server.modify(user, &pods, "status", namespace, name, how.dry_run, &mark).await?;
        }
        server.delete(user, &pods, namespace, name, how).await?;
        Ok(success(201))
    }

    /// Takes one disruption from the pod's budget, where it has one; 429 when there is none left.
    async fn take_from_budget(&self, server: &Server) -> Result<()> {
        let pod = &self.pod;
        let gvr = Gvr::new("policy", "v1", "poddisruptionbudgets");
        let budgets = server.list(&gvr, pod.namespace())?;
        let covering: Vec<&Object> = budgets.iter().filter(|b| selects(b, pod)).collect();
        let budget = match covering[..] {
            [] => return Ok(()),
            [one] => one,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "InternalError", why));
            }
        };
        let ready = is_ready(pod);
        let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
        let unhealthy_may_go = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
            || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0);
        if !ready && unhealthy_may_go {
            return Ok(());
        }
        let (now, pod_name) = (Timestamp::now(), pod.name());
        let take = |budget: &mut Object| take(budget, pod_name, now);
        server
            .modify(&self.user, &gvr, "status", pod.namespace(), budget.name(), self.dry_run, &take)
            .await?;
        Ok(())
    }
}

fn take(budget: &mut Object, pod: &str, now: Timestamp) -> Result<()> {
    let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
    let name = budget.name();
    let refused = |message: String, retry: u32| {
        let mut status = Status::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            retry,
        );
        if let Some(details) = &mut status.0.details {
            details["causes"] = json!([{"reason": "DisruptionBudget", "message": message}]);
        }
        status
    };
    if number("observedGeneration") < budget.generation() {
        return Err(refused(
            format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = number("disruptionsAllowed");
    let forbidden = |why: &str| {
        let group = Gvr::new("policy", "v1", "poddisruptionbudget");
        Err(Status::forbidden(&group, name, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(why_none(budget), 0));
    }
    budget.set(&["status", "disruptionsAllowed"], allowed - 1);
    budget.set(&["status", "disruptedPods", pod], coracle_api::time::seconds(now));
    Ok(())
}

/// Why a budget allows no disruption.
fn why_none(budget: &Object) -> String {
    let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
    let name = budget.name();
    let condition =
        budget.items_at(&["status", "conditions"]).iter().find(|c| c["type"] == "DisruptionAllowed");
    let text = |key: &str| condition.and_then(|c| c[key].as_str()).unwrap_or_default();
    let told = text("status") == "False" && !text("message").is_empty();
    let (wanted, healthy) = (number("desiredHealthy"), number("currentHealthy"));
    match () {
        () if told && text("reason") == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            text("message")
        ),
        () if healthy <= wanted => {
            format!("The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently")
        }
        () if told => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            text("reason"),
            text("message")
        ),
        () => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// Whether a budget's selector covers a pod; an empty selector covers all.
fn selects(budget: &Object, pod: &Object) -> bool {
    let Some(selector) = budget.at(&["spec", "selector"]) else { return false };
    LabelSelector::of_json(selector).matches(|key| pod.label(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_says_why_it_allows_none() {
        let condition = |reason: &str, message: &str| json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": message}]);
        let needs = "The disruption budget b needs 2 healthy pods and has 2 currently";
        let no = "The disruption budget b does not allow evicting pods currently";
        let cases = [
            (json!({"desiredHealthy": 2, "currentHealthy": 2}), 429, needs.to_owned()),
            (
                json!({"desiredHealthy": 2, "currentHealthy": 2, "conditions": condition("SyncFailed", "no scale")}),
                429,
                format!("{no} because it failed sync: no scale"),
            ),
            (
                json!({"desiredHealthy": 1, "currentHealthy": 2, "conditions": condition("Why", "so")}),
                429,
                format!("{no} (Why): so"),
            ),
            (json!({"desiredHealthy": 1, "currentHealthy": 2}), 429, no.to_owned()),
            (json!({"disruptionsAllowed": -1}), 403, "pdb disruptions allowed is negative".to_owned()),
        ];
        for (status, code, why) in cases {
            let mut budget = Object(json!({"metadata": {"name": "b"}, "status": status}));
            let refusal = take(&mut budget, "p", Timestamp::UNIX_EPOCH).unwrap_err();
            let details = refusal.0.details.clone().unwrap_or_default();
            let text = format!("{refusal} {}", details["causes"][0]["message"].as_str().unwrap_or_default());
            assert!(refusal.code() == code && text.contains(&why), "{status}: {text}");
            assert!(details.get("retryAfterSeconds").is_none(), "nobody knows when to come back");
        }
        assert!(Evict.accepts("policy/v1beta1") && !Evict.accepts("policy/v1alpha1"));
    }

    #[test]
    fn a_pod_is_bound_once() {
        let now = Timestamp::from_second(0).unwrap();
        let binding = Object(json!({"target": {"kind": "Node", "name": "n"}}));
        let mut pod = Object(json!({"metadata": {"name": "p"}, "spec": {}}));
        assign(&mut pod, &binding, now).unwrap();
        assert_eq!(pod.str_at(&["spec", "nodeName"]), "n");
        assert_eq!(pod.items_at(&["status", "conditions"])[0]["type"], "PodScheduled");
        let again = assign(&mut pod, &binding, now).unwrap_err();
        assert_eq!(
            again.to_string(),
            r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#
        );
    }
}
