//! Images: pull, import, unpack, mount.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::cri::{ImageError, ImageInfo, RegistryCredential, with_causes};

mod archive;
mod mirrors;
mod pull;
mod reference;
mod store;
mod unpack;

use reference::{ImageName, is_digest};
pub(crate) use store::ImageConfig;
use store::Store;

/// Where images are kept and from where they may come.
#[derive(Clone, Debug, Default)]
pub struct ImagesConfig {
    /// Index and unpacked layers: `/var/lib/coracle/images`.
    pub dir: PathBuf,
    /// Which hosts to ask before a registry: YAML, `mirrors: {docker.io: ["https://mirror.example.com"]}`; missing
    /// means none.
    pub mirrors_file: Option<PathBuf>,
    /// Registries spoken to in plain HTTP: `127.0.0.1:5000`. Only loopback addresses are accepted.
    pub plain_http: Vec<String>,
}

/// How far a pull has come; for progress bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Digest of the layer.
    pub layer: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// A callback that is told about progress; must not block.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// Pulls under way: reference and user name decide whether two are the same.
type Pulls = Mutex<HashMap<(String, String), Arc<OnceCell<Result<ImageInfo, String>>>>>;

/// A cheap handle on the node's images.
#[derive(Clone)]
pub struct Images {
    config: Arc<ImagesConfig>,
    store: Arc<Store>,
    pulls: Arc<Pulls>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Images {
    pub async fn open(config: ImagesConfig) -> Result<Images, ImageError> {
        if let Some(registry) = config.plain_http.iter().find(|registry| !pull::is_loopback(registry)) {
            return Err(ImageError::Unavailable(format!(
                "plain HTTP is for registries on loopback, not {registry}"
            )));
        }
        let dir = config.dir.clone();
        let store = blocking(move || Store::open(&dir)).await?;
        Ok(Images { config: Arc::new(config), store: Arc::new(store), pulls: Arc::default() })
    }

    /// Pulls an image; concurrent pulls of one reference are joined.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[RegistryCredential],
        progress: Option<ProgressFn>,
    ) -> Result<ImageInfo, ImageError> {
        let name = ImageName::parse(reference)?;
        let credential = pull::credential(&name, credentials);
        let key = (
            name.to_string(),
            credential.map(|c| format!("{}:{}", c.username, c.password)).unwrap_or_default(),
        );
        let cell = self.pulls.lock().entry(key.clone()).or_default().clone();
        let result = cell
            .get_or_init(|| async {
                let hosts = match &self.config.mirrors_file {
                    Some(file) => mirrors::Mirrors::load(file)
                        .map_err(|error| format!("{}: {error}", file.display()))?,
                    None => mirrors::Mirrors::default(),
                }
                .hosts(&name.registry, &self.config.plain_http);
                let source = pull::Source { hosts, credentials };
                pull::pull(&self.store, &name, &source, progress.as_ref())
                    .await
                    .map_err(|error| error.to_string())
            })
            .await
            .clone();
        let mut pulls = self.pulls.lock();
        if pulls.get(&key).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            pulls.remove(&key);
        }
        result.map_err(ImageError::Pull)
    }

    /// The image a reference (`nginx`, `nginx@sha256:...`, `sha256:<id>`) stands for, when it is here.
    pub fn get(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        if is_digest(reference) {
            return Ok(self.store.entry(reference).map(|entry| entry.info(reference)));
        }
        let name = ImageName::parse(reference)?.to_string();
        Ok(self.store.find(|_, entry| entry.tags.contains(&name) || entry.digests.contains(&name)))
    }

    pub fn list(&self) -> Vec<ImageInfo> {
        self.store.list()
    }

    /// Removes a tag or, by id, the image with all its tags. What is not here is removed already.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let Some(image) = self.get(reference)? else { return Ok(()) };
        let store = self.store.clone();
        let name = if is_digest(reference) { None } else { Some(ImageName::parse(reference)?.to_string()) };
        blocking(move || match name {
            Some(name) => store.untag(&image.id, &name),
            None => store.remove(&image.id),
        })
        .await
    }

    /// Imports a docker-archive or OCI-layout tar; `name` names its images instead of the archive.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<ImageInfo>, ImageError> {
        let (store, archive, name) = (self.store.clone(), archive.to_owned(), name.map(str::to_owned));
        blocking(move || archive::import(&store, &archive, name.as_deref())).await
    }

    /// Removes images, unused ones only and the largest first, until `bytes` are free. Returns how many bytes went.
    pub async fn collect_garbage(&self, in_use: &HashSet<String>, bytes: u64) -> Result<u64, ImageError> {
        let mut unused: Vec<ImageInfo> =
            self.list().into_iter().filter(|image| !in_use.contains(&image.id)).collect();
        unused.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        let mut freed = 0;
        for image in unused {
            if freed >= bytes {
                break;
            }
            self.remove(&image.id).await?;
            freed += image.size_bytes;
        }
        Ok(freed)
    }

    /// The image's configuration.
    pub(crate) fn config(&self, id: &str) -> Option<ImageConfig> {
        self.store.entry(id).map(|entry| entry.config)
    }

    /// The layer directories for overlayfs, newest first.
    pub(crate) fn layers(&self, id: &str) -> Option<Vec<PathBuf>> {
        let entry = self.store.entry(id)?;
        Some(entry.layers.iter().rev().map(|layer| self.store.layer_dir(layer)).collect())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| ImageError::Pull(with_causes(&error))),
        Err(error) => Err(ImageError::Pull(error.to_string())),
    }
}
