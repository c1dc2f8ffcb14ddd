//! What a driver may tell of its devices.

use std::collections::BTreeSet;

use coracle_api::Quantity;
use serde_json::Value;

use super::located::Located;
use super::pod_spec::node_selector;
use super::resource_claims::{EFFECTS, device_name, key, unique_by};
use super::validation::Errors;
use super::volume_sources::csi_driver_name as driver_name;
use crate::field_names::{dns1123_label, dns1123_subdomain, label_value, qualified_name};

const DEVICES: usize = 128;
/// Of slices with taints or counters.
const ADVANCED_DEVICES: usize = 64;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMPTIONS: usize = 2;
const TOLD: usize = 32;
const VALUES: usize = 48;
const VALUE_BYTES: usize = 64;
const TAINTS: usize = 16;
const BINDINGS: usize = 4;
const OPTIONS: usize = 10;
const POOL_NAME_BYTES: usize = 253;

pub(super) fn slice(spec: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    driver_name(&spec.at("driver"), errors);
    let pool = spec.at("pool");
    pool_name(&pool.at("name"), errors);
    let count = pool.at("resourceSliceCount").number().unwrap_or(0);
    if count <= 0 {
        errors.invalid(pool.at("resourceSliceCount").path(), count, "must be greater than zero");
    }
    pool.at("generation").at_least(0, "must be greater than or equal to zero", errors);
    if let Some(old) = old {
        pool.at("name").immutable(&old.at("pool").at("name"), errors);
        for fixed in ["driver", "nodeName"] {
            spec.at(fixed).immutable(&old.at(fixed), errors);
        }
    }
    placed(spec, errors);
    let (devices, counters) = (spec.at("devices"), spec.at("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        errors.invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = |d: Located<'_>| !d.at("taints").is_empty() || !d.at("consumesCounters").is_empty();
    let most = if devices.each().any(advanced) { ADVANCED_DEVICES } else { DEVICES };
    let each = spec.at("perDeviceNodeSelection").is_true();
    unique_by(
        &devices,
        most,
        |d| key(&d.at("name")),
        errors,
        |device, errors| {
            let before = old.and_then(|o| {
                o.at("devices").each().find(|d| d.at("name").text() == device.at("name").text())
            });
            self::device(device, before.as_ref(), each, errors);
        },
    );
    unique_by(
        &counters,
        COUNTER_SETS,
        |c| key(&c.at("name")),
        errors,
        |set, errors| {
            set.at("name").required_as(dns1123_label, errors);
            counted(&set.at("counters"), errors);
        },
    );
}

fn counted(counters: &Located<'_>, errors: &mut Errors) {
    if counters.is_empty() {
        return counters.missing("", errors);
    }
    if counters.at_most_items(COUNTERS, errors) {
        for (name, _) in counters.entries() {
            errors.all_invalid(counters.path(), name, dns1123_label(name));
        }
    }
}

pub(super) fn pool_name(name: &Located<'_>, errors: &mut Errors) {
    if name.required(errors) {
        name.at_most_bytes(POOL_NAME_BYTES, errors);
        for part in name.text().split('/') {
            errors.all_invalid(name.path(), part, dns1123_subdomain(part));
        }
    }
}

/// For which nodes the devices are: one way to say it.
fn placed(spec: &Located<'_>, errors: &mut Errors) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = vec![];
    let node = spec.at("nodeName");
    match node.value().as_str() {
        None => {}
        Some("") => node.wrong("must be either unset or set to a non-empty string", errors),
        Some(_) => {
            set.push("`nodeName`");
            node.obeys(dns1123_subdomain, errors);
        }
    }
    let selector = spec.at("nodeSelector");
    if selector.is_set() {
        set.push("`nodeSelector`");
        node_selector(selector.path(), selector.value(), errors);
        let terms = selector.at("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.wrong("must have exactly one node selector term", errors);
        }
    }
    for (field, name) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        let flag = spec.at(field);
        match flag.value().as_bool() {
            None => {}
            Some(true) => set.push(name),
            Some(false) => flag.wrong("must be either unset or set to true", errors),
        }
    }
    match set.len() {
        0 => spec.missing(ONE, errors),
        1 => {}
        _ => {
            let why = format!("{ONE}, but multiple fields are set");
            errors.invalid(spec.path(), format!("{{{}}}", set.join(", ")), why);
        }
    }
}

fn device(at: &Located<'_>, before: Option<&Located<'_>>, chosen: bool, errors: &mut Errors) {
    at.at("name").obeys(dns1123_label, errors);
    let (attributes, capacity) = (at.at("attributes"), at.at("capacity"));
    let told = attributes.len() + capacity.len();
    if told > TOLD {
        let why = format!("the total number of attributes and capacities must not exceed {TOLD}");
        errors.invalid(at.path(), told, why);
    }
    if attributes.len() > VALUES {
        let why = format!("the total number of attribute values must not exceed {VALUES}");
        errors.invalid(at.path(), attributes.len(), why);
    }
    for (name, value) in attributes.entries() {
        device_name(attributes.path(), name, errors);
        attribute(&value.called(&format!("{}[{}]", attributes.path(), shortened(name))), errors);
    }
    for (name, amount) in capacity.entries() {
        device_name(capacity.path(), name, errors);
        let amount = amount.called(&format!("{}[{}]", capacity.path(), shortened(name)));
        let policy = amount.at("requestPolicy");
        if policy.is_set() && at.at("allowMultipleAllocations").is_true() {
            request_policy(&amount.at("value"), &policy, errors);
        } else if policy.is_set() {
            policy.forbidden("allowMultipleAllocations must be true", errors);
        }
    }
    let taints = at.at("taints");
    let same = before.is_some_and(|b| b.at("taints").value() == taints.value());
    if !same && taints.at_most_items(TAINTS, errors) {
        taints.each().for_each(|t| taint(&t, errors));
    }
    let consumed = at.at("consumesCounters");
    unique_by(
        &consumed,
        CONSUMPTIONS,
        |c| key(&c.at("counterSet")),
        errors,
        |c, errors| {
            c.at("counterSet").required_as(dns1123_label, errors);
            counted(&c.at("counters"), errors);
        },
    );
    placed_device(at, chosen, errors);
    binding(at, errors);
}

/// The middle of a name that is longer than names may be is left out.
fn shortened(name: &str) -> String {
    const MOST: usize = 63 + 1 + 32;
    if name.len() <= MOST {
        return name.to_owned();
    }
    let remaining = MOST - 3;
    let cut = |from: usize, to: usize| name.get(from..to).unwrap_or_default();
    format!("{}...{}", cut(0, remaining.div_ceil(2)), cut(name.len() - remaining / 2, name.len()))
}

fn attribute(at: &Located<'_>, errors: &mut Errors) {
    let (text, version) = (at.at("string"), at.at("version"));
    text.at_most_bytes(VALUE_BYTES, errors);
    if version.is_set() {
        if !is_semantic_version(version.text()) {
            version.wrong("must be a string compatible with semver.org spec 2.0.0", errors);
        }
        version.at_most_bytes(VALUE_BYTES, errors);
    }
    let given = ["bool", "int", "string", "version"].iter().filter(|f| at.at(f).is_set()).count();
    match given {
        0 => errors.invalid(at.path(), "", "exactly one value must be specified"),
        1 => {}
        _ => at.wrong("exactly one value must be specified", errors),
    }
}

fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let number = |t: &str| digits(t) && (t == "0" || !t.starts_with('0'));
    let word = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|p| p.split('.').all(|t| word(t) && (!digits(t) || number(t))))
        && build.is_none_or(|b| b.split('.').all(word))
}

fn request_policy(most: &Located<'_>, policy: &Located<'_>, errors: &mut Errors) {
    let (values, range, default) = (policy.at("validValues"), policy.at("validRange"), policy.at("default"));
    match (!values.is_empty(), range.is_set()) {
        (true, true) => {
            let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            policy.forbidden(why, errors);
        }
        (true, false) if !default.is_set() => {
            default.missing("required when validValues is defined", errors);
        }
        (false, true) if !default.is_set() => {
            default.missing("required when validRange is defined", errors);
        }
        (true, false) => valid_values(most, &values, &default, errors),
        (false, true) => valid_range(most, &range, &default, errors),
        (false, false) => {}
    }
}

fn amount(at: &Located<'_>) -> Quantity {
    at.quantity().unwrap_or_default()
}

fn valid_values(most: &Located<'_>, values: &Located<'_>, default: &Located<'_>, errors: &mut Errors) {
    let all: Vec<Located<'_>> = values.each().collect();
    for pair in all.windows(2).filter(|pair| amount(&pair[0]) > amount(&pair[1])) {
        pair[1].wrong("values must be sorted in ascending order", errors);
    }
    unique_by(
        values,
        OPTIONS,
        |v| format!("\"{}\"", amount(v).value()),
        errors,
        |value, errors| {
            if amount(value) > amount(most) {
                value.wrong(format!("option is larger than capacity value: {}", most.text()), errors);
            }
        },
    );
    let known = all.len() <= OPTIONS && all.iter().any(|v| amount(v) == amount(default));
    if !known {
        let why = "default value is not valid according to the requestPolicy";
        errors.invalid(values.path(), default.value().clone(), why);
    }
}

fn valid_range(most: &Located<'_>, range: &Located<'_>, default: &Located<'_>, errors: &mut Errors) {
    let (min, max, step) = (range.at("min"), range.at("max"), range.at("step"));
    if !min.is_set() {
        return min.missing("required when validRange is defined", errors);
    }
    let shown = |at: &Located<'_>, value: &Located<'_>, why: String, errors: &mut Errors| {
        errors.invalid(at.path(), value.value().clone(), why);
    };
    let (least, usual, all) = (amount(&min), amount(default), amount(most));
    if least > all {
        shown(&min, &min, format!("min is larger than capacity value: {}", most.text()), errors);
    }
    if usual < least {
        shown(&min, default, format!("default is less than min: {}", min.text()), errors);
    }
    if max.is_set() {
        if least > amount(&max) {
            shown(&max, &min, format!("min is larger than max: {}", max.text()), errors);
        }
        if amount(&max) > all {
            shown(&max, &max, format!("max is larger than capacity value: {}", most.text()), errors);
        }
        if usual > amount(&max) {
            shown(&max, default, format!("default is more than max: {}", max.text()), errors);
        }
    }
    if !step.is_set() {
        return;
    }
    let one = least.value().saturating_add(amount(&step).value());
    if one > all.value() {
        let why = format!("one step {one} is larger than capacity value: {}", most.text());
        shown(&step, &step, why, errors);
    }
    for value in [Some(default), max.is_set().then_some(&max)].into_iter().flatten() {
        let beyond = amount(value).value().saturating_sub(least.value());
        // Upstream's server fails on a step of nothing; here nothing but the least is a multiple of it.
        if beyond.checked_rem(amount(&step).value()).unwrap_or(beyond) != 0 {
            let why =
                format!("value is not a multiple of a given step ({}) from ({})", step.text(), min.text());
            shown(&step, value, why, errors);
        }
    }
}

fn taint(at: &Located<'_>, errors: &mut Errors) {
    let (value, effect) = (at.at("value"), at.at("effect"));
    at.at("key").obeys(qualified_name, errors);
    errors.all_invalid(value.path(), value.text(), label_value(value.text()));
    match effect.text() {
        "" => effect.missing("", errors),
        _ => effect.one_of(&EFFECTS, errors),
    }
}

fn placed_device(at: &Located<'_>, chosen: bool, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let [node, selector, all] = ["nodeName", "nodeSelector", "allNodes"].map(|f| at.at(f));
    if !chosen {
        if node.is_set() || selector.is_set() || all.is_set() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(at.path(), Value::Null, why);
        }
        return;
    }
    let mut set = vec![];
    match node.value().as_str() {
        None => {}
        Some("") => node.wrong("must not be empty", errors),
        Some(_) => {
            set.push("`nodeName`");
            node.obeys(dns1123_subdomain, errors);
        }
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        node_selector(selector.path(), selector.value(), errors);
    }
    match all.value().as_bool() {
        None => {}
        Some(true) => set.push("`allNodes`"),
        Some(false) => all.wrong("must be either unset or set to true", errors),
    }
    match set.len() {
        0 => at.missing(ONE, errors),
        1 => {}
        _ => errors.invalid(at.path(), format!("{{{}}}", set.join(", ")), ONE),
    }
}

/// Conditions that pods wait for, and those that end the wait.
pub(super) fn binding(at: &Located<'_>, errors: &mut Errors) {
    let (good, bad) = (at.at("bindingConditions"), at.at("bindingFailureConditions"));
    for list in [&good, &bad] {
        if list.at_most_items(BINDINGS, errors) {
            list.each().for_each(|c| c.obeys(qualified_name, errors));
        }
    }
    let mut known = BTreeSet::new();
    for condition in good.each().filter(|c| !known.insert(c.text())).collect::<Vec<_>>() {
        condition.duplicate(errors);
    }
    let mut seen = BTreeSet::new();
    for condition in bad.each() {
        if !seen.insert(condition.text()) {
            condition.duplicate(errors);
        }
        if known.contains(condition.text()) {
            let why = "bindingFailureConditions must not overlap with bindingConditions";
            condition.wrong(why, errors);
        }
    }
    if good.is_empty() && !bad.is_empty() {
        good.wrong("bindingConditions are required to use bindingFailureConditions", errors);
    }
    if bad.is_empty() && !good.is_empty() {
        bad.wrong("bindingFailureConditions are required to use bindingConditions", errors);
    }
}
