//! What the chain makes of a request line, case by case.

use super::*;
use crate::registry::Registry;
use crate::resources;

fn info(method: &str, uri: &str) -> RequestInfo {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    request::parse(&method.parse().expect("a method"), path, query)
}

#[test]
fn requests_are_counted_under_what_is_served_and_nothing_that_clients_invent() {
    let registry = Registry::new(resources::builtins());
    for (method, uri, expected) in [
        ("GET", "/api/v1/namespaces/a/pods/p", "GET /v1 pods - resource"),
        ("GET", "/api/v1/namespaces/a/pods", "LIST /v1 pods - namespace"),
        ("GET", "/api/v1/pods", "LIST /v1 pods - cluster"),
        ("GET", "/api/v1/pods?watch=1", "WATCH /v1 pods - cluster"),
        ("POST", "/apis/apps/v1/namespaces/a/deployments", "CREATE apps/v1 deployments - namespace"),
        (
            "PUT",
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "UPDATE apps/v1 deployments scale resource",
        ),
        ("PATCH", "/api/v1/nodes/n/status", "PATCH /v1 nodes status resource"),
        ("POST", "/api/v1/namespaces/a/pods/p/eviction", "CREATE /v1 pods eviction resource"),
        ("GET", "/api/v1/namespaces/a/pods/p/log", "GET /v1 pods log resource"),
        ("DELETE", "/api/v1/namespaces/a/pods", "DELETECOLLECTION /v1 pods - namespace"),
        // Invented, each time anew.
        ("GET", "/api/v1/namespaces/a/pods/p/nonsense", "GET /v1 pods - resource"),
        ("GET", "/apis/nonsense/v1/things", "GET / - - -"),
        ("POST", "/apis/apps/v9/deployments", "GET / - - -"),
        ("NONSENSE", "/nonsense", "GET / - - -"),
        ("GET", "/metrics", "GET / - - -"),
    ] {
        let RequestLabels { verb, group, version, resource, subresource, scope, code } =
            labels(&registry, &info(method, uri), 200);
        let or = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let got = format!("{verb} {group}/{version} {} {} {}", or(&resource), or(&subresource), or(scope));
        assert_eq!((&*got, code), (expected, 200), "{method} {uri}");
    }
}

#[test]
fn what_lasts_is_upstreams_and_takes_no_seats() {
    for (method, uri, lasting, limited) in [
        ("GET", "/api/v1/pods", false, true),
        ("GET", "/api/v1/pods?watch=true", true, false),
        ("GET", "/api/v1/watch/pods", true, false),
        ("GET", "/api/v1/namespaces/a/pods/p/log", true, false),
        ("POST", "/api/v1/namespaces/a/pods/p/exec", true, false),
        ("GET", "/api/v1/namespaces/a/pods/p/attach", true, false),
        ("POST", "/api/v1/namespaces/a/pods/p/portforward", true, false),
        ("DELETE", "/api/v1/namespaces/a/services/s/proxy/x", true, false),
        ("POST", "/api/v1/namespaces/a/pods/p/eviction", false, true),
        ("PATCH", "/api/v1/namespaces/a/pods/p", false, true),
        // About no resource: answered at once, whatever else goes on, and counted as what is being answered.
        ("GET", "/healthz", false, false),
        ("GET", "/metrics", false, false),
        ("GET", "/apis/apps/v1", false, false),
    ] {
        let info = info(method, uri);
        assert_eq!((lasts(&info), !is_long_running(&info)), (lasting, limited), "{method} {uri}");
    }
}

#[test]
fn a_client_may_ask_for_less_time_than_there_is() {
    let most = Duration::from_secs(60);
    for (uri, expected) in [
        ("/api/v1/pods", Ok(60_000)),
        ("/api/v1/pods?timeout=", Ok(60_000)),
        ("/api/v1/pods?timeout=5s", Ok(5_000)),
        ("/api/v1/pods?timeout=1m30s", Ok(60_000)),
        ("/api/v1/pods?timeout=250ms", Ok(250)),
        ("/api/v1/pods?timeout=0s", Ok(60_000)),
        (
            "/api/v1/pods?timeout=5",
            Err("invalid timeout specified in the request URL - time: missing unit in duration \"5\""),
        ),
        (
            "/api/v1/pods?timeout=soon",
            Err("invalid timeout specified in the request URL - time: invalid duration \"soon\""),
        ),
        // A watch has a time of its own.
        ("/api/v1/pods?watch=1&timeout=soon", Ok(60_000)),
        ("/healthz?timeout=soon", Ok(60_000)),
    ] {
        let limit = time_limit(most, &info("GET", uri)).map(|t| t.as_millis()).map_err(|e| e.to_string());
        assert_eq!(limit, expected.map_err(str::to_owned), "{uri}");
    }
}

#[test]
fn a_document_that_the_client_has_is_not_sent_again() {
    let ask = |tag: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(tag) = tag {
            headers.insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        }
        let response = tagged(Bytes::from_static(b"{}"), "application/json", "\"a\"", &headers);
        let sent = axum::body::HttpBody::size_hint(response.body()).exact();
        (response.status().as_u16(), sent, response.headers()[header::ETAG].clone())
    };
    for (tag, code, sent) in [(None, 200, 2), (Some("\"b\""), 200, 2), (Some("\"a\""), 304, 0)] {
        let (status, length, etag) = ask(tag);
        assert_eq!((status, length, etag.to_str().unwrap()), (code, Some(sent), "\"a\""), "{tag:?}");
    }
}

#[test]
fn the_root_names_every_group_and_version_once() {
    let catalog = Registry::new(resources::builtins()).snapshot();
    let root = root(&catalog);
    let paths: Vec<&str> = root["paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(paths.is_sorted(), "{paths:?}");
    for path in
        ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/metrics", "/version"]
    {
        assert_eq!(paths.iter().filter(|p| **p == path).count(), 1, "{path}");
    }
}

#[test]
fn a_kind_that_is_not_known_yet_is_not_gone() {
    let early = nowhere(false).unwrap_err().to_json();
    assert_eq!((&early["code"], &early["reason"]), (&json!(503), &json!("ServiceUnavailable")));
    assert_eq!(early["details"], json!({"retryAfterSeconds": 5}));
    assert_eq!(nowhere(true).unwrap().status(), StatusCode::NOT_FOUND);
}
