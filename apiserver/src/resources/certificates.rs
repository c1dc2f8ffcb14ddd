//! certificates.k8s.io: requests for certificates, and their approval.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::field_names::path_segment;
use crate::resource::{
    CLUSTER, Cell, Column, Row, SelectableField, Strategy, Subresource, SubresourceHandler, WriteContext,
};

const GROUP: &str = "certificates.k8s.io";

pub(super) const ROWS: &[Row] = &[Row {
    group: GROUP,
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    resets: &[
        ("", &[&["spec"], &["status"]]),
        ("status", &[&["spec"], &["status", "conditions"]]),
        ("approval", &[&["spec"], &["status", "certificate"]]),
    ],
    short: &["csr"],
    status: true,
    fields: &[SelectableField {
        label: "spec.signerName",
        path: &["spec", "signerName"],
        absent: "",
        or: &[],
    }],
    columns: COLUMNS,
    subresources: &[Subresource {
        name: "approval",
        kind: (GROUP, "v1", "CertificateSigningRequest"),
        verbs: &["get", "patch", "update"],
        handler: SubresourceHandler::Part,
    }],
    strategy: &Request,
    ..CLUSTER
}];

const fn column(name: &'static str, format: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", format, priority: 0, cell }
}

const COLUMNS: &[Column] = &[
    column("Name", "name", Cell::Path(&["metadata", "name"])),
    column("Age", "", Cell::Age),
    column("SignerName", "", Cell::Path(&["spec", "signerName"])),
    column("Requestor", "", Cell::Path(&["spec", "username"])),
    column(
        "RequestedDuration",
        "",
        Cell::Compute(|o, _| match o.i64_at(&["spec", "expirationSeconds"]) {
            Some(seconds) => coracle_api::time::human_duration(seconds).into(),
            None => "<none>".into(),
        }),
    ),
    column("Condition", "", Cell::Compute(|o, _| condition(o))),
];

fn condition(request: &Object) -> Value {
    let has = |kind: &str| request.items_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut words = vec![];
    match (has("Approved"), has("Denied")) {
        (_, true) => words.push("Denied"),
        (true, _) => words.push("Approved"),
        _ => words.push("Pending"),
    }
    if has("Failed") {
        words.push("Failed");
    }
    if !request.str_at(&["status", "certificate"]).is_empty() {
        words.push("Issued");
    }
    words.join(",").into()
}

/// Fills in when a condition was written, and since when it is as it is.
fn date_conditions(new: &mut Object, old: &Object, now: &str) {
    let Some(Value::Array(conditions)) = new.0.pointer_mut("/status/conditions") else { return };
    for condition in conditions.iter_mut().filter(|c| c.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = json!(now);
        }
        if condition["lastTransitionTime"].is_null() {
            let same = |o: &&Value| o["type"] == condition["type"] && o["status"] == condition["status"];
            let before = old.items_at(&["status", "conditions"]).iter().find(same);
            let since = before.map(|o| o["lastTransitionTime"].clone()).filter(Value::is_string);
            condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(now));
        }
    }
}

struct Request;

impl Strategy for Request {
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        path_segment(name)
    }

    /// The requestor is whoever sends the request, whatever the body says; later nothing of the spec changes.
    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if let Some(old) = old {
            new.set(&["spec"], old.at(&["spec"]).cloned().unwrap_or_default());
            date_conditions(new, old, &coracle_api::time::seconds(cx.now));
            return;
        }
        let user = cx.user;
        let fields = [
            ("username", json!(user.name), user.name.is_empty()),
            ("uid", json!(user.uid), user.uid.is_empty()),
            ("groups", json!(user.groups), user.groups.is_empty()),
            ("extra", json!(user.extra), user.extra.is_empty()),
        ];
        for (field, value, empty) in fields {
            new.remove(&["spec", field]);
            if !empty {
                new.set(&["spec", field], value);
            }
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if old.is_some() {
            return vec![];
        }
        let mut errors = vec![];
        let request = new.at(&["spec", "request"]).cloned().unwrap_or_default();
        if !is_certificate_request(request.as_str().unwrap_or_default()) {
            let why = "PEM block type must be CERTIFICATE REQUEST";
            errors.push(FieldError::invalid("spec.request", &request, why));
        }
        if new.items_at(&["spec", "usages"]).is_empty() {
            errors.push(FieldError::required("spec.usages", ""));
        }
        let signer = new.str_at(&["spec", "signerName"]);
        if signer.is_empty() {
            errors.push(FieldError::required("spec.signerName", ""));
        } else if !signer.contains('/') {
            let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(FieldError::invalid("spec.signerName", &json!(signer), why));
        }
        if new.i64_at(&["spec", "expirationSeconds"]).is_some_and(|s| s < 600) {
            let value = new.at(&["spec", "expirationSeconds"]).cloned().unwrap_or_default();
            errors.push(FieldError::invalid(
                "spec.expirationSeconds",
                &value,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        errors
    }

    /// Approval writes conditions, and of the status nothing else.
    fn isolate(&self, subresource: &str, new: &mut Object, old: &Object) {
        if subresource != "approval" {
            return;
        }
        let conditions = new.at(&["status", "conditions"]).cloned();
        match old.at(&["status"]) {
            Some(status) => new.set(&["status"], status.clone()),
            None => drop(new.remove(&["status"])),
        }
        match conditions {
            Some(conditions) => new.set(&["status", "conditions"], conditions),
            None => drop(new.remove(&["status", "conditions"])),
        }
    }
}

fn is_certificate_request(request: &str) -> bool {
    let pem = STANDARD.decode(request).unwrap_or_default();
    String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE REQUEST-----")
}
