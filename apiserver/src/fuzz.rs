//! What fuzzing calls, and tests call with the corpus of `fuzz/`: one entry for each family of parsers that meet bytes
//! of clients, webhooks or other servers. Each asks more than "no panic": what is taken can be written, and read again as
//! the same. Time and memory are held to their bounds by the targets themselves.

pub(crate) use coracle_api::fuzz::{first_line, parts};

use crate::{
    admission, authn, cel, codec, connect, crd, openapi, patch, pki, regexp, request, resources, store,
};

/// Server-side apply, updates and `managedFields`: steps of several managers on one object.
pub fn apply(bytes: &[u8]) {
    patch::apply::hostile::steps(bytes);
}

/// Bodies of every media type, brought into their kind's form and written in every encoding.
pub fn bodies(bytes: &[u8]) {
    codec::hostile::body(bytes);
}

/// Client certificates, certificate requests and bundles of authorities.
pub fn certificates(bytes: &[u8]) {
    authn::hostile::certificate(bytes);
    admission::hostile::certificate_request(bytes);
    pki::trust::hostile_bundle(bytes);
}

/// A custom resource definition and objects of its kind: schemas, defaults, pruning, rules, columns.
pub fn definitions(bytes: &[u8]) {
    crd::hostile::definition(bytes);
}

/// An expression of CEL and the object it is about.
pub fn expressions(bytes: &[u8]) {
    cel::hostile::expression(bytes);
}

/// A JSON path and what it is looked up in.
pub fn json_paths(bytes: &[u8]) {
    crd::hostile::json_path(bytes);
}

/// Objects of built-in kinds: defaults, validation, warnings, table rows.
pub fn objects(bytes: &[u8]) {
    resources::hostile::object(bytes);
}

/// Pages that come through `proxy`, and where they lead.
pub fn pages(bytes: &[u8]) {
    connect::hostile::page(bytes);
}

/// JSON, merge and strategic merge patches.
pub fn patches(bytes: &[u8]) {
    patch::hostile::patched(bytes);
}

/// Protobuf messages of every built-in kind.
pub fn protobuf(bytes: &[u8]) {
    codec::hostile::message(bytes);
}

/// A regular expression and a text.
pub fn regexps(bytes: &[u8]) {
    regexp::hostile::expression(bytes);
}

/// A request's line and headers.
pub fn requests(bytes: &[u8]) {
    request::hostile::head(bytes);
}

/// What webhooks and other servers answer.
pub fn reviews(bytes: &[u8]) {
    admission::hostile::review(bytes);
    crd::hostile::review(bytes);
    openapi::hostile::document(bytes);
}

/// Rows of a database that is damaged.
pub fn rows(bytes: &[u8]) {
    store::hostile::rows(bytes);
}

/// Payloads of tokens, well signed, and whole tokens.
pub fn tokens(bytes: &[u8]) {
    authn::hostile::token(bytes);
}

#[cfg(test)]
mod tests {
    coracle_api::replayed! { apply bodies certificates definitions expressions json_paths objects pages patches protobuf regexps requests reviews rows tokens }
}
