//! The core group (`v1`): one file for each kind with rules of its own.

use crate::resource::{
    ALL_VERBS, CLUSTER, Connect, NAMESPACED, Row, ScalePaths, SelectableField, Subresource,
    SubresourceHandler,
};

/// Namespaces cannot be deleted as a collection.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

pub(super) static ROWS: &[Row] = &[
    Row { kind: "ConfigMap", plural: "configmaps", short: &["cm"], ..NAMESPACED },
    Row { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short: &["ep"], ..NAMESPACED },
    Row {
        kind: "Event",
        plural: "events",
        short: &["ev"],
        storage: "/events",
        fields: EVENT_FIELDS,
        ..NAMESPACED
    },
    Row { kind: "LimitRange", plural: "limitranges", short: &["limits"], ..NAMESPACED },
    Row {
        kind: "Namespace",
        plural: "namespaces",
        short: &["ns"],
        verbs: NAMESPACE_VERBS,
        status: true,
        fields: &[field("status.phase", &["status", "phase"])],
        subresources: &[part("finalize", "Namespace", &["update"])],
        ..CLUSTER
    },
    Row {
        kind: "Node",
        plural: "nodes",
        short: &["no"],
        status: true,
        fields: &[SelectableField {
            label: "spec.unschedulable",
            path: &["spec", "unschedulable"],
            absent: "false",
        }],
        subresources: &[proxy("NodeProxyOptions")],
        ..CLUSTER
    },
    Row {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        short: &["pvc"],
        status: true,
        ..NAMESPACED
    },
    Row { kind: "PersistentVolume", plural: "persistentvolumes", short: &["pv"], status: true, ..CLUSTER },
    Row {
        kind: "Pod",
        plural: "pods",
        short: &["po"],
        categories: &["all"],
        status: true,
        generation: true,
        fields: POD_FIELDS,
        subresources: POD_SUBRESOURCES,
        ..NAMESPACED
    },
    Row { kind: "PodTemplate", plural: "podtemplates", generation: true, ..NAMESPACED },
    Row {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        short: &["rc"],
        categories: &["all"],
        status: true,
        generation: true,
        scale: Some(ScalePaths {
            spec_replicas: &["spec", "replicas"],
            status_replicas: &["status", "replicas"],
            selector: &["spec", "selector"],
        }),
        fields: &[SelectableField { label: "status.replicas", path: &["status", "replicas"], absent: "0" }],
        ..NAMESPACED
    },
    Row { kind: "ResourceQuota", plural: "resourcequotas", short: &["quota"], status: true, ..NAMESPACED },
    Row { kind: "Secret", plural: "secrets", fields: &[field("type", &["type"])], ..NAMESPACED },
    Row { kind: "ServiceAccount", plural: "serviceaccounts", short: &["sa"], ..NAMESPACED },
    Row {
        kind: "Service",
        plural: "services",
        short: &["svc"],
        categories: &["all"],
        verbs: ALL_VERBS,
        status: true,
        fields: &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])],
        subresources: &[proxy("ServiceProxyOptions")],
        ..NAMESPACED
    },
];

const POD_FIELDS: &[SelectableField] = &[
    field("spec.nodeName", &["spec", "nodeName"]),
    field("spec.restartPolicy", &["spec", "restartPolicy"]),
    field("spec.schedulerName", &["spec", "schedulerName"]),
    field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    SelectableField { label: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false" },
    field("status.phase", &["status", "phase"]),
    field("status.podIP", &["status", "podIP"]),
    field("status.podIPs", &["status", "podIP"]),
    field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    field("spec.host", &["spec", "nodeName"]),
];

const POD_SUBRESOURCES: &[Subresource] = &[
    connect("attach", "PodAttachOptions", Connect::Attach),
    part("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
    connect("exec", "PodExecOptions", Connect::Exec),
    Subresource {
        name: "log",
        kind: ("", "v1", "Pod"),
        verbs: &["get"],
        handler: SubresourceHandler::Connect(Connect::Log),
    },
    connect("portforward", "PodPortForwardOptions", Connect::PortForward),
    proxy("PodProxyOptions"),
    part("resize", "Pod", &["get", "patch", "update"]),
];

const EVENT_FIELDS: &[SelectableField] = &[
    field("involvedObject.kind", &["involvedObject", "kind"]),
    field("involvedObject.namespace", &["involvedObject", "namespace"]),
    field("involvedObject.name", &["involvedObject", "name"]),
    field("involvedObject.uid", &["involvedObject", "uid"]),
    field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingComponent", &["reportingComponent"]),
    field("source", &["source", "component"]),
    field("type", &["type"]),
];

const fn field(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: "" }
}

const fn part(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind: ("", "v1", kind), verbs, handler: SubresourceHandler::Part }
}

/// A raw connection to a container; both methods open it.
const fn connect(name: &'static str, kind: &'static str, connect: Connect) -> Subresource {
    Subresource {
        name,
        kind: ("", "v1", kind),
        verbs: &["create", "get"],
        handler: SubresourceHandler::Connect(connect),
    }
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
