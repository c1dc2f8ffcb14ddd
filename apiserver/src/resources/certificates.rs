//! certificates.k8s.io: requests for certificates, and their approval.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::FromDer;

use super::validation::Errors;
use crate::authn;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, path_segment};
use crate::resource::{
    CLUSTER, Cell, Column, Row, SelectableField, Strategy, Subresource, SubresourceHandler, WriteContext,
};

const GROUP: &str = "certificates.k8s.io";

pub(super) const ROWS: &[Row] = &[Row {
    group: GROUP,
    kind: "CertificateSigningRequest",
    metadata_looks: [2, 2],
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

/// A write of the status neither makes nor changes a decision: as many as there were are those there were.
fn keep_decisions(new: &mut Object, old: &Object) {
    let Some(Value::Array(all)) = new.0.pointer_mut("/status/conditions") else { return };
    for kind in ["Approved", "Denied"] {
        let before: Vec<&Value> =
            old.items_at(&["status", "conditions"]).iter().filter(|c| c["type"] == kind).collect();
        let same = all.iter().filter(|c| c["type"] == kind).count() == before.len();
        let places = all.iter_mut().filter(|c| same && c["type"] == kind);
        places.zip(before).for_each(|(place, kept)| *place = kept.clone());
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
            if cx.subresource == "status" {
                keep_decisions(new, old);
            }
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

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        match old {
            None => spec(new, &mut errors),
            Some(old) => change(cx.subresource, new, old, &mut errors),
        }
        conditions(new, old, &mut errors);
        let certificate = new.str_at(&["status", "certificate"]);
        let kept = old.is_some_and(|old| old.str_at(&["status", "certificate"]) == certificate);
        if let Some(why) = Some(certificate).filter(|text| !text.is_empty() && !kept).and_then(no_certificate)
        {
            errors.invalid("status.certificate", "<certificate data>", why);
        }
        errors.0
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

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Conditions that are a decision: once true they stay, and none of them is ever anything but true.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

fn spec(new: &Object, errors: &mut Errors) {
    let request = new.str_at(&["spec", "request"]);
    if let Some(why) = no_request(request) {
        // Where nothing was said, upstream shows its absence.
        let shown = new.at(&["spec", "request"]).cloned().unwrap_or_default();
        errors.invalid("spec.request", shown, why);
    }
    let usages = new.items_at(&["spec", "usages"]);
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    for (i, usage) in usages.iter().enumerate() {
        errors.supported(format!("spec.usages[{i}]"), usage.as_str().unwrap_or_default(), &USAGES);
    }
    let mut seen = HashSet::new();
    for (i, usage) in usages.iter().enumerate() {
        if !seen.insert(usage.as_str()) {
            errors.duplicate(format!("spec.usages[{i}]"), usage.clone());
        }
    }
    let signer = new.str_at(&["spec", "signerName"]);
    if signer == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid("spec.signerName", signer, why);
    } else {
        signer_name("spec.signerName", signer, errors);
    }
    if let Some(seconds) = new.i64_at(&["spec", "expirationSeconds"]).filter(|s| *s < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", seconds, why);
    }
}

/// `example.com/signer-name`.
pub(super) fn signer_name(at: &str, name: &str, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(at, name, why);
    };
    if domain.len() > 253 {
        errors.0.push(FieldError::too_long(at, 253));
    }
    for label in domain.split('.') {
        for why in dns1123_label(label) {
            errors.invalid(at, domain, format!("validating label {label:?}: {why}"));
        }
    }
    if !domain.contains('.') {
        errors.invalid(at, domain, "should be a domain with at least two segments separated by dots");
    }
    for label in path.split('.') {
        for why in dns1123_subdomain(label) {
            errors.invalid(at, path, format!("validating label {label:?}: {why}"));
        }
    }
    const LONGEST: usize = 253 + 1 + 253 + 63 + 1;
    if name.len() > LONGEST {
        errors.0.push(FieldError::too_long(at, LONGEST));
    }
}

fn conditions(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    const AT: &str = "status.conditions";
    let all = new.items_at(&["status", "conditions"]);
    let before = old.map_or(&[][..], |old| old.items_at(&["status", "conditions"]));
    let kinds = |of: &'_ [Value]| -> HashSet<String> {
        of.iter().map(|c| c["type"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // What was there already is put up with.
    let known = kinds(before);
    let (undecided, doubled) =
        (known.contains("Approved") && known.contains("Denied"), known.len() < before.len());
    let mut seen: HashSet<&str> = HashSet::new();
    for (i, condition) in all.iter().enumerate() {
        let kind = condition["type"].as_str().unwrap_or_default();
        if kind.is_empty() && !known.contains("") {
            errors.required(format!("{AT}[{i}].type"), "");
        }
        let words: &[&str] =
            if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        let status = condition["status"].as_str().unwrap_or_default();
        match status {
            "" => errors.required(format!("{AT}[{i}].status"), ""),
            _ => errors.supported(format!("{AT}[{i}].status"), status, words),
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && !undecided && seen.contains(other) {
            errors.invalid(AT, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(kind) && !doubled {
            errors.duplicate(format!("{AT}[{i}].type"), kind);
        }
    }
}

/// What each endpoint may change: approval the decisions, status the certificate, neither what is settled.
fn change(endpoint: &str, new: &Object, old: &Object, errors: &mut Errors) {
    const AT: &str = "status.conditions";
    let of = |object: &Object, kind: &str| -> Vec<Value> {
        let all = object.items_at(&["status", "conditions"]);
        all.iter().filter(|c| c["type"] == kind).cloned().collect()
    };
    for kind in DECISIONS {
        if of(new, kind).len() < of(old, kind).len() {
            errors.forbidden(AT, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if endpoint != "approval" {
        for kind in ["Approved", "Denied"] {
            let (after, before) = (of(new, kind), of(old, kind));
            if after.len() > before.len() {
                errors.forbidden(AT, format!("updates may not add a condition of type {kind:?}"));
            } else if after.len() == before.len() && after != before {
                errors.forbidden(AT, format!("updates may not modify a condition of type {kind:?}"));
            }
        }
    }
    let (after, before) = (new.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
    if after != before {
        if endpoint != "status" {
            errors.forbidden("status.certificate", "updates may not set certificate content");
        } else if !before.is_empty() {
            errors.forbidden("status.certificate", "updates may not modify existing certificate content");
        }
    }
}

/// What is wrong with a base64-encoded PEM request, its own signature included.
fn no_request(encoded: &str) -> Option<String> {
    const NO_PEM: &str = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let Some(block) =
        parse_x509_pem(&pem).ok().map(|(_, block)| block).filter(|b| b.label == "CERTIFICATE REQUEST")
    else {
        return Some(NO_PEM.to_owned());
    };
    let read = X509CertificationRequest::from_der(&block.contents).ok().map(|(_, request)| request);
    let Some(request) = read.filter(|r| authn::is_whole(&r.certification_request_info.subject)) else {
        return Some("x509: malformed certificate request".to_owned());
    };
    request.verify_signature().err().map(|_| "x509: the signature of the request does not hold".to_owned())
}

/// What is wrong with base64-encoded PEM certificates.
fn no_certificate(encoded: &str) -> Option<String> {
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.parse_x509().is_err() {
            return Some("x509: malformed certificate".to_owned());
        }
        blocks += 1;
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn request(change: &dyn Fn(&mut Object)) -> Object {
        let pem = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let mut object = Object(json!({"spec": {"request": STANDARD.encode(pem.pem().unwrap()),
            "signerName": "example.com/own", "usages": ["client auth"]}}));
        change(&mut object);
        object
    }

    fn words(errors: &Errors) -> Vec<String> {
        errors.0.iter().map(|e| format!("{}: {}", e.field, e.body())).collect()
    }

    #[test]
    fn a_request_is_refused_for_each_of_its_faults() {
        let set = |path: &'static [&'static str], value: Value| {
            request(&move |object: &mut Object| object.set(path, value.clone()))
        };
        let pem = STANDARD.decode(request(&|_| ()).str_at(&["spec", "request"])).unwrap();
        let relabelled = String::from_utf8(pem).unwrap().replace("CERTIFICATE REQUEST", "PUBLIC KEY");
        let cases = [
            (request(&|_| ()), ""),
            (set(&["spec", "request"], json!("Z2FyYmFnZQ==")), "PEM block type must be CERTIFICATE REQUEST"),
            (set(&["spec", "request"], json!(STANDARD.encode(relabelled))), "PEM block type"),
            (set(&["spec", "usages"], json!([])), "spec.usages: Required value"),
            (set(&["spec", "usages"], json!(["juggling"])), "spec.usages[0]: Unsupported value"),
            (set(&["spec", "usages"], json!(["any", "any"])), "spec.usages[1]: Duplicate value"),
            (
                set(&["spec", "signerName"], json!("kubernetes.io/legacy-unknown")),
                "the legacy signerName is not",
            ),
            (set(&["spec", "signerName"], json!("")), "spec.signerName: Required value"),
            (set(&["spec", "signerName"], json!("example.com")), "must be a fully qualified domain and path"),
            (set(&["spec", "signerName"], json!("a/b/c")), "must be a fully qualified domain and path"),
            (set(&["spec", "signerName"], json!("short/x")), "at least two segments separated by dots"),
            (set(&["spec", "signerName"], json!("Ex.com/x")), "validating label \"Ex\""),
            (set(&["spec", "signerName"], json!("ex.com/X")), "validating label \"X\""),
            (set(&["spec", "expirationSeconds"], json!(599)), "may not specify a duration less than 600"),
            (set(&["spec", "expirationSeconds"], json!(600)), ""),
        ];
        for (object, expected) in cases {
            let mut errors = Errors::default();
            spec(&object, &mut errors);
            let found = words(&errors);
            match expected {
                "" => assert!(found.is_empty(), "{found:?}"),
                expected => {
                    assert!(found.iter().any(|text| text.contains(expected)), "{expected}: {found:?}")
                }
            }
        }
    }

    #[test]
    fn each_endpoint_changes_its_own_part_and_decisions_stay() {
        let of = |kinds: &[(&str, &str)], certificate: &str| {
            let all: Vec<_> =
                kinds.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
            Object(json!({"status": {"conditions": all, "certificate": certificate}}))
        };
        let yes = |kind| (kind, "True");
        let cases = [
            ("approval", of(&[], ""), of(&[yes("Approved")], ""), ""),
            (
                "status",
                of(&[], ""),
                of(&[yes("Approved")], ""),
                "updates may not add a condition of type \"Approved\"",
            ),
            ("", of(&[], ""), of(&[yes("Denied")], ""), "updates may not add"),
            (
                "approval",
                of(&[yes("Denied")], ""),
                of(&[], ""),
                "updates may not remove a condition of type \"Denied\"",
            ),
            ("status", of(&[yes("Failed")], ""), of(&[], ""), "updates may not remove"),
            ("approval", of(&[], ""), of(&[yes("Approved"), yes("Denied")], ""), "mutually exclusive"),
            ("approval", of(&[], ""), of(&[("Approved", "False")], ""), "Unsupported value: \"False\""),
            ("status", of(&[], ""), of(&[yes("Own"), yes("Own")], ""), "Duplicate value"),
            ("status", of(&[], ""), of(&[], "eA=="), "must contain at least one CERTIFICATE PEM block"),
            (
                "status",
                of(&[], "eA=="),
                of(&[], "eQ=="),
                "updates may not modify existing certificate content",
            ),
            ("approval", of(&[], ""), of(&[], "eA=="), "updates may not set certificate content"),
            ("status", of(&[], "eA=="), of(&[("Own", "Unknown")], "eA=="), ""),
        ];
        let user = crate::authn::User::default();
        let resource = crate::resource::Resource::from(&ROWS[0]);
        for (endpoint, old, new, expected) in cases {
            let now = jiff::Timestamp::UNIX_EPOCH;
            let cx = WriteContext {
                user: &user,
                resource: &resource,
                subresource: endpoint,
                now,
                dry_run: false,
                labelled: true,
            };
            let found = words(&Errors(Request.validate(&cx, &new, Some(&old))));
            match expected {
                "" => assert!(found.is_empty(), "{endpoint}: {found:?}"),
                expected => {
                    assert!(found.iter().any(|t| t.contains(expected)), "{endpoint} {expected}: {found:?}")
                }
            }
        }
    }
}
