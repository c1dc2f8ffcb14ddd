//! Patches: pure functions from an object and a patch to the changed object.

use coracle_api::Object;

use crate::schema::Schema;
use crate::status::{Result, Status};

/// The patch languages, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    /// Server-side apply; not a matter of this module.
    Apply,
}

// === impl PatchKind ===

impl PatchKind {
    /// The kind a `Content-Type` names; 415 for anything else.
    pub fn from_content_type(content_type: &str) -> Result<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchKind::Json),
            "application/merge-patch+json" => Ok(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
            "application/apply-patch+yaml" => Ok(PatchKind::Apply),
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml ({other})"
            ))),
        }
    }
}

/// Applies a patch. The answer has the shape the patch gave it: `Schema::normalize` comes after.
pub fn apply(kind: PatchKind, original: &Object, patch: &[u8], _schema: &Schema) -> Result<Object> {
    let patch: serde_json::Value = serde_json::from_slice(patch).map_err(|e| Status::bad_request(e.to_string()))?;
    let mut object = original.clone();
    match kind {
        PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply => json_patch::merge(&mut object.0, &patch),
        PatchKind::Json => {
            let operations: json_patch::Patch =
                serde_json::from_value(patch).map_err(|e| Status::bad_request(e.to_string()))?;
            json_patch::patch(&mut object.0, &operations).map_err(|e| Status::new(422, "Invalid", e.to_string()))?;
        }
    }
    Ok(object)
}
