//! `autoscaling`: horizontal pod autoscalers, served in two versions from one storage.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "autoscaling", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        version: "v2",
        storage: "autoscaling/horizontalpodautoscalers",
        short: &["hpa"],
        categories: &["all"],
        status: true,
        ..KIND
    },
    Row {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        version: "v1",
        storage: "autoscaling/horizontalpodautoscalers",
        short: &["hpa"],
        categories: &["all"],
        status: true,
        ..KIND
    },
];
