//! `flowcontrol.apiserver.k8s.io`: API priority and fairness.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, count, or, path, rule};
use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "flowcontrol.apiserver.k8s.io", status: true, generation: true, ..CLUSTER };
const QUEUING: [&str; 4] = ["spec", "limited", "limitResponse", "queuing"];

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "FlowSchema",
        plural: "flowschemas",
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
        ..KIND
    },
    Row {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
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
