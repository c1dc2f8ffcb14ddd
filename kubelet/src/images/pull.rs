//! Pulls from registries.

use std::io::BufReader;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode as Code};
use oci_client::manifest::ImageIndexEntry;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::mirrors::Host;
use super::reference::ImageName;
use super::store::{ConfigFile, Entry, Store};
use super::{Progress, ProgressFn};
use crate::cri::{ImageError, ImageInfo, RegistryCredential, with_causes};

/// Go's name for this machine's architecture, as images use it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn resolve_platform(manifests: &[ImageIndexEntry]) -> Option<String> {
    let matches = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os.to_string() == "linux" && platform.architecture.to_string() == architecture()
        })
    };
    manifests.iter().find(matches).map(|entry| entry.digest.clone())
}

/// Plain HTTP is for registries on this machine only.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The credential for an image: exact host or host with the longest path prefix; Docker Hub has many names.
pub(super) fn credential<'a>(
    name: &ImageName,
    credentials: &'a [RegistryCredential],
) -> Option<&'a RegistryCredential> {
    let whole = name.name();
    credentials
        .iter()
        .filter_map(|credential| {
            let key = credential.registry.trim_start_matches("https://").trim_start_matches("http://");
            let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let key =
                if matches!(key, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { key };
            matches_registry(&whole, key).then_some((key.len(), credential))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, credential)| credential)
}

/// `*.example.com/team` matches `a.example.com/team/app`.
fn matches_registry(name: &str, key: &str) -> bool {
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let hosts: Vec<&str> = host.split('.').collect();
    let key_hosts: Vec<&str> = key_host.split('.').collect();
    hosts.len() == key_hosts.len()
        && hosts.iter().zip(&key_hosts).all(|(part, key)| *key == "*" || part == key)
        && path
            .strip_prefix(key_path)
            .is_some_and(|rest| key_path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// From where, and how.
pub(super) struct Source<'a> {
    /// Hosts to ask in this order; the registry itself is the last.
    pub(super) hosts: Vec<Host>,
    pub(super) credentials: &'a [RegistryCredential],
}

/// Pulls an image from the first of its hosts that has it.
pub(super) async fn pull(
    store: &Arc<Store>,
    name: &ImageName,
    source: &Source<'_>,
    progress: Option<&ProgressFn>,
) -> Result<ImageInfo, ImageError> {
    let mut told: Option<ImageError> = None;
    for host in &source.hosts {
        match pull_from(store, name, host, source, progress).await {
            Ok(info) => return Ok(info),
            // That a mirror knows of no such image says more than that the next host cannot be reached.
            Err(_) if told.as_ref().is_some_and(|earlier| earlier.to_string().ends_with(NOT_FOUND)) => {}
            Err(error) => told = Some(error),
        }
    }
    Err(told.unwrap_or_else(|| ImageError::Unavailable(format!("no registry to pull {name} from"))))
}

async fn pull_from(
    store: &Arc<Store>,
    name: &ImageName,
    host: &Host,
    source: &Source<'_>,
    progress: Option<&ProgressFn>,
) -> Result<ImageInfo, ImageError> {
    let protocol = if host.plain { ClientProtocol::Http } else { ClientProtocol::Https };
    let client = Client::new(ClientConfig {
        protocol,
        platform_resolver: Some(Box::new(resolve_platform)),
        connect_timeout: Some(std::time::Duration::from_secs(30)),
        read_timeout: Some(std::time::Duration::from_secs(120)),
        user_agent: "coracle",
        ..ClientConfig::default()
    });
    let reference = registry_reference(name, &host.address);
    // A mirror gets only credentials that name it.
    let asked = ImageName { registry: host.address.clone(), ..name.clone() };
    let auth = match credential(&asked, source.credentials) {
        Some(credential) => RegistryAuth::Basic(credential.username.clone(), credential.password.clone()),
        None => RegistryAuth::Anonymous,
    };
    let failed = |error: &OciDistributionError| describe(name, error);
    // The tag's own digest (of the index, when there is one) is what upstream reports as repo digest.
    let digest = client.fetch_manifest_digest(&reference, &auth).await.map_err(|error| failed(&error))?;
    let (manifest, _, config) =
        client.pull_manifest_and_config(&reference, &auth).await.map_err(|error| failed(&error))?;
    let id = format!("sha256:{}", hex::encode(Sha256::digest(config.as_bytes())));
    if id != manifest.config.digest {
        return Err(ImageError::Pull(format!(
            "{name}: configuration has digest {id}, not {}",
            manifest.config.digest
        )));
    }
    let file: ConfigFile = serde_json::from_str(&config)
        .map_err(|error| ImageError::Pull(format!("{name}: configuration: {error}")))?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::Pull(format!(
            "{name}: manifest and configuration name different numbers of layers"
        )));
    }
    for (layer, diff_id) in manifest.layers.iter().zip(&file.rootfs.diff_ids) {
        if !store.has_layer(diff_id) {
            pull_layer(store, &client, &reference, layer, diff_id, progress).await.map_err(|message| {
                ImageError::Pull(format!("failed to pull and unpack image {:?}: {message}", name.to_string()))
            })?;
        }
    }
    let entry = Entry {
        tags: if name.digest.is_none() { vec![name.to_string()] } else { Vec::new() },
        digests: vec![name.with_digest(&digest)],
        size: manifest.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum::<u64>()
            + config.len() as u64,
        layers: file.rootfs.diff_ids,
        config: file.config.unwrap_or_default(),
    };
    store.add(&id, entry).map_err(|error| ImageError::Pull(format!("{name}: {error}")))
}

fn registry_reference(name: &ImageName, host: &str) -> Reference {
    let host = if host == "docker.io" { "index.docker.io" } else { host };
    match (&name.digest, &name.tag) {
        (Some(digest), _) => Reference::with_digest(host.to_owned(), name.repository.clone(), digest.clone()),
        (None, tag) => Reference::with_tag(
            host.to_owned(),
            name.repository.clone(),
            tag.clone().unwrap_or_else(|| "latest".to_owned()),
        ),
    }
}

async fn pull_layer(
    store: &Arc<Store>,
    client: &Client,
    reference: &Reference,
    layer: &oci_client::manifest::OciDescriptor,
    diff_id: &str,
    progress: Option<&ProgressFn>,
) -> Result<(), String> {
    let scratch = store.scratch();
    let file = tokio::fs::File::create(&scratch).await.map_err(|error| error.to_string())?;
    let total = u64::try_from(layer.size).unwrap_or(0);
    let mut writer =
        Counting { inner: file, layer: layer.digest.clone(), done: 0, total, progress: progress.cloned() };
    // `pull_blob` verifies the digest of what it wrote.
    let pulled = match client.pull_blob(reference, layer, &mut writer).await {
        Ok(()) => writer.flush().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let result = match pulled {
        Ok(()) => {
            let (store, path, diff_id) = (store.clone(), scratch.clone(), diff_id.to_owned());
            tokio::task::spawn_blocking(move || {
                let file = std::fs::File::open(path)?;
                store.add_layer(BufReader::with_capacity(1 << 16, file), &diff_id)
            })
            .await
            .map_err(|error| error.to_string())
            .and_then(|done| done.map_err(|error| with_causes(&error)))
        }
        Err(error) => Err(error),
    };
    if let Err(error) = tokio::fs::remove_file(&scratch).await {
        tracing::warn!(path = %scratch.display(), %error, "cannot remove a downloaded layer");
    }
    result
}

/// Counts the bytes of a download for the progress callback.
struct Counting {
    inner: tokio::fs::File,
    layer: String,
    done: u64,
    total: u64,
    progress: Option<ProgressFn>,
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buffer);
        if let Poll::Ready(Ok(count)) = &written {
            self.done += *count as u64;
            if let Some(progress) = &self.progress {
                progress(Progress {
                    layer: self.layer.clone(),
                    done_bytes: self.done,
                    total_bytes: self.total,
                });
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

const NOT_FOUND: &str = ": not found";

/// The registry's refusal in the words a user of upstream knows.
fn describe(name: &ImageName, error: &OciDistributionError) -> ImageError {
    let prefix = format!(
        "failed to pull and unpack image {:?}: failed to resolve reference {:?}",
        name.to_string(),
        name.to_string()
    );
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => {
            ImageError::Pull(format!("{prefix}: {name}{NOT_FOUND}"))
        }
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|error| {
                matches!(error.code, Code::ManifestUnknown | Code::NameUnknown | Code::NotFound)
            }) =>
        {
            ImageError::Pull(format!("{prefix}: {name}{NOT_FOUND}"))
        }
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            ImageError::Pull(format!(
                "{prefix}: pull access denied, repository does not exist or may require authorization: {error}"
            ))
        }
        OciDistributionError::RequestError(source) => {
            let mut text = format!("{prefix}: failed to do request: {source}");
            let mut cause = std::error::Error::source(source);
            while let Some(inner) = cause {
                text.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            ImageError::Pull(text)
        }
        OciDistributionError::ServerError { code: 404, .. } => {
            ImageError::Pull(format!("{prefix}: {name}{NOT_FOUND}"))
        }
        other => ImageError::Pull(format!("{prefix}: {other}")),
    }
}
