//! Objects and lists to responses, in the form the client accepts. Plain JSON hands out the stored bytes.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::Object;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::list::Listed;
use super::write::converted;
use crate::apart;
use crate::codec::indent::{Indent, indented};
use crate::codec::ordered::Ordered;
use crate::codec::{self, Accepted, Encoding, Form, IncludeObject, Row, partial_metadata, table, yaml};
use crate::limits;
use crate::request::RequestInfo;
use crate::resource::Resource;
use crate::status::Status;
use crate::store::Stored;

/// How answers of one request are written.
#[derive(Clone, Copy)]
pub struct Style {
    pub accepted: Accepted,
    pub include: IncludeObject,
    pub now: Timestamp,
    /// Until when a list may be read: it holds on to objects as they were, which nothing else may do any more.
    pub until: Instant,
}

// === impl Style ===

impl Style {
    /// Whether answers are the stored bytes, or no more than spread over lines.
    pub(super) fn plain(&self, resource: &Resource) -> bool {
        let a = self.accepted;
        a.encoding == Encoding::Json && a.form == Form::Object && resource.conversion.is_none()
    }

    /// Whether answers are whole stored objects in protobuf.
    fn binary(&self, resource: &Resource) -> bool {
        let a = self.accepted;
        a.encoding == Encoding::Protobuf && a.form == Form::Object && resource.conversion.is_none()
    }

    /// One stored object, as it was read.
    pub fn stored(&self, resource: &Resource, stored: &Stored) -> Response<Body> {
        match self.protobuf(resource, stored) {
            Some(body) => bytes(StatusCode::OK, PROTOBUF, body.into()),
            None => self.object(resource, &stored.value, StatusCode::OK),
        }
    }

    /// A stored object as a protobuf body, where that is the form of answers.
    pub fn protobuf(&self, resource: &Resource, stored: &Stored) -> Option<Vec<u8>> {
        let message = if self.binary(resource) { message(stored) } else { None }?;
        Some(codec::envelope(&resource.gvk.api_version(), &resource.gvk.kind, &message))
    }

    /// One object as it was written.
    pub fn object(&self, resource: &Resource, value: &Bytes, code: StatusCode) -> Response<Body> {
        if self.plain(resource) {
            return bytes(code, "application/json", self.spread(value.clone()));
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

    /// A list; where much of it has to be made, that happens apart.
    pub async fn list(self, resource: &Arc<Resource>, listed: Listed) -> Response<Body> {
        if !self.makes_much(resource, &listed) {
            return self.listed(resource, listed);
        }
        let resource = resource.clone();
        let response = apart::run(move || self.listed(&resource, listed)).await;
        response.map(apart::body)
    }

    /// Whether a list is more than what is stored, and kept, put together.
    fn makes_much(&self, resource: &Resource, listed: &Listed) -> bool {
        let a = self.accepted;
        let always = a.encoding == Encoding::Yaml || a.pretty || resource.conversion.is_some();
        let makes = |stored: &&Arc<Stored>| match (a.encoding, a.form) {
            _ if always => true,
            (Encoding::Protobuf, Form::Object) => stored.forms.protobuf.get().is_none(),
            (Encoding::Protobuf, _) => true,
            (_, Form::Table) => !matches!(stored.forms.row.get(), Some(Some(_))),
            (_, Form::Object | Form::Metadata | Form::MetadataList) => false,
        };
        let made: usize = listed.items.iter().filter(makes).map(|stored| stored.value.len()).sum();
        made >= limits::APART_BYTES
    }

    fn listed(&self, resource: &Arc<Resource>, mut listed: Listed) -> Response<Body> {
        let a = self.accepted;
        if a.encoding == Encoding::Protobuf {
            match self.list_messages(resource, listed) {
                Ok(response) => return response,
                Err(back) => listed = back,
            }
        }
        if a.encoding == Encoding::Yaml {
            return self.list_yaml(resource, listed);
        }
        match a.form {
            Form::Object => self.list_values(resource, listed),
            Form::Table => self.list_rows(resource, listed),
            Form::Metadata | Form::MetadataList => self.list_metadata(resource, listed),
        }
    }

    /// The stored bytes, as they are.
    fn list_values(&self, resource: &Arc<Resource>, listed: Listed) -> Response<Body> {
        let (kind, version, metadata) =
            (&resource.list_kind, resource.gvk.api_version(), listed.metadata_text());
        // Lists of custom resources are maps upstream, whose keys are sorted.
        let (head, tail) = match resource.typed {
            true => (
                format!("{{\"kind\":{kind:?},\"apiVersion\":{version:?},\"metadata\":{metadata},\"items\":["),
                "]}\n".to_owned(),
            ),
            false => (
                format!("{{\"apiVersion\":{version:?},\"items\":["),
                format!("],\"kind\":{kind:?},\"metadata\":{metadata}}}\n"),
            ),
        };
        let resource = resource.clone();
        self.json_items(&head, listed, tail, move |stored, out| match resource.conversion {
            None => out.extend_from_slice(&stored.value),
            Some(_) => put_json(out, &converted(&resource, stored.object()).0),
        })
    }

    /// A table of kept rows; those that cannot be kept are made.
    fn list_rows(&self, resource: &Arc<Resource>, listed: Listed) -> Response<Body> {
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{},\"columnDefinitions\":{},\"rows\":[",
            listed.metadata_text(),
            codec::definitions(&resource.columns)
        );
        let (resource, style) = (resource.clone(), *self);
        self.json_items(&head, listed, "]}\n".to_owned(), move |stored, out| {
            let kept = || {
                let make = || Row::of(&resource, &stored.value, style.now).map(Box::new);
                stored.forms.row.get_or_init(make).as_ref().filter(|row| row.is_of(&resource))
            };
            match resource.conversion.is_none().then(kept).flatten() {
                Some(row) => row.write(&stored.value, style.include, style.now, out),
                None => out.extend_from_slice(style.row(&resource, stored).to_string().as_bytes()),
            }
        })
    }

    /// The metadata of the stored bytes, as it is.
    fn list_metadata(&self, resource: &Arc<Resource>, listed: Listed) -> Response<Body> {
        let head = format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{},\"items\":[",
            listed.metadata_text()
        );
        let resource = resource.clone();
        self.json_items(&head, listed, "]}\n".to_owned(), move |stored, out| {
            if resource.conversion.is_some() {
                return put_json(out, &partial_metadata(&converted(&resource, stored.object())).0);
            }
            put_metadata(out, stored);
        })
    }

    fn row(&self, resource: &Resource, stored: &Stored) -> Value {
        let object = converted(resource, stored.object());
        codec::row(&resource.columns, &object, self.include, self.now)
    }

    /// The same lists in YAML, whose keys are sorted.
    fn list_yaml(&self, resource: &Arc<Resource>, listed: Listed) -> Response<Body> {
        let (kind, version) = match self.accepted.form {
            Form::Object => (resource.list_kind.clone(), resource.gvk.api_version()),
            Form::Table => ("Table".into(), "meta.k8s.io/v1".to_owned()),
            Form::Metadata | Form::MetadataList => {
                ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".to_owned())
            }
        };
        let table = self.accepted.form == Form::Table;
        let (kind, metadata) = (Value::from(&*kind), listed.metadata());
        let mut yaml = yaml::Writer::new();
        yaml.begin_map();
        yaml.entry("apiVersion", &version.into());
        if table {
            yaml.entry("columnDefinitions", &codec::definitions(&resource.columns));
            yaml.entry("kind", &kind);
            yaml.entry("metadata", &metadata);
        }
        let key = if table { "rows" } else { "items" };
        match listed.items.is_empty() {
            true => yaml.entry(key, &json!([])),
            false => yaml.begin_list(key),
        }
        let head = yaml.take();
        let (resource, style, mut items) = (resource.clone(), *self, listed.items.into_iter());
        let next = move |out: &mut BytesMut| {
            let item = items.next();
            match &item {
                Some(stored) => style.yaml_item(&resource, stored, &mut yaml),
                None => {
                    if !table {
                        yaml.entry("kind", &kind);
                        yaml.entry("metadata", &metadata);
                    }
                    yaml.end();
                }
            }
            out.extend_from_slice(yaml.take().as_bytes());
            item.is_some()
        };
        self.in_pieces(YAML, head.as_bytes(), next, Bytes::new())
    }

    fn yaml_item(&self, resource: &Resource, stored: &Stored, yaml: &mut yaml::Writer) {
        if resource.conversion.is_none()
            && self.accepted.form == Form::Object
            && let Ok(tree) = serde_json::from_slice(&stored.value)
        {
            return yaml.item(&tree);
        }
        let item = match self.accepted.form {
            Form::Table => self.row(resource, stored),
            _ => self.shape(resource, converted(resource, stored.object()), false),
        };
        yaml.value_item(&item);
    }

    /// A list of messages; gives the list back where a kind has none.
    fn list_messages(&self, resource: &Resource, listed: Listed) -> Result<Response<Body>, Listed> {
        let whole = self.accepted.form == Form::Object;
        let made = |stored: &Stored| {
            let object = converted(resource, stored.object());
            codec::encode_message(&self.shape(resource, object, false)).map(Bytes::from)
        };
        let one = |stored: &Arc<Stored>| if self.binary(resource) { message(stored) } else { made(stored) };
        let Some(messages) = listed.items.iter().map(one).collect::<Option<Vec<Bytes>>>() else {
            return Err(listed);
        };
        let list = match whole {
            true => {
                json!({"kind": resource.list_kind, "apiVersion": resource.gvk.api_version(), "metadata": listed.metadata()})
            }
            false => {
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": listed.metadata()})
            }
        };
        let Some(head) = codec::begin_list(&list, &messages) else { return Err(listed) };
        let mut messages = messages.into_iter();
        let next = move |out: &mut BytesMut| messages.next().map(|m| codec::list_item(out, &m)).is_some();
        Ok(self.in_pieces(PROTOBUF, &head, next, Bytes::from_static(codec::CLOSE)))
    }

    /// A JSON list whose items are written one by one.
    fn json_items(
        &self,
        head: &str,
        listed: Listed,
        tail: String,
        item: impl Fn(&Stored, &mut BytesMut) + Send + 'static,
    ) -> Response<Body> {
        let (mut items, mut between) = (listed.items.into_iter(), &b""[..]);
        let next = move |out: &mut BytesMut| {
            let Some(stored) = items.next() else { return false };
            out.extend_from_slice(std::mem::replace(&mut between, b","));
            item(&stored, out);
            true
        };
        self.json_in_pieces(head.as_bytes(), next, tail.into())
    }

    /// JSON in pieces, spread over lines where the client wants it.
    fn json_in_pieces(
        &self,
        head: &[u8],
        mut next: impl FnMut(&mut BytesMut) -> bool + Send + 'static,
        tail: Bytes,
    ) -> Response<Body> {
        const JSON: &str = "application/json";
        if !self.accepted.pretty {
            return self.in_pieces(JSON, head, next, tail);
        }
        let (mut indent, mut spread) = (Indent::default(), vec![]);
        indent.piece(head, &mut spread);
        let head = std::mem::take(&mut spread);
        let (mut piece, mut tail) = (BytesMut::new(), Some(tail));
        let next = move |out: &mut BytesMut| {
            let more = next(&mut piece);
            indent.piece(&piece, &mut spread);
            if !more && let Some(tail) = tail.take() {
                indent.piece(&tail, &mut spread);
            }
            out.extend_from_slice(&spread);
            piece.clear();
            spread.clear();
            more
        };
        self.in_pieces(JSON, &head, next, Bytes::new())
    }

    /// A list that is made while it is read.
    fn in_pieces(
        &self,
        media: &'static str,
        head: &[u8],
        next: impl FnMut(&mut BytesMut) -> bool + Send + 'static,
        tail: Bytes,
    ) -> Response<Body> {
        let mut pieces = Pieces { out: head.into(), next, tail, over: false };
        let mut response = bytes(StatusCode::OK, media, Bytes::new());
        let first = pieces.next().unwrap_or_default();
        // A small list is one piece of known length.
        *response.body_mut() = match pieces.over {
            true => Body::from(first),
            false => {
                let until = self.until;
                let in_time = move |piece| if Instant::now() < until { Ok(piece) } else { Err(Late) };
                Body::from_stream(futures::stream::iter(std::iter::once(first).chain(pieces).map(in_time)))
            }
        };
        response
    }

    /// One JSON text as the client wants it.
    fn spread(&self, json: Bytes) -> Bytes {
        if self.accepted.pretty { indented(&json).into() } else { json }
    }

    /// Any JSON value in the client's encoding.
    #[allow(clippy::needless_pass_by_value, reason = "an answer is made to be encoded")]
    pub fn encode(&self, value: Value, code: StatusCode) -> Response<Body> {
        match self.accepted.encoding {
            Encoding::Yaml => bytes(code, YAML, yaml::text(&value).into()),
            // Custom resources have no protobuf form; every client that asks for protobuf reads JSON too.
            Encoding::Protobuf => match codec::encode_protobuf(&value) {
                Some(body) => bytes(code, PROTOBUF, body.into()),
                None => json(code, &value),
            },
            Encoding::Json if self.accepted.pretty => {
                bytes(code, "application/json", indented(&Ordered::of(&value).bytes()).into())
            }
            Encoding::Json => json(code, &value),
        }
    }
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";

/// The protobuf message of a stored object: encoded once, however many read it.
fn message(stored: &Stored) -> Option<Bytes> {
    let made = || codec::encode_message(&stored.object().0).map(Bytes::from);
    stored.forms.protobuf.get_or_init(made).clone()
}

/// The metadata of a stored object as it is.
pub(super) fn put_metadata(out: &mut BytesMut, stored: &Stored) {
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
    );
    out.extend_from_slice(codec::metadata_of(&stored.value).unwrap_or(b"{}"));
    out.extend_from_slice(b"}");
}

fn put_json(out: &mut BytesMut, value: &Value) {
    out.extend_from_slice(&Ordered::of(value).bytes());
}

/// A list as it goes out: no large one is ever joined in memory.
struct Pieces<F> {
    out: BytesMut,
    /// Appends the next item, or says that there is none.
    next: F,
    tail: Bytes,
    over: bool,
}

/// Why a list breaks off: as upstream, it has the time of any other request.
#[derive(Debug, thiserror::Error)]
#[error("the list was not read in time")]
struct Late;

/// What goes out at once; larger objects go out whole.
const PIECE: usize = 64 << 10;

// === impl Pieces ===

impl<F: FnMut(&mut BytesMut) -> bool> Iterator for Pieces<F> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        self.out.reserve(PIECE + PIECE / 4);
        while self.out.len() < PIECE {
            if !(self.next)(&mut self.out) {
                self.out.extend_from_slice(&self.tail);
                self.over = true;
                break;
            }
        }
        Some(self.out.split().freeze())
    }
}

pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut text = Ordered::of(value).bytes();
    text.push(b'\n');
    bytes(code, "application/json", text.into())
}

/// Whether a person reads the answer: they say so, or ask with one of these programs.
pub fn wants_lines(info: &RequestInfo, headers: &HeaderMap) -> bool {
    if let Some(pretty) = info.param("pretty").filter(|p| !p.is_empty()) {
        return matches!(&*pretty, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
}

/// The answer to a failed request, over several lines for people.
pub fn failure(failure: &Status, lines: bool) -> Response<Body> {
    let mut response = status(failure);
    if lines {
        *response.body_mut() = indented(&Ordered::of(&failure.to_json()).bytes()).into();
    }
    response
}

/// The answer to a failed request.
pub fn status(failure: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(failure.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &failure.to_json());
    super::serve::add_warnings(&mut response, &failure.0.warnings);
    let retry = failure.0.details.as_ref().and_then(|d| d.get("retryAfterSeconds")).and_then(Value::as_u64);
    if let Some(seconds) = retry.filter(|seconds| *seconds > 0) {
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
