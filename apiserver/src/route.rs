//! Where a path leads: the one place in which what a path says meets what the kind is.
//!
//! Whoever may do all in one namespace must find nothing there that lies elsewhere: a kind without a namespace is not served
//! below one, nor a kind with namespaces beside them, and no request goes on to a verb, a connection or another server but
//! through here. Like upstream's routes, it knows 404 (nothing at this path) and 405 (not with this method).

use std::sync::Arc;

use http::Method;

use crate::aggregation::{self, Remote};
use crate::registry::Catalog;
use crate::request::RequestInfo;
use crate::resource::{Connect, Resource, SubresourceHandler};
use crate::status::{Result, Status};

/// What answers a request.
pub enum Route {
    /// Another server, which knows its own kinds.
    Remote(Arc<Remote>),
    /// No resource: discovery, health, documents.
    Document,
    /// A kind that has this path with this verb.
    Resource(Arc<Resource>),
    /// Nothing of any server: upstream's last handler says so in plain text.
    Nowhere,
}

/// Verbs of a kind's own path, and of that of all namespaces.
const COLLECTION: &[&str] = &["create", "deletecollection", "list", "watch"];
const ALL_NAMESPACES: &[&str] = &["list", "watch"];
/// Verbs of an object's path.
const ITEM: &[&str] = &["delete", "get", "patch", "update"];
/// Verbs of `status` and `scale`.
const PART: &[&str] = &["get", "patch", "update"];

/// Finds what answers a request; what is not found is no secret, but upstream tells it only to those who may ask.
pub fn route(catalog: &Catalog, info: &RequestInfo) -> Result<Route> {
    if let Some(remote) = aggregation::answering(catalog, &info.path) {
        return Ok(Route::Remote(remote.clone()));
    }
    if !info.is_resource {
        return Ok(Route::Document);
    }
    let Some(resource) = catalog.lookup(&info.gvr()) else {
        return if is_built_in(catalog, &info.group) {
            Err(Status::no_such_path())
        } else {
            Ok(Route::Nowhere)
        };
    };
    // Upstream's server of custom resources looks at the scope first, and so has no path here for other verbs.
    let all_namespaces = resource.namespaced() && !info.is_below_namespace;
    let is_known = is_in_scope(resource, info) && (!all_namespaces || ALL_NAMESPACES.contains(&&*info.verb));
    if !resource.typed && !is_known {
        return Ok(Route::Nowhere);
    }
    check(resource, info)?;
    Ok(Route::Resource(resource.clone()))
}

/// Whether a group has kinds of this server's own.
fn is_built_in(catalog: &Catalog, group: &str) -> bool {
    let group = catalog.groups().iter().find(|g| g.name == group);
    group.is_some_and(|g| g.versions.iter().flat_map(|v| &v.resources).any(|r| r.typed))
}

/// Whether a kind has the request's path, and the path the request's verb.
fn check(resource: &Resource, info: &RequestInfo) -> Result<()> {
    let verbs = if is_in_scope(resource, info) { verbs(resource, info) } else { vec![] };
    if verbs.is_empty() {
        return Err(Status::no_such_path());
    }
    // `watch/` is the verb whatever the method is; and nothing but what is proxied has an answer without a body, or is asked
    // for its methods (which is no verb).
    let is_proxy = info.subresource == "proxy";
    if is_proxy && info.method == Method::OPTIONS {
        return Ok(());
    }
    let is_other = info.is_verb_in_path && info.method != Method::GET
        || info.method == Method::HEAD && resource.typed && !is_proxy;
    if !verbs.contains(&&*info.verb) || is_other {
        return Err(Status::method_not_allowed(
            "the server does not allow this method on the requested resource",
        ));
    }
    Ok(())
}

/// Whether the path lies where the kind lies.
fn is_in_scope(resource: &Resource, info: &RequestInfo) -> bool {
    match (resource.namespaced(), info.is_below_namespace) {
        (false, below) => !below,
        (true, true) => !info.namespace.is_empty(),
        // Over all namespaces, and then no single object.
        (true, false) => !info.is_item && info.subresource.is_empty(),
    }
}

/// The verbs of the request's path; none where the kind has no such path.
fn verbs<'a>(resource: &'a Resource, info: &RequestInfo) -> Vec<&'a str> {
    let served = |of: &[&str]| resource.verbs.iter().copied().filter(|v| of.contains(v)).collect();
    let all_namespaces = resource.namespaced() && !info.is_below_namespace;
    match (&*info.subresource, info.is_item, info.is_verb_in_path) {
        (_, _, true) if info.verb != "watch" => vec![],
        ("", _, true) => served(&["watch"]),
        (_, _, true) => vec![],
        ("", false, false) if all_namespaces => served(ALL_NAMESPACES),
        ("", false, false) => served(COLLECTION),
        ("", true, false) => served(ITEM),
        (_, false, false) => vec![],
        (name, true, false) => subresource(resource, name, &info.tail),
    }
}

fn subresource<'a>(resource: &'a Resource, name: &str, tail: &str) -> Vec<&'a str> {
    let sub = resource.subresource(name);
    let is_proxy = sub.is_some_and(|s| matches!(s.handler, SubresourceHandler::Connect(Connect::Proxy)));
    match (name, sub) {
        // Only a proxied path goes on.
        _ if !matches!(tail, "" | "/") && !is_proxy => vec![],
        ("status", _) if resource.status => PART.to_vec(),
        ("scale", _) if resource.scale.is_some() => PART.to_vec(),
        (_, Some(sub)) => sub.verbs.to_vec(),
        (_, None) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::{request, resources};

    /// The answer's code for a method and path; 0 is 404 in plain text.
    fn code(registry: &Registry, method: &str, uri: &str) -> u16 {
        let info = request::parse(&method.parse().unwrap(), uri, "");
        match route(&registry.snapshot(), &info) {
            Ok(Route::Nowhere) => 0,
            Ok(_) => 200,
            Err(failure) => failure.code(),
        }
    }

    #[test]
    fn a_path_leads_to_a_kind_only_where_the_kind_lies() {
        let registry = Registry::new(resources::builtins());
        for (method, uri, expected) in [
            ("GET", "/api/v1/nodes", 200),
            ("GET", "/api/v1/namespaces/a/nodes", 404),
            ("GET", "/api/v1/namespaces/a/nodes/n/proxy/pods", 404),
            ("DELETE", "/api/v1/namespaces/a/namespaces/b", 404),
            ("PUT", "/api/v1/namespaces/a/namespaces/b/finalize", 404),
            ("GET", "/api/v1/namespaces/a/namespaces", 404),
            ("GET", "/api/v1/watch/namespaces/a/nodes", 404),
            ("GET", "/api/v1/watch/nodes/n", 200),
            ("DELETE", "/api/v1/watch/nodes/n", 405),
            ("GET", "/api/v1/watch/namespaces/a", 200),
            ("GET", "/api/v1/watch/namespaces/a/status", 404),
            ("GET", "/api/v1/watch/pods/p", 404),
            ("GET", "/api/v1/watch/namespaces/a/pods/p", 200),
            ("GET", "/api/v1/proxy/nodes/n", 404),
            ("GET", "/api/v1/proxy/namespaces/a/pods/p", 404),
            ("GET", "/api/v1/pods", 200),
            ("GET", "/api/v1/pods/p", 404),
            ("GET", "/api/v1/pods/p/log", 404),
            ("GET", "/api/v1/namespaces//pods", 404),
            ("GET", "/api/v1/namespaces//pods/p", 404),
            ("DELETE", "/api/v1/configmaps", 405),
            ("POST", "/api/v1/configmaps", 405),
            ("PUT", "/api/v1/configmaps", 405),
            ("PATCH", "/api/v1/configmaps", 405),
            ("POST", "/api/v1/namespaces/a/configmaps/c", 405),
            ("PUT", "/api/v1/namespaces/a/configmaps", 405),
            ("OPTIONS", "/api/v1/namespaces/a/configmaps", 405),
            ("DELETE", "/api/v1/namespaces/a/configmaps", 200),
            ("DELETE", "/api/v1/namespaces", 405),
            ("PUT", "/api/v1/namespaces/a/status", 200),
            ("PUT", "/api/v1/namespaces/a/finalize", 200),
            ("GET", "/api/v1/namespaces/a/finalize", 405),
            ("GET", "/api/v1/namespaces/a/pods/p/status/", 200),
            ("GET", "/api/v1/namespaces/a/pods/p/status/x", 404),
            ("GET", "/api/v1/namespaces/a/pods/p/proxy/x/y", 200),
            ("HEAD", "/api/v1/namespaces/a/pods/p/proxy/x", 200),
            ("OPTIONS", "/api/v1/namespaces/a/pods/p/proxy/x", 200),
            ("OPTIONS", "/api/v1/namespaces/a/services/s/proxy", 200),
            ("OPTIONS", "/api/v1/namespaces/a/configmaps/c/proxy", 404),
            ("TRACE", "/api/v1/namespaces/a/pods/p/proxy/x", 405),
            ("GET", "/api/v1/namespaces/a/pods/p/log/x", 404),
            ("DELETE", "/api/v1/namespaces/a/pods/p/log", 405),
            ("PUT", "/api/v1/namespaces/a/pods/p/exec", 405),
            ("GET", "/api/v1/namespaces/a/pods/p/nothing", 404),
            ("GET", "/api/v1/namespaces/a/pods//status", 404),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 200),
            ("GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 405),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews/x", 404),
            ("POST", "/apis/authorization.k8s.io/v1/localsubjectaccessreviews", 404),
            ("GET", "/apis/authorization.k8s.io/v1/namespaces/a/subjectaccessreviews", 404),
            ("HEAD", "/api/v1/namespaces/a/configmaps", 405),
            ("HEAD", "/api/v1/namespaces/a/pods/p/proxy/", 200),
            ("GET", "/api/v1/nothings", 404),
            ("GET", "/apis/apps/v9/deployments", 404),
            ("GET", "/apis/nothing.example.com/v1/things", 0),
        ] {
            assert_eq!(code(&registry, method, uri), expected, "{method} {uri}");
        }
    }
}
