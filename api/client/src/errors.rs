//! What the API server meant by an error: its reasons and causes, never its words.

use kube::Error;
use kube::core::Status;

/// The reason of an API error, such as `NotFound`; empty for errors of the transport.
pub fn reason_of(error: &Error) -> &str {
    status_of(error).map_or("", |status| &status.reason)
}

pub fn is_not_found(error: &Error) -> bool {
    reason_of(error) == "NotFound"
}

pub fn is_conflict(error: &Error) -> bool {
    reason_of(error) == "Conflict"
}

pub fn is_exists(error: &Error) -> bool {
    reason_of(error) == "AlreadyExists"
}

pub fn is_invalid(error: &Error) -> bool {
    reason_of(error) == "Invalid"
}

/// Whether a patch that names its object's uid met another object of that name.
pub fn is_other_object(error: &Error) -> bool {
    let causes = status_of(error).and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    causes.into_iter().flatten().any(|cause| cause.field == "metadata.uid")
}

/// Whether something was refused because its namespace is going away: no failure of whoever keeps objects there.
pub fn namespace_is_terminating(error: &Error) -> bool {
    let causes = status_of(error).and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    causes.into_iter().flatten().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What the API server said, without our client's words around it.
pub fn message_of(error: &Error) -> String {
    match status_of(error) {
        Some(status) if !status.reason.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}

fn status_of(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}
