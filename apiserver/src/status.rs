//! The only place that makes a Kubernetes `Status`: every error of the server, with upstream's codes, reasons, messages.

use std::borrow::Cow;

use coracle_api::{Gvk, Gvr};
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::limits;

/// A failure as the client sees it. Boxed: it is the error type of every step of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(pub Box<Failure>);

/// The parts of a failed `Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: u16,
    pub reason: Cow<'static, str>,
    pub message: String,
    /// `status.details`, where the failure has any.
    pub details: Option<Value>,
    /// `metadata.continue`: where a list that has expired may go on.
    pub continue_token: Option<String>,
    /// For `Warning` headers: what was noticed before the request failed.
    pub warnings: Vec<String>,
}

pub type Result<T, E = Status> = std::result::Result<T, E>;

// === impl Status ===

impl Status {
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Status(Box::new(Failure {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            continue_token: None,
            warnings: vec![],
        }))
    }

    /// A failure of the protocol itself, of which there are no details.
    pub fn generic(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status::new(code, reason, message).with_details(json!({}))
    }

    /// Adds what was noticed before the failure's own warnings.
    pub fn with_warnings(mut self, mut warnings: Vec<String>) -> Self {
        warnings.append(&mut self.0.warnings);
        self.0.warnings = warnings;
        self
    }

    fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// `pods "x" not found`
    pub fn not_found(resource: &Gvr, name: &str) -> Self {
        Status::new(404, "NotFound", format!("{} {name:?} not found", resource.group_resource()))
            .with_details(details(name, &resource.group, &resource.resource))
    }

    /// `pods "x" already exists`
    pub fn already_exists(resource: &Gvr, name: &str) -> Self {
        Status::new(409, "AlreadyExists", format!("{} {name:?} already exists", resource.group_resource()))
            .with_details(details(name, &resource.group, &resource.resource))
    }

    /// `Operation cannot be fulfilled on pods "x": <why>`
    pub fn conflict(resource: &Gvr, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.group_resource());
        Status::new(409, "Conflict", message).with_details(details(name, &resource.group, &resource.resource))
    }

    /// The conflict every optimistic writer knows.
    pub fn modified(resource: &Gvr, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(resource, name, why)
    }

    /// `pods "x" is forbidden: <why>`; without a name `pods is forbidden: <why>`.
    pub fn forbidden(resource: &Gvr, name: &str, why: &str) -> Self {
        let subject = match name {
            "" => resource.group_resource(),
            name => format!("{} {name:?}", resource.group_resource()),
        };
        Status::new(403, "Forbidden", format!("{subject} is forbidden: {why}")).with_details(details(
            name,
            &resource.group,
            &resource.resource,
        ))
    }

    /// `Pod "x" is invalid: <field>: <cause>`, all field errors at once as upstream joins them.
    pub fn invalid(kind: &Gvk, name: &str, errors: &[FieldError]) -> Self {
        let errors = told(errors);
        let list = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let subject = match (kind.group.as_str(), kind.kind.as_str()) {
            ("", kind) => kind.to_owned(),
            (group, kind) => format!("{kind}.{group}"),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.cause.reason(), "message": e.body(), "field": e.field}))
            .collect();
        let mut d = details(name, &kind.group, &kind.kind);
        if !causes.is_empty() {
            d["causes"] = Value::Array(causes);
        }
        Status::new(422, "Invalid", format!("{subject} {name:?} is invalid: {list}")).with_details(d)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::new(400, "BadRequest", message)
    }

    /// A path or kind that is not served.
    pub fn no_such_path() -> Self {
        Status::generic(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn unauthorized() -> Self {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Status::generic(405, "MethodNotAllowed", message)
    }

    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Status::generic(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// A resource version or continue token that history no longer holds (410).
    pub fn expired(message: impl Into<String>) -> Self {
        Status::new(410, "Expired", message)
    }

    /// Nought seconds: the client is not told when to come back.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = match retry_after_seconds {
            0 => json!({}),
            seconds => json!({"retryAfterSeconds": seconds}),
        };
        Status::new(429, "TooManyRequests", message).with_details(details)
    }

    pub fn request_entity_too_large(message: impl Into<String>) -> Self {
        Status::new(413, "RequestEntityTooLarge", message)
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(json!({"causes": [{"message": message.to_string()}]}))
    }

    /// What a path is cannot be told yet.
    pub fn starting() -> Self {
        let why =
            "the request has been made before all known HTTP paths have been installed, please try again";
        Status::unavailable(why).with_details(json!({"retryAfterSeconds": 5}))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Status::new(503, "ServiceUnavailable", message)
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// The `v1.Status` object on the wire.
    pub fn to_json(&self) -> Value {
        let f = &self.0;
        let mut v = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                           "message": f.message, "code": f.code});
        if !f.reason.is_empty() {
            v["reason"] = f.reason.as_ref().into();
        }
        if let Some(d) = &f.details {
            v["details"] = d.clone();
        }
        if let Some(token) = &f.continue_token {
            v["metadata"]["continue"] = token.clone().into();
        }
        v
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

/// As many errors as may be told: there can be as many as values in a body.
fn told(errors: &[FieldError]) -> &[FieldError] {
    let mut room = limits::TOLD_BYTES;
    let count = errors.iter().take_while(|e| {
        let fits = room > 0;
        room = room.saturating_sub(e.field.len() + e.value.len() + e.detail.len());
        fits
    });
    &errors[..count.count()]
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut d = json!({});
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            d[key] = value.into();
        }
    }
    d
}
