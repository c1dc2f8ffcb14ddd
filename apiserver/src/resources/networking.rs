//! `networking.k8s.io`: ingresses, network policies, service address ranges.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, label_selector, or, path, rule};
use super::defaulting::{each, fill, object, within};
use super::validation::{Errors, label_selector as check_selector};
use crate::field::FieldError;
use crate::field_names::dns1123_subdomain;
use crate::resource::{CLUSTER, Column, NAMESPACED, Row, Strategy, WriteContext};

const GROUP: &str = "networking.k8s.io";
const KIND: Row = Row { group: GROUP, ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: GROUP, ..CLUSTER };
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "IngressClass",
        plural: "ingressclasses",
        generation: true,
        columns: INGRESS_CLASS,
        strategy: &IngressClasses,
        ..CLUSTER_KIND
    },
    Row {
        kind: "Ingress",
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
        let controller = new.str_at(&["spec", "controller"]);
        if let Some(old) = old {
            errors.immutable(
                "spec.controller",
                new.at(&["spec", "controller"]),
                old.at(&["spec", "controller"]),
            );
        } else if controller.is_empty() {
            errors.required("spec.controller", "");
        } else if controller.len() > 250 {
            errors.0.push(FieldError::too_long("spec.controller", 250));
        } else if !controller
            .split_once('/')
            .is_some_and(|(host, path)| dns1123_subdomain(host).is_empty() && !path.is_empty())
        {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid("spec.controller", controller, detail);
        }
        if let Some(parameters) = new.at(&["spec", "parameters"]).filter(|p| p.is_object()) {
            let text = |key: &str| parameters[key].as_str().unwrap_or_default();
            for key in ["kind", "name"].into_iter().filter(|key| text(key).is_empty()) {
                errors.required(format!("spec.parameters.{key}"), "");
            }
            errors.one_of("spec.parameters.scope", text("scope"), &["Cluster", "Namespace"]);
        }
        errors.0
    }
}

struct Ingresses;

impl Strategy for Ingresses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let rules = new.items_at(&["spec", "rules"]);
        if rules.is_empty() && new.at(&["spec", "defaultBackend"]).is_none() {
            let spec = new.at(&["spec"]).filter(|s| **s != json!({})).cloned().unwrap_or_default();
            errors.invalid("spec", spec, "either `defaultBackend` or `rules` must be specified");
        }
        for (i, rule) in rules.iter().enumerate() {
            for (j, path) in rule["http"]["paths"].as_array().into_iter().flatten().enumerate() {
                let at = format!("spec.rules[{i}].http.paths[{j}]");
                let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                match path["pathType"].as_str().unwrap_or_default() {
                    "" => errors.required(format!("{at}.pathType"), "pathType must be specified"),
                    kind => errors.one_of(format!("{at}.pathType"), kind, &kinds),
                }
                let text = path["path"].as_str().unwrap_or_default();
                let needs = matches!(path["pathType"].as_str(), Some("Exact" | "Prefix"));
                if needs && !text.starts_with('/') {
                    errors.invalid(format!("{at}.path"), text, "must be an absolute path");
                }
            }
        }
        errors.0
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

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let selector = new.at(&["spec", "podSelector"]).unwrap_or(&Value::Null);
        check_selector("spec.podSelector", selector, &mut errors);
        for (i, kind) in new.items_at(&["spec", "policyTypes"]).iter().enumerate() {
            let kind = kind.as_str().unwrap_or_default();
            errors.one_of(format!("spec.policyTypes[{i}]"), kind, &["Egress", "Ingress"]);
        }
        errors.0
    }
}

/// An address in use, whose name is the address.
struct Addresses;

impl Strategy for Addresses {
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        if let Ok(ip) = name.parse::<std::net::IpAddr>() {
            let canonical = ip.to_canonical();
            return match (canonical == ip, ip.to_string() == name) {
                (false, _) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
                (true, true) => vec![],
                (true, false) => vec![format!("must be in canonical form (\"{ip}\")")],
            };
        }
        let number = |part: &str| {
            part.trim_start_matches('0').parse::<u8>().is_ok() || part.trim_matches('0').is_empty()
        };
        let padded =
            name.split('.').count() == 4 && name.split('.').all(|part| !part.is_empty() && number(part));
        let why = if padded {
            "must not have leading 0s"
        } else {
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        };
        vec![why.to_owned()]
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        const PARENT: &str = "spec.parentRef";
        let mut errors = Errors::default();
        match new.at(&["spec", "parentRef"]) {
            None => errors.required(PARENT, ""),
            Some(parent) => {
                for field in ["resource", "name"] {
                    if parent[field].as_str().unwrap_or_default().is_empty() {
                        errors.required(format!("{PARENT}.{field}"), "");
                    }
                }
            }
        }
        if let Some(old) = old {
            errors.immutable(PARENT, new.at(&["spec", "parentRef"]), old.at(&["spec", "parentRef"]));
        }
        errors.0
    }
}

struct Ranges;

impl Strategy for Ranges {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let all = new.items_at(&["spec", "cidrs"]);
        if let Some(old) = old {
            errors.immutable("spec.cidrs", new.at(&["spec", "cidrs"]), old.at(&["spec", "cidrs"]));
            return errors.0;
        }
        match all.len() {
            0 => errors.required("spec.cidrs", "at least one CIDR required"),
            1 | 2 => {}
            _ => {
                let shown = json!({"CIDRs": all}).to_string();
                errors.invalid_text("spec.cidrs", shown, "may only hold up to 2 values");
            }
        }
        errors.0
    }
}
