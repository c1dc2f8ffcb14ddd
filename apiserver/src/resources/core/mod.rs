//! The core group (`v1`): one file for each kind with rules of its own.

use crate::resource::{
    Connect, NAMESPACED, Persistence, Row, SelectableField, Subresource, SubresourceHandler,
};

mod config;
mod endpoints;
pub(super) mod events;
pub(super) mod limit_rules;
mod limits;
mod namespaces;
mod node_rules;
mod nodes;
mod pod_columns;
mod pod_status;
mod pods;
mod replication;
mod service_addresses;
mod service_columns;
mod service_validation;
mod services;
mod volume_rules;
mod volumes;

pub(super) use endpoints::{endpoint_ip, legacy_ip};
pub(super) use volume_rules::inline_volume;
pub(super) use volumes::{azure_disk, claim_spec};

pub(super) static ROWS: &[Row] = &[
    BINDING,
    config::CONFIG_MAP,
    endpoints::ROW,
    events::ROW,
    limits::LIMIT_RANGE,
    namespaces::ROW,
    nodes::ROW,
    volumes::CLAIM,
    volumes::VOLUME,
    pods::ROW,
    replication::POD_TEMPLATE,
    replication::CONTROLLER,
    limits::RESOURCE_QUOTA,
    config::SECRET,
    config::SERVICE_ACCOUNT_ROW,
    services::ROW,
];

/// The old endpoint of `pods/binding`: the pod's name is the body's.
const BINDING: Row = Row {
    kind: "Binding",
    plural: "bindings",
    verbs: &["create"],
    persistence: Persistence::Computed(&super::pod_calls::Bind),
    ..NAMESPACED
};

pub(super) const fn field(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: "", or: &[] }
}

const fn part(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind: ("", "v1", kind), verbs, handler: SubresourceHandler::Part }
}

/// HTTP to what stands behind the object.
const fn proxy(kind: &'static str) -> Subresource {
    Subresource {
        name: "proxy",
        kind: ("", "v1", kind),
        verbs: &["create", "delete", "get", "patch", "update"],
        handler: SubresourceHandler::Connect(Connect::Proxy),
    }
}
