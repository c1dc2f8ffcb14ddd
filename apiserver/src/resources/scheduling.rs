//! `scheduling.k8s.io`: priority classes.

use coracle_api::Object;
use coracle_api::priority::{HIGHEST_OF_USERS, SYSTEM_CLASSES};

use super::columns::{AGE, NAME, integer, of_kind, path};
use super::defaulting::fill;
use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    short: &["pc"],
    generation: true,
    columns: &[
        NAME,
        integer("Value", &["value"]),
        of_kind("boolean", path("Global-Default", &["globalDefault"])),
        AGE,
        path("PreemptionPolicy", &["preemptionPolicy"]),
    ],
    strategy: &Classes,
    ..CLUSTER
}];

struct Classes;

impl Strategy for Classes {
    fn default(&self, new: &mut Object) {
        fill(&mut new.0, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(old) = old {
            if old.at(&["value"]) != new.at(&["value"]) {
                errors.forbidden("value", "may not be changed in an update.");
            }
            let (is, was) = (Located::root(new), Located::root(old));
            is.at("preemptionPolicy").immutable(&was.at("preemptionPolicy"), &mut errors);
            return errors.0;
        }
        let (name, value) = (new.name(), new.i64_at(&["value"]).unwrap_or(0));
        let known = SYSTEM_CLASSES.iter().any(|class| class.name == name && i64::from(class.value) == value);
        if name.starts_with("system-") && !known {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: is not a known system priority class";
            errors.forbidden("metadata.name", detail);
        } else if value > i64::from(HIGHEST_OF_USERS) && !known {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden("value", detail);
        }
        let policy = new.str_at(&["preemptionPolicy"]);
        errors.one_of("preemptionPolicy", policy, &["PreemptLowerPriority", "Never"]);
        errors.0
    }
}
