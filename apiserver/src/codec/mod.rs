//! Bytes to objects and back: JSON, YAML, protobuf, Table, PartialObjectMetadata.

mod decode;
mod go_syntax;
pub(crate) mod json;
mod negotiate;
mod protobuf;
pub(crate) mod table;
pub(crate) mod yaml;

pub use decode::{Decoded, decode, merge_noticed};
pub use negotiate::{Accepted, Encoding, Form, negotiate, negotiate_plain, negotiate_stream};
pub use table::{IncludeObject, partial_metadata, table};

/// An object or list as a protobuf answer; `None` where its kind has no protobuf form (custom resources, tables).
pub fn encode_protobuf(object: &serde_json::Value) -> Option<Vec<u8>> {
    protobuf::encode(object)
}

/// One event of a protobuf watch: its length, and a `WatchEvent` that holds the object in its envelope. An object without
/// a protobuf form (a custom resource) is the envelope's JSON, as upstream's decoders take it.
pub fn encode_protobuf_event(kind: &str, object: &serde_json::Value) -> Vec<u8> {
    protobuf::encode_event(kind, object)
}
