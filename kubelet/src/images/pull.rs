//! Pulls from registries.

use std::io::{BufReader, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::credentials;
use super::digest::{Digest, Hasher};
use super::manifest::{Configuration, Descriptor, Document, ImageManifest, MAX_CONFIG, MAX_MANIFEST, choose};
use super::mirrors::Host;
use super::reference::ImageName;
use super::registry::{Error, Registry};
use super::store::{Entry, Scratch, Store};
use super::unpack::most_unpacked;
use super::{Progress, ProgressFn};
use crate::cri::{ImageError, RegistryCredential, with_causes};

/// Of a download, between the network and the disk.
const PIECES: usize = 32;

/// From where, and how.
pub(super) struct Source<'a> {
    /// Hosts to ask in this order; the registry itself is the last.
    pub(super) hosts: Vec<Host>,
    pub(super) credentials: &'a [RegistryCredential],
    /// One layer of this image or others is unpacked for each permit.
    pub(super) unpacking: &'a Arc<Semaphore>,
}

/// An image whose layers are all on the node.
pub(super) struct Pulled<'a> {
    pub(super) id: Digest,
    pub(super) entry: Entry,
    /// What the registry was told; `None`: it gave the image to anybody.
    pub(super) credential: Option<&'a RegistryCredential>,
}

/// Pulls an image from the first of its hosts that has it.
pub(super) async fn pull<'a>(
    store: &Arc<Store>,
    name: &ImageName,
    source: &Source<'a>,
    progress: Option<&ProgressFn>,
) -> Result<Pulled<'a>, ImageError> {
    let mut told: Option<Error> = None;
    for host in &source.hosts {
        // A mirror gets only credentials that name it.
        let asked = ImageName { registry: host.address.clone(), ..name.clone() };
        let matching = credentials::matching(&asked, source.credentials);
        let tried: Vec<Option<&RegistryCredential>> =
            if matching.is_empty() { vec![None] } else { matching.into_iter().map(Some).collect() };
        for credential in tried {
            let registry = Registry::new(host, name, credential);
            let pulled = match &registry {
                Ok(registry) => pull_from(store, name, registry, source, progress).await,
                Err(error) => Err(Error::Content(error.to_string())),
            };
            match pulled {
                Ok((id, entry)) => return Ok(Pulled { id, entry, credential }),
                // That a mirror knows of no such image says more than that the next host cannot be reached.
                Err(_) if matches!(told, Some(Error::NotFound)) => {}
                Err(error) => told = Some(error),
            }
            if !matches!(told, Some(Error::Denied(_))) {
                break;
            }
        }
    }
    Err(match told {
        Some(error) => describe(name, &error),
        None => ImageError::Unavailable(format!("no registry to pull {name} from")),
    })
}

async fn pull_from(
    store: &Arc<Store>,
    name: &ImageName,
    registry: &Registry<'_>,
    source: &Source<'_>,
    progress: Option<&ProgressFn>,
) -> Result<(Digest, Entry), Error> {
    let (digest, manifest) = manifest(name, registry).await?;
    let bytes = registry.document(&manifest.config, MAX_CONFIG).await?;
    let file = Configuration::parse(&bytes).map_err(Error::Content)?;
    if file.diff_ids.len() != manifest.layers.len() {
        let why = "manifest and configuration name different numbers of layers";
        return Err(Error::Content(why.to_owned()));
    }
    let missing: Vec<(&Descriptor, Digest)> = manifest
        .layers
        .iter()
        .zip(file.diff_ids.iter().copied())
        .filter(|(_, diff_id)| !store.has_layer(diff_id))
        .collect();
    store.expect(missing.iter().map(|(layer, _)| layer.size).fold(0, u64::saturating_add))?;
    let compressed = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let brought = bring_layers(store, registry, source, &missing, most_unpacked(compressed), progress).await;
    if matches!(&brought, Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull) {
        // What fills the disk is not kept for another try.
        let (store, layers) = (store.clone(), missing.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        let removed =
            tokio::task::spawn_blocking(move || layers.iter().try_for_each(|id| store.remove_layer(id)));
        removed.await.map_err(std::io::Error::other).flatten()?;
    }
    brought?;
    let entry = Entry {
        tags: if name.digest.is_none() { vec![name.to_string()] } else { Vec::new() },
        digests: vec![name.with_digest(&digest)],
        size: compressed.saturating_add(bytes.len() as u64),
        layers: file.diff_ids,
        config: file.config,
        pulls: None,
    };
    Ok((manifest.config.digest, entry))
}

/// Downloads and unpacks layers, which together may unpack to `most` bytes.
async fn bring_layers(
    store: &Arc<Store>,
    registry: &Registry<'_>,
    source: &Source<'_>,
    missing: &[(&Descriptor, Digest)],
    mut most: u64,
    progress: Option<&ProgressFn>,
) -> Result<(), Error> {
    for (layer, diff_id) in missing.iter().copied() {
        // The same layer may come twice.
        if !store.has_layer(&diff_id) {
            let download = download(store, registry, layer, progress).await?;
            let _permit = source.unpacking.acquire().await;
            let store = store.clone();
            let unpacked = tokio::task::spawn_blocking(move || {
                let file = BufReader::with_capacity(1 << 16, store.read_scratch(&download)?);
                store.add_layer(file, most, &diff_id)
            });
            most = most.saturating_sub(unpacked.await.map_err(std::io::Error::other).flatten()?);
        }
    }
    Ok(())
}

/// The image's manifest, and the digest of what the name stands for (of the index, when there is one): the repo digest.
async fn manifest(name: &ImageName, registry: &Registry<'_>) -> Result<(Digest, ImageManifest), Error> {
    let reference = match (&name.digest, &name.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
    };
    let bytes = registry.manifest(&reference, MAX_MANIFEST).await?;
    let digest = Digest::of(&bytes);
    if let Some(wanted) = name.digest.filter(|wanted| *wanted != digest) {
        return Err(Error::Content(format!("manifest {wanted} has digest {digest}")));
    }
    let manifests = match Document::parse(&bytes).map_err(Error::Content)? {
        Document::Image(manifest) => return Ok((digest, manifest)),
        Document::Index(manifests) => manifests,
    };
    let chosen = choose(&manifests)
        .ok_or_else(|| Error::Content("no match for platform in manifest: not found".to_owned()))?;
    let bytes = registry.manifest(&chosen.digest.to_string(), MAX_MANIFEST).await?;
    let found = Digest::of(&bytes);
    if found != chosen.digest {
        return Err(Error::Content(format!("manifest {} has digest {found}", chosen.digest)));
    }
    match Document::parse(&bytes).map_err(Error::Content)? {
        Document::Image(manifest) => Ok((digest, manifest)),
        Document::Index(_) => Err(Error::Content("an index within an index".to_owned())),
    }
}

/// Gets a layer as it is, verified. It is hashed and written where that may block, while more of it comes.
async fn download(
    store: &Arc<Store>,
    registry: &Registry<'_>,
    layer: &Descriptor,
    progress: Option<&ProgressFn>,
) -> Result<Scratch, Error> {
    let (scratch, mut file) = store.scratch_file()?;
    let (pieces, mut received) = mpsc::channel::<Bytes>(PIECES);
    let written = tokio::task::spawn_blocking(move || {
        let mut hasher = Hasher::default();
        while let Some(piece) = received.blocking_recv() {
            hasher.update(&piece);
            file.write_all(&piece)?;
        }
        Ok::<Digest, std::io::Error>(hasher.finish())
    });
    let told = |done_bytes: u64| {
        if let Some(progress) = progress {
            progress(Progress { layer: layer.digest.to_string(), done_bytes, total_bytes: layer.size });
        }
    };
    let sent = registry.blob(layer, pieces, told).await;
    let found = written.await.map_err(std::io::Error::other).flatten()?;
    sent?;
    if found != layer.digest {
        return Err(Error::Content(format!("blob {} has digest {found}", layer.digest)));
    }
    Ok(scratch)
}

/// The registry's refusal in the words a user of upstream knows.
fn describe(name: &ImageName, error: &Error) -> ImageError {
    let image = name.to_string();
    let unpack = format!("failed to pull and unpack image {image:?}");
    let resolve = format!("{unpack}: failed to resolve reference {image:?}");
    ImageError::Pull(match error {
        Error::NotFound => format!("{resolve}: {image}: not found"),
        Error::Denied(why) => format!(
            "{resolve}: pull access denied, repository does not exist or may require authorization: {why}"
        ),
        Error::Request(_) | Error::Slow(_) | Error::Status(_) => format!("{resolve}: {error}"),
        Error::Content(why) => format!("{unpack}: {why}"),
        Error::Io(error) => format!("{unpack}: {}", with_causes(error)),
    })
}
