//! What limit ranges and quotas may say.

use std::collections::BTreeSet;

use coracle_api::Quantity;

use super::super::located::Located;
use super::super::validation::Errors;
use crate::field_names::qualified_name;

const AMOUNTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
const CONTAINERS: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// What quotas count by whole numbers.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// What quotas measure.
const MEASURED: [&str; 10] = [
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];
const POD_RESOURCES: [&str; 7] =
    ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

pub(super) fn limit_range(limits: &Located<'_>, errors: &mut Errors) {
    let mut kinds = BTreeSet::new();
    for limit in limits.each() {
        let kind = limit.at("type");
        let before = errors.0.len();
        kind.obeys(qualified_name, errors);
        let known = ["Container", "PersistentVolumeClaim", "Pod"].contains(&kind.text());
        if errors.0.len() == before && !kind.text().contains('/') && !known {
            kind.wrong("must be a standard limit type or fully qualified", errors);
        }
        if !kinds.insert(kind.text()) {
            kind.duplicate(errors);
        }
        limit_item(&limit, kind.text(), errors);
    }
}

fn limit_item(limit: &Located<'_>, kind: &str, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for field in AMOUNTS {
        let amounts = limit.at(field);
        let is_default = field.starts_with("default");
        if kind == "Pod" && is_default {
            if !amounts.is_empty() {
                amounts.forbidden("may not be specified when `type` is 'Pod'", errors);
            }
            continue;
        }
        if field == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            storage(limit, errors);
        }
        for (name, amount) in amounts.entries() {
            limited_name(&amount, name, matches!(kind, "Pod" | "Container"), errors);
            names.insert(name);
        }
    }
    for name in names {
        amounts(limit, name, kind != "Pod", errors);
    }
}

fn storage(limit: &Located<'_>, errors: &mut Errors) {
    if !limit.at("min").at("storage").is_set() && !limit.at("max").at("storage").is_set() {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(format!("{}.limits", limit.path()), why);
    }
}

fn limited_name(at: &Located<'_>, name: &str, of_containers: bool, errors: &mut Errors) {
    standard_name(at, name, errors);
    let known = CONTAINERS.contains(&name) || name.starts_with("hugepages-");
    if of_containers && !name.contains('/') && !known {
        errors.invalid(at.path(), name, "must be a standard resource for containers");
    }
}

/// A name of a resource: one that everybody knows, or one of a domain.
fn standard_name(at: &Located<'_>, name: &str, errors: &mut Errors) {
    let wrong = qualified_name(name);
    if wrong.is_empty() && !name.contains('/') && !is_standard_resource(name) {
        errors.invalid(at.path(), name, "must be a standard resource type or fully qualified");
    }
    errors.all_invalid(at.path(), name, wrong);
}

/// Whether a resource without a domain is one that everybody knows.
pub(in super::super) fn is_standard_resource(name: &str) -> bool {
    name == "storage" || is_quota_resource(name)
}

fn is_quota_resource(name: &str) -> bool {
    COUNTED.contains(&name)
        || MEASURED.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// The amounts of one resource do not contradict each other.
fn amounts(limit: &Located<'_>, name: &str, defaults: bool, errors: &mut Errors) {
    let shown = |field: &str| format!("{}.{field}[{name}]", limit.path());
    let given = |field: &str| {
        let text = limit.at(field).at(name).value();
        Quantity::from_json(text)
            .ok()
            .map(|q| (q, text.clone(), text.as_str().unwrap_or_default().to_owned()))
    };
    let (min, max, ratio) = (given("min"), given("max"), given("maxLimitRequestRatio"));
    let default = given("default").filter(|_| defaults);
    let request = given("defaultRequest").filter(|_| defaults);
    // (the larger of a pair, the smaller, where the error stands, which of the two it shows, what they are called)
    let pairs = [
        (&min, &max, "min", true, "min value", "max value"),
        (&min, &request, "defaultRequest", false, "min value", "default request value"),
        (&request, &max, "defaultRequest", true, "default request value", "max value"),
        (&request, &default, "defaultRequest", true, "default request value", "default limit value"),
        (&min, &default, "default", true, "min value", "default value"),
        (&default, &max, "default", false, "default value", "max value"),
    ];
    for (over, under, field, shows_over, called, than) in pairs {
        let (Some(over), Some(under)) = (over, under) else { continue };
        if over.0 > under.0 {
            let value = if shows_over { over.1.clone() } else { under.1.clone() };
            let why = format!("{called} {} is greater than {than} {}", over.2, under.2);
            errors.invalid(shown(field), value, why);
        }
    }
    if let Some((q, value, text)) = &ratio {
        if *q < Quantity::from_json(&1.into()).unwrap_or_default() {
            errors.invalid(
                shown("maxLimitRequestRatio"),
                value.clone(),
                format!("ratio {text} is less than 1"),
            );
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let most = max.0.as_f64() / min.0.as_f64();
            if q.as_f64() > most {
                let why = format!("ratio {text} is greater than max/min = {most:.6}");
                errors.invalid(shown("maxLimitRequestRatio"), value.clone(), why);
            }
        }
    }
    let overcommits = !name.contains('/') && !name.starts_with("hugepages-");
    if let (Some(default), Some(request)) = (&default, &request)
        && !overcommits
        && default.0 != request.0
    {
        let why =
            format!("default value {} must equal to defaultRequest value {} in {name}", default.2, request.2);
        errors.invalid(shown("defaultRequest"), request.1.clone(), why);
    }
}

pub(super) fn quota(spec: &Located<'_>, errors: &mut Errors) {
    quota_amounts(&spec.at("hard"), errors);
    scopes(spec, errors);
    if spec.at("scopeSelector").is_set() {
        scope_selector(spec, errors);
    }
}

/// Resources that quotas know, with amounts of them.
pub(super) fn quota_amounts(map: &Located<'_>, errors: &mut Errors) {
    for (name, amount) in map.entries() {
        standard_quota_name(&amount, name, errors);
        whole_amounts(&amount, name, errors);
    }
}

/// No amount is below zero, and what is counted is whole.
pub(super) fn whole_amounts(amount: &Located<'_>, name: &str, errors: &mut Errors) {
    amount.quantity_not_negative(errors);
    let whole = COUNTED.contains(&name) || is_extended(name);
    if whole && amount.quantity().is_some_and(|q| !q.is_integer()) {
        amount.wrong("must be an integer", errors);
    }
}

fn standard_quota_name(at: &Located<'_>, name: &str, errors: &mut Errors) {
    standard_name(at, name, errors);
    if !name.contains('/') && !is_quota_resource(name) {
        errors.invalid(at.path(), name, "must be a standard resource for quota");
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a scope picks objects that have such a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => POD_RESOURCES.contains(&resource),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn scopes(spec: &Located<'_>, errors: &mut Errors) {
    let list = spec.at("scopes");
    let mut found = BTreeSet::new();
    for scope in list.each().map(|s| s.text()) {
        if !SCOPES.contains(&scope) {
            list.wrong("unsupported scope", errors);
        }
        for (name, _) in spec.at("hard").entries() {
            if is_quota_resource(name) && !fits(scope, name) {
                list.wrong("unsupported scope applied to resource", errors);
            }
        }
        found.insert(scope);
    }
    conflicts(&found, &list, errors);
}

fn conflicts(found: &BTreeSet<&str>, list: &Located<'_>, errors: &mut Errors) {
    for pair in [["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]] {
        if pair.iter().all(|scope| found.contains(scope)) {
            list.wrong("conflicting scopes", errors);
        }
    }
}

/// Upstream names the list, not the item.
fn scope_selector(spec: &Located<'_>, errors: &mut Errors) {
    const EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
    let selector = spec.at("scopeSelector");
    let list = selector.at("matchExpressions");
    let at = |field: &str| format!("{}.{field}", list.path());
    let mut found = BTreeSet::new();
    for e in list.each() {
        let (scope, operator, values) = (e.at("scopeName"), e.at("operator"), e.at("values"));
        if !SCOPES.contains(&scope.text()) {
            errors.invalid(at("scopeName"), scope.text(), "unsupported scope");
        }
        for (name, _) in spec.at("hard").entries() {
            if is_quota_resource(name) && !fits(scope.text(), name) {
                let why = "unsupported scope applied to resource";
                errors.invalid_text(list.path(), selector.shown(), why);
            }
        }
        let by_class = matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope.text()) && !by_class && operator.text() != "Exists" {
            errors.invalid(at("operator"), operator.text(), EXISTS);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(at("values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(at("values"), values.value().clone(), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(at("operator"), other, "not a valid selector operator"),
        }
        found.insert(scope.text());
    }
    conflicts(&found, &spec.at("scopes").called(list.path()), errors);
}

/// The scopes of a quota stay, in whatever order.
pub(super) fn same_scopes(spec: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let set = |of: &Located<'_>| -> BTreeSet<String> {
        of.at("scopes").each().map(|s| s.text().to_owned()).collect()
    };
    if set(spec) != set(old) {
        spec.at("scopes").wrong("field is immutable", errors);
    }
}
