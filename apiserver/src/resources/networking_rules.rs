//! What ingresses, network policies and service ranges may say.

use std::net::IpAddr;

use super::addresses::{Network, legacy_cidr, legacy_ip, sloppy_ip, strict_cidr};
use super::located::Located;
use super::validation::Errors;
use crate::field_names::{
    dns1123_label, dns1123_subdomain, path_segment, port_name, port_number, wildcard_dns1123_subdomain,
};

pub(super) const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const NOT_AN_IP: &str = "must be a DNS name, not an IP address";
const ABSOLUTE: &str = "must be an absolute path";

/// What is older than a rule, and wrong by it, may stay.
#[derive(Clone, Copy, Default)]
struct Leniency {
    secret_names: bool,
    wildcard_rules: bool,
}

pub(super) fn ingress(new: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    let spec = new.at("spec");
    let lenient = old.map(|o| leniency(&o.at("spec"))).unwrap_or_default();
    let (backend, rules) = (spec.at("defaultBackend"), spec.at("rules"));
    if rules.is_empty() && !backend.is_set() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid_text(spec.path(), "null".to_owned(), detail);
    }
    if backend.is_set() {
        self::backend(&backend, errors);
    }
    for rule in rules.each() {
        self::rule(&rule, lenient, errors);
    }
    for tls in spec.at("tls").each() {
        for host in tls.at("hosts").each() {
            host.obeys(
                if host.text().contains('*') { wildcard_dns1123_subdomain } else { dns1123_subdomain },
                errors,
            );
        }
        if !lenient.secret_names {
            tls.at("secretName").optional_as(dns1123_subdomain, errors);
        }
    }
    let class = spec.at("ingressClassName");
    if class.is_set() {
        class.obeys(dns1123_subdomain, errors);
    }
    let annotation = new.at("metadata").at("annotations").at(CLASS_ANNOTATION);
    if old.is_none() && annotation.is_set() && class.is_set() && annotation.text() != class.text() {
        let why = "must match `ingressClassName` when both are specified";
        errors.invalid(format!("annotations.{CLASS_ANNOTATION}"), annotation.text(), why);
    }
}

fn leniency(old: &Located<'_>) -> Leniency {
    let bad_name = |tls: Located<'_>| {
        let name = tls.at("secretName").text();
        !name.is_empty() && !dns1123_subdomain(name).is_empty()
    };
    let bad_rule = |rule: Located<'_>| {
        let mut found = Errors::default();
        paths(&rule.at("http"), &mut found);
        rule.at("host").text().contains('*') && !found.0.is_empty()
    };
    Leniency {
        secret_names: old.at("tls").each().any(bad_name),
        wildcard_rules: old.at("rules").each().any(bad_rule),
    }
}

fn rule(rule: &Located<'_>, lenient: Leniency, errors: &mut Errors) {
    let host = rule.at("host");
    let wild = host.text().contains('*');
    if sloppy_ip(host.text()).is_some() {
        host.wrong(NOT_AN_IP, errors);
    }
    host.optional_as(if wild { wildcard_dns1123_subdomain } else { dns1123_subdomain }, errors);
    if !(wild && lenient.wildcard_rules) {
        paths(&rule.at("http"), errors);
    }
}

fn paths(http: &Located<'_>, errors: &mut Errors) {
    if !http.is_set() {
        return;
    }
    if http.at("paths").is_empty() {
        http.at("paths").missing("", errors);
    }
    for path in http.at("paths").each() {
        let (kind, text) = (path.at("pathType"), path.at("path"));
        if !kind.is_set() {
            kind.missing("pathType must be specified", errors);
            continue;
        }
        let is = text.text();
        let shown = |detail: String, errors: &mut Errors| errors.invalid(text.path(), is, detail);
        match kind.text() {
            "Exact" | "Prefix" => {
                if !is.starts_with('/') {
                    shown(ABSOLUTE.to_owned(), errors);
                }
                for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|p| is.contains(p)) {
                    shown(format!("must not contain '{part}'"), errors);
                }
                for end in ["/..", "/."].into_iter().filter(|e| is.ends_with(e)) {
                    shown(format!("cannot end with '{end}'"), errors);
                }
            }
            "ImplementationSpecific" if !is.is_empty() && !is.starts_with('/') => {
                shown(ABSOLUTE.to_owned(), errors);
            }
            _ => kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"], errors),
        }
        backend(&path.at("backend"), errors);
    }
}

fn backend(at: &Located<'_>, errors: &mut Errors) {
    let (resource, service) = (at.at("resource"), at.at("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => errors.invalid(at.path(), "", "cannot set both resource and service backends"),
        (true, false) => reference(&resource, errors),
        (false, false) => errors.invalid(at.path(), "", "resource or service backend is required"),
        (false, true) => {
            service.at("name").required_as(dns1123_label, errors);
            let (name, number) = (service.at("port").at("name"), service.at("port").at("number"));
            match (name.text(), number.number().unwrap_or(0)) {
                ("", 0) => at.missing("port name or number is required", errors),
                ("", n) => number.breaks(port_number(n), errors),
                (_, 0) => name.obeys(port_name, errors),
                _ => errors.invalid(at.path(), "", "cannot set both port name & port number"),
            }
        }
    }
}

fn reference(at: &Located<'_>, errors: &mut Errors) {
    if at.at("apiGroup").is_set() {
        at.at("apiGroup").obeys(dns1123_subdomain, errors);
    }
    at.at("kind").required_as(path_segment, errors);
    at.at("name").required_as(path_segment, errors);
}

fn points<'a>(of: &Located<'a>) -> Vec<Located<'a>> {
    of.at("status").at("loadBalancer").at("ingress").each().collect()
}

/// Where an ingress is reached.
pub(super) fn balanced(new: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    let before: Vec<&str> = old.map(points).into_iter().flatten().map(|p| p.at("ip").text()).collect();
    for point in points(new) {
        let (ip, host) = (point.at("ip"), point.at("hostname"));
        if !ip.text().is_empty() {
            legacy_ip(&ip, &before, errors);
        }
        host.optional_as(dns1123_subdomain, errors);
        if sloppy_ip(host.text()).is_some() {
            host.wrong(NOT_AN_IP, errors);
        }
    }
}

pub(super) fn ingress_class(spec: &Located<'_>, errors: &mut Errors) {
    let controller = spec.at("controller");
    controller.at_most_bytes(250, errors);
    domain_path(&controller, errors);
    let parameters = spec.at("parameters");
    if !parameters.is_set() {
        return;
    }
    reference(&parameters, errors);
    let (scope, namespace) = (parameters.at("scope"), parameters.at("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => {
            namespace.missing("`parameters.scope` is set to 'Namespace'", errors);
        }
        "Namespace" => namespace.obeys(dns1123_label, errors),
        "Cluster" if namespace.is_set() => {
            namespace.forbidden("`parameters.scope` is set to 'Cluster'", errors);
        }
        _ if !scope.is_set() => scope.missing("", errors),
        _ => scope.one_of(&["Cluster", "Namespace"], errors),
    }
}

/// `acme.io/foo`
pub(super) fn domain_path(at: &Located<'_>, errors: &mut Errors) {
    const FORM: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";
    const PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
    if !at.required(errors) {
        return;
    }
    let (host, path) = at.text().split_once('/').unwrap_or_default();
    if host.is_empty() || path.is_empty() {
        return at.wrong(FORM, errors);
    }
    errors.all_invalid(at.path(), host, dns1123_subdomain(host));
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.invalid(at.path(), path, PATH);
    }
}

pub(super) fn policy(spec: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    const KINDS: [&str; 2] = ["Ingress", "Egress"];
    let before: Vec<&str> = old.iter().flat_map(|o| networks(o)).map(|n| n.text()).collect();
    let selector = old.map(|o| o.at("podSelector"));
    spec.at("podSelector").label_selector_unlike(selector.as_ref(), errors);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(list).each() {
            rule.at("ports").each().for_each(|p| policy_port(&p, errors));
            rule.at(peers).each().for_each(|p| peer(&p, selector.as_ref(), &before, errors));
        }
    }
    let kinds = spec.at("policyTypes");
    if kinds.len() > KINDS.len() {
        return kinds.wrong("may not specify more than two policyTypes", errors);
    }
    kinds.each().for_each(|kind| kind.one_of(&KINDS, errors));
}

/// Every network that a policy names.
pub(super) fn networks<'a>(spec: &Located<'a>) -> Vec<Located<'a>> {
    let mut all = vec![];
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for peer in spec.at(list).each().flat_map(|rule| rule.at(peers).each().collect::<Vec<_>>()) {
            let block = peer.at("ipBlock");
            if block.is_set() {
                all.push(block.at("cidr"));
                all.extend(block.at("except").each());
            }
        }
    }
    all
}

fn policy_port(at: &Located<'_>, errors: &mut Errors) {
    at.at("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
    let (port, end) = (at.at("port"), at.at("endPort"));
    match (port.number(), port.value().as_str()) {
        (Some(first), _) => {
            port.breaks(port_number(first), errors);
            if let Some(last) = end.number() {
                if last < first {
                    // Upstream shows where the range begins.
                    errors.invalid(end.path(), first, "must be greater than or equal to `port`");
                }
                end.breaks(port_number(last), errors);
            }
        }
        (None, Some(_)) => {
            if end.is_set() {
                end.wrong("may not be specified when `port` is non-numeric", errors);
            }
            port.obeys(port_name, errors);
        }
        (None, None) if end.is_set() => {
            end.wrong("may not be specified when `port` is not specified", errors);
        }
        (None, None) => {}
    }
}

fn peer(at: &Located<'_>, lenient: Option<&Located<'_>>, before: &[&str], errors: &mut Errors) {
    let (pods, namespaces, block) = (at.at("podSelector"), at.at("namespaceSelector"), at.at("ipBlock"));
    pods.label_selector_unlike(lenient, errors);
    namespaces.label_selector_unlike(lenient, errors);
    if block.is_set() {
        ip_block(&block, before, errors);
    }
    let selects = pods.is_set() || namespaces.is_set();
    if !selects && !block.is_set() {
        at.missing("must specify a peer", errors);
    }
    if selects && block.is_set() {
        at.forbidden("may not specify both ipBlock and another peer", errors);
    }
}

fn ip_block(block: &Located<'_>, before: &[&str], errors: &mut Errors) {
    let cidr = block.at("cidr");
    if !cidr.required(errors) {
        return;
    }
    let known = |at: &Located<'_>| before.contains(&at.text());
    if !known(&cidr) {
        cidr.obeys(legacy_cidr, errors);
    }
    let Some(whole) = Network::sloppy(cidr.text()) else { return };
    for except in block.at("except").each() {
        if !known(&except) {
            except.obeys(legacy_cidr, errors);
        }
        let Some(part) = Network::sloppy(except.text()) else { continue };
        if !whole.contains(part.masked().address) || whole.bits >= part.bits {
            except.wrong("must be a strict subset of `cidr`", errors);
        }
    }
}

/// The ranges of a new `ServiceCIDR`.
pub(super) fn ranges(spec: &Located<'_>, errors: &mut Errors) {
    let all = spec.at("cidrs");
    match all.len() {
        0 => return all.missing("at least one CIDR required", errors),
        1 | 2 => {}
        _ => return spec.clone().called(all.path()).wrong("may only hold up to 2 values", errors),
    }
    all.each().for_each(|cidr| cidr.obeys(strict_cidr, errors));
    let families: Vec<bool> = all
        .each()
        .filter_map(|c| Network::sloppy(c.text()))
        .map(|n| matches!(n.address, IpAddr::V4(_)))
        .collect();
    if matches!(families[..], [a, b] if a == b) {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        all.wrong(why, errors);
    }
}

/// A second range may come, nothing else.
pub(super) fn changed_ranges(spec: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let all = spec.at("cidrs");
    match (old.len(), all.len()) {
        (was, is) if was == is => {
            all.each().zip(old.each()).for_each(|(is, was)| is.immutable(&was, errors));
        }
        (1, 2) => {
            all.each().zip(old.each()).for_each(|(is, was)| is.immutable(&was, errors));
            ranges(spec, errors);
        }
        _ => all.wrong("field is immutable", errors),
    }
}
