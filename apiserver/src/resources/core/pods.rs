//! Pods: lifecycle of the object, its subresources and selectable fields.

use coracle_api::{Object, resources::Demand};
use serde_json::json;

use super::super::validation::Errors;
use super::super::{pod_calls, pod_spec};
use super::pod_status::status;
use super::{field, part, proxy};
use crate::field::FieldError;
use crate::resource::{
    Call, Connect, NAMESPACED, Row, SelectableField, Strategy, Subresource, SubresourceHandler, WriteContext,
};

pub(super) const ROW: Row = Row {
    kind: "Pod",
    metadata_looks: [2, 1],
    plural: "pods",
    resets: &[("status", &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])],
    short: &["po"],
    categories: &["all"],
    status: true,
    generation: true,
    fields: FIELDS,
    columns: super::pod_columns::COLUMNS,
    subresources: SUBRESOURCES,
    strategy: &Pods,
    returns_deleted: true,
    ..NAMESPACED
};

const FIELDS: &[SelectableField] = &[
    field("spec.nodeName", &["spec", "nodeName"]),
    field("spec.restartPolicy", &["spec", "restartPolicy"]),
    field("spec.schedulerName", &["spec", "schedulerName"]),
    field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    SelectableField { label: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false", or: &[] },
    field("status.phase", &["status", "phase"]),
    field("status.podIP", &["status", "podIP"]),
    field("status.podIPs", &["status", "podIP"]),
    field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    field("spec.host", &["spec", "nodeName"]),
];

const SUBRESOURCES: &[Subresource] = &[
    connect("attach", "PodAttachOptions", Connect::Attach),
    call("binding", ("", "v1", "Binding"), &pod_calls::Bind),
    part("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
    call("eviction", ("policy", "v1", "Eviction"), &pod_calls::Evict),
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

const fn call(
    name: &'static str,
    kind: (&'static str, &'static str, &'static str),
    call: &'static dyn Call,
) -> Subresource {
    Subresource { name, kind, verbs: &["create"], handler: SubresourceHandler::Call(call) }
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

struct Pods;

impl Strategy for Pods {
    fn default(&self, new: &mut Object) {
        pod_spec::pod(&mut new.0);
        // The older field is the first of the newer ones.
        let only = new.str_at(&["status", "podIP"]);
        let first = new.items_at(&["status", "podIPs"]).first().and_then(|ip| ip["ip"].as_str());
        if !only.is_empty() && first != Some(only) {
            let only = json!([{"ip": only}]);
            new.set(&["status", "podIPs"], only);
        }
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_some() {
            if cx.subresource.is_empty()
                || cx.subresource == "status" && new.str_at(&["status", "qosClass"]).is_empty()
            {
                keep_qos(new, old);
            }
            return;
        }
        pod_spec::merge_label_keys(new);
        let spec = new.at(&["spec"]).cloned().unwrap_or_default();
        let class = Demand::of_json(&spec).qos_class().name();
        new.set(&["status"], json!({"phase": "Pending", "qosClass": class}));
        if !new.items_at(&["spec", "schedulingGates"]).is_empty() {
            let condition = json!({"type": "PodScheduled", "status": "False", "lastProbeTime": null,
                "lastTransitionTime": null, "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"});
            new.set(&["status", "conditions"], json!([condition]));
        }
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "status" | "ephemeralcontainers" | "resize")
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        match (cx.subresource, old) {
            ("", None) => pod_spec::validate_pod(new),
            ("", Some(old)) => pod_spec::validate_pod_update(new, old),
            ("status", Some(old)) => {
                let mut errors = Errors::default();
                status(new, old, &mut errors);
                errors.0
            }
            ("ephemeralcontainers", Some(old)) => pod_spec::validate_ephemeral_update(new, old),
            ("resize", Some(old)) => pod_spec::validate_pod_resize(new, old),
            _ => vec![],
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        // Upstream gives none for updates.
        if old.is_none() { pod_spec::pod_warnings(new) } else { vec![] }
    }

    fn isolate(&self, subresource: &str, new: &mut Object, old: &Object) {
        let wanted = new.clone();
        let resource_version = wanted.at(&["metadata", "resourceVersion"]).cloned();
        *new = old.clone();
        if let Some(version) = resource_version {
            new.set(&["metadata", "resourceVersion"], version);
        }
        match subresource {
            // The binding's handler changes only what it may.
            "binding" => *new = wanted,
            "ephemeralcontainers" => {
                // Left out means removed, which validation judges.
                match wanted.at(&["spec", "ephemeralContainers"]) {
                    Some(all) => new.set(&["spec", "ephemeralContainers"], all.clone()),
                    None => drop(new.remove(&["spec", "ephemeralContainers"])),
                }
            }
            "resize" => {
                let empty = json!({});
                let (wanted, was) =
                    (wanted.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
                new.set(&["spec"], pod_spec::resized_spec(wanted, was));
            }
            _ => {}
        }
    }

    /// A pod that no node runs, or that is over, goes at once.
    fn grace_period(&self, old: &Object, requested: Option<i64>) -> Option<i64> {
        let spec = old.i64_at(&["spec", "terminationGracePeriodSeconds"]);
        let seconds = requested.or(spec).unwrap_or(30);
        if coracle_api::pod::node_name(old).is_empty() || coracle_api::pod::is_terminal(old) {
            return Some(0);
        }
        match seconds {
            negative if negative < 0 => Some(1),
            seconds => Some(seconds),
        }
    }
}

/// The class is decided once; later writers cannot change it.
fn keep_qos(new: &mut Object, old: Option<&Object>) {
    if let Some(class) = old.and_then(|o| o.at(&["status", "qosClass"])) {
        new.set(&["status", "qosClass"], class.clone());
    }
}
