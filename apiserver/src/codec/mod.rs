//! Bytes to objects and back: JSON, YAML, protobuf, Table, PartialObjectMetadata.

mod decode;
mod negotiate;

pub use decode::{Decoded, decode};
pub use negotiate::{Accepted, Encoding, Form, negotiate};
