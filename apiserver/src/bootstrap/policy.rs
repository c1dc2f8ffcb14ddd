//! The roles and bindings of a new cluster, read from a compact table.

use coracle_api::{Gvr, Object};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
const TABLE: &str = include_str!("policy.txt");

/// Every role and binding, with its resource; `policy.txt` explains its own form.
pub(super) fn objects() -> Vec<(Gvr, Object)> {
    let mut objects: Vec<(Gvr, Object)> = vec![];
    for line in TABLE.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        match (line.strip_prefix("  "), objects.last_mut()) {
            (Some(part), Some((_, object))) => add(object, part),
            _ => objects.push(head(line)),
        }
    }
    objects
}

fn head(line: &str) -> (Gvr, Object) {
    let (line, role) = line.split_once(" -> ").map_or((line, None), |(line, role)| (line, Some(role)));
    let mut words = line.split(' ');
    let (kind, full) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut object = Object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {
            "name": full,
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    }));
    if let Some((namespace, name)) = full.split_once('/') {
        object.set(&["metadata", "name"], name);
        object.set(&["metadata", "namespace"], namespace);
    }
    for label in words.filter_map(|w| w.strip_prefix("aggregate-to=")) {
        object.set(&["metadata", "labels", &aggregate_label(label)], "true");
    }
    match role {
        Some(role) => {
            let role_kind = kind.trim_end_matches("Binding");
            object.set(&["roleRef"], json!({"apiGroup": GROUP, "kind": role_kind, "name": role}));
        }
        None => object.set(&["rules"], json!([])),
    }
    (Gvr::new(GROUP, "v1", format!("{}s", kind.to_lowercase())), object)
}

fn aggregate_label(of: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{of}")
}

fn add(object: &mut Object, part: &str) {
    let words: Vec<&str> = part.split(' ').collect();
    let list = |joined: &str| -> Vec<String> {
        joined.split(',').map(|w| if w == "-" { String::new() } else { w.to_owned() }).collect()
    };
    let (path, entry): (&[&str], Value) = match words[..] {
        ["+", label] => (
            &["aggregationRule", "clusterRoleSelectors"],
            json!({"matchLabels": {aggregate_label(label): "true"}}),
        ),
        ["ServiceAccount", full] => {
            let (namespace, name) = full.split_once('/').unwrap_or_default();
            (&["subjects"], json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}))
        }
        [kind @ ("User" | "Group"), name] => {
            (&["subjects"], json!({"apiGroup": GROUP, "kind": kind, "name": name}))
        }
        [verbs, urls] => (&["rules"], json!({"verbs": list(verbs), "nonResourceURLs": list(urls)})),
        [verbs, groups, resources] => (
            &["rules"],
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}),
        ),
        [verbs, groups, resources, names] => (
            &["rules"],
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources),
                   "resourceNames": list(names)}),
        ),
        _ => return,
    };
    let slot = object.entry(path);
    if let Some(entries) = slot.as_array_mut() {
        entries.push(entry);
    } else {
        *slot = json!([entry]);
    }
}

/// The rules an aggregated cluster role has: those of every role its selectors match, by name, without repeats.
pub(super) fn aggregated(role: &Object, all: &[Object]) -> Option<Vec<Value>> {
    let selectors = role.at(&["aggregationRule", "clusterRoleSelectors"])?.as_array()?;
    let chosen = |candidate: &&Object| {
        candidate.name() != role.name()
            && selectors.iter().any(|s| {
                let wanted = s.get("matchLabels").and_then(Value::as_object);
                wanted.is_some_and(|w| w.iter().all(|(k, v)| candidate.label(k) == v.as_str()))
            })
    };
    let mut sources: Vec<&Object> = all.iter().filter(chosen).collect();
    sources.sort_by_key(|o| o.name());
    let mut rules: Vec<Value> = vec![];
    for rule in sources.iter().flat_map(|o| o.items_at(&["rules"])) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_upstreams_roles_and_bindings() {
        let objects = objects();
        let count = |plural: &str| objects.iter().filter(|(g, _)| g.resource == plural).count();
        let counts = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"].map(count);
        // Renewals of certificates are approved that at upstream wait for an installer's bindings, or for somebody.
        assert_eq!(counts, [69 + 3, 51 + 4, 7, 7]);
        let all: Vec<Object> = objects.into_iter().map(|(_, o)| o).collect();
        let find =
            |kind: &str, name: &str| all.iter().find(|o| o.kind() == kind && o.name() == name).unwrap();
        let admin = find("ClusterRole", "cluster-admin");
        assert_eq!(
            admin.items_at(&["rules"])[0],
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        );
        let view = aggregated(find("ClusterRole", "view"), &all).unwrap();
        assert!(view.iter().any(|r| r["resources"].as_array().unwrap().contains(&json!("configmaps"))));
    }
}
