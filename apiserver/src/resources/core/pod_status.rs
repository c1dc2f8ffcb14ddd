//! What the status of a pod may become: nodes, schedulers and controllers of others write it.

use std::net::IpAddr;

use coracle_api::Object;
use serde_json::Value;

use super::super::addresses::{legacy_ip, sloppy_ip};
use super::super::located::Located;
use super::super::validation::Errors;
use crate::field_names::{dns1123_subdomain, qualified_name};

const LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
const MESSAGE_BYTES: usize = 1024;

pub(super) fn status(new: &Object, old: &Object, errors: &mut Errors) {
    let (root, old_root) = (Located::root(new), Located::root(old));
    let (status, before) = (root.at("status"), old_root.at("status"));
    conditions(&status.at("conditions"), errors);
    let nominated = status.at("nominatedNodeName");
    let moved = nominated.text() != before.at("nominatedNodeName").text() && !nominated.text().is_empty();
    if moved {
        nominated.obeys(dns1123_subdomain, errors);
        if !old.str_at(&["spec", "nodeName"]).is_empty() {
            nominated.forbidden("may not be set on pods that are already bound to a node", errors);
        }
    }
    status.at("observedGeneration").at_least(0, "must be a non-negative integer", errors);
    let class = status.at("qosClass");
    if class.text() != before.at("qosClass").text() {
        errors.invalid(class.path(), class.text(), "field is immutable");
    }
    for list in LISTS {
        restarts(&status.at(list), &before.at(list), list, &old_root.at("spec"), errors);
    }
    claims(&status.at("resourceClaimStatuses"), &root.at("spec").at("resourceClaims"), errors);
    pod_ips(&status, &before, errors);
    host_ips(&status, &before, errors);
    for list in LISTS {
        status.at(list).each().for_each(|c| user(&c, errors));
    }
    for (list, containers) in LISTS.iter().zip(["containers", "initContainers", "ephemeralContainers"]) {
        let spec = root.at("spec").at(containers);
        for container in status.at(list).each() {
            allocated(&container, &spec, containers == "ephemeralContainers", errors);
        }
    }
}

/// Upstream spells the field so.
fn conditions(list: &Located<'_>, errors: &mut Errors) {
    for condition in list.each() {
        let kind = condition.at("type");
        let why = "must be a non-negative integer";
        condition.at("observedGeneration").at_least(0, why, errors);
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            let called = format!("{}.Type", condition.path());
            errors.all_invalid(called, kind.text(), qualified_name(kind.text()));
        }
    }
}

/// What has ended stays so, unless it may be started again.
fn restarts(is: &Located<'_>, was: &Located<'_>, list: &str, spec: &Located<'_>, errors: &mut Errors) {
    let ended = |c: &Located<'_>| c.at("state").at("terminated").is_set();
    let rules = |list: &str| {
        spec.at(list)
            .each()
            .flat_map(|c| c.at("restartPolicyRules").each().collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let everything = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| rules(list))
        .any(|rule| rule.at("action").text() == "RestartAllContainers");
    if everything && list != "ephemeralContainerStatuses" {
        return;
    }
    for old in was.each().filter(ended) {
        let name = old.at("name").text();
        let back = is.each().any(|new| new.at("name").text() == name && !ended(&new));
        let code = old.at("state").at("terminated").at("exitCode").number().unwrap_or(0);
        let may = match list {
            "containerStatuses" => {
                let container = spec.at("containers").each().find(|c| c.at("name").text() == name);
                container.is_some_and(|c| may_restart(&c, spec, code, false))
            }
            "initContainerStatuses" => {
                let container = spec.at("initContainers").each().find(|c| c.at("name").text() == name);
                container.is_some_and(|c| may_restart(&c, spec, code, true))
            }
            _ => false,
        };
        if back && !may {
            // The place is that of the old status, the list that of the new.
            let at = format!("{}.state", old.path());
            errors.forbidden(at, "may not be transitioned to non-terminated state");
        }
    }
}

fn may_restart(container: &Located<'_>, spec: &Located<'_>, code: i64, once: bool) -> bool {
    let own = container.at("restartPolicy");
    if own.is_set() {
        let rule = container.at("restartPolicyRules").each().find(|rule| {
            let codes = rule.at("exitCodes");
            let listed = codes.at("values").each().any(|v| v.number() == Some(code));
            match codes.at("operator").text() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        });
        if rule.is_some() {
            return true;
        }
        match own.text() {
            "Always" => return true,
            "OnFailure" => return code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match spec.at("restartPolicy").text() {
        "Never" => false,
        "OnFailure" => code != 0,
        // One that has done its work is not done again, but for a restart of the whole pod.
        _ => !once || spec.at("restartPolicy").text() == "Always",
    }
}

fn claims(list: &Located<'_>, known: &Located<'_>, errors: &mut Errors) {
    let mut seen = vec![];
    for claim in list.each() {
        let (name, made) = (claim.at("name"), claim.at("resourceClaimName"));
        if !known.each().any(|k| k.at("name").text() == name.text()) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(name.path(), name.text(), why);
        }
        if seen.contains(&name.text()) {
            name.duplicate(errors);
        } else {
            seen.push(name.text());
        }
        if made.is_set() {
            made.obeys(dns1123_subdomain, errors);
        }
    }
}

fn pod_ips(status: &Located<'_>, before: &Located<'_>, errors: &mut Errors) {
    let list = status.at("podIPs");
    if list.is_empty() {
        // The older field alone is the first of the newer list.
        let only = status.at("podIP").called("status.podIPs[0]");
        if !only.text().is_empty() {
            legacy_ip(&only, &[before.at("podIP").text()], errors);
        }
        return;
    }
    families(&list, &before.at("podIPs"), errors);
}

fn host_ips(status: &Located<'_>, before: &Located<'_>, errors: &mut Errors) {
    let list = status.at("hostIPs");
    let Some(first) = list.each().next() else { return };
    let ip = first.at("ip");
    if ip.text() != status.at("hostIP").text() {
        errors.invalid(ip.path(), ip.text(), "must be equal to `hostIP`");
    }
    families(&list, &before.at("hostIPs"), errors);
}

/// Addresses, one of a family at most.
fn families(list: &Located<'_>, before: &Located<'_>, errors: &mut Errors) {
    let known: Vec<&str> = before.each().map(|ip| ip.at("ip").text()).collect();
    for item in list.each() {
        legacy_ip(&item.at("ip").called(item.path()), &known, errors);
    }
    if list.len() < 2 {
        return;
    }
    let ips: Vec<Option<IpAddr>> = list.each().map(|ip| sloppy_ip(ip.at("ip").text())).collect();
    if let Some(bad) = list.each().zip(&ips).find(|(_, ip)| ip.is_none()).map(|(item, _)| item) {
        let why = format!(
            "failed to check for dual stack with error:invalid IP[{}]: {}",
            list.each().position(|i| i.path() == bad.path()).unwrap_or(0),
            bad.at("ip").text()
        );
        errors.internal(list.path(), why);
    }
    let both = matches!(ips[..], [Some(a), Some(b)] if a.is_ipv4() != b.is_ipv4());
    if !both {
        list.wrong("may specify no more than one IP for each IP family", errors);
    }
}

fn user(container: &Located<'_>, errors: &mut Errors) {
    const RANGE: &str = "must be between 0 and 2147483647, inclusive";
    let linux = container.at("user").at("linux");
    let groups = linux.at("supplementalGroups");
    for id in [linux.at("uid"), linux.at("gid")].into_iter().chain(groups.each()) {
        if id.number().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
            id.wrong(RANGE, errors);
        }
    }
}

/// Devices that a container has, and how they are.
fn allocated(container: &Located<'_>, spec: &Located<'_>, none: bool, errors: &mut Errors) {
    let list = container.at("allocatedResourcesStatus");
    if none {
        if !list.is_empty() {
            list.forbidden("must not be specified in container status", errors);
        }
        return;
    }
    let of = spec.each().find(|c| c.at("name").text() == container.at("name").text());
    for resource in list.each() {
        let name = resource.at("name");
        if let Some(of) = &of {
            known_resource(&name, of, errors);
        }
        let mut seen = vec![];
        for device in resource.at("resources").each() {
            let (health, message, id) = (device.at("health"), device.at("message"), device.at("resourceID"));
            if !["Healthy", "Unhealthy", "Unknown"].contains(&health.text()) {
                let words = ["Healthy", "Unhealthy", "Unknown"];
                errors.unsupported_text(health.path(), Value::from(health.text()).to_string(), &words);
            }
            if message.is_set() && message.text().is_empty() {
                message.missing("must be non-empty if specified", errors);
            }
            message.at_most_bytes(MESSAGE_BYTES, errors);
            if seen.contains(&id.text()) {
                id.duplicate(errors);
            }
            seen.push(id.text());
        }
    }
}

fn known_resource(name: &Located<'_>, of: &Located<'_>, errors: &mut Errors) {
    const CLAIM: &str = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
    let resources = of.at("resources");
    let (found, why) = match name.text().strip_prefix("claim:") {
        Some(claim) => {
            let is = |c: Located<'_>| match c.at("request").text() {
                "" => c.at("name").text() == claim,
                request => format!("{}/{request}", c.at("name").text()) == claim,
            };
            (resources.at("claims").each().any(is), CLAIM)
        }
        None => {
            let found = resources.at("requests").entries().any(|(key, _)| key == name.text());
            (found, "must match one of the container's resource requests")
        }
    };
    if !found {
        name.wrong(why, errors);
    }
}
