//! Label selectors of typed objects, asked as they are.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Operator;

pub type Labels = BTreeMap<String, String>;

/// An empty selector matches everything; whether that is meant is for the caller to know.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let mut expressions = selector.match_expressions.iter().flatten();
    selector.match_labels.as_ref().is_none_or(|wanted| contains(labels, wanted))
        && expressions.all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            Operator::named(&e.operator).is_some_and(|o| o.holds(value_of(labels, &e.key), values))
        })
}

/// Whether a selector names nothing.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether an owner's selector picks dependents with these labels; one that is absent or empty picks none.
pub fn picks(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|s| !is_empty(s) && matches(s, labels))
}

/// All pairs of `wanted` are among `labels`.
pub fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| value_of(labels, key) == Some(value.as_str()))
}

fn value_of<'a>(labels: Option<&'a Labels>, key: &str) -> Option<&'a str> {
    labels.and_then(|labels| labels.get(key)).map(String::as_str)
}
