//! PodSecurity: holds pods, and what makes pods, to the Pod Security Standard their namespace names by its labels.
//!
//! What is to be audited is not reported: this server writes no audit log.

mod checks;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashSet};

use coracle_api::Object;
use coracle_api::owner::controller_in;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::Server;
use crate::cluster::{Cluster, core};
use crate::status::{Result, Status};
use checks::{Breach, Subject, breaches};
use policy::{Policy, Standard};

/// Existing pods that a stricter label is compared with.
const CHECKED_PODS: usize = 3000;
/// Kinds whose template makes pods, and where they keep it.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

/// Refuses pods that break what is enforced; answers warnings about what breaks the level to warn about.
pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: &Object,
    old: Option<&Object>,
) -> Result<Vec<String>> {
    let gvr = &what.resource.gvr;
    if what.operation == Operation::Delete {
        return Ok(vec![]);
    }
    match (gvr.group.as_str(), gvr.resource.as_str(), what.subresource) {
        ("", "namespaces", "") => namespace(server, what, new, old),
        ("", "pods", "" | "ephemeralcontainers" | "resize") => pod(server, what, new, old),
        (group, plural, "") => {
            let template = TEMPLATES.iter().find(|(g, p, _)| *g == group && *p == plural);
            match template.and_then(|(.., at)| new.0.pointer(at)) {
                Some(template) => Ok(warnings(policy_of(server, what).warn, template)),
                None => Ok(vec![]),
            }
        }
        _ => Ok(vec![]),
    }
}

fn policy_of(server: &Server, what: &Attributes<'_>) -> Policy {
    let namespace = Cluster::get(server, &core("namespaces"), "", what.namespace);
    Policy::of(&namespace.unwrap_or_default()).0
}

fn pod(server: &Server, what: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<Vec<String>> {
    let policy = policy_of(server, what);
    if policy.is_privileged() || old.is_some_and(|old| !is_significant(new, old)) {
        return Ok(vec![]);
    }
    let broken = against(policy.enforce, &new.0);
    if !broken.is_empty() {
        return Err(what.refuse(format!("violates PodSecurity \"{}\": {}", policy.enforce, told(&broken))));
    }
    Ok(warnings(policy.warn, &new.0))
}

fn against(standard: Standard, pod: &Value) -> Vec<Breach> {
    let subject = Subject { metadata: &pod["metadata"], spec: &pod["spec"] };
    breaches(standard.level, standard.minor(), &subject)
}

fn warnings(standard: Standard, pod: &Value) -> Vec<String> {
    match &against(standard, pod)[..] {
        [] => vec![],
        broken => vec![format!("would violate PodSecurity \"{standard}\": {}", told(broken))],
    }
}

fn told(broken: &[Breach]) -> String {
    let each = broken.iter().map(|b| match b.detail.as_str() {
        "" => b.reason.clone(),
        detail => format!("{} ({detail})", b.reason),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// A pod of any making, at every level, and what its namespace's labels say.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_pod(object: &Object) {
    let (policy, _) = Policy::of(object);
    for standard in [policy.enforce, policy.warn] {
        warnings(standard, &object.0);
    }
    for level in [policy::Level::Baseline, policy::Level::Restricted] {
        let subject = Subject { metadata: &object.0["metadata"], spec: &object.0["spec"] };
        (0..40).step_by(7).for_each(|version| drop(breaches(level, version, &subject)));
    }
}

/// Of a running pod only its images and new ephemeral containers matter; all else is fixed.
fn is_significant(new: &Object, old: &Object) -> bool {
    let images = |o: &Object, list: &str| -> Vec<Value> {
        o.items_at(&["spec", list]).iter().map(|c| c["image"].clone()).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| images(new, list) != images(old, list)) {
        return true;
    }
    let before = old.items_at(&["spec", "ephemeralContainers"]);
    new.items_at(&["spec", "ephemeralContainers"]).iter().any(|c| {
        let same = before.iter().find(|o| o["name"] == c["name"]);
        same.is_none_or(|o| o["image"] != c["image"])
    })
}

/// Labels must be readable; a stricter level warns about the pods that are there.
fn namespace(
    server: &Server,
    what: &Attributes<'_>,
    new: &Object,
    old: Option<&Object>,
) -> Result<Vec<String>> {
    let (policy, errors) = Policy::of(new);
    let Some(old) = old else {
        return if errors.is_empty() { Ok(vec![]) } else { Err(invalid(what, &errors)) };
    };
    let (before, old_errors) = Policy::of(old);
    if !errors.is_empty() && errors != old_errors {
        return Err(invalid(what, &errors));
    }
    if policy.enforce == before.enforce || policy.enforce.loosens(before.enforce) {
        return Ok(vec![]);
    }
    let pods = Cluster::list(server, &core("pods"), new.name());
    Ok(stricter(new.name(), policy.enforce, &pods))
}

fn invalid(what: &Attributes<'_>, errors: &[crate::field::FieldError]) -> Status {
    Status::invalid(&what.resource.gvk, what.name, errors)
}

/// What is told about the pods that a namespace's new level would not let in.
fn stricter(namespace: &str, standard: Standard, pods: &[Object]) -> Vec<String> {
    let mut seen = HashSet::new();
    let (mut first, mut rest) = (vec![], vec![]);
    for pod in pods {
        let controller = controller_in(pod).map(|o| &o["uid"]);
        match controller.and_then(Value::as_str) {
            Some(uid) if !seen.insert(uid) => rest.push(pod),
            _ => first.push(pod),
        }
    }
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in first.into_iter().chain(rest).take(CHECKED_PODS) {
        let reasons: Vec<String> = against(standard, &pod.0).into_iter().map(|b| b.reason).collect();
        if reasons.is_empty() {
            continue;
        }
        let (name, count) = found.entry(reasons.join(", ")).or_insert((pod.name(), 0));
        *name = (*name).min(pod.name());
        *count += 1;
    }
    let mut told = vec![];
    if pods.len() > CHECKED_PODS {
        told.push(format!(
            "new PodSecurity enforce level only checked against the first {CHECKED_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        told.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reason, (name, count))| match count {
            1 => format!("{name}: {reason}"),
            2 => format!("{name} (and 1 other pod): {reason}"),
            n => format!("{name} (and {} other pods): {reason}", n - 1),
        })
        .collect();
    lines.sort();
    told.extend(lines);
    told
}
