//! `policy`: disruption budgets.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "policy", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[Row {
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    short: &["pdb"],
    status: true,
    generation: true,
    ..KIND
}];
