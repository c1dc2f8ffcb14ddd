//! Image references, normalised as Docker and every container runtime do: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;

use super::digest::Digest;
use crate::cri::ImageError;

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageName {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl ImageName {
    pub(crate) fn parse(text: &str) -> Result<ImageName, ImageError> {
        let invalid =
            |why: &str| ImageError::InvalidName(format!("couldn't parse image name {text:?}: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => match digest.parse() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return Err(invalid("invalid reference format")),
            },
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (registry, path) = split_registry(name);
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid("invalid reference format: repository name must be lowercase"));
        }
        let repository =
            if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_registry(&registry)
            || !is_repository(&repository)
            || tag.as_deref().is_some_and(|tag| !is_tag(tag))
        {
            return Err(invalid("invalid reference format"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(ImageName { registry, repository, tag, digest })
    }

    /// `docker.io/library/nginx`
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name with this digest instead of a tag.
    pub(crate) fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

/// With a digest the tag is only an ornament: it names nothing.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "{}@{digest}", self.name()),
            (None, tag) => write!(f, "{}:{}", self.name(), tag.as_deref().unwrap_or("latest")),
        }
    }
}

/// The first component is a registry when it looks like a host: a dot, a port, or `localhost`.
fn split_registry(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            let host = if host == "index.docker.io" { "docker.io" } else { host };
            (host.to_owned(), path.to_owned())
        }
        _ => ("docker.io".to_owned(), name.to_owned()),
    }
}

/// A host name or address, with or without a port: nothing that could mean more in a URL.
fn is_registry(text: &str) -> bool {
    let port = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let rest = rest.is_empty() || rest.strip_prefix(':').is_some_and(port);
        return rest && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let host = match text.split_once(':') {
        Some((host, rest)) if port(rest) => host,
        Some(_) => return false,
        None => text,
    };
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn is_repository(text: &str) -> bool {
    text.len() <= 255
        && text.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, want) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            (&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx@{digest}")),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().to_string(), want, "{text}");
        }
        let bad = [
            "",
            "Nginx",
            "a b",
            "a:",
            "a@sha256:12",
            "/a",
            "a//b",
            "a:-x",
            "a/../b",
            "me@r.example.com/a",
            "r.example.com?x/a",
            "r.example.com#x/a",
            "r.example.com:1:2/a",
            "r.example.com:x/a",
            "-.com/a",
            "r..com/a",
            "[::1/a",
            "[::1]x/a",
            "r.exa\nmple.com/a",
            "r.example.com\\/a",
            "r.example.com:/a",
        ];
        for text in bad {
            assert!(ImageName::parse(text).is_err(), "{text:?} must be refused");
        }
    }
}
