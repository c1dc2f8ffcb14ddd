//! What is wrong with a Service.

use std::collections::HashSet;
use std::net::IpAddr;

use coracle_api::Object;
use serde_json::Value;

use super::endpoints::{endpoint_ip, legacy_ip};
use super::service_addresses;
use super::services::{has_address, is_external, is_headless, needs_health_check_port};
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, port_name, port_number, qualified_name};
use crate::resources::addresses;
use crate::resources::located::Located;
use crate::resources::validation::{Errors, labels};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];

pub(super) fn service(new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    // Upstream looks at the addresses before anything else, as it is about to allocate them.
    let of_addresses = service_addresses::validate(new, old);
    if !of_addresses.is_empty() {
        return of_addresses;
    }
    if let Some(old) = old {
        unchanged_address(new, old, &mut errors);
        unchanged_balancer(new, old, &mut errors);
    }
    let kind = new.str_at(&["spec", "type"]);
    let all = new.items_at(&["spec", "ports"]);
    if all.is_empty() && !is_headless(new) && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(new) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid("spec.clusterIPs[0]", "None", detail);
        }
        "ExternalName" => external_name(new, &mut errors),
        _ => {}
    }
    let mut names = HashSet::new();
    for (i, p) in all.iter().enumerate() {
        port(&format!("spec.ports[{i}]"), p, all.len() > 1, &mut names, &mut errors);
    }
    labels("spec.selector", new.at(&["spec", "selector"]), &mut errors);
    affinity(new, &mut errors);
    for (i, ip) in new.items_at(&["spec", "externalIPs"]).iter().enumerate() {
        let (at, text) = (format!("spec.externalIPs[{i}]"), ip.as_str().unwrap_or_default());
        if legacy_ip(&at, text, &mut errors) {
            endpoint_ip(&at, text, &mut errors);
        }
    }
    errors.one_of("spec.type", kind, &TYPES);
    duplicates(kind, all, &mut errors);
    traffic(new, kind, &mut errors);
    errors.0
}

/// The primary address stays for the life of a Service, unless it comes from or goes to `ExternalName`.
fn unchanged_address(new: &Object, old: &Object, errors: &mut Errors) {
    let first = |o: &Object| o.items_at(&["spec", "clusterIPs"]).first().cloned();
    let (Some(was), is) = (first(old), first(new)) else { return };
    if has_address(new) && has_address(old) && is.as_ref() != Some(&was) {
        let ips = new.at(&["spec", "clusterIPs"]).cloned().unwrap_or(Value::Null);
        match is {
            Some(_) => errors.invalid("spec.clusterIPs[0]", ips, "may not change once set"),
            None => errors.invalid("spec.clusterIPs[0]", ips, "primary clusterIP can not be unset"),
        }
    }
}

/// Who balances, and where it asks for health, stays.
fn unchanged_balancer(new: &Object, old: &Object, errors: &mut Errors) {
    let (root, was) = (Located::root(new), Located::root(old));
    let (spec, was) = (root.at("spec"), was.at("spec"));
    let both = [&spec, &was].iter().all(|s| s.at("type").text() == "LoadBalancer");
    let class = spec.at("loadBalancerClass");
    if both && class.value() != was.at("loadBalancerClass").value() {
        class.wrong("may not change once set", errors);
    }
    balancer_class(&class, spec.at("type").text(), errors);
    let port = spec.at("healthCheckNodePort");
    let asked = needs_health_check_port(new) && needs_health_check_port(old);
    if asked && port.value() != was.at("healthCheckNodePort").value() {
        port.forbidden("field is immutable", errors);
    }
}

fn balancer_class(class: &Located<'_>, kind: &str, errors: &mut Errors) {
    if kind == "LoadBalancer" {
        if class.is_set() {
            class.obeys(qualified_name, errors);
        }
    } else if class.is_set() {
        class.forbidden("may only be used when `type` is 'LoadBalancer'", errors);
    }
}

fn points<'a>(of: &Located<'a>) -> Located<'a> {
    of.at("status").at("loadBalancer").at("ingress")
}

/// Where a balancer is reached.
pub(super) fn status(new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (root, before) = (Located::root(new), old.map(Located::root));
    let list = points(&root);
    if root.at("spec").at("type").text() != "LoadBalancer" && !list.is_empty() {
        list.forbidden("may only be used when `spec.type` is 'LoadBalancer'", &mut errors);
        return errors.0;
    }
    let before: Vec<_> = before.iter().flat_map(|b| points(b).each().collect::<Vec<_>>()).collect();
    let before: Vec<&str> = before.iter().map(|p| p.value()["ip"].as_str().unwrap_or_default()).collect();
    for point in list.each() {
        let [ip, mode, host] = ["ip", "ipMode", "hostname"].map(|field| point.at(field));
        let addressed = !ip.text().is_empty();
        if addressed {
            addresses::legacy_ip(&ip, &before, &mut errors);
        }
        match (addressed, mode.is_set()) {
            (true, false) => mode.missing("must be specified when `ip` is set", &mut errors),
            (false, true) => mode.forbidden("may not be specified when `ip` is not set", &mut errors),
            _ => mode.one_of(&["Proxy", "VIP"], &mut errors),
        }
        host.optional_as(dns1123_subdomain, &mut errors);
        if addresses::sloppy_ip(host.text()).is_some() {
            host.wrong("must be a DNS name, not an IP address", &mut errors);
        }
    }
    errors.0
}

fn external_name(new: &Object, errors: &mut Errors) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if new.at(&["spec", key]).is_some_and(|v| v.as_array().is_none_or(|a| !a.is_empty())) {
            errors.forbidden(format!("spec.{key}"), "may not be set for ExternalName services");
        }
    }
    let name = new.str_at(&["spec", "externalName"]);
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required("spec.externalName", ""),
        name => errors.all_invalid("spec.externalName", name, dns1123_subdomain(name)),
    }
}

fn port(at: &str, p: &Value, needs_name: bool, names: &mut HashSet<String>, errors: &mut Errors) {
    match p["name"].as_str().unwrap_or_default() {
        "" if needs_name => errors.required(format!("{at}.name"), ""),
        "" => {}
        name => {
            errors.all_invalid(format!("{at}.name"), name, dns1123_label(name));
            if !names.insert(name.to_owned()) {
                errors.duplicate(format!("{at}.name"), name);
            }
        }
    }
    let number = p["port"].as_i64().unwrap_or(0);
    errors.all_invalid(format!("{at}.port"), number, port_number(number));
    errors.one_of(format!("{at}.protocol"), p["protocol"].as_str().unwrap_or_default(), &PROTOCOLS);
    match &p["targetPort"] {
        Value::String(name) => errors.all_invalid(format!("{at}.targetPort"), &**name, port_name(name)),
        number => {
            let number = number.as_i64().unwrap_or(0);
            errors.all_invalid(format!("{at}.targetPort"), number, port_number(number));
        }
    }
    if let Some(protocol) = p["appProtocol"].as_str() {
        errors.all_invalid(format!("{at}.appProtocol"), protocol, qualified_name(protocol));
    }
}

fn affinity(new: &Object, errors: &mut Errors) {
    let affinity = new.str_at(&["spec", "sessionAffinity"]);
    errors.one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    if affinity == "None" && new.at(&["spec", "sessionAffinityConfig"]).is_some() {
        let detail = "must not be set when session affinity is None";
        errors.forbidden("spec.sessionAffinityConfig", detail);
    }
    let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let seconds = new.i64_at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
    if let Some(seconds) = seconds.filter(|s| affinity == "ClientIP" && !(1..=86_400).contains(s)) {
        errors.invalid(at, seconds, "must be greater than 0 and less than 86400");
    }
}

fn duplicates(kind: &str, all: &[Value], errors: &mut Errors) {
    let (mut node_ports, mut ports) = (HashSet::new(), HashSet::new());
    for (i, p) in all.iter().enumerate() {
        let number = p["nodePort"].as_i64().unwrap_or(0);
        if number != 0 && kind == "ClusterIP" {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(format!("spec.ports[{i}].nodePort"), detail);
        }
        if number != 0 && !node_ports.insert((p["protocol"].as_str(), number)) {
            errors.duplicate(format!("spec.ports[{i}].nodePort"), number);
        }
    }
    for (i, p) in all.iter().enumerate() {
        if !ports.insert((p["protocol"].as_str(), p["port"].as_i64())) {
            let key = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                p["protocol"], p["port"]
            );
            errors.duplicate_text(format!("spec.ports[{i}]"), key);
        }
    }
}

fn traffic(new: &Object, kind: &str, errors: &mut Errors) {
    let external = is_external(new);
    source_ranges(new, kind, errors);
    let allocate = new.at(&["spec", "allocateLoadBalancerNodePorts"]);
    if allocate.is_some() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden("spec.allocateLoadBalancerNodePorts", detail);
    }
    let spec = Located::root(new).at("spec");
    balancer_class(&spec.at("loadBalancerClass"), kind, errors);
    match (external, new.str_at(&["spec", "externalTrafficPolicy"])) {
        (false, "") => {}
        (false, policy) => {
            let detail = "may only be set for externally-accessible services";
            errors.invalid("spec.externalTrafficPolicy", policy, detail);
        }
        (true, policy) => errors.one_of("spec.externalTrafficPolicy", policy, &POLICIES),
    }
    if let Some(port) = new.i64_at(&["spec", "healthCheckNodePort"]).filter(|p| *p != 0)
        && !needs_health_check_port(new)
    {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", port, detail);
    }
    if let Some(port) = new.i64_at(&["spec", "healthCheckNodePort"]).filter(|p| *p != 0)
        && needs_health_check_port(new)
    {
        errors.all_invalid("spec.healthCheckNodePort", port, port_number(port));
    }
    if let Some(policy) = new.at(&["spec", "internalTrafficPolicy"]).and_then(Value::as_str) {
        errors.supported("spec.internalTrafficPolicy", policy, &POLICIES);
    }
    if let Some(way) = new.at(&["spec", "trafficDistribution"]).and_then(Value::as_str) {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        errors.supported("spec.trafficDistribution", way, &known);
    }
}

fn source_ranges(new: &Object, kind: &str, errors: &mut Errors) {
    let ranges = new.items_at(&["spec", "loadBalancerSourceRanges"]);
    if !ranges.is_empty() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden("spec.LoadBalancerSourceRanges", detail);
    }
    for (i, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or_default();
        let parts = text.trim().split_once('/');
        let fits = |ip: &str, bits: &str| {
            let most = if ip.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
            bits.parse::<u8>().ok().filter(|b| *b <= most)
        };
        if parts.and_then(|(ip, bits)| fits(ip, bits)).is_none() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(format!("spec.LoadBalancerSourceRanges[{i}]"), text, detail);
        }
    }
}

/// What is allowed in a Service, and does nothing or not what it seems.
pub(super) fn warnings(new: &Object) -> Vec<String> {
    let mut all = vec![];
    let kind = new.str_at(&["spec", "type"]);
    let outside = !new.items_at(&["spec", "externalIPs"]).is_empty();
    let mut warn = |when: bool, text: &str| {
        if when {
            all.push(text.to_owned());
        }
    };
    if is_headless(new) {
        let ip = new.str_at(&["spec", "loadBalancerIP"]);
        warn(!ip.is_empty(), "spec.loadBalancerIP is ignored for headless services");
        warn(outside, "spec.externalIPs is ignored for headless services");
        let affinity = new.str_at(&["spec", "sessionAffinity"]);
        warn(affinity != "None", "spec.SessionAffinity is ignored for headless services");
    }
    let named = kind == "ExternalName";
    warn(
        outside && !is_headless(new) && !named,
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    warn(outside && named, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    let name = new.str_at(&["spec", "externalName"]);
    warn(!named && !name.is_empty(), "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    warn(
        new.str_at(&["spec", "trafficDistribution"]) == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    all
}
