//! What claims, their templates and device classes may ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::located::Located;
use super::validation::Errors;
use super::volume_sources::csi_driver_name as driver_name;
use crate::cel::{self, Environment, Type};
use crate::field::FieldError;
use crate::field_names::{c_identifier, dns1123_label, dns1123_subdomain, label_value, qualified_name};

const MOST: usize = 32;
const SUB_REQUESTS: usize = 8;
const EXPRESSION_BYTES: usize = 10 << 10;
pub(super) const DATA_BYTES: usize = 10 << 10;
pub(super) const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The requests of a claim by name, with their alternatives.
pub(super) type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A device, as expressions see it.
static DEVICE: LazyLock<Environment> = LazyLock::new(|| {
    let by_domain = |value| Type::map(Type::String, Type::map(Type::String, value));
    let device = Type::object(
        "kubernetes.DRADevice",
        [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", by_domain(Type::Dyn)),
            ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
        ],
    );
    Environment::default().with("device", device)
});

pub(super) fn requests<'a>(devices: &Located<'a>) -> Requests<'a> {
    let of = |request: Located<'a>| {
        let parts = request.at("firstAvailable").each().map(|sub| sub.at("name").text()).collect();
        (request.at("name").text(), parts)
    };
    devices.at("requests").each().map(of).collect()
}

pub(super) fn devices(at: &Located<'_>, errors: &mut Errors) {
    let known = requests(at);
    unique_by(&at.at("requests"), MOST, |r| key(&r.at("name")), errors, request);
    let constraints = at.at("constraints");
    if constraints.at_most_items(MOST, errors) {
        constraints.each().for_each(|c| constraint(&c, &known, errors));
    }
    let config = at.at("config");
    if config.at_most_items(MOST, errors) {
        for config in config.each() {
            names(&config.at("requests"), &known, errors);
            opaque(&config.at("opaque"), errors);
        }
    }
}

/// A list of so many at most, each in order, and no two alike.
pub(super) fn unique_by(
    list: &Located<'_>,
    most: usize,
    shown: impl Fn(&Located<'_>) -> String,
    errors: &mut Errors,
    mut rule: impl FnMut(&Located<'_>, &mut Errors),
) {
    if !list.at_most_items(most, errors) {
        return;
    }
    list.each().for_each(|item| rule(&item, errors));
    let mut seen = BTreeSet::new();
    for item in list.each() {
        let key = shown(&item);
        if !seen.insert(key.clone()) {
            errors.duplicate_text(item.path(), key);
        }
    }
}

pub(super) fn key(text: &Located<'_>) -> String {
    Value::from(text.text()).to_string()
}

fn request(at: &Located<'_>, errors: &mut Errors) {
    at.at("name").obeys(dns1123_label, errors);
    let (exactly, first) = (at.at("exactly"), at.at("firstAvailable"));
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => at.missing(ONE, errors),
        (true, true) => {
            errors.invalid(at.path(), Value::Null, format!("{ONE}, but multiple fields are set"));
        }
        (true, false) => wish(&exactly, errors),
        (false, true) => {
            unique_by(
                &first,
                SUB_REQUESTS,
                |s| key(&s.at("name")),
                errors,
                |sub, errors| {
                    sub.at("name").obeys(dns1123_label, errors);
                    wish(sub, errors);
                },
            );
        }
    }
}

fn wish(at: &Located<'_>, errors: &mut Errors) {
    at.at("deviceClassName").required_as(dns1123_subdomain, errors);
    selectors(&at.at("selectors"), errors);
    let (mode, count) = (at.at("allocationMode"), at.at("count"));
    match mode.text() {
        "All" if count.number().unwrap_or(0) != 0 => {
            count.wrong("must not be specified when allocationMode is 'All'", errors);
        }
        "All" => {}
        "ExactCount" if count.number().unwrap_or(0) <= 0 => {
            errors.invalid(count.path(), count.number().unwrap_or(0), "must be greater than zero");
        }
        "ExactCount" => {}
        other => errors.unsupported_text(mode.path(), format!("{other:?}"), &["All", "ExactCount"]),
    }
    at.at("tolerations").each().for_each(|t| toleration(&t, errors));
}

pub(super) fn selectors(list: &Located<'_>, errors: &mut Errors) {
    if !list.at_most_items(MOST, errors) {
        return;
    }
    for cel in list.each().map(|s| s.at("cel")) {
        if cel.is_set() {
            expression(&cel.at("expression"), errors);
        } else {
            cel.missing("", errors);
        }
    }
}

fn expression(at: &Located<'_>, errors: &mut Errors) {
    at.at_most_bytes(EXPRESSION_BYTES, errors);
    if at.text().len() > EXPRESSION_BYTES {
        return;
    }
    let compiled = cel::beside_workers(|| DEVICE.compile(at.text()));
    match compiled.map(|program| program.output) {
        Ok(Type::Bool | Type::Dyn) => {}
        Ok(other) => {
            at.wrong(format!("must evaluate to bool or the unknown type, not {other}"), errors);
        }
        Err(why) => errors.invalid(at.path(), at.text(), format!("compilation failed: {why}")),
    }
}

fn toleration(at: &Located<'_>, errors: &mut Errors) {
    let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|f| at.at(f));
    key.optional_as(qualified_name, errors);
    match operator.text() {
        "Exists" if !value.text().is_empty() => value.wrong("must be empty for operator `Exists`", errors),
        "Exists" => {}
        "Equal" => errors.all_invalid(value.path(), value.text(), label_value(value.text())),
        "" => operator.missing("", errors),
        _ => operator.one_of(&["Equal", "Exists"], errors),
    }
    if !effect.text().is_empty() {
        effect.one_of(&EFFECTS, errors);
    }
}

fn constraint(at: &Located<'_>, known: &Requests<'_>, errors: &mut Errors) {
    names(&at.at("requests"), known, errors);
    let (same, other) = (at.at("matchAttribute"), at.at("distinctAttribute"));
    match (same.is_set(), other.is_set()) {
        (true, _) => full_name(&same, errors),
        (false, true) => full_name(&other, errors),
        (false, false) => {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            at.missing(why, errors);
        }
    }
}

/// Names of requests that there are.
pub(super) fn names(list: &Located<'_>, known: &Requests<'_>, errors: &mut Errors) {
    unique_by(list, MOST, key, errors, |name, errors| request_name(name, known, errors));
}

pub(super) fn request_name(name: &Located<'_>, known: &Requests<'_>, errors: &mut Errors) {
    const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let text = name.text();
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 2 {
        return name.wrong(UNKNOWN, errors);
    }
    for part in &parts {
        errors.all_invalid(name.path(), *part, dns1123_label(part));
    }
    let found = match (known.get(parts[0]), parts.get(1)) {
        (Some(of), Some(part)) => of.contains(part),
        (found, _) => found.is_some(),
    };
    if !found {
        errors.invalid(name.path(), text, UNKNOWN);
    }
}

/// What a driver is told and nobody else understands.
pub(super) fn opaque(at: &Located<'_>, errors: &mut Errors) {
    if !at.is_set() {
        return at.missing("", errors);
    }
    driver_name(&at.at("driver"), errors);
    raw(&at.at("parameters"), DATA_BYTES, errors);
}

/// A JSON object of so many bytes at most.
pub(super) fn raw(at: &Located<'_>, most: usize, errors: &mut Errors) {
    if !at.is_set() {
        at.missing("", errors);
    } else if at.value().to_string().len() > most {
        errors.0.push(FieldError::too_long(at.path(), most));
    } else if !at.value().is_object() {
        errors.invalid(at.path(), "<value omitted>", "must be a valid JSON object");
    }
}

/// `[domain/]name` of an attribute or capacity; `at` is where errors stand.
pub(super) fn device_name(at: &str, name: &str, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    let identifier = |text: &str, errors: &mut Errors| {
        if text.len() > 32 {
            errors.0.push(FieldError::too_long(at, 32));
        }
        errors.all_invalid(at, text, c_identifier(text));
    };
    match parts[..] {
        [name] => identifier(name, errors),
        [domain, name] => {
            match domain {
                "" => errors.invalid(at, "", "the domain must not be empty"),
                _ => driver_name(&Located::placed(at, &domain.into()), errors),
            }
            match name {
                "" => errors.invalid(at, "", "the name must not be empty"),
                _ => identifier(name, errors),
            }
        }
        _ => {}
    }
}

fn full_name(at: &Located<'_>, errors: &mut Errors) {
    device_name(at.path(), at.text(), errors);
    if !at.text().contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(at.path(), at.text(), why);
    }
}

pub(super) fn device_class(spec: &Located<'_>, errors: &mut Errors) {
    selectors(&spec.at("selectors"), errors);
    let config = spec.at("config");
    if config.at_most_items(MOST, errors) {
        config.each().for_each(|c| opaque(&c.at("opaque"), errors));
    }
    let name = spec.at("extendedResourceName");
    if name.is_set() && !is_extended_resource(name.text()) {
        name.wrong("must be a valid extended resource name", errors);
    }
}

/// A resource of somebody else's domain, of which one may ask for requests.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && qualified_name(&format!("requests.{name}")).is_empty()
}
