//! Method and URI to [`RequestInfo`], once and purely. Authorisation, audit and dispatch see nothing else.

use std::borrow::Cow;

use coracle_api::Gvr;
use coracle_api::query::{decoded, flag, percent_decoded};
use coracle_api::selector::FieldSelector;
use http::Method;

/// What a request asks for. Upstream's `RequestInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestInfo {
    pub method: Method,
    /// `get list watch create update patch delete deletecollection` for resources (`proxy` requests keep the verb of the
    /// method), the lower-case method otherwise.
    pub verb: String,
    pub path: String,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    /// Also of `namespaces/x` itself, though that lies in no namespace.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    /// The path's, or the one that the field selector of a list or watch demands.
    pub name: String,
    /// What follows the subresource, from its `/` on, as the client encoded it: the target path of `proxy`.
    pub tail: String,
    /// Whether the resource stands below a namespace in the path.
    pub is_below_namespace: bool,
    /// Whether the path itself names an object.
    pub is_item: bool,
    /// Whether the path begins with an old verb: `watch/pods`.
    pub is_verb_in_path: bool,
    /// What the field selector of a list, a watch or a deletion of many demands; nothing where it cannot be read.
    pub fields: FieldSelector,
    /// The raw query string.
    pub query: String,
}

// === impl RequestInfo ===

impl RequestInfo {
    pub fn gvr(&self) -> Gvr {
        Gvr::new(&*self.group, &*self.version, &*self.resource)
    }

    /// The value of a query parameter, decoded; the first one where it is repeated.
    pub fn param(&self, name: &str) -> Option<String> {
        params(&self.query).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// All values of a query parameter, decoded.
    pub fn all(&self, name: &str) -> Vec<String> {
        params(&self.query).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }

    /// The store key of what is asked for.
    pub fn key(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }
}

/// The decoded pairs of a query string.
pub fn params(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    })
}

/// Reads a request line as upstream's resolver does: decoded as a whole, then split at every `/`. Whether anything is
/// served there is for [`crate::route`] to say.
pub fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
    let mut info = RequestInfo {
        method: method.clone(),
        verb: method.as_str().to_lowercase(),
        path: percent_decoded(path).into_owned(),
        query: query.to_owned(),
        ..RequestInfo::default()
    };
    let whole = info.path.clone();
    let parts: Vec<&str> = whole.trim_matches('/').split('/').collect();
    let mut rest: &[&str] = match parts[..] {
        ["api", version, _, ..] => {
            info.version = version.to_owned();
            &parts[2..]
        }
        ["apis", group, version, _, ..] => {
            info.group = group.to_owned();
            info.version = version.to_owned();
            &parts[3..]
        }
        _ => return info,
    };
    info.is_resource = true;
    if let ["watch" | "proxy", _, ..] = rest {
        info.is_verb_in_path = true;
        info.verb = rest[0].to_owned();
        rest = &rest[1..];
    } else {
        info.verb = verb(method).to_owned();
    }
    // `namespaces/x/pods` is a resource in a namespace; `namespaces/x/status` a part of the namespace itself.
    if let ["namespaces", namespace, below @ ..] = rest {
        info.namespace = (*namespace).to_owned();
        if !matches!(below, [] | ["status" | "finalize", ..]) {
            info.is_below_namespace = true;
            rest = below;
        }
    }
    let part = |at: usize| rest.get(at).map(|p| (*p).to_owned()).unwrap_or_default();
    (info.resource, info.name, info.subresource) = (part(0), part(1), part(2));
    info.is_item = !info.name.is_empty();
    if rest.len() >= 3 {
        info.tail = tail(path, &whole, parts.len() - rest.len() + 3);
    }
    if !info.is_verb_in_path {
        collection_verbs(&mut info);
    }
    info
}

/// What follows the first `count` parts of a path: raw, unless a `/` is encoded before it and the raw parts are others.
fn tail(raw: &str, decoded: &str, count: usize) -> String {
    let raw = raw.trim_start_matches('/');
    let is_plain = |part: &str| !percent_decoded(part).contains('/');
    let path = match raw.split('/').take(count).all(is_plain) {
        true => raw,
        false => decoded.trim_start_matches('/'),
    };
    path.match_indices('/').nth(count - 1).map(|(at, _)| path[at..].to_owned()).unwrap_or_default()
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD => "get",
        _ => "",
    }
}

/// Without a name, `get` is a list or a watch, and `delete` deletes the collection. A list or watch that a field selector
/// binds to one name is authorised as that name; a deletion is not.
fn collection_verbs(info: &mut RequestInfo) {
    if info.is_item {
        return;
    }
    match info.verb.as_str() {
        "get" => {
            let watch = info.param("watch").is_some_and(|w| flag(&w));
            info.verb = if watch { "watch" } else { "list" }.to_owned();
        }
        "delete" => info.verb = "deletecollection".to_owned(),
        _ => return,
    }
    // The first of several, as for the list itself.
    let selector = info.param("fieldSelector").unwrap_or_default();
    info.fields = FieldSelector::parse(&selector).unwrap_or_default();
    if info.verb != "deletecollection" {
        info.name = selected_name(&info.fields).unwrap_or_default();
    }
}

/// The name that the field selector demands, if it could be an object's.
fn selected_name(fields: &FieldSelector) -> Option<String> {
    let name = fields.required("metadata.name")?;
    let valid = !matches!(name, "" | "." | "..") && !name.contains(['/', '%']);
    valid.then(|| name.to_owned())
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_resolve_as_upstream() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods", "list /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/pods?watch=true", "watch /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/pods?watch=0", "list /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1 pods ns= name=x sub= tail="),
            (
                "GET",
                "/api/v1/pods?watch=1&fieldSelector=a=b,metadata.name=x",
                "watch /v1 pods ns= name=x sub= tail=",
            ),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name!=x", "list /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/watch/namespaces/a/pods", "watch /v1 pods ns=a name= sub= tail="),
            ("POST", "/api/v1/namespaces/a/pods", "create /v1 pods ns=a name= sub= tail="),
            ("GET", "/api/v1/namespaces/a", "get /v1 namespaces ns=a name=a sub= tail="),
            ("PUT", "/api/v1/namespaces/a/finalize", "update /v1 namespaces ns=a name=a sub=finalize tail="),
            ("PUT", "/api/v1/namespaces/a/status", "update /v1 namespaces ns=a name=a sub=status tail="),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1 deployments ns=a name= sub= tail=",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch apps/v1 deployments ns=a name=d sub=scale tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/p:80/proxy/x/y",
                "get /v1 pods ns=a name=p:80 sub=proxy tail=/x/y",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/services/x%3Ay/proxy",
                "get /v1 services ns=a name=x:y sub=proxy tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/services/x%3Ay/proxy/a%20b//c%2Fd/",
                "get /v1 services ns=a name=x:y sub=proxy tail=/a%20b//c%2Fd/",
            ),
            ("GET", "/api/v1/namespaces/a%2Fpods/p", "get /v1 pods ns=a name=p sub= tail="),
            ("GET", "/api/v1/namespaces/a%2Fpods/p/proxy/x", "get /v1 pods ns=a name=p sub=proxy tail=/x"),
            ("GET", "/api/v1/namespaces//pods", "list /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/namespaces/a/namespaces/b", "get /v1 namespaces ns=a name=b sub= tail="),
            ("GET", "/api/v1/namespaces/a/pods/p/log/x", "get /v1 pods ns=a name=p sub=log tail=/x"),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name=x",
                "deletecollection /v1 pods ns=a name= sub= tail=",
            ),
            ("DELETE", "/api/v1/watch/namespaces/a/pods", "watch /v1 pods ns=a name= sub= tail="),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name=a&fieldSelector=metadata.name=b",
                "list /v1 pods ns= name=a sub= tail=",
            ),
            ("GET", "/api/v1/pods?watch=False", "list /v1 pods ns= name= sub= tail="),
            ("GET", "/api/v1/pods?watch=", "watch /v1 pods ns= name= sub= tail="),
            ("GET", "/apis/apps/v1", "get / - ns= name= sub= tail="),
            ("GET", "/healthz", "get / - ns= name= sub= tail="),
        ] {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let i = parse(&method.parse().unwrap(), path, query);
            let resource = if i.is_resource { &*i.resource } else { "-" };
            let got = format!(
                "{} {}/{} {resource} ns={} name={} sub={} tail={}",
                i.verb, i.group, i.version, i.namespace, i.name, i.subresource, i.tail
            );
            assert_eq!(got, expected, "{method} {uri}");
        }
    }
}
