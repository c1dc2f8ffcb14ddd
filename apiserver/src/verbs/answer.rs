//! Objects and lists to responses, in the form the client accepts. Plain JSON hands out the stored bytes.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::Object;
use http::{Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::list::Listed;
use super::write::converted;
use crate::codec::{Accepted, Encoding, Form};
use crate::codec::{IncludeObject, partial_metadata, table};
use crate::resource::Resource;
use crate::status::Status;
use crate::store::Stored;

/// How answers of one request are written.
#[derive(Clone, Copy)]
pub struct Style {
    pub accepted: Accepted,
    pub include: IncludeObject,
    pub now: Timestamp,
}

// === impl Style ===

impl Style {
    fn plain(&self, resource: &Resource) -> bool {
        let a = self.accepted;
        a.encoding == Encoding::Json && a.form == Form::Object && !a.pretty && resource.conversion.is_none()
    }

    /// One stored object.
    pub fn object(&self, resource: &Resource, value: &Bytes, code: StatusCode) -> Response<Body> {
        if self.plain(resource) {
            return bytes(code, "application/json", value.clone());
        }
        match serde_json::from_slice(value) {
            Ok(object) => self.value(resource, converted(resource, Object(object)), code),
            Err(e) => status(&Status::internal(e)),
        }
    }

    /// One computed or converted object.
    pub fn value(&self, resource: &Resource, object: Object, code: StatusCode) -> Response<Body> {
        self.encode(self.shape(resource, object, true), code)
    }

    /// The form of one object, as an answer or inside a watch event.
    pub fn shape(&self, resource: &Resource, object: Object, first: bool) -> Value {
        match self.accepted.form {
            Form::Object => object.0,
            // A Status (the answer to a delete) is never a row.
            _ if object.kind() == "Status" => object.0,
            Form::Table => {
                let metadata = json!({"resourceVersion": object.str_at(&["metadata", "resourceVersion"])});
                table(&resource.columns, [&object], self.include, &metadata, first, self.now)
            }
            Form::Metadata | Form::MetadataList => partial_metadata(&object).0,
        }
    }

    pub fn list(&self, resource: &Resource, listed: Listed) -> Response<Body> {
        if self.plain(resource) {
            let mut response = bytes(StatusCode::OK, "application/json", Bytes::new());
            *response.body_mut() = Pieces::new(resource, listed).into_body();
            return response;
        }
        let objects: Vec<Object> = listed.items.iter().map(|s| converted(resource, s.object())).collect();
        let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
        if let Some(next) = &listed.next {
            metadata["continue"] = next.clone().into();
        }
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let value = match self.accepted.form {
            Form::Object => {
                json!({"kind": resource.list_kind, "apiVersion": resource.gvk.api_version(), "metadata": metadata, "items": objects})
            }
            Form::Table => table(&resource.columns, &objects, self.include, &metadata, true, self.now),
            Form::Metadata | Form::MetadataList => {
                let items: Vec<Object> = objects.iter().map(partial_metadata).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
            }
        };
        self.encode(value, StatusCode::OK)
    }

    /// Any JSON value in the client's encoding.
    #[allow(clippy::needless_pass_by_value, reason = "an answer is made to be encoded")]
    pub fn encode(&self, value: Value, code: StatusCode) -> Response<Body> {
        match self.accepted.encoding {
            Encoding::Yaml => match serde_saphyr::to_string(&value) {
                Ok(text) => bytes(code, "application/yaml", text.into()),
                Err(e) => status(&Status::internal(e)),
            },
            // Custom resources have no protobuf form; every client that asks for protobuf reads JSON too.
            Encoding::Protobuf => match crate::codec::encode_protobuf(&value) {
                Some(body) => bytes(code, "application/vnd.kubernetes.protobuf", body.into()),
                None => json(code, &value),
            },
            Encoding::Json if self.accepted.pretty => {
                let text = serde_json::to_vec_pretty(&value).expect("JSON values can be written to memory");
                bytes(code, "application/json", text.into())
            }
            Encoding::Json => json(code, &value),
        }
    }
}

/// A list of stored bytes as it goes out: no large list is ever joined in memory.
struct Pieces {
    out: BytesMut,
    items: std::vec::IntoIter<Arc<Stored>>,
    first: bool,
    over: bool,
}

/// What goes out at once; larger objects go out whole.
const PIECE: usize = 64 << 10;

// === impl Pieces ===

impl Pieces {
    fn new(resource: &Resource, listed: Listed) -> Self {
        let mut head = format!(
            "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{{\"resourceVersion\":\"{}\"",
            resource.list_kind,
            resource.gvk.api_version(),
            listed.revision
        );
        if let Some(next) = &listed.next {
            head += &format!(",\"continue\":{next:?}");
        }
        if let Some(remaining) = listed.remaining {
            head += &format!(",\"remainingItemCount\":{remaining}");
        }
        head += "},\"items\":[";
        Pieces { out: head.as_bytes().into(), items: listed.items.into_iter(), first: true, over: false }
    }

    /// A small list is one piece of known length.
    fn into_body(mut self) -> Body {
        let first = self.next().unwrap_or_default();
        if self.over {
            return Body::from(first);
        }
        let pieces = std::iter::once(first).chain(self).map(Ok::<_, std::convert::Infallible>);
        Body::from_stream(futures::stream::iter(pieces))
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        while self.out.len() < PIECE {
            let Some(stored) = self.items.next() else {
                self.out.extend_from_slice(b"]}\n");
                self.over = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                self.out.extend_from_slice(b",");
            }
            self.out.extend_from_slice(&stored.value);
        }
        Some(self.out.split().freeze())
    }
}

pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut text = serde_json::to_vec(value).expect("JSON values can be written to memory");
    text.push(b'\n');
    bytes(code, "application/json", text.into())
}

/// The answer to a failed request.
pub fn status(failure: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(failure.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &failure.to_json());
    let retry = failure.0.details.as_ref().and_then(|d| d.get("retryAfterSeconds")).and_then(Value::as_u64);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub fn bytes(code: StatusCode, media: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}
