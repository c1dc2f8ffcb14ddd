//! Bytes to objects and back: JSON, YAML, protobuf, Table, PartialObjectMetadata.

mod decode;
mod go_syntax;
pub(crate) mod json;
mod negotiate;
pub(crate) mod table;
mod protobuf;
pub(crate) mod yaml;

pub use decode::{Decoded, decode, merge_noticed};
pub use negotiate::{Accepted, Encoding, Form, negotiate, negotiate_stream};
pub use table::{IncludeObject, partial_metadata, table};

/// An object or list as a protobuf answer; `None` where its kind has no protobuf form (custom resources, tables).
pub fn encode_protobuf(object: &serde_json::Value) -> Option<Vec<u8>> {
    protobuf::encode(object)
}
