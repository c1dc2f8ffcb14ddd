//! `flowcontrol.apiserver.k8s.io`: API priority and fairness.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, count, or, path, rule};
use super::defaulting::{fill, fill_zero, object, within};
use super::flow_rules::{level, schema, status};
use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

const KIND: Row = Row { group: "flowcontrol.apiserver.k8s.io", status: true, generation: true, ..CLUSTER };
const QUEUING: [&str; 4] = ["spec", "limited", "limitResponse", "queuing"];

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "FlowSchema",
        plural: "flowschemas",
        resets: &[("status", &[&["metadata"], &["spec"]])],
        columns: &[
            NAME,
            path("PriorityLevel", &["spec", "priorityLevelConfiguration", "name"]),
            rule("MatchingPrecedence", |o, _| count(o, &["spec", "matchingPrecedence"])),
            rule("DistinguisherMethod", |o, _| or(o, &["spec", "distinguisherMethod", "type"], "<none>")),
            AGE,
            rule("MissingPL", |o, _| {
                match conditions::find(o.items_at(&["status", "conditions"]), "Dangling") {
                    Some(c) => c["status"].clone(),
                    None => json!("?"),
                }
            }),
        ],
        strategy: &FlowSchemas,
        ..KIND
    },
    Row {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        resets: &[("status", &[&["metadata"], &["spec"]])],
        columns: &[
            NAME,
            path("Type", &["spec", "type"]),
            rule("NominalConcurrencyShares", |o, _| {
                number(o, &["spec", "limited", "nominalConcurrencyShares"])
            }),
            rule("Queues", |o, _| queuing(o, "queues")),
            rule("HandSize", |o, _| queuing(o, "handSize")),
            rule("QueueLengthLimit", |o, _| queuing(o, "queueLengthLimit")),
            AGE,
        ],
        strategy: &Levels,
        ..KIND
    },
];

fn queuing(o: &Object, key: &str) -> Value {
    let mut path = QUEUING.to_vec();
    path.push(key);
    number(o, &path)
}

fn number(o: &Object, path: &[&str]) -> Value {
    o.at(path).cloned().unwrap_or_else(|| json!("<none>"))
}

/// What is wrong with the specification, whose rules `spec` knows, and with the conditions, which both kinds have alike.
fn validated(
    cx: &WriteContext<'_>,
    new: &Object,
    spec: fn(&str, &Located<'_>, &mut Errors),
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Located::root(new);
    if cx.subresource.is_empty() {
        spec(new.name(), &root.at("spec"), &mut errors);
    }
    status(&root.at("status"), &mut errors);
    errors.0
}

struct FlowSchemas;

impl Strategy for FlowSchemas {
    fn default(&self, new: &mut Object) {
        fill_zero(object(&mut new.0, "spec"), "matchingPrecedence", 1000);
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        validated(cx, new, schema)
    }
}

struct Levels;

impl Strategy for Levels {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        within(spec, "limited", |limited| {
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            within(limited, "limitResponse", |response| {
                within(response, "queuing", |queuing| {
                    fill_zero(queuing, "queues", 64);
                    fill_zero(queuing, "handSize", 8);
                    fill_zero(queuing, "queueLengthLimit", 50);
                });
            });
        });
        within(spec, "exempt", |exempt| {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        });
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        validated(cx, new, level)
    }
}
