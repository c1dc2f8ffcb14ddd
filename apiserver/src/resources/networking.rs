//! `networking.k8s.io`: ingresses, network policies, service address ranges.

use coracle_api::Object;
use serde_json::{Value, json};

use super::addresses::{cidr_warnings, strict_ip};
use super::columns::{AGE, NAME, label_selector, or, path, rule};
use super::defaulting::{each, fill, object, within};
use super::located::Located;
use super::networking_rules as rules;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1123_subdomain, path_segment};
use crate::resource::{CLUSTER, Column, NAMESPACED, Row, Strategy, WriteContext};

const GROUP: &str = "networking.k8s.io";
const KIND: Row = Row { group: GROUP, ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: GROUP, ..CLUSTER };
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "IngressClass",
        metadata_looks: [2, 1],
        plural: "ingressclasses",
        generation: true,
        columns: INGRESS_CLASS,
        strategy: &IngressClasses,
        ..CLUSTER_KIND
    },
    Row {
        kind: "Ingress",
        metadata_looks: [2, 1],
        plural: "ingresses",
        short: &["ing"],
        status: true,
        generation: true,
        columns: INGRESS,
        first_status: r#"{"loadBalancer": {}}"#,
        strategy: &Ingresses,
        ..KIND
    },
    Row {
        kind: "IPAddress",
        metadata_looks: [2, 1],
        plural: "ipaddresses",
        short: &["ip"],
        columns: &[NAME, rule("ParentRef", |o, _| parent(o))],
        strategy: &Addresses,
        ..CLUSTER_KIND
    },
    Row {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        short: &["netpol"],
        generation: true,
        columns: &[
            NAME,
            rule("Pod-Selector", |o, _| json!(label_selector(o.at(&["spec", "podSelector"])))),
            AGE,
        ],
        strategy: &Policies,
        ..KIND
    },
    Row {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        resets: &[("status", &[&["metadata"], &["spec"]])],
        status: true,
        columns: &[
            NAME,
            rule("CIDRs", |o, _| {
                let all = o.items_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str);
                json!(all.collect::<Vec<_>>().join(","))
            }),
            AGE,
        ],
        strategy: &Ranges,
        ..CLUSTER_KIND
    },
];

const INGRESS_CLASS: &[Column] = &[
    Column {
        format: "name",
        ..rule("Name", |o, _| match o.annotation(DEFAULT_CLASS) {
            Some("true") => json!(format!("{} (default)", o.name())),
            _ => json!(o.name()),
        })
    },
    path("Controller", &["spec", "controller"]),
    rule("Parameters", |o, _| match o.at(&["spec", "parameters"]) {
        Some(p) => {
            let text = |key: &str| p[key].as_str().unwrap_or_default();
            let dot = if p["apiGroup"].is_string() { "." } else { "" };
            json!(format!("{}{dot}{}/{}", text("kind"), text("apiGroup"), text("name")))
        }
        None => json!("<none>"),
    }),
    AGE,
];

const INGRESS: &[Column] = &[
    NAME,
    rule("Class", |o, _| or(o, &["spec", "ingressClassName"], "<none>")),
    rule("Hosts", |o, _| json!(hosts(o))),
    rule("Address", |o, _| {
        let all = o.items_at(&["status", "loadBalancer", "ingress"]).iter();
        let mut all: Vec<&str> =
            all.filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str())).collect();
        all.sort_unstable();
        all.dedup();
        json!(all.join(","))
    }),
    rule("Ports", |o, _| match o.items_at(&["spec", "tls"]) {
        [] => json!("80"),
        _ => json!("80, 443"),
    }),
    AGE,
];

fn hosts(o: &Object) -> String {
    let rules = o.items_at(&["spec", "rules"]);
    let named: Vec<&str> =
        rules.iter().take(3).filter_map(|r| r["host"].as_str()).filter(|h| !h.is_empty()).collect();
    match (named.is_empty(), rules.len()) {
        (true, _) => "*".to_owned(),
        (false, n) if n > 3 => format!("{} + {} more...", named.join(","), n - 3),
        (false, _) => named.join(","),
    }
}

fn parent(o: &Object) -> Value {
    let Some(p) = o.at(&["spec", "parentRef"]) else { return json!("<none>") };
    let text = |key: &str| p[key].as_str().unwrap_or_default();
    let dot = if text("group").is_empty() { "" } else { "." };
    let slash = if text("namespace").is_empty() { "" } else { "/" };
    let kind = format!("{}{dot}{}", text("resource"), text("group")).to_lowercase();
    json!(format!("{kind}{slash}{}/{}", text("namespace"), text("name")))
}

struct IngressClasses;

impl Strategy for IngressClasses {
    fn default(&self, new: &mut Object) {
        within(object(&mut new.0, "spec"), "parameters", |p| fill(p, "scope", "Cluster"));
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = Located::root(new).at("spec");
        if let Some(old) = old {
            spec.at("controller").immutable(&Located::root(old).at("spec").at("controller"), &mut errors);
        }
        rules::ingress_class(&spec, &mut errors);
        errors.0
    }
}

struct Ingresses;

impl Strategy for Ingresses {
    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let (new, old) = (Located::root(new), old.map(Located::root));
        match cx.subresource {
            "status" => rules::balanced(&new, old.as_ref(), &mut errors),
            _ => rules::ingress(&new, old.as_ref(), &mut errors),
        }
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let outdated = old.is_none()
            && new.annotation(rules::CLASS_ANNOTATION).is_some()
            && new.at(&["spec", "ingressClassName"]).is_none();
        let text = format!(
            "annotation {:?} is deprecated, please use 'spec.ingressClassName' instead",
            rules::CLASS_ANNOTATION
        );
        outdated.then_some(text).into_iter().collect()
    }
}

struct Policies;

impl Strategy for Policies {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        for list in ["ingress", "egress"] {
            each(spec, list, |rule| each(rule, "ports", |p| fill(p, "protocol", "TCP")));
        }
        if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
            let both = spec["egress"].as_array().is_some_and(|e| !e.is_empty());
            spec["policyTypes"] = if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let old = old.map(|o| Located::root(o).at("spec"));
        rules::policy(&Located::root(new).at("spec"), old.as_ref(), &mut errors);
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let spec = Located::root(new).at("spec");
        rules::networks(&spec).iter().flat_map(|n| cidr_warnings(n.path(), n.text())).collect()
    }
}

/// An address in use, whose name is the address.
struct Addresses;

impl Strategy for Addresses {
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        strict_ip(name)
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let parent = Located::root(new).at("spec").at("parentRef");
        if parent.is_set() {
            parent.at("group").optional_as(dns1123_subdomain, &mut errors);
            parent.at("resource").required_as(path_segment, &mut errors);
            parent.at("name").required_as(path_segment, &mut errors);
            parent.at("namespace").optional_as(path_segment, &mut errors);
        } else {
            parent.missing("", &mut errors);
        }
        if let Some(old) = old {
            parent.immutable(&Located::root(old).at("spec").at("parentRef"), &mut errors);
        }
        errors.0
    }
}

struct Ranges;

impl Strategy for Ranges {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = Located::root(new).at("spec");
        match old.map(|o| Located::root(o).at("spec").at("cidrs")) {
            Some(old) => rules::changed_ranges(&spec, &old, &mut errors),
            None => rules::ranges(&spec, &mut errors),
        }
        errors.0
    }
}
