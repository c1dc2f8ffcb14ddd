//! What the status of a claim may say: which devices it has, who uses them, what drivers tell of them.

use std::collections::BTreeSet;

use coracle_api::Object;
use serde_json::Value;

use super::addresses::interface_address;
use super::located::{Located, conditions};
use super::pod_spec::node_selector;
use super::resource_claims::{
    DATA_BYTES, Requests, key, names, opaque, raw, request_name, requests, unique_by,
};
use super::resource_slices::{binding, pool_name};
use super::validation::Errors;
use super::volume_sources::csi_driver_name as driver_name;
use crate::field::FieldError;
use crate::field_names::dns1123_label;

const USERS: usize = 256;
const RESULTS: usize = 32;
const CONDITIONS: usize = 8;
const IPS: usize = 16;

pub(super) fn status(claim: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let (status, before) = (claim.at("status"), old.at("status"));
    let known = requests(&claim.at("spec").at("devices"));
    let users = status.at("reservedFor");
    unique_by(
        &users,
        USERS,
        |u| key(&u.at("uid")),
        errors,
        |user, errors| {
            for field in ["resource", "name", "uid"] {
                user.at(field).required(errors);
            }
        },
    );
    let allocation = status.at("allocation");
    let results = allocation.at("devices").at("results");
    let allocated: BTreeSet<[&str; 4]> = results.each().map(|r| device_id(&r)).collect();
    let told = status.at("devices");
    told.each().for_each(|device| device_status(&device, &allocated, errors));
    let mut seen = BTreeSet::new();
    for device in told.each().filter(|d| !seen.insert(device_id(d))).collect::<Vec<_>>() {
        errors.duplicate_text(device.path(), shown_id(&device_id(&device)));
    }
    if !users.is_empty() {
        let new = users.each().any(|u| !before.at("reservedFor").each().any(|b| b.value() == u.value()));
        if !allocation.is_set() {
            users.forbidden("may not be specified when `allocated` is not set", errors);
        } else if claim.at("metadata").at("deletionTimestamp").is_set() && new {
            let why =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            users.forbidden(why, errors);
        }
    }
    let was = before.at("allocation");
    if was.is_set() && allocation.is_set() {
        allocation.immutable(&was, errors);
    } else if allocation.is_set() {
        allocated_as(&allocation, &known, errors);
    }
}

/// The id of a device as upstream shows it.
fn shown_id([driver, pool, device, share]: &[&str; 4]) -> String {
    let text = |text: &str| Value::from(text).to_string();
    format!(
        "{{\"Driver\":{},\"Pool\":{},\"Device\":{},\"ShareID\":{}}}",
        text(driver),
        text(pool),
        text(device),
        text(share)
    )
}

fn device_id<'a>(at: &Located<'a>) -> [&'a str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| at.at(field).text())
}

/// A device that an update takes back has no status any more.
pub(super) fn drop_taken_back(new: &mut Object, old: &Object) {
    let results = |of: &'_ Object| -> Vec<[String; 4]> {
        let all = of.items_at(&["status", "allocation", "devices", "results"]).iter();
        all.map(id_of).collect()
    };
    let (was, is) = (results(old), results(new));
    let all = new.items_at(&["status", "devices"]);
    let kept: Vec<Value> = all
        .iter()
        .filter(|device| is.contains(&id_of(device)) || !was.contains(&id_of(device)))
        .cloned()
        .collect();
    if kept.is_empty() {
        new.remove(&["status", "devices"]);
    } else if kept.len() < all.len() {
        new.set(&["status", "devices"], kept);
    }
}

fn id_of(device: &Value) -> [String; 4] {
    ["driver", "pool", "device", "shareID"].map(|f| device[f].as_str().unwrap_or_default().to_owned())
}

fn allocated_as(at: &Located<'_>, known: &Requests<'_>, errors: &mut Errors) {
    let (results, config) = (at.at("devices").at("results"), at.at("devices").at("config"));
    if results.at_most_items(RESULTS, errors) {
        for result in results.each() {
            request_name(&result.at("request"), known, errors);
            device(&result, errors);
            binding(&result, errors);
            share(&result.at("shareID"), errors);
        }
    }
    if config.at_most_items(2 * RESULTS, errors) {
        for config in config.each() {
            let source = config.at("source");
            match source.text() {
                "" => source.missing("", errors),
                _ => source.one_of(&["FromClaim", "FromClass"], errors),
            }
            names(&config.at("requests"), known, errors);
            opaque(&config.at("opaque"), errors);
        }
    }
    let selector = at.at("nodeSelector");
    if selector.is_set() {
        node_selector(selector.path(), selector.value(), errors);
    }
}

fn device(at: &Located<'_>, errors: &mut Errors) {
    driver_name(&at.at("driver"), errors);
    pool_name(&at.at("pool"), errors);
    at.at("device").obeys(dns1123_label, errors);
}

fn share(id: &Located<'_>, errors: &mut Errors) {
    if !id.is_set() {
        return;
    }
    match uuid::Uuid::try_parse(id.text()) {
        Err(_) => {
            let why = format!("error validating uid: invalid UUID length: {}", id.text().len());
            id.wrong(why, errors);
        }
        Ok(parsed) if parsed.to_string() != id.text() => {
            let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            id.wrong(why, errors);
        }
        Ok(_) => {}
    }
}

fn device_status(at: &Located<'_>, allocated: &BTreeSet<[&str; 4]>, errors: &mut Errors) {
    device(at, errors);
    share(&at.at("shareID"), errors);
    let id = device_id(at);
    if !allocated.contains(&id) {
        errors.invalid_text(at.path(), shown_id(&id), "must be an allocated device in the claim");
    }
    let all = at.at("conditions");
    all.at_most_items(CONDITIONS, errors);
    conditions(&all, errors);
    if at.at("data").is_set() {
        raw(&at.at("data"), DATA_BYTES, errors);
    }
    let network = at.at("networkData");
    for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.at(field).text().len() > most {
            errors.0.push(FieldError::too_long(network.at(field).path(), most));
        }
    }
    unique_by(&network.at("ips"), IPS, key, errors, |ip, errors| ip.obeys(interface_address, errors));
}
