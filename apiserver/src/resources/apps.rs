//! `apps`: workloads that keep pods running.

use crate::resource::{NAMESPACED, Row, ScalePaths};

const KIND: Row = Row { group: "apps", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[
    Row { kind: "ControllerRevision", plural: "controllerrevisions", ..KIND },
    Row {
        kind: "DaemonSet",
        plural: "daemonsets",
        short: &["ds"],
        categories: &["all"],
        status: true,
        generation: true,
        ..KIND
    },
    Row {
        kind: "Deployment",
        plural: "deployments",
        short: &["deploy"],
        categories: &["all"],
        status: true,
        generation: true,
        scale: Some(SCALE),
        ..KIND
    },
    Row {
        kind: "ReplicaSet",
        plural: "replicasets",
        short: &["rs"],
        categories: &["all"],
        status: true,
        generation: true,
        scale: Some(SCALE),
        ..KIND
    },
    Row {
        kind: "StatefulSet",
        plural: "statefulsets",
        short: &["sts"],
        categories: &["all"],
        status: true,
        generation: true,
        scale: Some(SCALE),
        ..KIND
    },
];

/// Where all scalable workloads keep their replica counts.
const SCALE: ScalePaths = ScalePaths {
    spec_replicas: &["spec", "replicas"],
    status_replicas: &["status", "replicas"],
    selector: &["spec", "selector"],
};
