//! How many seats a request takes: a LIST as many as it has objects to show, upstream's rule.

use crate::request::RequestInfo;

/// Objects that one seat is for, and the most seats of one request.
const OBJECTS: usize = 100;
const MOST: u32 = 10;

/// The seats of a request on a resource of which so many objects are stored.
pub fn width(info: &RequestInfo, stored: impl FnOnce() -> usize) -> u32 {
    let lists = info.verb == "list" || info.verb == "watch" && sends_all(info);
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let limit = info.param("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0);
    let selects =
        ["labelSelector", "fieldSelector"].iter().any(|p| info.param(p).is_some_and(|v| !v.is_empty()));
    let objects = match limit {
        Some(limit) if !selects => stored().min(limit),
        _ => stored(),
    };
    u32::try_from(objects.div_ceil(OBJECTS)).unwrap_or(MOST).clamp(1, MOST)
}

/// Whether a watch begins with what is there.
fn sends_all(info: &RequestInfo) -> bool {
    info.param("sendInitialEvents").is_some_and(|v| coracle_api::query::flag(&v))
        || matches!(info.param("resourceVersion").as_deref(), None | Some("" | "0"))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn lists_are_as_wide_as_what_they_show() {
        for (method, path, query, stored, seats) in [
            (Method::GET, "/api/v1/pods", "", 0, 1),
            (Method::GET, "/api/v1/pods", "", 250, 3),
            (Method::GET, "/api/v1/pods", "", 50_000, 10),
            (Method::GET, "/api/v1/pods", "limit=100", 50_000, 1),
            (Method::GET, "/api/v1/pods", "limit=100&labelSelector=a%3Db", 50_000, 10),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "", 50_000, 1),
            (Method::GET, "/api/v1/pods", "watch=1&resourceVersion=7", 50_000, 1),
            (Method::GET, "/api/v1/pods", "watch=1&sendInitialEvents=true&resourceVersion=7", 50_000, 10),
            (Method::POST, "/api/v1/namespaces/a/pods", "", 50_000, 1),
        ] {
            let info = crate::request::parse(&method, path, query);
            assert_eq!(width(&info, || stored), seats, "{method} {path}?{query}");
        }
    }
}
