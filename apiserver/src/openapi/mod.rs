//! `/openapi/v3`: one document per group version, made from the registry's resources and the schema table.

mod connect;
mod custom;
mod definitions;
mod descriptions;
mod paths;
mod v2;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Catalog;
use crate::resource::Resource;
use custom::Edition;
use definitions::Definitions;

/// One group version's document.
#[derive(Clone)]
pub struct Document {
    pub json: Bytes,
    /// What the index and the `ETag` carry; changes when the document does.
    pub hash: String,
}

/// The documents made so far, one per group version: making one takes long, and clients ask for many again and again.
#[derive(Default)]
pub struct Documents {
    made: Mutex<HashMap<String, Document>>,
    /// The one document of the second version.
    swagger: Mutex<Option<Document>>,
}

impl Documents {
    /// The document of a group version as it is now.
    pub fn get(&self, group: &str, version: &str, resources: &[Arc<Resource>]) -> Document {
        let (path, hash) = (path(group, version), hash(group, version, resources));
        if let Some(document) = self.made.lock().get(&path).filter(|d| d.hash == hash) {
            return document.clone();
        }
        let document = document(group, version, resources);
        self.made.lock().insert(path, document.clone());
        document
    }

    /// The document of everything, in the second version of OpenAPI.
    pub fn swagger(&self, catalog: &Catalog) -> Document {
        let mut digest = Sha256::new();
        for (group, version) in catalog.groups().iter().flat_map(|g| g.versions.iter().map(move |v| (g, v))) {
            digest.update(hash(&group.name, &version.name, &version.resources));
        }
        let hash = hex::encode_upper(digest.finalize());
        if let Some(document) = self.swagger.lock().as_ref().filter(|d| d.hash == hash) {
            return document.clone();
        }
        let document = Document { json: Bytes::from(v2::document(catalog).to_string()), hash };
        *self.swagger.lock() = Some(document.clone());
        document
    }

    /// Drops the documents of group versions that are no longer served.
    pub fn retain(&self, served: impl Fn(&str) -> bool) {
        self.made.lock().retain(|path, _| served(path));
    }
}

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

/// What [`Document::hash`] will be, without making the document: it depends on nothing but the resources.
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
        digest.update(resource.schema.root().edition().to_le_bytes());
    }
    hex::encode_upper(digest.finalize())
}

/// What a document is made of.
struct Parts {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

fn parts(group: &str, version: &str, resources: &[Arc<Resource>], edition: Edition) -> Parts {
    let mut definitions = Definitions::new(edition, group, version);
    let paths = paths::of_group_version(group, version, resources, &mut definitions);
    let mut schemas = definitions.finish();
    descriptions::fill(group, version, &mut schemas);
    Parts { paths, schemas }
}

/// The document of one group version with the given resources.
pub fn document(group: &str, version: &str, resources: &[Arc<Resource>]) -> Document {
    let Parts { paths, schemas } = parts(group, version, resources, Edition::V3);
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
                                                "description": "Bearer Token authentication"}},
        },
    });
    Document { json: Bytes::from(document.to_string()), hash: hash(group, version, resources) }
}

#[cfg(test)]
mod tests;
