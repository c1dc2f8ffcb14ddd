//! Label selectors of typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub(crate) type Labels = BTreeMap<String, String>;

/// An empty selector matches everything; whether that is meant is for the caller to know.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let wanted = selector.match_labels.iter().flatten();
    let requirements = selector.match_expressions.iter().flatten();
    wanted.into_iter().all(|(key, value)| value_of(labels, key) == Some(value))
        && requirements.into_iter().all(|requirement| meets(requirement, labels))
}

pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether an owner's selector picks dependents with these labels; one that is absent or empty picks none.
pub(crate) fn picks(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|s| !is_empty(s) && matches(s, labels))
}

/// All pairs of `wanted` are among `labels`.
pub(crate) fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| value_of(labels, key) == Some(value))
}

fn meets(requirement: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = value_of(labels, &requirement.key);
    let listed = value.is_some_and(|v| requirement.values.iter().flatten().any(|w| w == v));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn value_of<'a>(labels: Option<&'a Labels>, key: &str) -> Option<&'a String> {
    labels.and_then(|labels| labels.get(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operator() {
        let labels = Labels::from([("app".into(), "web".into())]);
        let check =
            |selector: serde_json::Value| matches(&serde_json::from_value(selector).unwrap(), Some(&labels));
        let expression = |key: &str, op: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        assert!(check(json!({})));
        assert!(check(json!({"matchLabels": {"app": "web"}})));
        assert!(!check(json!({"matchLabels": {"app": "db"}})));
        assert!(check(expression("app", "In", &["a", "web"])));
        assert!(!check(expression("app", "NotIn", &["web"])));
        assert!(check(expression("tier", "NotIn", &["web"])));
        assert!(check(expression("app", "Exists", &[])));
        assert!(check(expression("tier", "DoesNotExist", &[])));
    }
}
