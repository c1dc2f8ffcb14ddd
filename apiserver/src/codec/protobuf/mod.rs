//! Kubernetes' protobuf form, transcoded to and from JSON by the schema table: no message type is compiled in.

mod decode;
mod encode;
mod wire;

pub(super) use decode::decode;
pub use encode::{CLOSE, begin_list, envelope, list_item};
pub(super) use encode::{encode, encode_event, encode_message, frame_event};
#[cfg(test)]
pub(crate) use wire::{Reader, Wire};

/// What every protobuf body of Kubernetes begins with; a `runtime.Unknown` message follows.
const MAGIC: &[u8] = b"k8s\0";

#[cfg(test)]
mod tests;
