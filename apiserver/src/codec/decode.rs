//! Request bodies to objects.

use coracle_api::{Gvk, Object};

use crate::schema::Noticed;
use crate::status::{Result, Status};

/// A request body as an object, before any schema has seen it.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// Duplicate fields. Unknown ones are noticed by `Schema::normalize`.
    pub noticed: Noticed,
}

/// Reads a body of any media type the server takes. A body that does not name its kind gets `default_gvk`.
pub fn decode(_content_type: Option<&str>, body: &[u8], default_gvk: Option<&Gvk>) -> Result<Decoded> {
    let mut object: Object = serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))?;
    if let (Some(gvk), "") = (default_gvk, object.kind()) {
        object.set_gvk(gvk);
    }
    Ok(Decoded { object, noticed: Noticed::default() })
}
