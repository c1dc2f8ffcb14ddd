//! An object encoded but for its revision, which only the writer knows.

use bytes::Bytes;
use coracle_api::Object;

use super::world::Index;
use crate::codec::ordered::{Ordered, write};
use crate::resource::IndexedField;

/// JSON in two halves: the digits of `metadata.resourceVersion` go between them.
#[derive(Debug, Clone)]
pub struct Draft {
    json: Vec<u8>,
    split: usize,
    index: Index,
}

// === impl Draft ===

impl Draft {
    /// Encodes an object. A `resourceVersion` it has is left out.
    pub fn new(object: &Object, fields: &[IndexedField]) -> Self {
        let mut draft = Draft { json: Vec::with_capacity(1024), split: 0, index: Index::of(object, fields) };
        draft.json.push(b'{');
        let mut first = true;
        for (key, value) in Ordered::of(&object.0).fields(None) {
            draft.key(&mut first, key);
            match key {
                "metadata" => draft.metadata(value),
                _ => write(&mut draft.json, &value),
            }
        }
        draft.json.push(b'}');
        draft
    }

    /// The bytes of the object, but for those of its revision.
    pub fn size(&self) -> usize {
        self.json.len()
    }

    pub(super) fn encode(&self, revision: u64) -> Bytes {
        let digits = revision.to_string();
        let (head, tail) = self.json.split_at(self.split);
        [head, digits.as_bytes(), tail].concat().into()
    }

    pub(super) fn into_index(self) -> Index {
        self.index
    }

    fn metadata(&mut self, metadata: Ordered<'_>) {
        const REVISION: &str = "resourceVersion";
        self.json.push(b'{');
        let mut first = true;
        for (key, value) in metadata.fields(Some(REVISION)) {
            self.key(&mut first, key);
            if key == REVISION {
                self.json.push(b'"');
                self.split = self.json.len();
                self.json.push(b'"');
            } else {
                write(&mut self.json, &value);
            }
        }
        self.json.push(b'}');
    }

    fn key(&mut self, first: &mut bool, key: &str) {
        if !std::mem::take(first) {
            self.json.push(b',');
        }
        write(&mut self.json, key);
        self.json.push(b':');
    }
}
