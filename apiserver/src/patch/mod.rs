//! Patches: pure functions from an object and a patch to the changed object.

pub mod apply;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod operations;
mod strategic;

use coracle_api::Object;
use serde_json::{Map, Value};

use crate::codec::json;
use crate::field::{Cause, FieldError};
use crate::limits;
use crate::schema::{Noticed, Schema, describe};
use crate::status::{Result, Status};
pub(crate) use operations::{Operations, Unapplied};

/// The patch languages, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    /// Server-side apply; not a matter of this module.
    Apply,
}

/// A patched object in the form its kind's schema gives it.
#[derive(Debug)]
pub struct Patched {
    pub object: Object,
    /// Duplicate fields of the patch and unknown fields of the result.
    pub noticed: Noticed,
    /// What upstream shows of the patch in an error: the result for JSON and merge patches, else the patch.
    shown: String,
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
            _ => Err(Status::generic(415, "UnsupportedMediaType", "415: Unsupported Media Type")),
        }
    }
}

// === impl Patched ===

impl Patched {
    /// The failure that `fieldValidation=Strict` makes of what was noticed.
    pub fn strict_error(&self) -> Option<Status> {
        if self.noticed.is_empty() {
            return None;
        }
        Some(invalid(&self.shown, &format!("strict decoding error: {}", self.noticed.0.join(", "))))
    }
}

/// Applies a patch and brings the result into its kind's form.
pub fn apply_normalized(
    kind: PatchKind,
    original: &Object,
    patch: &[u8],
    schema: &Schema,
) -> Result<Patched> {
    let (mut object, noticed, patch_value) = change(kind, original, patch, schema)?;
    apply::keep_reset(&mut object.0);
    // Where something is wrong the result is shown as it was before normalizing, which is made once more for that.
    let shown = || match kind {
        PatchKind::Strategic => strategic::go_value(&patch_value),
        PatchKind::Json | PatchKind::Merge | PatchKind::Apply => change(kind, original, patch, schema)
            .map(|(object, _, _)| object.0.to_string())
            .unwrap_or_default(),
    };
    let taken = match kind {
        PatchKind::Strategic => schema.restore(&mut object),
        PatchKind::Json | PatchKind::Merge | PatchKind::Apply => schema.round_trip(&mut object),
    };
    match taken {
        Err(why) => Err(invalid(&shown(), &why)),
        Ok(unknown) if noticed.is_empty() && unknown.is_empty() => {
            Ok(Patched { object, noticed, shown: String::new() })
        }
        Ok(unknown) => {
            let mut all = noticed;
            all.0.extend(unknown.0);
            Ok(Patched { object, noticed: all, shown: shown() })
        }
    }
}

/// Applies a patch. The answer has the shape the patch gave it: `Schema::normalize` comes after.
fn change(
    kind: PatchKind,
    original: &Object,
    patch: &[u8],
    schema: &Schema,
) -> Result<(Object, Noticed, Value)> {
    let mut object = original.clone();
    match kind {
        PatchKind::Json => {
            let noticed = apply_operations(&mut object.0, patch)?;
            Ok((object, noticed, Value::Null))
        }
        PatchKind::Merge => {
            let (patch, noticed) = object_patch(patch, "error decoding patch: ")?;
            merge(&mut object.0, &patch);
            Ok((object, noticed, patch))
        }
        PatchKind::Strategic => {
            let (patch, noticed) = object_patch(patch, "")?;
            let Value::Object(map) = patch.clone() else { return Ok((object, noticed, patch)) };
            if let Value::Object(original) = &mut object.0 {
                strategic::merge(original, map, schema.root())?;
            }
            Ok((object, noticed, patch))
        }
        PatchKind::Apply => Err(Status::internal("server-side apply is not a patch of the stored object")),
    }
}

fn object_patch(patch: &[u8], prefix: &str) -> Result<(Value, Noticed)> {
    let (value, noticed) = json::parse(patch).map_err(|e| Status::bad_request(format!("{prefix}{e}")))?;
    match value {
        Value::Object(_) => Ok((value, noticed)),
        Value::Null => Ok((Value::Object(Map::new()), noticed)),
        other => {
            let found = describe(&other);
            let why =
                format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
            Err(Status::bad_request(format!("{prefix}{why}")))
        }
    }
}

/// A merge patch (RFC 7386). No deeper than the patch, whose parser has a limit.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(object) = object else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(object.remove(key)),
            value => merge(object.entry(key.as_str()).or_insert(Value::Null), value),
        }
    }
}

// === JSON patch ===

fn apply_operations(document: &mut Value, patch: &[u8]) -> Result<Noticed> {
    let (value, noticed) =
        json::parse(patch).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if let Some(why) = mistyped(&value) {
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    }
    let operations = Operations::read(value).map_err(|found| {
        let why = format!("json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp");
        Status::bad_request(format!("error decoding patch: {why}"))
    })?;
    let (most, n) = (limits::PATCH_OPERATIONS, operations.len());
    if n > most {
        return Err(Status::request_entity_too_large(format!(
            "Request entity is too large: The allowed maximum operations in a JSON patch is {most}, got {n}"
        )));
    }
    operations.apply(document).map_err(|_| rejected())?;
    let notices = noticed.0.into_iter().map(|notice| format!("json patch {notice}")).collect();
    Ok(Noticed(notices))
}

/// What Go's decoder says of operations that are none.
fn mistyped(patch: &Value) -> Option<String> {
    let Value::Array(list) = patch else { return None };
    list.iter().find_map(|operation| match operation {
        Value::Object(operation) => ["op", "path", "from"].iter().find_map(|key| {
            let found = describe(operation.get(*key).filter(|v| !v.is_string() && !v.is_null())?);
            Some(format!(
                "json: cannot unmarshal {found} into Go struct field jsonPatchOp.{key} of type string"
            ))
        }),
        Value::Null => None,
        other => {
            let found = describe(other);
            Some(format!("json: cannot unmarshal {found} into Go value of type handlers.jsonPatchOp"))
        }
    })
}

/// Upstream's answer to operations that cannot be applied.
fn rejected() -> Status {
    Status::generic(422, "Invalid", "the server rejected our request due to an error in our request")
}

/// The 422 for a result that does not fit its kind; upstream names neither kind nor object here.
fn invalid(shown: &str, why: &str) -> Status {
    let error = FieldError {
        field: "patch".to_owned(),
        cause: Cause::Invalid,
        value: format!("{shown:?}"),
        detail: why.to_owned(),
    };
    Status::invalid(&coracle_api::Gvk::new("", "", ""), "", &[error])
}

#[cfg(test)]
mod tests;
