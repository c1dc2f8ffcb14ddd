//! `matchLabelKeys` and `mismatchLabelKeys`: labels of the pod itself that its selectors go by. A new pod's selectors get
//! its own values, so that whoever reads them later needs to know nothing of the keys.

use std::collections::{HashMap, HashSet};

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::validation::Errors;
use super::validation::items;
use crate::field_names::qualified_name;

const TERMS: [(&str, &str); 2] = [
    ("preferredDuringSchedulingIgnoredDuringExecution", "/podAffinityTerm"),
    ("requiredDuringSchedulingIgnoredDuringExecution", ""),
];

/// Adds the pod's own values to the selectors of its affinity terms and spread constraints. For new pods alone.
pub(in crate::resources) fn merge_label_keys(pod: &mut Object) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let spec = pod.entry(&["spec"]);
    if let Some(Value::Array(all)) = spec.get_mut("topologySpreadConstraints") {
        all.iter_mut().for_each(|constraint| merge(constraint, &[("matchLabelKeys", "In")], &labels));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, term) in TERMS {
            let Some(Value::Array(all)) = spec.pointer_mut(&format!("/affinity/{kind}/{list}")) else {
                continue;
            };
            for term in all.iter_mut().filter_map(|entry| entry.pointer_mut(term)) {
                merge(term, &[("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")], &labels);
            }
        }
    }
}

/// Where there is no selector nothing is selected, whatever the keys say; a key that the pod lacks says nothing.
fn merge(term: &mut Value, keys: &[(&str, &str)], labels: &Value) {
    let mut own = Vec::new();
    for (list, operator) in keys {
        let present = items(term, list).filter_map(|key| Some((key, labels.get(key.as_str()?)?)));
        own.extend(present.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if own.is_empty() {
        return;
    }
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(all) => all.extend(own),
        None => drop(selector.insert("matchExpressions".to_owned(), Value::Array(own))),
    }
}

/// The keys are labels' names, mean a selector that is there, and stand in it no other time.
pub(super) fn check(at: &str, term: &Value, errors: &mut Errors) {
    let selector = &term["labelSelector"];
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = format!("{at}.{list}");
        if selector.is_null() {
            if items(term, list).next().is_some() {
                errors.forbidden(at, "must not be specified when labelSelector is not set");
            }
            continue;
        }
        for (i, key) in items(term, list).enumerate() {
            let key = key.as_str().unwrap_or_default();
            errors.all_invalid(format!("{at}[{i}]"), key, qualified_name(key));
        }
    }
    let text = |list: &'static str| items(term, list).filter_map(Value::as_str);
    let positions: HashMap<&str, usize> = text("matchLabelKeys").zip(0..).collect();
    let mut seen: HashSet<&str> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    for key in items(selector, "matchExpressions").filter_map(|e| e["key"].as_str()) {
        // Once it stands there for the pod's own value; twice, somebody has selected by it as well.
        if let Some(i) = positions.get(key).filter(|_| seen.contains(key)) {
            errors.invalid(format!("{at}[{i}]"), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    let mismatched: HashSet<&str> = text("mismatchLabelKeys").collect();
    for (i, key) in text("matchLabelKeys").enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(format!("{at}.matchLabelKeys[{i}]"), key, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_selected_by_its_own_values() {
        let term =
            |keys: &str| json!({"labelSelector": {"matchLabels": {"app": "x"}}, keys: ["hash", "missing"]});
        let mut pod = Object(json!({"metadata": {"labels": {"app": "x", "hash": "7"}}, "spec": {
            "topologySpreadConstraints": [
                term("matchLabelKeys"),
                {"matchLabelKeys": ["hash"]},
                {"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "matchLabelKeys": ["hash"]}],
            "affinity": {
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": term("matchLabelKeys")}]},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("mismatchLabelKeys")]}}}}));
        merge_label_keys(&mut pod);
        let at = |path: &str| pod.0.pointer(path).cloned().unwrap_or_default();
        let own = |operator: &str| json!({"key": "hash", "operator": operator, "values": ["7"]});
        let spread = "/spec/topologySpreadConstraints";
        assert_eq!(at(&format!("{spread}/0/labelSelector/matchExpressions")), json!([own("In")]));
        assert_eq!(at(&format!("{spread}/1/labelSelector")), Value::Null);
        assert_eq!(at(&format!("{spread}/2/labelSelector/matchExpressions/1")), own("In"));
        let affinity =
            "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm";
        assert_eq!(at(&format!("{affinity}/labelSelector/matchExpressions")), json!([own("In")]));
        let anti = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0";
        assert_eq!(at(&format!("{anti}/labelSelector/matchExpressions")), json!([own("NotIn")]));
    }

    #[test]
    fn keys_that_select_twice_or_without_a_selector_are_refused() {
        let expression = |key: &str| json!({"key": key, "operator": "In", "values": ["x"]});
        let cases = [
            (json!({"labelSelector": {}, "matchLabelKeys": ["a"]}), ""),
            (json!({"labelSelector": {"matchExpressions": [expression("a")]}, "matchLabelKeys": ["a"]}), ""),
            (
                json!({"matchLabelKeys": ["a"]}),
                "t.matchLabelKeys: must not be specified when labelSelector is not set",
            ),
            (
                json!({"labelSelector": {}, "matchLabelKeys": ["a b"]}),
                "t.matchLabelKeys[0]: name part must consist",
            ),
            (
                json!({"labelSelector": {"matchLabels": {"a": "x"}, "matchExpressions": [expression("a")]},
                    "matchLabelKeys": ["b", "a"]}),
                "t[1]: exists in both matchLabelKeys and labelSelector",
            ),
            (
                json!({"labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}),
                "t.matchLabelKeys[0]: exists in both matchLabelKeys and mismatchLabelKeys",
            ),
        ];
        for (term, expected) in cases {
            let mut errors = Errors::default();
            check("t", &term, &mut errors);
            let found = errors.0.first().map(|e| format!("{}: {}", e.field, e.detail)).unwrap_or_default();
            assert!(
                found.starts_with(expected) && (expected.is_empty() == found.is_empty()),
                "{term}: {found}"
            );
        }
    }
}
