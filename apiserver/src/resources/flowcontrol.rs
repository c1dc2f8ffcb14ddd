//! `flowcontrol.apiserver.k8s.io`: API priority and fairness.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, count, or, path, rule};
use super::defaulting::{fill, fill_zero, object, within};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::dns1123_subdomain;
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

/// The level that everything may use, and the one that nothing limits: they have rules of their own.
const EXEMPT: &str = "exempt";

struct FlowSchemas;

impl Strategy for FlowSchemas {
    fn default(&self, new: &mut Object) {
        fill_zero(object(&mut new.0, "spec"), "matchingPrecedence", 1000);
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let precedence = new.i64_at(&["spec", "matchingPrecedence"]).unwrap_or(0);
        match precedence {
            ..=0 => errors.invalid("spec.matchingPrecedence", precedence, "must be a positive value"),
            1 if new.name() != EXEMPT => {
                let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
                errors.invalid("spec.matchingPrecedence", precedence, detail);
            }
            10_001.. => {
                errors.invalid("spec.matchingPrecedence", precedence, "must not be greater than 10000");
            }
            _ => {}
        }
        if new.at(&["spec", "distinguisherMethod"]).is_some_and(Value::is_object) {
            let method = new.str_at(&["spec", "distinguisherMethod", "type"]);
            if !matches!(method, "ByUser" | "ByNamespace") {
                let (at, shown) = ("spec.distinguisherMethod.type", json!({"Type": method}).to_string());
                errors.unsupported_text(at, shown, &["ByNamespace", "ByUser"]);
            }
        }
        let at = "spec.priorityLevelConfiguration.name";
        match new.str_at(&["spec", "priorityLevelConfiguration", "name"]) {
            "" => errors.required(at, "must reference a priority level"),
            name => errors.all_invalid(at, name, dns1123_subdomain(name)),
        }
        for (i, rule) in new.items_at(&["spec", "rules"]).iter().enumerate() {
            flow_rule(&format!("spec.rules[{i}]"), rule, &mut errors);
        }
        errors.0
    }
}

fn flow_rule(at: &str, rule: &Value, errors: &mut Errors) {
    let list = |of: &Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errors.required(format!("{at}.subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        let kind = subject["kind"].as_str().unwrap_or_default();
        let key = match kind {
            "User" => "user",
            "Group" => "group",
            "ServiceAccount" => "serviceAccount",
            _ => {
                let words = ["Group", "ServiceAccount", "User"];
                errors.supported(format!("{at}.subjects[{i}].kind"), kind, &words);
                continue;
            }
        };
        if subject[key].is_null() {
            let detail = format!("{key} is required when subject kind is '{kind}'");
            errors.required(format!("{at}.subjects[{i}].{key}"), &detail);
        }
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(at, detail);
    }
    let need = |of: &Value, at: String, keys: &[(&str, &str)], errors: &mut Errors| {
        for (key, detail) in keys.iter().filter(|(key, _)| list(of, key).is_empty()) {
            errors.required(format!("{at}.{key}"), detail);
        }
    };
    let verbs = ("verbs", "verbs must contain at least one value");
    for (i, rule) in resources.iter().enumerate() {
        let at = format!("{at}.resourceRules[{i}]");
        let groups = ("apiGroups", "resource rules must supply at least one api group");
        let names = ("resources", "resource rules must supply at least one resource");
        need(rule, at.clone(), &[verbs, groups, names], errors);
        if rule["clusterScope"] != true {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            need(rule, at, &[("namespaces", detail)], errors);
        }
    }
    for (i, rule) in others.iter().enumerate() {
        let urls = ("nonResourceURLs", "nonResourceURLs must contain at least one value");
        need(rule, format!("{at}.nonResourceRules[{i}]"), &[verbs, urls], errors);
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
                    fill(queuing, "queues", 64);
                    fill(queuing, "handSize", 8);
                    fill(queuing, "queueLengthLimit", 50);
                });
            });
        });
        within(spec, "exempt", |exempt| {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        });
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let kind = new.str_at(&["spec", "type"]);
        if (kind == "Exempt") != (new.name() == EXEMPT) && !kind.is_empty() && (kind == "Exempt") {
            errors.invalid("spec.type", kind, "must be 'Exempt' if and only if `name` is 'exempt'");
            return errors.0;
        }
        errors.one_of("spec.type", kind, &["Exempt", "Limited"]);
        let limited = new.at(&["spec", "limited"]).filter(|l| l.is_object());
        match (kind, limited) {
            ("Limited", None) => errors.required("spec.limited", "must not be empty when type is Limited"),
            ("Limited", Some(limited)) => check_limited(limited, &mut errors),
            _ => {}
        }
        errors.0
    }
}

fn check_limited(limited: &Value, errors: &mut Errors) {
    let at = "spec.limited";
    if let Some(shares) = limited["nominalConcurrencyShares"].as_i64().filter(|s| *s < 0) {
        errors.invalid(format!("{at}.nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    let kind = limited["limitResponse"]["type"].as_str().unwrap_or_default();
    errors.one_of(format!("{at}.limitResponse.type"), kind, &["Queue", "Reject"]);
    if kind == "Reject" && limited["limitResponse"]["queuing"].is_object() {
        let detail = "must be nil if limited.limitResponse.type is not Limited";
        errors.forbidden(format!("{at}.limitResponse.queuing"), detail);
    }
    if let Some(percent) = limited["lendablePercent"].as_i64().filter(|p| !(0..=100).contains(p)) {
        errors.invalid(format!("{at}.lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}
