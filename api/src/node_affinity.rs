//! Which nodes a pod may run on by its own word: `nodeSelector` and required node affinity.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::selector::{LabelSelector, Labels, Operator, Requirement};

/// One term of a node selector: requirements on the labels and on the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// Requirements on fields, of which there is only `metadata.name`.
    fields: Vec<Requirement>,
}

/// What a pod requires of its node, as upstream's `GetRequiredNodeAffinity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required {
    selector: LabelSelector,
    /// One must match. `None`: the pod has no required affinity.
    terms: Option<Vec<NodeTerm>>,
}

// === impl NodeTerm ===

impl NodeTerm {
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let compile = |list: Option<&Vec<NodeSelectorRequirement>>| {
            let list = list.into_iter().flatten();
            list.map(|r| Requirement::named(&*r.key, &r.operator, r.values.clone().unwrap_or_default()))
                .collect()
        };
        NodeTerm {
            labels: compile(term.match_expressions.as_ref()),
            fields: compile(term.match_fields.as_ref()),
        }
    }

    /// A term without any requirement matches no node.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        let label = |key: &str| labels?.get(key).map(String::as_str);
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|r| r.matches(label(&r.key)))
            && self.fields.iter().all(|r| r.key == "metadata.name" && r.matches(Some(name)))
    }

    /// The nodes a term names outright, as a DaemonSet's pods do.
    pub fn named_nodes(&self) -> Option<&[String]> {
        self.fields.iter().find(|r| r.operator == Operator::In).map(|r| r.values.as_slice())
    }
}

// === impl Required ===

impl Required {
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Required {
            selector: spec.node_selector.as_ref().map(LabelSelector::of_labels).unwrap_or_default(),
            terms: required.map(|r| r.node_selector_terms.iter().map(NodeTerm::of).collect()),
        }
    }

    /// Whether a node of this name with these labels will do.
    pub fn allows(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.selector.matches(|key| labels?.get(key).map(String::as_str))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    pub fn terms(&self) -> Option<&[NodeTerm]> {
        self.terms.as_deref()
    }
}

/// Whether a pod asks for a node of this name with these labels.
pub fn wants(spec: &PodSpec, name: &str, labels: Option<&Labels>) -> bool {
    Required::of(spec).allows(name, labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
