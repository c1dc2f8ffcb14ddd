//! Links in what comes back through `proxy`: a page knows its server's paths, not the one it is proxied under.
//!
//! As upstream, `Location` headers and the attributes of HTML that hold URLs get the proxy's path in front where they name
//! the same host and an absolute path. Compressed pages go through as they are.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderValue, Request, Response};
use lol_html::errors::RewritingError;
use lol_html::html_content::Element;
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{HandlerTypes, element};

use super::dial::{Target, authority};

/// Attributes that hold one URL, by element (HTML 4.01's and HTML's own index of attributes).
const URLS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where a server's root lies for the client.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    /// The request's path up to `/proxy`.
    pub(super) prefix: String,
    /// `host:port` of the server, and the host the client asked.
    pub(super) hosts: [String; 2],
}

// === impl Mounted ===

impl Mounted {
    /// Of a request for this path of the target.
    pub(super) fn of(target: &Target, path: &str, request: &Request<Body>) -> Self {
        let asked = request.uri().path();
        let prefix = asked.strip_suffix(path).unwrap_or(asked).to_owned();
        let host = request.headers().get(HOST).and_then(|h| h.to_str().ok());
        let host = host.or_else(|| Some(request.uri().authority()?.as_str())).unwrap_or_default();
        Mounted { prefix, hosts: [authority(target), host.to_owned()] }
    }

    /// The answer with its links made to go through the proxy.
    pub(super) fn apply(self, mut answer: Response<Body>) -> Response<Body> {
        if let Some(location) = answer.headers().get(LOCATION) {
            let moved = location.to_str().ok().and_then(|url| self.link(url));
            if let Some(moved) = moved.and_then(|url| HeaderValue::from_str(&url).ok()) {
                answer.headers_mut().insert(LOCATION, moved);
            }
            return answer;
        }
        let media = answer.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
        let is_page = media.split(';').next().is_some_and(|m| m.trim() == "text/html");
        if !is_page || answer.headers().contains_key(CONTENT_ENCODING) {
            return answer;
        }
        answer.headers_mut().remove(CONTENT_LENGTH);
        answer.map(|body| Body::from_stream(rewritten(body, self)))
    }

    /// The URL behind the proxy; `None` where it is another server's, relative, or has the prefix already.
    fn link(&self, url: &str) -> Option<String> {
        let absolute = ["//", "http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let (host, path) = match absolute {
            Some(rest) => rest.split_at(rest.find('/')?),
            None => ("", url),
        };
        let same_server = host.is_empty() || self.hosts.iter().any(|known| known == host);
        let ours = path.starts_with(&self.prefix);
        (same_server && path.starts_with('/') && !ours).then(|| format!("{}{path}", self.prefix))
    }

    fn rewrite<H: HandlerTypes>(&self, element: &mut Element<'_, '_, H>) -> Result<(), RewritingError> {
        let name = element.tag_name();
        let Some((_, attributes)) = URLS.iter().find(|(tag, _)| *tag == name) else { return Ok(()) };
        for attribute in *attributes {
            let url = element.get_attribute(attribute);
            if let Some(link) = url.and_then(|url| self.link(&url)) {
                // Fails for names that are no names; these are.
                let _ = element.set_attribute(attribute, &link);
            }
        }
        Ok(())
    }
}

/// The page, rewritten while it flows.
fn rewritten(page: Body, mounted: Mounted) -> impl Stream<Item = Result<Bytes, axum::BoxError>> {
    let out = Arc::new(Mutex::new(Vec::new()));
    let sink = out.clone();
    let settings = Settings::new_send()
        .append_element_content_handler(element!("*", move |e| Ok(mounted.rewrite(e)?)))
        .with_strict(false);
    let rewriter = HtmlRewriter::new(settings, move |chunk: &[u8]| {
        sink.lock().expect("nobody panics while holding it").extend_from_slice(chunk);
    });
    let take = move || Bytes::from(std::mem::take(&mut *out.lock().expect("nobody panics while holding it")));
    stream::try_unfold((page.into_data_stream(), Some(rewriter), take), |(mut page, rewriter, take)| async {
        let Some(mut rewriter) = rewriter else { return Ok(None) };
        let rest = match page.next().await {
            Some(chunk) => {
                rewriter.write(&chunk?)?;
                Some(rewriter)
            }
            None => {
                rewriter.end()?;
                None
            }
        };
        Ok(Some((take(), (page, rest, take))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn mounted() -> Mounted {
        Mounted { prefix: "/api/v1/p/proxy".into(), hosts: ["10.0.0.1:80".into(), "server:6443".into()] }
    }

    #[test]
    fn links_of_the_same_server_get_the_prefix() {
        for (url, link) in [
            ("/x?y=1#z", Some("/api/v1/p/proxy/x?y=1#z")),
            ("/", Some("/api/v1/p/proxy/")),
            ("http://10.0.0.1:80/x", Some("/api/v1/p/proxy/x")),
            ("//server:6443/x", Some("/api/v1/p/proxy/x")),
            ("x/y", None),
            ("#z", None),
            ("https://elsewhere/x", None),
            ("/api/v1/p/proxy/x", None),
        ] {
            assert_eq!(mounted().link(url).as_deref(), link, "{url}");
        }
    }

    #[tokio::test]
    async fn a_page_in_pieces_is_rewritten_as_a_whole() {
        let pieces = ["<p title='/x'><a hr", "ef=\"/rewriteme\">te", "st</a><img src=/i.png>"];
        let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, axum::BoxError>)));
        let answer = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8").body(body).unwrap();
        let page = mounted().apply(answer).into_body().collect().await.unwrap().to_bytes();
        let wanted =
            "<p title='/x'><a href=\"/api/v1/p/proxy/rewriteme\">test</a><img src=\"/api/v1/p/proxy/i.png\">";
        assert_eq!(page, wanted);
    }
}
