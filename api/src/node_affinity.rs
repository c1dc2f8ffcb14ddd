//! Which nodes a pod may run on by its own word: `nodeSelector` and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::selector::{Operator, Requirement};

/// Whether a pod asks for a node of this name with these labels, as upstream's `GetRequiredNodeAffinity(pod).Match`.
pub fn wants(spec: &PodSpec, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels?.get(key).map(String::as_str);
    let by_label = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    by_label && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| meets(term, name, label)))
}

/// A term without any requirement matches no node; of the fields there is only `metadata.name`.
fn meets<'a>(term: &NodeSelectorTerm, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, label(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(name)))
}

fn holds(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = || r.values.clone().unwrap_or_default();
    Operator::named(&r.operator).is_some_and(|o| Requirement::new(&*r.key, o, values()).matches(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_wants_what_its_selector_and_one_term_allow() {
        let labels =
            BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("size".to_owned(), "5".to_owned())]);
        let term = |what: &str, key: &str, operator: &str, values: &[&str]| json!({what: [{"key": key, "operator": operator, "values": values}]});
        let label = |operator: &str, values: &[&str]| term("matchExpressions", "size", operator, values);
        let field = |key: &str, name: &str| term("matchFields", key, "In", &[name]);
        for (selector, terms, want) in [
            (json!({}), Value::Null, true),
            (json!({"zone": "a"}), Value::Null, true),
            (json!({"zone": "b"}), Value::Null, false),
            (json!({}), json!([{}]), false),
            (json!({}), json!([label("Gt", &["4"])]), true),
            (json!({}), json!([label("Lt", &["5"])]), false),
            (json!({}), json!([label("NotIn", &["5"]), label("Exists", &[])]), true),
            (json!({}), json!([label("Strange", &["5"])]), false),
            (json!({}), json!([field("metadata.name", "n1")]), true),
            (json!({}), json!([field("metadata.name", "n2")]), false),
            (json!({}), json!([field("spec.x", "n1")]), false),
            (json!({"zone": "b"}), json!([field("metadata.name", "n1")]), false),
        ] {
            let required = (!terms.is_null()).then(|| json!({"nodeSelectorTerms": terms}));
            let spec = json!({"containers": [], "nodeSelector": selector, "affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": required}}});
            let shown = spec.to_string();
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(wants(&spec, "n1", Some(&labels)), want, "{shown}");
        }
    }
}
