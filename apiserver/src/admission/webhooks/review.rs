//! `AdmissionReview`: what a webhook is sent, and what its answer means.

use bytes::Bytes;
use coracle_api::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::patch::Operations;
use crate::status::Status;

/// The body of a call.
#[derive(Serialize)]
struct Review<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    request: Request<'a>,
}

#[derive(Serialize)]
struct Request<'a> {
    uid: &'a str,
    #[serde(flatten)]
    what: &'a Value,
    object: Option<&'a Value>,
    #[serde(rename = "oldObject")]
    old: Option<&'a Value>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    response: Option<Response>,
}

/// What a webhook has decided.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Response {
    uid: String,
    pub(super) allowed: bool,
    pub(super) status: Option<Value>,
    /// Base64 of a JSON patch.
    patch: Option<String>,
    patch_type: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// A review of one request.
pub(super) fn encode(
    version: &str,
    uid: &str,
    what: &Value,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Bytes {
    let request = Request { uid, what, object: new.map(|o| &o.0), old: old.map(|o| &o.0) };
    let api_version = format!("admission.k8s.io/{version}");
    let review = Review { kind: "AdmissionReview", api_version: &api_version, request };
    serde_json::to_vec(&review).expect("JSON values can be written to memory").into()
}

/// Reads an answer and holds it against the rules of its version.
pub(super) fn decode(version: &str, uid: &str, mutating: bool, body: &[u8]) -> Result<Response, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|e| format!("failed to call webhook: {e}"))?;
    let invalid = |why: String| Err(format!("received invalid webhook response: {why}"));
    let Some(response) = answer.response else { return invalid("webhook response was absent".to_owned()) };
    if version == "v1beta1" {
        return Ok(response);
    }
    if response.uid != uid {
        return invalid(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    if answer.kind != "AdmissionReview" || answer.api_version != "admission.k8s.io/v1" {
        let got = answer.api_version;
        return invalid(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}, Kind={}",
            answer.kind
        ));
    }
    let patched = response.patch.as_ref().is_some_and(|p| !p.is_empty());
    match (mutating, patched, response.patch_type.as_deref()) {
        (true, true, None) => {
            invalid("webhook returned response.patch but not response.patchType".to_owned())
        }
        (true, false, Some(_)) => {
            invalid("webhook returned response.patchType but not response.patch".to_owned())
        }
        (true, true, Some("")) => invalid("webhook returned invalid response.patchType of \"\"".to_owned()),
        (true, true, Some(other)) if other != "JSONPatch" => Err(format!("unsupported patch type {other:?}")),
        (false, true, _) => invalid("validating webhook may not return response.patch".to_owned()),
        (false, _, Some(_)) => invalid("validating webhook may not return response.patchType".to_owned()),
        _ => Ok(response),
    }
}

// === impl Response ===

impl Response {
    /// The operations of the patch; none where there is no patch.
    pub(super) fn patch(&self) -> Result<Operations, String> {
        use base64::Engine;
        let undecodable =
            |e: &dyn std::fmt::Display| format!("received undecodable patch in webhook response: {e}");
        let Some(text) = self.patch.as_ref().filter(|p| !p.is_empty()) else {
            return Ok(Operations::default());
        };
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| undecodable(&e))?;
        let patch = serde_json::from_slice(&bytes).map_err(|e| undecodable(&e))?;
        Operations::read(patch).map_err(|found| undecodable(&format!("a patch is a list, not {found}")))
    }

    /// The `Status` of a refusal: the webhook's own, saying who refused.
    pub(super) fn refusal(self, webhook: &str) -> Status {
        let denied = format!("admission webhook {webhook:?} denied the request");
        let status = self.status.unwrap_or(Value::Null);
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        let (message, reason) = (text("message"), text("reason"));
        let message = match (message.as_str(), reason.as_str()) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let code =
            status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c));
        let mut refusal = Status::new(code.unwrap_or(400), reason, message);
        refusal.0.details = status.get("details").filter(|d| d.is_object()).cloned();
        refusal
    }
}
