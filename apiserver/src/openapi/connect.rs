//! Endpoints whose answer is not an object: the log of a pod, raw connections to containers, and proxies.

use serde_json::{Value, json};

use super::paths::Parameters;
use crate::resource::{Connect, Subresource, SubresourceHandler};

/// What a raw connection's options are in its query: upstream's `PodExecOptions` and its like, field by field.
const STREAMS: Parameters = &[
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const EXEC: Parameters = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const LOG: Parameters = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

const OPENING: &[&str] = &["get", "post"];
const ANY: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];

/// How a connection is asked for.
pub(super) struct Opening {
    pub connect: Connect,
    pub methods: &'static [&'static str],
    pub parameters: Parameters,
}

/// `None` for subresources that answer with objects.
pub(super) fn opening(subresource: &Subresource) -> Option<Opening> {
    let SubresourceHandler::Connect(connect) = subresource.handler else { return None };
    let (methods, parameters): (_, Parameters) = match connect {
        Connect::Log => (&["get"][..], LOG),
        Connect::Exec => (OPENING, EXEC),
        Connect::Attach => (OPENING, STREAMS),
        Connect::PortForward => (OPENING, &[("ports", "integer")]),
        Connect::Proxy => (ANY, &[("path", "string")]),
    };
    Some(Opening { connect, methods, parameters })
}

/// The answers of a connection: text of which nothing more is known.
pub(super) fn responses(connect: Connect) -> Value {
    let media: &[&str] = match connect {
        Connect::Log => {
            &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "text/plain"]
        }
        _ => &["*/*"],
    };
    let content: serde_json::Map<String, Value> =
        media.iter().map(|m| ((*m).to_owned(), json!({"schema": {"type": "string"}}))).collect();
    json!({"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}})
}
