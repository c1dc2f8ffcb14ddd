//! `/openapi`: one document per group version (v3), and one of everything (v2, as JSON or protobuf), made from the
//! registry's resources and the schema table when they are asked for.

mod connect;
mod custom;
mod definitions;
mod descriptions;
mod documents;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod paths;
mod protobuf;
mod serve;
mod swagger;
mod v2;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Catalog;
use crate::resource::Resource;
use custom::Edition;
use definitions::Definitions;

pub use documents::{Documents, forget};
pub use serve::serve;
pub use v2::Remote as RemoteSwagger;

/// `api/v1`, `apis/apps/v1`: a group version's place below `/` and below `/openapi/v3/`.
pub fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Where the document of a group version (`api/v1`, `apis/apps/v1`) with this hash is.
pub fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The answer to `GET /openapi/v3`, from each group version and its document's URL.
pub fn index(group_versions: impl Iterator<Item = (String, String)>) -> Value {
    let paths = group_versions
        .map(|(path, url)| (path, json!({"serverRelativeURL": url})))
        .collect::<serde_json::Map<_, _>>();
    json!({"paths": paths})
}

/// What the index and the `ETag` of a group version's document carry; it depends on nothing but the resources.
pub fn hash(group: &str, version: &str, resources: &[Arc<Resource>]) -> String {
    let mut digest = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION"), group, version] {
        digest.update(part);
        digest.update([0]);
    }
    for resource in resources {
        digest.update(resource.gvr.resource.as_bytes());
        digest.update([0]);
        digest.update(resource.gvk.kind.as_bytes());
        digest.update([u8::from(resource.status), u8::from(resource.scale.is_some())]);
        for subresource in resource.subresources {
            digest.update(subresource.name.as_bytes());
            digest.update([0]);
        }
        digest.update(resource.schema.edition().to_le_bytes());
    }
    hex::encode_upper(digest.finalize())
}

/// The `ETag` of the document of everything.
fn hash_of_all(catalog: &Catalog) -> String {
    let mut digest = Sha256::new();
    for (group, version) in catalog.groups().iter().flat_map(|g| g.versions.iter().map(move |v| (g, v))) {
        digest.update(hash(&group.name, &version.name, &version.resources));
        if let Some(said) = version.remote.as_ref().and_then(|r| r.discovered().swagger.clone()) {
            digest.update(&said.hash);
        }
    }
    hex::encode_upper(digest.finalize())
}

/// The document of one group version with the given resources.
fn document(group: &str, version: &str, resources: &[Arc<Resource>]) -> Value {
    let mut definitions = Definitions::new(Edition::V3, group, version);
    let paths = paths::of_group_version(group, version, resources, &mut definitions);
    let mut schemas: Map<String, Value> = definitions.finish();
    let group_version = coracle_api::Gvk::new(group, version, "").api_version();
    descriptions::fill(Some(&group_version), &mut schemas);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
                                                "description": "Bearer Token authentication"}},
        },
    })
}

#[cfg(test)]
mod tests;
