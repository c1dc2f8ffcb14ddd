//! What storage classes, CSI drivers and attachments may say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::core::inline_volume;
use super::located::Located;
use super::validation::Errors;
use super::volume_sources::csi_driver_name;
use crate::field::FieldError;
use crate::field_names::{dns1123_subdomain, qualified_name};

const PARAMETERS: usize = 512;
/// Keys and values of parameters, and of what an attachment tells, together.
const MAP_BYTES: usize = 256 << 10;
const SHORTEST_TOKEN: i64 = 600;

pub(super) fn class(class: &Located<'_>, errors: &mut Errors) {
    provisioner(&class.at("provisioner"), errors);
    parameters(&class.at("parameters"), errors);
    if !class.at("reclaimPolicy").text().is_empty() {
        class.at("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    }
    class.at("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"], errors);
    let terms = class.at("allowedTopologies");
    // Upstream compares with as many empty terms as there are terms, and with those before.
    let mut seen = vec![BTreeMap::new(); terms.len()];
    for term in terms.each() {
        let known = topology_term(&term, errors);
        for _ in seen.iter().filter(|s| **s == known) {
            errors.duplicate(term.at("matchLabelExpressions").path(), "");
        }
        seen.push(known);
    }
}

/// The values by key.
fn topology_term<'a>(term: &Located<'a>, errors: &mut Errors) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut known = BTreeMap::new();
    for requirement in term.at("matchLabelExpressions").each() {
        let values = requirement.at("values");
        if values.is_empty() {
            values.missing("", errors);
        }
        let mut set = BTreeSet::new();
        for value in values.each().filter(|v| !set.insert(v.text())).collect::<Vec<_>>() {
            value.duplicate(errors);
        }
        let key = requirement.at("key");
        key.obeys(qualified_name, errors);
        if known.contains_key(key.text()) {
            key.duplicate(errors);
        }
        known.insert(key.text(), set);
    }
    known
}

/// Upstream shows the name as it compares it: in lower case.
fn provisioner(name: &Located<'_>, errors: &mut Errors) {
    if name.required(errors) {
        let lower = name.text().to_lowercase();
        errors.all_invalid(name.path(), &*lower, qualified_name(&lower));
    }
}

fn parameters(map: &Located<'_>, errors: &mut Errors) {
    if map.len() > PARAMETERS {
        return errors.0.push(FieldError::too_long(map.path(), PARAMETERS));
    }
    if map.entries().any(|(key, _)| key.is_empty()) {
        errors.invalid(map.path(), "", "field can not be empty.");
    }
    at_most_together(map, errors);
}

fn at_most_together(map: &Located<'_>, errors: &mut Errors) {
    if map.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > MAP_BYTES {
        errors.0.push(FieldError::too_long(map.path(), MAP_BYTES));
    }
}

pub(super) fn attributes_class(class: &Located<'_>, errors: &mut Errors) {
    provisioner(&class.at("driverName"), errors);
    let map = class.at("parameters");
    parameters(&map, errors);
    if map.is_empty() {
        map.missing("must contain at least one key/value pair", errors);
    }
}

pub(super) fn csi_driver(spec: &Located<'_>, errors: &mut Errors) {
    spec.at("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"], errors);
    let requests = spec.at("tokenRequests");
    let mut audiences = BTreeSet::new();
    for request in requests.each() {
        let (audience, seconds) = (request.at("audience"), request.at("expirationSeconds"));
        if !audiences.insert(audience.text()) {
            audience.duplicate(errors);
            continue;
        }
        seconds.at_least(SHORTEST_TOKEN, "may not specify a duration less than 10 minutes", errors);
        if seconds.number().is_some_and(|n| n > 1 << 32) {
            seconds.wrong("may not specify a duration larger than 2^32 seconds", errors);
        }
    }
    for mode in spec.at("volumeLifecycleModes").each() {
        mode.called("spec.volumeLifecycleModes").one_of(&["Persistent", "Ephemeral"], errors);
    }
    let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
    period.at_least(10, "must be greater than or equal to 10 seconds", errors);
    let in_secrets = spec.at("serviceAccountTokenInSecrets");
    if in_secrets.is_set() && requests.is_empty() {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        in_secrets.wrong(why, errors);
    }
}

pub(super) fn driver_update(spec: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let required = spec.at("attachRequired").called("spec.attachedRequired");
    required.immutable(&old.at("attachRequired"), errors);
    spec.at("volumeLifecycleModes").immutable(&old.at("volumeLifecycleModes"), errors);
}

pub(super) fn csi_node(drivers: &Located<'_>, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for driver in drivers.each() {
        let (name, id) = (driver.at("name"), driver.at("nodeID"));
        csi_driver_name(&name, errors);
        id.required(errors);
        if id.text().len() > 256 {
            id.wrong("must be 256 characters or less", errors);
        }
        driver.at("allocatable").at("count").not_negative(errors);
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        let mut keys = BTreeSet::new();
        for key in driver.at("topologyKeys").each() {
            let key = key.called(driver.path());
            if key.text().is_empty() {
                key.missing("", errors);
            }
            if !keys.insert(key.text()) {
                key.duplicate(errors);
            }
            key.obeys(qualified_name, errors);
        }
    }
}

/// A driver that stays is as it was, but for how much it can hold.
pub(super) fn node_update(drivers: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let fixed = |driver: &Located<'_>| {
        let mut value = driver.value().clone();
        if let Value::Object(map) = &mut value {
            map.remove("allocatable");
        }
        value
    };
    for was in old.each() {
        for is in drivers.each().filter(|d| d.at("name").text() == was.at("name").text()) {
            let now = fixed(&is);
            if now != fixed(&was) {
                is.with(&now).called(drivers.path()).wrong("field is immutable", errors);
            }
        }
    }
}

pub(super) fn capacity(new: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    let topology = new.at("nodeTopology");
    topology.label_selector_unlike(old.map(|o| o.at("nodeTopology")).as_ref(), errors);
    new.at("storageClassName").obeys(dns1123_subdomain, errors);
    new.at("capacity").quantity_not_negative(errors);
}

pub(super) fn attachment(new: &Located<'_>, errors: &mut Errors) {
    let (spec, status) = (new.at("spec"), new.at("status"));
    csi_driver_name(&spec.at("attacher"), errors);
    let source = spec.at("source");
    let (inline, volume) = (source.at("inlineVolumeSpec"), source.at("persistentVolumeName"));
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), volume.is_set()) {
        (false, false) => source.missing(ONE, errors),
        (true, true) => source.forbidden(ONE, errors),
        (false, true) if volume.text().is_empty() => {
            volume.missing("must specify non empty persistentVolumeName", errors);
        }
        (false, true) => {}
        (true, false) => inline_volume(&inline, errors),
    }
    spec.at("nodeName").obeys(dns1123_subdomain, errors);
    at_most_together(&status.at("attachmentMetadata"), errors);
    for error in ["attachError", "detachError"].map(|e| status.at(e)) {
        if error.at("message").text().len() > 1024 {
            // Upstream measures by one number and says another.
            errors.0.push(FieldError::too_long(error.at("message").path(), MAP_BYTES));
        }
        error.at("errorCode").at_least(0, "must be between 0 and 2147483647, inclusive", errors);
    }
    if volume.is_set() {
        volume.obeys(dns1123_subdomain, errors);
    }
}
