//! Images: pull, import, unpack, mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cri::{ImageError, ImageInfo, RegistryCredential};

/// Where images are kept and from where they may come.
#[derive(Clone, Debug, Default)]
pub struct ImagesConfig {
    /// Content store and unpacked layers: `/var/lib/coracle/images`.
    pub dir: PathBuf,
    /// A mirrors file (see `mirrors`); missing means none.
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

/// A cheap handle on the node's images.
#[derive(Clone, Debug)]
pub struct Images {
    config: Arc<ImagesConfig>,
}

impl Images {
    pub async fn open(config: ImagesConfig) -> Result<Images, ImageError> {
        Ok(Images { config: Arc::new(config) })
    }

    /// Pulls an image; concurrent pulls of one reference are joined.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[RegistryCredential],
        progress: Option<ProgressFn>,
    ) -> Result<ImageInfo, ImageError> {
        let _ = (credentials, progress);
        Err(ImageError::Pull(format!("{reference} {:?}", self.config.dir)))
    }

    /// The image a reference (`nginx`, `nginx@sha256:...`, `sha256:<id>`) stands for, when it is here.
    pub fn get(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        Err(ImageError::InvalidName(reference.to_owned()))
    }

    pub fn list(&self) -> Vec<ImageInfo> {
        Vec::new()
    }

    /// Removes a tag or, by id, the image with all its tags.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        Err(ImageError::InvalidName(reference.to_owned()))
    }

    /// Imports a docker-archive or OCI-layout tar; `name` names an image that has none in the archive.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<ImageInfo>, ImageError> {
        Err(ImageError::Pull(format!("{archive:?} {name:?}")))
    }
}
