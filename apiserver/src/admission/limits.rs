//! LimitRanger: what a namespace's LimitRanges give to containers that ask nothing, and how little or much may be asked.

use std::collections::HashSet;

use coracle_api::Object;
use coracle_api::quantity::Quantity;
use coracle_api::resources::{self, Demand, ResourceList};
use serde_json::{Map, Value, json};

use super::{Attributes, Operation};
use crate::Server;
use crate::cluster::{Cluster, core};
use crate::status::Result;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Gives containers of a new pod the defaults of the namespace.
pub(super) fn mutate(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    _old: Option<&Object>,
) -> Result<()> {
    let resized = what.operation == Operation::Update && is_resize(what);
    if !what.creates("", "pods") && !resized {
        return Ok(());
    }
    for range in cluster.list(&core("limitranges"), what.namespace) {
        give_defaults(pod, &range);
    }
    Ok(())
}

fn is_resize(what: &Attributes<'_>) -> bool {
    let gvr = &what.resource.gvr;
    gvr.group.is_empty() && gvr.resource == "pods" && what.subresource == "resize"
}

/// Holds new pods and all claims against the bounds.
pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    let Some(new) = new.filter(|_| !old.is_some_and(Object::is_being_deleted)) else { return Ok(()) };
    let pod = what.creates("", "pods") || is_resize(what);
    let claim = what.is("", "persistentvolumeclaims");
    if !pod && !claim {
        return Ok(());
    }
    for range in Cluster::list(server, &core("limitranges"), what.namespace) {
        let broken = if pod { pod_breaches(new, &range) } else { claim_breaches(new, &range) };
        match &broken[..] {
            [] => {}
            [one] => return Err(what.refuse(one)),
            many => return Err(what.refuse(format!("[{}]", distinct(many).join(", ")))),
        }
    }
    Ok(())
}

/// Upstream's aggregate of errors says each text once.
fn distinct(all: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    all.iter().filter(|text| seen.insert(text.as_str())).cloned().collect()
}

fn limits_of<'a>(range: &'a Object, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range.items_at(&["spec", "limits"]).iter().filter(move |limit| limit["type"] == kind)
}

fn give_defaults(pod: &mut Object, range: &Object) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for limit in limits_of(range, "Container") {
        for (field, into) in [("defaultRequest", &mut requests), ("default", &mut limits)] {
            for (name, amount) in limit[field].as_object().into_iter().flatten() {
                into.insert(name.clone(), amount.clone());
            }
        }
    }
    let mut notes = vec![];
    for (list, title) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.0.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")]
            {
                let given = fill(container, field, defaults);
                if !given.is_empty() {
                    notes.push(format!("{} {word} for {title} {name}", given.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod.set(
            &["metadata", "annotations", ANNOTATION],
            format!("LimitRanger plugin set: {}", notes.join("; ")),
        );
    }
}

/// Adds what is missing; answers the names added, sorted.
fn fill(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    if defaults.is_empty() {
        return vec![];
    }
    let Some(container) = container.as_object_mut() else { return vec![] };
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    if !resources.is_object() {
        *resources = json!({});
    }
    if !resources[field].is_object() {
        resources[field] = json!({});
    }
    let Some(own) = resources[field].as_object_mut() else { return vec![] };
    let mut added = vec![];
    for (name, amount) in defaults {
        if !own.contains_key(name) {
            own.insert(name.clone(), amount.clone());
            added.push(name.clone());
        }
    }
    added.sort();
    added
}

/// An object as a pod and a claim beneath itself as a range.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_pod(object: &Object) {
    give_defaults(&mut object.clone(), object);
    distinct(&pod_breaches(object, object));
    claim_breaches(object, object);
}

fn pod_breaches(pod: &Object, range: &Object) -> Vec<String> {
    let mut broken = vec![];
    let spec = pod.at(&["spec"]).unwrap_or(&Value::Null);
    for limit in range.items_at(&["spec", "limits"]) {
        match limit["type"].as_str() {
            Some("Container") => {
                for list in ["containers", "initContainers"] {
                    for container in spec[list].as_array().into_iter().flatten() {
                        let of = |field: &str| resources::list(&container["resources"][field]);
                        check(limit, "Container", &of("requests"), &of("limits"), &mut broken);
                    }
                }
            }
            Some("Pod") => {
                // The overhead is the class's, not the author's: it does not count here.
                let demand = Demand::of_json(spec).without_overhead();
                check(limit, "Pod", &demand.requests(), &demand.limits(), &mut broken);
            }
            _ => {}
        }
    }
    broken
}

fn claim_breaches(claim: &Object, range: &Object) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let mut broken = vec![];
    let requests = claim.at(&["spec", "resources", "requests"]).map(resources::list).unwrap_or_default();
    for limit in limits_of(range, KIND) {
        for (name, bound) in resources::list(&limit["min"]) {
            broken.extend(below(KIND, &name, bound, (requests.get(&name), None)));
        }
        for (name, bound) in resources::list(&limit["max"]) {
            let breach = match requests.get(&name) {
                None => ".  No request is specified".to_owned(),
                Some(asked) if *asked > bound => format!(", but request is {asked}"),
                Some(_) => continue,
            };
            broken.push(maximum(KIND, &name, bound, &breach));
        }
    }
    broken
}

fn check(
    limit: &Value,
    kind: &str,
    requests: &ResourceList,
    limits: &ResourceList,
    broken: &mut Vec<String>,
) {
    let asked = |name: &str| (requests.get(name), limits.get(name));
    for (name, bound) in resources::list(&limit["min"]) {
        broken.extend(below(kind, &name, bound, asked(&name)));
    }
    for (name, bound) in resources::list(&limit["max"]) {
        broken.extend(above(kind, &name, bound, asked(&name)));
    }
    for (name, bound) in resources::list(&limit["maxLimitRequestRatio"]) {
        broken.extend(out_of_ratio(kind, &name, bound, asked(&name)));
    }
}

/// What a container or pod asks for of one resource.
type Asked<'a> = (Option<&'a Quantity>, Option<&'a Quantity>);

fn below(kind: &str, name: &str, bound: Quantity, asked: Asked<'_>) -> Option<String> {
    let breach = match asked {
        (None, _) => ".  No request is specified".to_owned(),
        (Some(request), _) if *request < bound => format!(", but request is {request}"),
        (_, Some(limit)) if *limit < bound => format!(", but limit is {limit}"),
        _ => return None,
    };
    Some(format!("minimum {name} usage per {kind} is {bound}{breach}"))
}

fn above(kind: &str, name: &str, bound: Quantity, asked: Asked<'_>) -> Option<String> {
    let breach = match asked {
        (_, None) => ".  No limit is specified".to_owned(),
        (_, Some(limit)) if *limit > bound => format!(", but limit is {limit}"),
        (Some(request), _) if *request > bound => format!(", but request is {request}"),
        _ => return None,
    };
    Some(maximum(kind, name, bound, &breach))
}

fn maximum(kind: &str, name: &str, bound: Quantity, breach: &str) -> String {
    format!("maximum {name} usage per {kind} is {bound}{breach}")
}

fn out_of_ratio(kind: &str, name: &str, bound: Quantity, (request, limit): Asked<'_>) -> Option<String> {
    let given = |quantity: Option<&Quantity>| quantity.filter(|q| !q.is_zero()).copied();
    let breach = match (given(request), given(limit)) {
        (None, _) => "no request is specified or request is 0".to_owned(),
        (_, None) => "no limit is specified or limit is 0".to_owned(),
        (Some(request), Some(limit)) => {
            let ratio = limit.as_f64() / request.as_f64();
            if ratio <= bound.as_f64() {
                return None;
            }
            format!("provided ratio is {ratio:.6}")
        }
    };
    Some(format!("{name} max limit to request ratio per {kind} is {bound}, but {breach}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_given_and_noted_as_upstream_notes_them() {
        let range = Object(json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}]}}));
        let mut pod = Object(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1", "memory": "1Gi"}}}]}}));
        give_defaults(&mut pod, &range);
        assert_eq!(
            pod.annotation(ANNOTATION),
            Some(
                "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; \
                 memory limit for container b"
            )
        );
        assert_eq!(
            pod.items_at(&["spec", "containers"])[1]["resources"]["limits"],
            json!({"cpu": "1", "memory": "500Mi"})
        );
    }

    #[test]
    fn bounds_are_told_in_upstreams_words() {
        let limit = json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1", "memory": "1Gi"},
            "maxLimitRequestRatio": {"cpu": "2"}});
        let of = |v: Value| resources::list(&v);
        let mut broken = vec![];
        check(&limit, "Container", &of(json!({"cpu": "10m"})), &of(json!({"cpu": "2"})), &mut broken);
        assert_eq!(
            broken,
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 200.000000",
            ]
        );
    }
}
