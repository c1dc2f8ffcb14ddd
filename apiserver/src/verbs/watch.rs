//! Watch: a cursor in the log as a stream of lines.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::Object;
use http::{Response, StatusCode};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::answer::{self, Style, put_metadata};
use super::list::{parse_revision, prefix, too_large};
use super::list_options;
use super::select::Selection;
use super::versions;
use super::write::converted;
use crate::Server;
use crate::codec::ordered::Ordered;
use crate::codec::{Encoding, Form, encode_protobuf_event, encode_protobuf_event_of};
use crate::request::RequestInfo;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::{Cursor, Event, Expired, Stored};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Upstream's least watch time where the client names none; the most is twice that.
const LEAST_SECONDS: u64 = 1800;

/// How long the initial events may take to be read: until then they are objects as they were, which a client that reads
/// slowly would keep in memory for as long as it likes. History is kept as long.
const INITIAL_WITHIN: Duration = Duration::from_secs(300);

/// A year, so that clocks can count it: no watch lasts as long.
const MOST_SECONDS: u64 = 365 * 24 * 3600;

/// One watcher.
struct Watcher {
    /// For those whose versions a webhook makes.
    server: Arc<Server>,
    resource: Arc<Resource>,
    selection: Selection,
    style: Style,
    cursor: Cursor,
    /// What is there already and has not been sent, and until when it may wait for its reader.
    initial: VecDeque<Arc<Stored>>,
    initial_until: Instant,
    initial_revision: u64,
    /// Whether the end of the initial events is still to be announced.
    announce: bool,
    /// Whether nothing has been sent yet (a table's first event carries the columns).
    first: bool,
    deadline: Instant,
    /// Goes off at the next bookmark or the end. Kept over events, as is `stopped`: to register with a clock and with the
    /// server anew for each of them would cost more than the event.
    alarm: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

pub async fn watch(
    server: &Arc<Server>,
    info: &RequestInfo,
    resource: &Arc<Resource>,
    style: Style,
) -> Result<Response<Body>> {
    list_options::check(info, true)?;
    let selection = Selection::parse(info, resource)?;
    let flag = |name: &str| info.param(name).is_some_and(|v| coracle_api::query::flag(&v));
    let bookmarks = flag("allowWatchBookmarks");
    let stream_list = flag("sendInitialEvents");
    let from = parse_revision(&info.param("resourceVersion").unwrap_or_default())?;
    // A negative time is over before it begins.
    let seconds = match list_options::number(info, "timeoutSeconds")? {
        Some(seconds) if seconds != 0 => u64::try_from(seconds).unwrap_or(0).min(MOST_SECONDS),
        _ => rand::rng().random_range(LEAST_SECONDS..2 * LEAST_SECONDS),
    };
    let head = server.store.revision();
    if from > head {
        return Err(too_large(from, head));
    }
    let prefix = prefix(resource, &info.namespace);
    let (initial, start) = if stream_list || (from == 0 && info.param("sendInitialEvents").is_none()) {
        let view = server.store.list(&resource.storage, &prefix);
        (view.items, view.revision)
    } else if from == 0 {
        (vec![], head)
    } else {
        (vec![], from)
    };
    let initial = versions::all_served(server, resource, initial).await?.into();
    let now = Instant::now();
    let deadline = now + Duration::from_secs(seconds);
    let first_alarm = if bookmarks { deadline.min(now + BOOKMARK_EVERY) } else { deadline };
    // What is served only for a time has a token of its own, which the server's end cancels, too.
    let stopped = if resource.typed { server.stop.child_token() } else { resource.retired.clone() };
    let watcher = Watcher {
        server: server.clone(),
        cursor: server.store.watch(&resource.storage, &prefix, start),
        resource: resource.clone(),
        selection,
        style,
        initial,
        initial_until: now + INITIAL_WITHIN,
        initial_revision: start,
        announce: stream_list && bookmarks,
        first: true,
        deadline,
        alarm: Box::pin(tokio::time::sleep_until(first_alarm)),
        stopped: Box::pin(stopped.cancelled_owned()),
        over: false,
    };
    let lines = futures::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.chunk().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), watcher))
    });
    let media = match style.accepted.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    let mut response = answer::bytes(StatusCode::OK, media, Bytes::new());
    *response.body_mut() = Body::from_stream(lines);
    Ok(response)
}

// === impl Watcher ===

impl Watcher {
    /// The next lines; `None` ends the watch.
    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let mut out = BytesMut::new();
            if !self.initial.is_empty() && Instant::now() >= self.initial_until {
                self.initial.clear();
                let why = format!("too old resource version: {} (initial events)", self.initial_revision);
                self.fail(&mut out, &Status::expired(why));
            } else if !self.initial.is_empty() {
                self.send_initial(&mut out);
            } else if std::mem::take(&mut self.announce) {
                self.bookmark(&mut out, self.initial_revision, true);
            } else {
                tokio::select! {
                    biased;
                    () = &mut self.alarm => {
                        let now = Instant::now();
                        if now >= self.deadline {
                            return None;
                        }
                        self.alarm.as_mut().reset(self.deadline.min(now + BOOKMARK_EVERY));
                        self.bookmark(&mut out, self.cursor.position(), false);
                    }
                    () = &mut self.stopped => return None,
                    events = self.cursor.next() => self.send(&mut out, events).await,
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    fn send_initial(&mut self, out: &mut BytesMut) {
        while let Some(stored) = self.initial.pop_front() {
            if self.selection.matches(&stored) {
                self.line(out, "ADDED", &stored);
            }
            if out.len() > 64 * 1024 {
                return;
            }
        }
    }

    async fn send(&mut self, out: &mut BytesMut, events: Result<Vec<Event>, Expired>) {
        let events = match events {
            Ok(events) => events,
            Err(Expired::Compacted { compacted }) => {
                let why = format!("too old resource version: {} ({compacted})", self.cursor.position());
                return self.fail(out, &Status::expired(why));
            }
            Err(Expired::Closed) => {
                self.over = true;
                return;
            }
            Err(other @ Expired::Backend(_)) => return self.fail(out, &Status::internal(other)),
        };
        match versions::events_served(&self.server, &self.resource, events).await {
            Ok(events) => events.iter().for_each(|event| self.event(out, event)),
            Err(why) => self.fail(out, &Status::internal(why)),
        }
    }

    /// What this watcher sees of a change: its selection decides between before and after.
    fn event(&mut self, out: &mut BytesMut, event: &Event) {
        let matches = |s: &Stored| self.selection.matches(s);
        let before = event.previous.as_deref().is_some_and(matches);
        let after = !event.deleted && matches(&event.object);
        match (before, after) {
            (false, true) => self.line(out, "ADDED", &event.object),
            (true, true) => self.line(out, "MODIFIED", &event.object),
            (true, false) if event.deleted => self.line(out, "DELETED", &event.object),
            (true, false) => self.left(out, event),
            (false, false) => {}
        }
    }

    /// An object that the selection has lost: its last matching state, at the revision it left.
    fn left(&mut self, out: &mut BytesMut, event: &Event) {
        let Some(previous) = &event.previous else { return };
        let mut object = converted(&self.resource, previous.object());
        object.set(&["metadata", "resourceVersion"], event.revision.to_string());
        let value = self.shape(object);
        self.frame(out, "DELETED", &value);
    }

    fn line(&mut self, out: &mut BytesMut, kind: &str, stored: &Stored) {
        let a = self.style.accepted;
        if a.form != Form::Table && a.encoding == Encoding::Json && self.resource.conversion.is_none() {
            self.first = false;
            out.put_slice(b"{\"type\":\"");
            out.put_slice(kind.as_bytes());
            out.put_slice(b"\",\"object\":");
            match a.form {
                Form::Object => out.put_slice(&stored.value),
                _ => put_metadata(out, stored),
            }
            out.put_slice(b"}\n");
            return;
        }
        if let Some(body) = self.style.protobuf(&self.resource, stored) {
            return out.put_slice(&encode_protobuf_event_of(kind, &body));
        }
        let value = self.shape(converted(&self.resource, stored.object()));
        self.frame(out, kind, &value);
    }

    /// One event in the stream's encoding.
    fn frame(&self, out: &mut BytesMut, kind: &str, object: &Value) {
        match self.style.accepted.encoding {
            Encoding::Protobuf => out.put_slice(&encode_protobuf_event(kind, object)),
            Encoding::Json | Encoding::Yaml => line(out, kind, object),
        }
    }

    fn shape(&mut self, object: Object) -> Value {
        let first = std::mem::take(&mut self.first);
        self.style.now = jiff::Timestamp::now();
        self.style.shape(&self.resource, object, first)
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        metadata["creationTimestamp"] = Value::Null;
        let gvk = &self.resource.gvk;
        let object = Object(json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata}));
        let value = match self.style.accepted.form {
            Form::Table => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": []})
            }
            _ => self.style.shape(&self.resource, object, false),
        };
        self.frame(out, "BOOKMARK", &value);
    }

    fn fail(&mut self, out: &mut BytesMut, status: &Status) {
        self.frame(out, "ERROR", &status.to_json());
        self.over = true;
    }
}

fn line(out: &mut BytesMut, kind: &str, object: &Value) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(&Ordered::of(object).bytes());
    out.put_slice(b"}\n");
}
