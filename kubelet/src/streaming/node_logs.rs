//! `/logs/`: the files of the machine's log directory. Pods may be able to write there: no link leads out of it.

use std::{io, path::Path};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio_util::io::ReaderStream;

use crate::beneath::{AsyncFile, Dir, File, FileType, Links};

/// As upstream: the machine's own.
pub(super) const DIRECTORY: &str = "/var/log";
/// Names of a directory that are shown.
const MOST: usize = 10_000;

enum Found {
    File(File, u64),
    Directory(Vec<String>),
}

/// The file or the list of a directory at `path`, below `directory`.
pub(super) async fn answer(directory: &'static str, path: String) -> Response {
    let wanted = path.clone();
    let found = tokio::task::spawn_blocking(move || find(Path::new(directory), &wanted)).await;
    match found {
        Ok(Ok(Found::File(file, size))) => {
            let stream = ReaderStream::new(tokio::io::AsyncReadExt::take(AsyncFile::from_std(file), size));
            let length = [(header::CONTENT_LENGTH, size.to_string())];
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], length, Body::from_stream(stream))
                .into_response()
        }
        Ok(Ok(Found::Directory(_))) if !path.is_empty() && !path.ends_with('/') => {
            let name = path.rsplit('/').next().unwrap_or_default();
            (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{}/", escaped_path(name)))])
                .into_response()
        }
        Ok(Ok(Found::Directory(names))) => {
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], listing(&names)).into_response()
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            (StatusCode::FORBIDDEN, "403 Forbidden\n").into_response()
        }
        // A link that leads elsewhere is not there, either.
        Ok(Err(_)) | Err(_) => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

fn find(directory: &Path, path: &str) -> io::Result<Found> {
    let (root, path) = (Dir::open(directory)?, path.trim_matches('/'));
    let found = root.find(path, Links::Within)?;
    if found.is_dir()? {
        let mut names = Vec::new();
        for entry in root.dir(path, Links::Within)?.entries()?.take(MOST) {
            let entry = entry?;
            let slash = if entry.kind == FileType::Directory { "/" } else { "" };
            names.push(format!("{}{slash}", entry.name.to_string_lossy()));
        }
        names.sort();
        return Ok(Found::Directory(names));
    }
    let file = found.regular()?;
    let size = file.metadata()?.len();
    Ok(Found::File(file, size))
}

fn listing(names: &[String]) -> String {
    let line = |name: &String| format!("<a href=\"{}\">{}</a>\n", escaped_path(name), escaped_html(name));
    format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{}</pre>\n",
        names.iter().map(line).collect::<String>()
    )
}

fn escaped_html(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

fn escaped_path(name: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_regular_files_below_the_directory_are_served() {
        let dir = Box::leak(Box::new(tempfile::tempdir().unwrap()));
        let (root, outside) = (dir.path().join("log"), dir.path().join("secret"));
        std::fs::create_dir_all(root.join("pods/a b")).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(root.join("pods/x.log"), "hello").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("relative")).unwrap();
        std::os::unix::fs::symlink("pods/x.log", root.join("within")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root: &'static str = Box::leak(root.to_string_lossy().into_owned().into_boxed_str());
        for (path, status, body) in [
            ("pods/x.log", 200, "hello"),
            ("within", 200, "hello"),
            ("absolute", 404, ""),
            ("relative", 404, ""),
            ("../secret", 404, ""),
            ("pods/../../secret", 404, ""),
            ("pipe", 404, ""),
            ("nothing", 404, ""),
            ("pods", 301, ""),
            ("pods/", 200, "<a href=\"a%20b/\">a b/</a>\n<a href=\"x.log\">x.log</a>\n"),
            ("", 200, "<a href=\"pods/\">pods/</a>"),
        ] {
            let answer = answer(root, path.to_owned()).await;
            assert_eq!(answer.status().as_u16(), status, "{path}");
            let got = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            let got = String::from_utf8(got.to_vec()).unwrap();
            assert!(got.contains(body) && !got.contains("secret\n"), "{path}: {got}");
        }
    }
}
