//! Hostile answers of webhooks, and hostile certificate requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use serde_json::{Value, json};

use super::{certificates, limits, pod_security, webhooks};
use crate::codec::depth;
use crate::fuzz::first_line;

/// A line `version uid mutating`, and an answer, whose patch is applied to an object.
pub(crate) fn review(bytes: &[u8]) {
    let (line, body) = first_line(bytes);
    let words: Vec<&str> = line.split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let mut object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    webhooks::hostile_answer(word(0), word(1), word(2) == "mutating", body, &mut object);
    assert!(!depth::exceeds(&object, crate::limits::BODY_DEPTH));
    let text = object.to_string();
    assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(object));
}

/// A certificate request in DER, and as people send it.
pub(crate) fn certificate_request(der: &[u8]) {
    let body = STANDARD.encode(der);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    for encoded in [STANDARD.encode(pem), STANDARD.encode(der)] {
        let name = certificates::common_name(&encoded);
        let groups = certificates::organizations(&encoded);
        assert_eq!(name.is_ok(), groups.is_ok());
    }
}

/// A pod, or what makes pods: what Pod Security and LimitRanges say of it.
pub(crate) fn pod(object: &Object) {
    pod_security::hostile_pod(object);
    limits::hostile_pod(object);
}
