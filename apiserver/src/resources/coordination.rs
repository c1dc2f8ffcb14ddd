//! `coordination.k8s.io`: leases.

use coracle_api::Object;

use super::columns::{AGE, NAME, path};
use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::qualified_name;
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    columns: &[NAME, path("Holder", &["spec", "holderIdentity"]), AGE],
    create_on_update: true,
    conditional_update: true,
    free_finalizers: true,
    strategy: &Leases,
    ..NAMESPACED
}];

struct Leases;

impl Strategy for Leases {
    /// Electing by version is not switched on in upstream: what is not there already does not come.
    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        for field in ["strategy", "preferredHolder"] {
            if old.is_none_or(|old| old.at(&["spec", field]).is_none()) {
                new.remove(&["spec", field]);
            }
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = Located::root(new).at("spec");
        spec.at("leaseDurationSeconds").at_least(1, "must be greater than 0", &mut errors);
        spec.at("leaseTransitions").not_negative(&mut errors);
        let strategy = spec.at("strategy");
        // Upstream names the field twice.
        let named = strategy.clone().called("spec.strategy.strategy");
        if strategy.text().contains('/') {
            named.obeys(qualified_name, &mut errors);
        } else {
            named.one_of(&["OldestEmulationVersion"], &mut errors);
        }
        let holder = spec.at("preferredHolder");
        if !holder.text().is_empty() && strategy.text().is_empty() {
            holder.forbidden("may only be specified if `strategy` is defined", &mut errors);
        }
        errors.0
    }
}
