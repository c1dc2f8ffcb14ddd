//! What is wrong with the resources of a pod as a whole, and how they fit those of its containers.

use coracle_api::Quantity;
use coracle_api::resources::{Demand, ResourceList};
use serde_json::Value;

use super::super::core::limit_rules::is_standard_resource;
use super::super::located::Located;
use super::super::validation::Errors;
use super::containers::resources_named;
use crate::field_names::qualified_name;

/// `resources` of a pod spec at this path.
pub(super) fn of_pod(at: &str, spec: &Value, errors: &mut Errors) {
    let all = Located::placed(format!("{at}.resources"), &spec["resources"]);
    if !all.is_set() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        return all.forbidden("may not be set for a windows pod", errors);
    }
    if all.at("claims").is_set() {
        all.at("claims").forbidden("claims may not be set for Resources at pod-level", errors);
    }
    resources_named(all.path(), all.value(), name, errors);
    consistent(&all, spec, errors);
}

fn name(at: &str, name: &str, errors: &mut Errors) {
    let wrong = qualified_name(name);
    let standard = name.contains('/') || is_standard_resource(name);
    if !wrong.is_empty() {
        errors.all_invalid(at, name, wrong);
    } else if !standard {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
    } else if !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
        errors.supported(at, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// A pod asks for what its containers ask for, at least; and none has more than the pod.
fn consistent(all: &Located<'_>, spec: &Value, errors: &mut Errors) {
    let at_least = |list: &str, sums: ResourceList, errors: &mut Errors| {
        for (name, sum) in sums {
            let own = all.at(list).value().get(&name).and_then(|own| Quantity::from_json(own).ok());
            if let Some(own) = own.filter(|own| *own < sum) {
                let why = format!("must be greater than or equal to aggregate container {list} of {sum}");
                errors.invalid_text(format!("{}.{list}[{name}]", all.path()), format!("\"{own}\""), why);
            }
        }
    };
    let demand = Demand::of_json(spec);
    at_least("requests", demand.sum_of_containers(), errors);
    let mut limits = demand.sum_of_limits();
    limits.retain(|name, _| name.starts_with("hugepages-"));
    at_least("limits", limits, errors);
    let containers = Located::placed(format!("{}.containers", all.path()), &spec["containers"]);
    for container in containers.each() {
        for (name, limit) in container.at("resources").at("limits").entries() {
            let most = all.at("limits").value().get(name).and_then(|most| Quantity::from_json(most).ok());
            if let (Some(limit), Some(most)) = (limit.quantity(), most)
                && limit > most
            {
                let why = format!("must be less than or equal to pod limits of {most}");
                let at = format!("{}[{name}].limits", container.path());
                errors.invalid_text(at, format!("\"{limit}\""), why);
            }
        }
    }
}
