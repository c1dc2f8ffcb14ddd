//! `discovery.k8s.io`: endpoint slices.

use std::collections::HashSet;

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, first_of, path, rule};
use super::core::{endpoint_ip, legacy_ip};
use super::defaulting::{each, fill};
use super::located::Located;
use super::pod_spec::items;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, label_value, qualified_name};
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    generation: true,
    columns: &[
        NAME,
        path("AddressType", &["addressType"]),
        rule("Ports", |o, _| json!(ports(o))),
        rule("Endpoints", |o, _| json!(addresses(o))),
        AGE,
    ],
    strategy: &Slices,
    ..NAMESPACED
}];

struct Slices;

impl Strategy for Slices {
    fn default(&self, new: &mut Object) {
        each(&mut new.0, "ports", |p| {
            fill(p, "name", "");
            fill(p, "protocol", "TCP");
        });
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        errors.one_of("addressType", new.str_at(&["addressType"]), &["FQDN", "IPv4", "IPv6"]);
        check_ports(new, &mut errors);
        let unchanged = old.is_some_and(|old| old.at(&["endpoints"]) == new.at(&["endpoints"]));
        let endpoints = Located::root(new).at("endpoints");
        if !unchanged && endpoints.at_most_items(ENDPOINTS, &mut errors) {
            for endpoint in endpoints.each() {
                let kind = new.str_at(&["addressType"]);
                check_endpoint(endpoint.path(), endpoint.value(), kind, &mut errors);
                let hints = endpoint.at("hints");
                if check_hints(&hints.at("forZones"), label_value, &mut errors) {
                    check_hints(&hints.at("forNodes"), dns1123_subdomain, &mut errors);
                }
            }
        }
        if let Some(old) = old {
            errors.immutable("addressType", new.at(&["addressType"]), old.at(&["addressType"]));
        }
        errors.0
    }
}

const ENDPOINTS: usize = 1000;
const PORTS: usize = 20_000;
const ADDRESSES: usize = 100;
const HINTS: usize = 8;

/// Names of zones or nodes, each once; whether there are not too many.
fn check_hints(list: &Located<'_>, rule: fn(&str) -> Vec<String>, errors: &mut Errors) -> bool {
    if !list.at_most_items(HINTS, errors) {
        return false;
    }
    let mut seen = HashSet::new();
    for name in list.each().map(|hint| hint.at("name")) {
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
        name.obeys(rule, errors);
    }
    true
}

fn check_ports(new: &Object, errors: &mut Errors) {
    if !Located::root(new).at("ports").at_most_items(PORTS, errors) {
        return;
    }
    let mut names = HashSet::new();
    for (i, port) in new.items_at(&["ports"]).iter().enumerate() {
        let at = format!("ports[{i}]");
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            errors.all_invalid(format!("{at}.name"), name, dns1123_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(format!("{at}.name"), name);
        }
        let protocol = port["protocol"].as_str().unwrap_or_default();
        errors.supported(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = port["appProtocol"].as_str() {
            errors.all_invalid(format!("{at}.appProtocol"), protocol, qualified_name(protocol));
        }
    }
}

fn check_endpoint(at: &str, endpoint: &Value, kind: &str, errors: &mut Errors) {
    let list = format!("{at}.addresses");
    if items(endpoint, "addresses").next().is_none() {
        errors.required(&*list, "must contain at least 1 address");
    }
    let count = items(endpoint, "addresses").count();
    if count > ADDRESSES {
        errors.0.push(FieldError::too_many(&*list, count, ADDRESSES));
    }
    for (i, address) in items(endpoint, "addresses").enumerate() {
        let (at, text) = (format!("{list}[{i}]"), address.as_str().unwrap_or_default());
        match kind {
            "IPv4" | "IPv6" => {
                if legacy_ip(&at, text, errors) {
                    if text.contains(':') != (kind == "IPv6") {
                        errors.invalid(&*list, text, format!("must be an {kind} address"));
                    }
                    endpoint_ip(&at, text, errors);
                }
            }
            "FQDN" => {
                let wrong = dns1123_subdomain(text.strip_suffix('.').unwrap_or(text));
                if text.is_empty() {
                    errors.required(at, "");
                } else if !wrong.is_empty() {
                    errors.all_invalid(at, text, wrong);
                } else if text.split('.').filter(|l| !l.is_empty()).count() < 2 {
                    errors.invalid(
                        at,
                        text,
                        "should be a domain with at least two segments separated by dots",
                    );
                }
            }
            _ => {}
        }
    }
    for (key, rule) in
        [("nodeName", dns1123_subdomain as fn(&str) -> Vec<String>), ("hostname", dns1123_label)]
    {
        if let Some(name) = endpoint[key].as_str() {
            errors.all_invalid(format!("{at}.{key}"), name, rule(name));
        }
    }
}

fn ports(o: &Object) -> String {
    let text = |p: &Value| match (&p["port"], p["name"].as_str()) {
        (Value::Null, Some(name)) => name.to_owned(),
        (Value::Null, None) => "*".to_owned(),
        (number, _) => number.to_string(),
    };
    let all: Vec<String> = o.items_at(&["ports"]).iter().map(text).collect();
    first_of(&all, 3, "<unset>")
}

fn addresses(o: &Object) -> String {
    let all: Vec<String> = o
        .items_at(&["endpoints"])
        .iter()
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    first_of(&all, 3, "<unset>")
}
