//! Bytes to objects and back: JSON, YAML, protobuf, Table, PartialObjectMetadata.

mod decode;
pub(crate) mod depth;
mod go_syntax;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
pub(crate) mod indent;
pub(crate) mod json;
mod negotiate;
mod order;
pub(crate) mod ordered;
mod protobuf;
mod row;
pub(crate) mod table;
pub(crate) mod yaml;

pub use decode::{Decoded, decode, merge_noticed};
pub(crate) use go_syntax::error as json_error;
pub(crate) use json::html_safe;
pub use negotiate::{
    Accepted, Encoding, Form, negotiate, negotiate_plain, negotiate_stream, negotiate_untyped,
};
pub use row::Row;
pub(crate) use row::metadata_of;
pub use table::{IncludeObject, partial_metadata, table};
pub(crate) use table::{definitions, row};

/// An object or list as a protobuf answer; `None` where its kind has no protobuf form (custom resources, tables).
pub fn encode_protobuf(object: &serde_json::Value) -> Option<Vec<u8>> {
    protobuf::encode(object)
}

/// The protobuf message of an object without its envelope, as lists hold it and as it is kept with a stored object.
pub fn encode_message(object: &serde_json::Value) -> Option<Vec<u8>> {
    protobuf::encode_message(object)
}

pub use protobuf::{CLOSE, begin_list, envelope, list_item};
#[cfg(test)]
pub(crate) use protobuf::{Reader, Wire};

/// One event of a protobuf watch: its length, and a `WatchEvent` that holds the object in its envelope. An object without
/// a protobuf form (a custom resource) is the envelope's JSON, as upstream's decoders take it.
pub fn encode_protobuf_event(kind: &str, object: &serde_json::Value) -> Vec<u8> {
    protobuf::encode_event(kind, object)
}

/// The same of an object that is encoded already, in its envelope.
pub fn encode_protobuf_event_of(kind: &str, body: &[u8]) -> Vec<u8> {
    protobuf::frame_event(kind, body)
}
