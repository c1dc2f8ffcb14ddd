//! Scripts: requests in order, in a form that is easy to write and to read.
//!
//! ```text
//! # what this request is for
//! POST /api/v1/namespaces/diff/configmaps?dryRun=All
//! accept: application/yaml
//!
//! {"apiVersion": "v1", ...}
//! ###
//! GET /api/v1/namespaces/diff/configmaps
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Requests that belong together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Script {
    pub name: String,
    pub requests: Vec<Request>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Whether the answer is a document compared as a whole.
    pub whole: bool,
}

// === impl Request ===

impl Request {
    /// A JSON request.
    pub(super) fn new(method: &str, path: &str, body: &str) -> Self {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let headers = vec![
            ("accept".to_owned(), "application/json".to_owned()),
            ("content-type".to_owned(), content.to_owned()),
        ];
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body: body.to_owned(),
            whole: false,
        }
    }

    /// A request for a document that is compared as a whole.
    pub(super) fn whole(path: &str) -> Self {
        Request { whole: true, ..Request::new("GET", path, "") }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The request as a report names it: method, path, what is unusual about its headers, and the beginning of its body.
    pub(super) fn title(&self) -> String {
        let unusual =
            self.headers.iter().filter(|(_, v)| v != "application/json").map(|(_, v)| format!(" [{v}]"));
        let body: String = self.body.chars().take(60).filter(|c| *c != '\n').collect();
        format!("{} {}{} {body}", self.method, self.path, unusual.collect::<String>()).trim_end().to_owned()
    }
}

/// All `*.http` files of a folder, by name.
pub(super) fn load(folder: &Path) -> Result<Vec<Script>> {
    let mut scripts = vec![];
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|f| f.path())
        .collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "http")) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file)?;
        let requests = parse(&text).with_context(|| file.display().to_string())?;
        scripts.push(Script { name, requests });
    }
    Ok(scripts)
}

fn parse(text: &str) -> Result<Vec<Request>> {
    text.split("###").map(str::trim).filter(|part| !part.is_empty()).map(request).collect()
}

fn request(part: &str) -> Result<Request> {
    let mut lines = part.lines().skip_while(|l| l.starts_with('#') || l.trim().is_empty());
    let first = lines.next().context("a request needs its first line")?;
    let Some((method, path)) = first.split_once(' ') else { bail!("{first:?} is no request line") };
    let mut request = Request::new(method, path.trim(), "");
    for line in lines.by_ref() {
        match line.split_once(':') {
            _ if line.trim().is_empty() => break,
            Some((name, value)) => request = request.with(name.trim(), value.trim()),
            None => bail!("{line:?} is no header"),
        }
    }
    request.body = lines.collect::<Vec<_>>().join("\n");
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_hold_requests_with_headers_and_bodies() {
        let all =
            parse("# why\nPATCH /a?b=c\ncontent-type: application/json-patch+json\n\n[]\n###\nGET /d\n")
                .unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].path.as_str(), all[0].body.as_str()), ("/a?b=c", "[]"));
        assert!(
            all[0].headers.contains(&("content-type".to_owned(), "application/json-patch+json".to_owned()))
        );
        assert_eq!(all[1], Request::new("GET", "/d", ""));
        assert!(parse("nonsense").is_err());
    }
}
