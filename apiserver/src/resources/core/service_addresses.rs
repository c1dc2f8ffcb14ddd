//! What is wrong with the addresses of a Service and their families. The cluster has one family, IPv4.

use std::collections::BTreeSet;
use std::net::IpAddr;

use coracle_api::Object;

use super::services::{has_address, is_headless};
use crate::field::FieldError;
use crate::resources::addresses::{legacy_ip, sloppy_ip};
use crate::resources::located::Located;
use crate::resources::validation::Errors;

/// Upstream looks in three rounds, and goes no further where one of them finds something: whether the fields are in order
/// and fit each other, whether the policy fits them, and whether the cluster has what they ask for.
pub(super) fn validate(new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    if !has_address(new) {
        return vec![];
    }
    let root = Located::root(new);
    let spec = root.at("spec");
    let before: Vec<&str> = old
        .map(|old| old.items_at(&["spec", "clusterIPs"]))
        .unwrap_or_default()
        .iter()
        .filter_map(|ip| ip.as_str())
        .collect();
    let rounds: [&dyn Fn(&mut Errors); 3] = [
        &|errors| in_order(&spec, is_headless(new), &before, errors),
        &|errors| as_policy(&spec, errors),
        &|errors| configured(&spec, is_headless(new), errors),
    ];
    for round in rounds {
        let mut errors = Errors::default();
        round(&mut errors);
        if !errors.0.is_empty() {
            return errors.0;
        }
    }
    vec![]
}

fn in_order(spec: &Located<'_>, headless: bool, before: &[&str], errors: &mut Errors) {
    let [ip, ips, families, policy] =
        ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].map(|field| spec.at(field));
    let first = ips.each().next();
    match (ip.text(), &first) {
        ("", Some(_)) => ips.wrong("must be empty when `clusterIP` is not specified", errors),
        ("", None) => {}
        (_, None) => ips.missing("", errors),
        (ip, Some(first)) if first.text() != ip => ips.wrong("first value must match `clusterIP`", errors),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for family in families.each() {
        family.one_of(&["IPv4", "IPv6"], errors);
        if !seen.insert(family.text()) {
            family.duplicate(errors);
        }
    }
    policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    let valid = errors.0.len();
    for (i, ip) in ips.each().enumerate() {
        if i > 0 || ip.text() != "None" {
            legacy_ip(&ip, before, errors);
        } else if ips.len() > 1 {
            ips.wrong("'None' must be the first and only value", errors);
        }
    }
    let valid = errors.0.len() == valid;
    if ips.len() > 2 {
        ips.wrong("may only hold up to 2 values", errors);
    }
    if !valid {
        return;
    }
    let six = |ip: &Located<'_>| sloppy_ip(ip.text()).is_some_and(|ip: IpAddr| ip.is_ipv6());
    let kinds: BTreeSet<bool> = ips.each().map(|ip| six(&ip)).collect();
    if ips.len() > 1 && kinds.len() < 2 {
        ips.wrong("may specify no more than one IP for each IP family", errors);
    }
    if headless {
        return;
    }
    for (i, (ip, family)) in ips.each().zip(families.each()).enumerate() {
        if six(&ip) != (family.text() == "IPv6") {
            let why = format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.text());
            ip.wrong(why, errors);
        }
    }
}

fn as_policy(spec: &Located<'_>, errors: &mut Errors) {
    let [ips, families, policy] = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].map(|field| spec.at(field));
    if matches!(policy.text(), "" | "SingleStack") {
        for (list, what) in [(&ips, "cluster IPs"), (&families, "IP families")] {
            if list.len() == 2 {
                let why = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                policy.wrong(why, errors);
            }
        }
    }
    for (i, ip) in ips.each().enumerate().skip(families.len()) {
        if sloppy_ip(ip.text()).is_some_and(|ip| ip.is_ipv6()) {
            let at = format!("{}[{i}]", ips.path());
            errors.invalid(at, ips.value().clone(), "IPv6 is not configured on this cluster");
        }
    }
}

/// A headless Service without selector is free: its endpoints are its own affair.
fn configured(spec: &Located<'_>, headless: bool, errors: &mut Errors) {
    if headless && spec.at("selector").is_empty() {
        return;
    }
    let policy = spec.at("ipFamilyPolicy");
    if policy.text() == "RequireDualStack" {
        policy.wrong("this cluster is not configured for dual-stack services", errors);
    }
    for family in spec.at("ipFamilies").each().filter(|family| family.text() == "IPv6") {
        family.wrong("not configured on this cluster", errors);
    }
}
