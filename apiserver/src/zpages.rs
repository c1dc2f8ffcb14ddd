//! `/statusz` and `/flagz`: what people look at when something is wrong with the server, as text or as upstream's objects.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::Server;
use crate::status::{Result, Status};
use crate::verbs::answer;

/// The versions that may be asked for, and whether they are outdated.
const VERSIONS: [(&str, bool); 2] = [("v1beta1", false), ("v1alpha1", true)];
/// What is worth a look, besides these pages.
const PATHS: [&str; 6] = ["/healthz", "/livez", "/metrics", "/openapi", "/readyz", "/version"];
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

/// One of the pages, and the kind of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Status,
    Flags,
}

/// How a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Object { version: &'static str, outdated: bool },
}

/// The page at a path; `None` where there is none.
pub(crate) fn serve(
    server: &Server,
    path: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> Option<Result<Response<Body>>> {
    let page = match path {
        "/statusz" => Page::Status,
        "/flagz" => Page::Flags,
        _ => return None,
    };
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Some(match negotiate(accept, page) {
        None => Err(Status::not_acceptable(format!(
            "only the following media types are accepted: text/plain, application/json;g=config.k8s.io;v=v1beta1;as={}",
            page.kind()
        ))),
        Some(Form::Text) => {
            let text = match page {
                Page::Status => status_text(server, now),
                Page::Flags => flags_text(server),
            };
            Ok(answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", text.into()))
        }
        Some(Form::Object { version, outdated }) => {
            let mut object = match page {
                Page::Status => status_object(server, now),
                Page::Flags => {
                    json!({"flags": flags(server).into_iter().collect::<std::collections::BTreeMap<_, _>>()})
                }
            };
            object["kind"] = page.kind().into();
            object["apiVersion"] = format!("config.k8s.io/{version}").into();
            object["metadata"] = json!({"name": "apiserver"});
            let mut response = answer::json(StatusCode::OK, &object);
            if outdated {
                let text = format!(
                    "299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"",
                    path.trim_start_matches('/')
                );
                response
                    .headers_mut()
                    .extend(HeaderValue::from_str(&text).ok().map(|v| (header::WARNING, v)));
            }
            Ok(response)
        }
    })
}

/// Text for whoever asks for nothing in particular; an object only under its full name.
fn negotiate(accept: &str, page: Page) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next()?;
        let parts: Vec<&str> = parts.collect();
        let has = |key: &str, value: &str| parts.iter().any(|p| p.split_once('=') == Some((key, value)));
        match media {
            "text/plain" | "text/*" | "*/*" => Some(Form::Text),
            "application/json" if has("g", "config.k8s.io") && has("as", page.kind()) => {
                let asked = VERSIONS.iter().find(|(version, _)| has("v", version));
                asked.map(|(version, outdated)| Form::Object { version, outdated: *outdated })
            }
            _ => None,
        }
    })
}

fn status_object(server: &Server, now: Timestamp) -> Value {
    let started = server.started;
    json!({
        "startTime": coracle_api::time::seconds(started),
        "uptimeSeconds": (now.as_second() - started.as_second()).max(0),
        "goVersion": "",
        "binaryVersion": env!("CARGO_PKG_VERSION"),
        "emulationVersion": "1.36",
        "paths": PATHS,
    })
}

fn status_text(server: &Server, now: Timestamp) -> String {
    let started = server.started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
    let up = (now.as_second() - server.started.as_second()).max(0);
    format!(
        "\napiserver statusz\n{WARNING}\n\nStarted: {started}\nUp: {} hr {:02} min {:02} sec\nBinary version: {}\nEmulation version: \
         1.36\nPaths: {}\n",
        up / 3600,
        up / 60 % 60,
        up % 60,
        env!("CARGO_PKG_VERSION"),
        PATHS.join(" ")
    )
}

fn flags_text(server: &Server) -> String {
    let mut text = format!("\napiserver flagz\n{WARNING}\n\n");
    for (name, value) in flags(server) {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

/// The settings that have a flag upstream, under its name. None of them is secret.
fn flags(server: &Server) -> Vec<(&'static str, String)> {
    let config = &server.config;
    let (address, bits) = config.service_cidr;
    vec![
        ("advertise-address", config.advertise.ip().to_string()),
        ("max-mutating-requests-inflight", config.max_writes.to_string()),
        ("max-requests-inflight", config.max_reads.to_string()),
        ("request-timeout", format!("{}s", config.request_timeout.as_secs())),
        ("secure-port", config.advertise.port().to_string()),
        ("service-cluster-ip-range", format!("{address}/{bits}")),
        ("service-node-port-range", format!("{}-{}", config.node_ports.start(), config.node_ports.end())),
    ]
}

// === impl Page ===

impl Page {
    fn kind(self) -> &'static str {
        match self {
            Page::Status => "Statusz",
            Page::Flags => "Flagz",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_given_only_under_their_full_name() {
        let new = Some(Form::Object { version: "v1beta1", outdated: false });
        let old = Some(Form::Object { version: "v1alpha1", outdated: true });
        for (accept, form) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("application/json, */*", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", new),
            ("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz", old),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", None),
            ("application/json", None),
            ("application/xml", None),
        ] {
            assert_eq!(negotiate(accept, Page::Status), form, "{accept}");
        }
    }
}
