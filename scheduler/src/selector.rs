//! Label and node selectors, compiled once per pod and asked once per node or pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// An operator or a number that cannot be understood: matches nothing.
    Invalid,
}

/// All requirements must hold; none at all holds always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A selector that is absent.
    Nothing,
    All(Vec<Requirement>),
}

/// One term of a node selector: requirements on the labels and on the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// Requirements on `metadata.name`, the one field upstream allows.
    name: Vec<Requirement>,
}

// === impl Requirement ===

impl Requirement {
    pub fn new(key: &str, operator: &str, values: &[String]) -> Requirement {
        let number = || values.first().and_then(|v| v.parse().ok());
        let test = match operator {
            "In" => Test::In(values.to_vec()),
            "NotIn" => Test::NotIn(values.to_vec()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => number().map_or(Test::Invalid, Test::Gt),
            "Lt" => number().map_or(Test::Invalid, Test::Lt),
            _ => Test::Invalid,
        };
        Requirement { key: key.to_owned(), test }
    }

    pub fn equals(key: &str, value: &str) -> Requirement {
        Requirement { key: key.to_owned(), test: Test::In(vec![value.to_owned()]) }
    }

    pub fn holds(&self, labels: &Labels) -> bool {
        self.holds_for(labels.get(&self.key).map(String::as_str))
    }

    fn holds_for(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Gt(bound) => number().is_some_and(|n| n > *bound),
            Test::Lt(bound) => number().is_some_and(|n| n < *bound),
            Test::Invalid => false,
        }
    }
}

// === impl Selector ===

impl Selector {
    /// Absent selects nothing, empty selects everything.
    pub fn new(selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else { return Selector::Nothing };
        let equal = selector.match_labels.iter().flatten().map(|(k, v)| Requirement::equals(k, v));
        let tests = selector.match_expressions.iter().flatten();
        let tests =
            tests.map(|e| Requirement::new(&e.key, &e.operator, e.values.as_deref().unwrap_or_default()));
        Selector::All(equal.chain(tests).collect())
    }

    /// Every one of these labels, as Services and ReplicationControllers select.
    pub fn of_labels(labels: &Labels) -> Selector {
        Selector::All(labels.iter().map(|(k, v)| Requirement::equals(k, v)).collect())
    }

    pub fn requirements(&self) -> &[Requirement] {
        match self {
            Selector::Nothing => &[],
            Selector::All(requirements) => requirements,
        }
    }

    /// Asks for nothing, so that it selects everything; what selects nothing is not empty.
    pub fn is_empty(&self) -> bool {
        matches!(self, Selector::All(requirements) if requirements.is_empty())
    }

    /// Adds requirements (`matchLabelKeys`).
    pub fn and(&mut self, more: impl IntoIterator<Item = Requirement>) {
        if let Selector::All(requirements) = self {
            requirements.extend(more);
        }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|r| r.holds(labels)),
        }
    }
}

// === impl NodeTerm ===

impl NodeTerm {
    pub fn new(term: &NodeSelectorTerm) -> NodeTerm {
        let compile = |list: Option<&Vec<NodeSelectorRequirement>>| {
            let list = list.into_iter().flatten();
            list.map(|r| Requirement::new(&r.key, &r.operator, r.values.as_deref().unwrap_or_default()))
                .collect()
        };
        NodeTerm {
            labels: compile(term.match_expressions.as_ref()),
            name: compile(term.match_fields.as_ref()),
        }
    }

    /// A term without any requirement matches no node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        !(self.labels.is_empty() && self.name.is_empty())
            && self.labels.iter().all(|r| r.holds(labels))
            && self.name.iter().all(|r| r.key == "metadata.name" && r.holds_for(Some(name)))
    }

    /// The nodes a term names outright, as a DaemonSet's pods do.
    pub fn named_nodes(&self) -> Option<&[String]> {
        self.name.iter().find_map(|r| match &r.test {
            Test::In(names) => Some(names.as_slice()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_follow_upstream() {
        let labels: Labels = [("a".to_owned(), "5".to_owned())].into();
        let cases = [
            ("a", "In", vec!["4", "5"], true),
            ("b", "NotIn", vec!["1"], true),
            ("a", "NotIn", vec!["5"], false),
            ("a", "Gt", vec!["4"], true),
            ("a", "Lt", vec!["5"], false),
            ("b", "Gt", vec!["0"], false),
            ("b", "DoesNotExist", vec![], true),
            ("a", "Strange", vec![], false),
        ];
        for (key, operator, values, want) in cases {
            let values: Vec<_> = values.into_iter().map(str::to_owned).collect();
            assert_eq!(
                Requirement::new(key, operator, &values).holds(&labels),
                want,
                "{key} {operator} {values:?}"
            );
        }
        assert!(!Selector::new(None).matches(&labels), "an absent selector selects nothing");
        assert!(Selector::new(Some(&LabelSelector::default())).matches(&labels), "an empty one selects all");
        assert!(
            !NodeTerm::new(&NodeSelectorTerm::default()).matches("n", &labels),
            "an empty term matches no node"
        );
    }
}
