//! `admissionregistration.k8s.io`: webhooks and CEL policies.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "admissionregistration.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
    Row {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
    Row {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
    Row {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        status: true,
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
    Row {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
    Row {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        generation: true,
        categories: &["api-extensions"],
        ..KIND
    },
];
