//! Endpoints: the older list of a Service's addresses.

use std::net::IpAddr;

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, rule};
use super::super::defaulting::{each, fill_zero};
use super::super::pod_spec::items;
use super::super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, port_number, qualified_name};
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) const ROW: Row = Row {
    kind: "Endpoints",
    metadata_looks: [2, 1],
    plural: "endpoints",
    singular: "endpoints",
    short: &["ep"],
    columns: &[NAME, rule("Endpoints", |o, _| json!(addresses(o))), AGE],
    strategy: &Endpoints,
    create_on_update: true,
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ..NAMESPACED
};

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, new: &mut Object) {
        each(&mut new.0, "subsets", |s| each(s, "ports", |p| fill_zero(p, "protocol", "TCP")));
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        for (i, subset) in new.items_at(&["subsets"]).iter().enumerate() {
            check_subset(&format!("subsets[{i}]"), subset, &mut errors);
        }
        errors.0
    }
}

fn check_subset(at: &str, subset: &Value, errors: &mut Errors) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| items(subset, list).next().is_none()) {
        errors.required(at, "must specify `addresses` or `notReadyAddresses`");
    }
    for list in lists {
        for (i, address) in items(subset, list).enumerate() {
            let at = format!("{at}.{list}[{i}]");
            let text = |key: &str| address[key].as_str().unwrap_or_default();
            legacy_ip(&format!("{at}.ip"), text("ip"), errors);
            if !text("hostname").is_empty() {
                errors.all_invalid(
                    format!("{at}.hostname"),
                    text("hostname"),
                    dns1123_label(text("hostname")),
                );
            }
            if address["nodeName"].is_string() {
                let name = text("nodeName");
                errors.all_invalid(format!("{at}.nodeName"), name, dns1123_subdomain(name));
            }
            endpoint_ip(&format!("{at}.ip"), text("ip"), errors);
        }
    }
    let many = items(subset, "ports").count() > 1;
    for (i, port) in items(subset, "ports").enumerate() {
        let at = format!("{at}.ports[{i}]");
        match port["name"].as_str().unwrap_or_default() {
            "" if many => errors.required(format!("{at}.name"), ""),
            "" => {}
            name => errors.all_invalid(format!("{at}.name"), name, dns1123_label(name)),
        }
        let number = port["port"].as_i64().unwrap_or(0);
        errors.all_invalid(format!("{at}.port"), number, port_number(number));
        let protocol = port["protocol"].as_str().unwrap_or_default();
        errors.one_of(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = port["appProtocol"].as_str() {
            errors.all_invalid(format!("{at}.appProtocol"), protocol, qualified_name(protocol));
        }
    }
}

/// Whether the text is an address; if not, it is said.
pub(in super::super) fn legacy_ip(at: &str, text: &str, errors: &mut Errors) -> bool {
    let valid = text.parse::<IpAddr>().is_ok();
    if !valid {
        errors.invalid(at, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    valid
}

/// An address that traffic can be sent to.
pub(in super::super) fn endpoint_ip(at: &str, text: &str, errors: &mut Errors) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return errors.invalid(at, text, "must be a valid IP address");
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(at, text, detail);
    }
}

/// The first three as `ip:port`, and how many more.
fn addresses(o: &Object) -> String {
    let mut all = vec![];
    let subsets = o.items_at(&["subsets"]);
    for subset in subsets {
        let list = |key: &str| subset[key].as_array().cloned().unwrap_or_default();
        let ports = list("ports");
        let ips = list("addresses");
        let ip = |a: &Value| a["ip"].as_str().unwrap_or_default().to_owned();
        if ports.is_empty() {
            all.extend(ips.iter().map(ip));
        }
        for port in &ports {
            all.extend(ips.iter().map(|a| join(&ip(a), &port["port"])));
        }
    }
    match subsets.is_empty() {
        true => "<none>".to_owned(),
        false => super::super::columns::first_of(&all, 3, ""),
    }
}

fn join(ip: &str, port: &Value) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
