//! Method and URI to [`RequestInfo`], once and purely. Authorisation, audit and dispatch see nothing else.

use std::borrow::Cow;

use coracle_api::{Gvr, selector::FieldSelector};
use http::Method;

/// What a request asks for. Upstream's `RequestInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// `get list watch create update patch delete deletecollection` for resources (`proxy` requests keep the verb of the
    /// method), the lower-case method otherwise.
    pub verb: String,
    pub path: String,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource: the target path of `proxy`.
    pub tail: String,
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
        (decode(key, true), decode(value, true))
    })
}

/// Percent-decodes; in queries `+` is a space. What is no escape stays as it is.
pub(crate) fn decode(text: &str, plus: bool) -> Cow<'_, str> {
    if !(text.contains('%') || plus && text.contains('+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let mut ahead = bytes.clone();
        let escaped = match b {
            b'%' => ahead.next().zip(ahead.next()).and_then(|(high, low)| Some(hex(high)? << 4 | hex(low)?)),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                bytes = ahead;
            }
            None if plus && b == b'+' => out.push(b' '),
            None => out.push(b),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Reads a request line as upstream's resolver does.
pub fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
    let mut info = RequestInfo {
        verb: method.as_str().to_lowercase(),
        path: decode(path, false).into_owned(),
        query: query.to_owned(),
        ..RequestInfo::default()
    };
    let parts: Vec<Cow<'_, str>> =
        path.trim_matches('/').split('/').filter(|p| !p.is_empty()).map(|p| decode(p, false)).collect();
    let mut rest: &[Cow<'_, str>] = match parts.first().map(|p| &**p) {
        Some("api") if parts.len() >= 3 => {
            info.version = parts[1].to_string();
            &parts[2..]
        }
        Some("apis") if parts.len() >= 4 => {
            info.group = parts[1].to_string();
            info.version = parts[2].to_string();
            &parts[3..]
        }
        _ => return info,
    };
    info.is_resource = true;
    let special = match &*rest[0] {
        "watch" | "proxy" if rest.len() > 1 => {
            info.verb = rest[0].to_string();
            rest = &rest[1..];
            true
        }
        _ => false,
    };
    if !special {
        info.verb = verb(method).to_owned();
    }
    // `namespaces/x/pods` is a resource in a namespace; `namespaces/x/status` a part of the namespace itself.
    if rest[0] == "namespaces" && rest.len() > 1 {
        info.namespace = rest[1].to_string();
        if rest.len() > 2 && !matches!(&*rest[2], "status" | "finalize") {
            rest = &rest[2..];
        }
    }
    info.resource = rest[0].to_string();
    info.name = rest.get(1).map(|p| p.to_string()).unwrap_or_default();
    info.subresource = rest.get(2).map(|p| p.to_string()).unwrap_or_default();
    info.tail = rest.get(3..).unwrap_or_default().join("/");
    if info.tail.is_empty() && rest.len() > 3 || path.ends_with('/') && rest.len() > 3 {
        info.tail.push('/');
    }
    collection_verbs(&mut info);
    info
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

/// Without a name, `get` is a list or a watch, and `delete` deletes the collection. A list that a field selector binds to
/// one name is authorised as that name.
fn collection_verbs(info: &mut RequestInfo) {
    if !info.name.is_empty() {
        return;
    }
    match info.verb.as_str() {
        "get" => {
            let watch = info.param("watch").is_some_and(|w| !matches!(&*w, "false" | "0"));
            info.verb = if watch { "watch" } else { "list" }.to_owned();
        }
        "delete" => info.verb = "deletecollection".to_owned(),
        _ => {}
    }
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.name = selected_name(info).unwrap_or_default();
    }
}

/// The name that the field selector demands, if it could be an object's.
fn selected_name(info: &RequestInfo) -> Option<String> {
    let selector = FieldSelector::parse(&info.param("fieldSelector")?).ok()?;
    let term = selector.0.into_iter().find(|t| t.equal && t.field == "metadata.name")?;
    let valid = !matches!(term.value.as_str(), "" | "." | "..") && !term.value.contains(['/', '%']);
    valid.then_some(term.value)
}

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
                "get /v1 pods ns=a name=p:80 sub=proxy tail=x/y",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/services/x%3Ay/proxy",
                "get /v1 services ns=a name=x:y sub=proxy tail=",
            ),
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
