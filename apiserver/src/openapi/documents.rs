//! Documents in the form they are sent in, each made once per change, when it is first asked for, and off the async workers.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

use super::{document, hash, hash_of_all, path, protobuf, swagger, v2};
use crate::registry::{Catalog, Version};
use crate::status::{Result, Status};

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// A document, compressed: most clients take it so, and it is held for as long as it is true.
pub(super) struct Document {
    /// What its `ETag` carries; changes when the document does.
    pub(super) hash: String,
    packed: OnceLock<Bytes>,
}

/// The documents made so far: making one takes long, and clients ask for many again and again.
#[derive(Default)]
pub struct Documents {
    versions: Mutex<HashMap<String, Arc<Document>>>,
    /// The one document of the second version, in each form.
    swagger: Mutex<HashMap<Form, Arc<Document>>>,
}

// === impl Documents ===

impl Documents {
    /// The document of a group version as it is now.
    pub(super) fn version(&self, group: &str, version: &Version) -> Arc<Document> {
        let path = path(group, &version.name);
        current(&mut self.versions.lock(), path, hash(group, &version.name, &version.resources))
    }

    /// The document of everything, in the second version of OpenAPI.
    pub(super) fn swagger(&self, catalog: &Catalog, form: Form) -> Arc<Document> {
        current(&mut self.swagger.lock(), form, hash_of_all(catalog))
    }

    /// Drops the documents of group versions that are no longer served.
    pub fn retain(&self, served: impl Fn(&str) -> bool) {
        self.versions.lock().retain(|path, _| served(path));
    }
}

fn current<K: std::hash::Hash + Eq>(
    all: &mut HashMap<K, Arc<Document>>,
    key: K,
    hash: String,
) -> Arc<Document> {
    if let Some(known) = all.get(&key).filter(|d| d.hash == hash) {
        return known.clone();
    }
    let new = Arc::new(Document { hash, packed: OnceLock::new() });
    all.insert(key, new.clone());
    new
}

// === impl Document ===

impl Document {
    /// Its bytes, compressed; made by the first who asks while the others wait.
    pub(super) async fn packed(
        self: &Arc<Self>,
        make: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Bytes> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed.clone());
        }
        let this = self.clone();
        let made = tokio::task::spawn_blocking(move || this.packed.get_or_init(|| pack(&make())).clone());
        made.await.map_err(Status::internal)
    }
}

/// The bytes of a group version's document.
pub(super) fn version_bytes(group: &str, version: &Version) -> Vec<u8> {
    document(group, &version.name, &version.resources).to_string().into_bytes()
}

/// The bytes of the document of everything.
pub(super) fn swagger_bytes(catalog: &Catalog, form: Form) -> Vec<u8> {
    let document = v2::document(catalog);
    match form {
        Form::Json => document.to_string().into_bytes(),
        Form::Protobuf => protobuf::encode(&swagger::DOCUMENT, &document),
    }
}

fn pack(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(4));
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("memory can be written to").into()
}

/// The plain bytes, for a client that does not take them compressed.
pub(super) async fn unpacked(packed: Bytes) -> Result<Bytes> {
    let unpack = move || {
        let mut plain = vec![];
        GzDecoder::new(&*packed).read_to_end(&mut plain).map(|_| plain)
    };
    let plain = tokio::task::spawn_blocking(unpack).await.map_err(Status::internal)?;
    plain.map(Bytes::from).map_err(Status::internal)
}
