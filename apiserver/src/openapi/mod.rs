//! `/openapi/v3`: one document per group version, made from the registry's resources and the schema table.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::resource::Resource;

/// One group version's document.
pub struct Document {
    pub json: Bytes,
    /// What the index and the `ETag` carry; changes when the document does.
    pub hash: String,
}

/// The answer to `GET /openapi/v3`, from each group version (`api/v1`, `apis/apps/v1`) and its document's hash.
pub fn index<'a>(group_versions: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let paths = group_versions
        .map(|(path, hash)| {
            (path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
        })
        .collect::<serde_json::Map<_, _>>();
    json!({"paths": paths})
}

/// What [`Document::hash`] will be, without making the document.
pub fn hash(_group: &str, _version: &str, _resources: &[Arc<Resource>]) -> String {
    String::new()
}

/// The document of one group version with the given resources.
pub fn document(group: &str, version: &str, resources: &[Arc<Resource>]) -> Document {
    let hash = hash(group, version, resources);
    Document { json: Bytes::from_static(b"{}"), hash }
}
