//! The history of a Deployment: revision numbers, the annotations that carry them, the hash that tells templates
//! apart, and which old ReplicaSets are forgotten.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::{Digest, Sha256};

use super::view::{View, bounds, current, desired, replicas};
use crate::runtime::Kind;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that mean the Deployment alone.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Longest list of former revisions kept in the annotation.
const HISTORY_LENGTH: usize = 2000;

pub(super) fn text<K: Kind>(object: &K) -> Option<&str> {
    object.meta().annotations.as_ref()?.get(REVISION).map(String::as_str)
}

pub(super) fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// One more than the highest revision of the old ReplicaSets.
pub(super) fn next(old: &[ReplicaSet]) -> i64 {
    old.iter().filter_map(|set| number(set, REVISION)).max().unwrap_or(0) + 1
}

/// Copies the Deployment's annotations and gives the ReplicaSet its revision. Returns whether anything changed.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) -> bool {
    let mut changed = copy(deployment, set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.get(REVISION).cloned();
    let before_number = before.as_deref().map_or(Some(0), |b| b.parse::<i64>().ok());
    // A revision someone wrote in words is left alone.
    let Some(before_number) = before_number else { return changed };
    if before_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if let Some(before) = before {
            let history = annotations.get(REVISION_HISTORY).map_or("", String::as_str);
            let history = extend_history(history, &before);
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    if !exists {
        changed |= note_sizes(deployment, set);
    }
    changed
}

fn extend_history(history: &str, revision: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|e| !e.is_empty()).collect();
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|e| e.len() + 1).sum::<usize>() > HISTORY_LENGTH {
        entries.remove(0);
    }
    entries.join(",")
}

fn copy(deployment: &Deployment, set: &mut ReplicaSet) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    changed
}

/// Notes on the ReplicaSet what size of the Deployment it is fitted to.
pub(super) fn note_sizes(deployment: &Deployment, set: &mut ReplicaSet) -> bool {
    let wanted = replicas(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, number) in [(DESIRED_REPLICAS, wanted), (MAX_REPLICAS, wanted + bounds(deployment).0)] {
        let text = number.to_string();
        if annotations.get(key) != Some(&text) {
            annotations.insert(key.to_owned(), text);
            changed = true;
        }
    }
    changed
}

/// The old ReplicaSets beyond the history limit that are empty and settled.
pub(super) fn surplus(view: &View) -> Vec<&ReplicaSet> {
    let limit = view.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let alive = view.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none());
    let mut alive: Vec<_> = alive.collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|set| number(set, REVISION).unwrap_or(0));
    alive.truncate(surplus);
    alive.retain(|set| {
        let observed = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        current(set) == 0 && desired(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}

/// A short name for a template. Stable over restarts; a collision is told apart by the count.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hasher = Sha256::new();
    let text = serde_json::to_vec(template).expect("a typed template has a JSON form");
    hasher.update(text);
    if let Some(collisions) = collisions {
        hasher.update(collisions.to_le_bytes());
    }
    safe_hash(&hasher.finalize())
}

/// The first 32 bits as a number, in letters that make no words.
pub(crate) fn safe_hash(digest: &[u8]) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let number = digest.iter().take(4).fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    number.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollback_renumbers_the_replica_set_and_remembers_its_old_numbers() {
        let deployment = serde_json::from_value(json!({
            "metadata": {"annotations": {"note": "x", REVISION: "3", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 4, "selector": {}, "template": {}},
        }))
        .unwrap();
        let mut set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"annotations": {REVISION: "1"}}})).unwrap();
        assert!(annotate(&deployment, &mut set, 4, true));
        assert!(!annotate(&deployment, &mut set, 4, true));
        assert!(annotate(&deployment, &mut set, 6, true));
        let expected = json!({"note": "x", REVISION: "6", REVISION_HISTORY: "1,4"});
        assert_eq!(serde_json::to_value(set.metadata.annotations).unwrap(), expected);
    }

    #[test]
    fn hashes_differ_by_template_and_by_collision() {
        let template = PodTemplateSpec::default();
        let first = template_hash(&template, None);
        assert_eq!(first, template_hash(&template, None));
        assert_ne!(first, template_hash(&template, Some(1)));
    }
}
