//! What a node may say of itself, and what of it stays.

use std::collections::BTreeSet;

use super::super::addresses::{Network, legacy_cidr};
use super::super::located::Located;
use super::super::validation::Errors;
use super::limit_rules::whole_amounts;
use crate::field_names::{label_value, qualified_name};

pub(super) fn node(node: &Located<'_>, errors: &mut Errors) {
    taints(node, errors);
    resources(node, errors);
    let swap = node.at("status").at("nodeInfo").at("swap").at("capacity");
    // Upstream looks for it in the metadata.
    swap.called("metadata.nodeSwapStatus.capacity").at_least(1, "must be greater than zero", errors);
    features(node, errors);
    let networks = node.at("spec").at("podCIDRs");
    networks.each().for_each(|network| network.obeys(legacy_cidr, errors));
    if networks.len() > 1 {
        // Upstream counts families before it looks whether all are networks.
        let bad = networks.each().enumerate().find(|(_, n)| Network::sloppy(n.text()).is_none());
        if let Some((i, bad)) = bad {
            let why = format!("invalid CIDR[{i}]: <nil> (invalid CIDR address: {})", bad.text());
            let why = format!("invalid PodCIDRs. failed to check with dual stack with error:{why}");
            errors.internal(networks.path(), why);
        }
        let families: Vec<bool> =
            networks.each().filter_map(|n| Network::sloppy(n.text())).map(|n| n.address.is_ipv4()).collect();
        if !matches!(families[..], [a, b] if a != b) {
            networks.wrong("may specify no more than one CIDR for each IP family", errors);
        }
    }
}

pub(super) fn update(node: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    const CIDRS: &str = "node updates may not change podCIDR except from \"\" to valid";
    const PROVIDER: &str = "node updates may not change providerID except from \"\" to valid";
    resources(node, errors);
    features(node, errors);
    let mut seen = vec![];
    for address in node.at("status").at("addresses").each() {
        if seen.contains(&address.value()) {
            address.duplicate(errors);
        }
        seen.push(address.value());
    }
    let (spec, before) = (node.at("spec"), old.at("spec"));
    let (is, was) = (spec.at("podCIDRs"), before.at("podCIDRs"));
    if !was.is_empty() {
        let moved = match is.len() == was.len() {
            true => is.each().zip(was.each()).filter(|(a, b)| a.text() != b.text()).count(),
            false => 1,
        };
        (0..moved).for_each(|_| is.forbidden(CIDRS, errors));
    }
    let (is, was) = (spec.at("providerID"), before.at("providerID"));
    if !was.text().is_empty() && is.text() != was.text() {
        is.forbidden(PROVIDER, errors);
    }
    taints(node, errors);
    if spec.at("externalID").text() != before.at("externalID").text() {
        spec.at("externalID").forbidden("may not be updated", errors);
    }
}

/// Upstream calls them taints of the metadata.
fn taints(node: &Located<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in node.at("spec").at("taints").each().enumerate() {
        let taint = taint.called(&format!("metadata.taints[{i}]"));
        let [key, value, effect] = ["key", "value", "effect"].map(|field| taint.at(field));
        key.obeys(qualified_name, errors);
        let wrong = label_value(value.text());
        if !wrong.is_empty() {
            value.wrong(wrong.join(";"), errors);
        }
        match effect.text() {
            "" => effect.missing("", errors),
            _ => effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors),
        }
        if !seen.insert((effect.text(), key.text())) {
            taint.duplicate(errors);
            if let Some(error) = errors.0.last_mut() {
                "taints must be unique by key and effect pair".clone_into(&mut error.detail);
            }
        }
    }
}

/// Upstream joins names with a dot here.
fn resources(node: &Located<'_>, errors: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        let map = node.at("status").at(list);
        for (name, amount) in map.entries() {
            whole_amounts(&amount.called(&format!("{}.{name}", map.path())), name, errors);
        }
    }
}

fn is_feature(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('/').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn features(node: &Located<'_>, errors: &mut Errors) {
    let all: Vec<Located<'_>> = node.at("status").at("declaredFeatures").each().collect();
    for (i, feature) in all.iter().enumerate() {
        if !is_feature(feature.text()) {
            let why = format!(
                "invalid feature name {:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                feature.text()
            );
            feature.wrong(why, errors);
        }
        if let Some(next) = all.get(i + 1) {
            if feature.text() == next.text() {
                next.duplicate(errors);
            } else if feature.text() > next.text() {
                next.wrong("list must be sorted alphabetically", errors);
            }
        }
    }
}
