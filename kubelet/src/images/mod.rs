//! Images: pull, import, unpack, mount.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use crate::beneath;
use crate::cri::{ImageError, ImageInfo, RegistryCredential, with_causes};

mod access;
mod archive;
mod credentials;
mod digest;
mod entries;
mod garbage;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod manifest;
mod mirrors;
mod pull;
mod reference;
mod registry;
mod room;
mod store;
mod taken;
#[cfg(test)]
mod tests;
mod unpack;

use access::Decision;
pub use access::VerificationPolicy;
use digest::Digest;
use garbage::Ledger;
pub use garbage::{Collected, GarbagePolicy, Wanted};
pub(crate) use manifest::ImageConfig;
use reference::ImageName;
use store::Store;
use taken::Taken;

/// Layers that are unpacked at the same time.
const UNPACKING: usize = 4;

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
    /// Which images pods must have shown a registry's password for, when they are here already.
    pub verification: VerificationPolicy,
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

/// Pulls under way, by what is pulled with which passwords for whom.
type Pulls = Mutex<HashMap<[u8; 32], Arc<OnceCell<Result<ImageInfo, String>>>>>;

/// A part in a pull under way. The pull is forgotten when it has ended, or when nobody has a part in it any more.
struct Joined<'a> {
    pulls: &'a Pulls,
    key: [u8; 32],
    cell: Arc<OnceCell<Result<ImageInfo, String>>>,
}

impl<'a> Joined<'a> {
    fn new(pulls: &'a Pulls, key: [u8; 32]) -> Joined<'a> {
        let cell = pulls.lock().entry(key).or_default().clone();
        Joined { pulls, key, cell }
    }

    /// Who comes from now on begins a new pull.
    fn forget(&self) {
        let mut pulls = self.pulls.lock();
        if pulls.get(&self.key).is_some_and(|current| Arc::ptr_eq(current, &self.cell)) {
            pulls.remove(&self.key);
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut pulls = self.pulls.lock();
        // The other one is the table's.
        let last = Arc::strong_count(&self.cell) <= 2;
        if last && pulls.get(&self.key).is_some_and(|current| Arc::ptr_eq(current, &self.cell)) {
            pulls.remove(&self.key);
        }
    }
}

/// A cheap handle on the node's images.
#[derive(Clone)]
pub struct Images {
    config: Arc<ImagesConfig>,
    store: Arc<Store>,
    pulls: Arc<Pulls>,
    unpacking: Arc<Semaphore>,
    ledger: Arc<Mutex<Ledger>>,
    taken: Arc<Taken>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Images {
    pub async fn open(mut config: ImagesConfig) -> Result<Images, ImageError> {
        config.verification = config.verification.checked().map_err(ImageError::Unavailable)?;
        if let Some(registry) = config.plain_http.iter().find(|registry| !registry::is_loopback(registry)) {
            return Err(ImageError::Unavailable(format!(
                "plain HTTP is for registries on loopback, not {registry}"
            )));
        }
        let dir = config.dir.clone();
        let store = blocking(move || Store::open(&dir)).await?;
        Ok(Images {
            config: Arc::new(config),
            store: Arc::new(store),
            pulls: Arc::default(),
            unpacking: Arc::new(Semaphore::new(UNPACKING)),
            ledger: Arc::default(),
            taken: Arc::default(),
        })
    }

    /// Pulls an image, not for a pod: it counts as put there by the node's owner. Concurrent pulls of one reference are
    /// joined.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[RegistryCredential],
        progress: Option<ProgressFn>,
    ) -> Result<ImageInfo, ImageError> {
        self.pull_as(reference, credentials, progress, false).await
    }

    /// Pulls an image for a pod that has these credentials, and remembers which of them the registry was shown.
    pub(crate) async fn pull_for_pod(
        &self,
        reference: &str,
        credentials: &[RegistryCredential],
    ) -> Result<ImageInfo, ImageError> {
        self.pull_as(reference, credentials, None, true).await
    }

    async fn pull_as(
        &self,
        reference: &str,
        credentials: &[RegistryCredential],
        progress: Option<ProgressFn>,
        for_pod: bool,
    ) -> Result<ImageInfo, ImageError> {
        let name = ImageName::parse(reference)?;
        let hosts = self.hosts(&name)?;
        let mut key = Sha256::new();
        key.update([u8::from(for_pod)]);
        key.update(name.to_string());
        for credential in matching(&name, &hosts, credentials) {
            key.update(credentials::hash(credential));
        }
        let key: [u8; 32] = key.finalize().into();
        let joined = Joined::new(&self.pulls, key);
        let source = pull::Source { hosts, credentials, unpacking: &self.unpacking };
        let result = joined
            .cell
            .get_or_init(|| async {
                let pulled = pull::pull(&self.store, &name, &source, progress.as_ref())
                    .await
                    .map_err(|error| error.to_string())?;
                let shown = for_pod.then(|| (name.name(), access::shown(pulled.credential)));
                let (store, id, entry) = (self.store.clone(), pulled.id, pulled.entry);
                self.ledger.lock().touch(id, Instant::now());
                let added = blocking(move || {
                    store.add(&id, entry, shown.as_ref().map(|(name, shown)| (name.as_str(), shown.clone())))
                });
                added.await.map_err(|error| format!("{name}: {error}"))
            })
            .await
            .clone();
        joined.forget();
        result.map_err(ImageError::Pull)
    }

    /// Where an image may be asked for, the registry itself last.
    fn hosts(&self, name: &ImageName) -> Result<Vec<mirrors::Host>, ImageError> {
        let mirrors = match &self.config.mirrors_file {
            Some(file) => mirrors::Mirrors::load(file)
                .map_err(|error| ImageError::Pull(format!("{}: {error}", file.display())))?,
            None => mirrors::Mirrors::default(),
        };
        Ok(mirrors.hosts(&name.registry, &self.config.plain_http))
    }

    /// Whether a pod may use an image that is here without asking the registry. `credentials` are asked for where the
    /// pod's own decide. `false`: pull it, so that the registry decides.
    pub(crate) async fn may_use(
        &self,
        image: &ImageInfo,
        reference: &str,
        credentials: impl AsyncFnOnce() -> Vec<RegistryCredential>,
    ) -> Result<bool, ImageError> {
        let name = ImageName::parse(reference)?;
        let Ok(id) = image.id.parse::<Digest>() else { return Ok(false) };
        let repository = name.name();
        let policy = &self.config.verification;
        let decision =
            self.store.look(&id, |entry| access::decide(policy, entry.pulls.as_ref(), &repository));
        match decision {
            None | Some(Decision::Pull) => return Ok(false),
            Some(Decision::Use) => return Ok(self.used(id)),
            Some(Decision::Ask) => {}
        }
        let (credentials, hosts) = (credentials().await, self.hosts(&name)?);
        let have = matching(&name, &hosts, &credentials);
        let known = self.store.look(&id, |entry| access::knows(entry.pulls.as_ref()?, &repository, &have));
        let Some(new) = known.flatten() else { return Ok(false) };
        if let Some(new) = new {
            let store = self.store.clone();
            blocking(move || store.show(&id, &repository, new)).await?;
        }
        Ok(self.used(id))
    }

    /// A pod is about to use it: it is not garbage now.
    fn used(&self, id: Digest) -> bool {
        self.ledger.lock().touch(id, Instant::now());
        true
    }

    /// The image a reference (`nginx`, `nginx@sha256:...`, `sha256:<id>`) stands for, when it is here.
    pub fn get(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        if let Ok(id) = reference.parse() {
            return Ok(self.store.look(&id, |entry| entry.info(&id)));
        }
        let name = ImageName::parse(reference)?.to_string();
        Ok(self.store.find(|_, entry| entry.tags.contains(&name) || entry.digests.contains(&name)))
    }

    pub fn list(&self) -> Vec<ImageInfo> {
        self.store.list()
    }

    /// Removes a tag or, by id, the image with all its tags. What is not here is removed already.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let Some(id) = self.get(reference)?.and_then(|image| image.id.parse::<Digest>().ok()) else {
            return Ok(());
        };
        let store = self.store.clone();
        let by_id = reference.parse::<Digest>().is_ok();
        let name = if by_id { None } else { Some(ImageName::parse(reference)?.to_string()) };
        blocking(move || match name {
            Some(name) => store.untag(&id, &name),
            None => store.remove(&id),
        })
        .await
    }

    /// Imports a docker-archive or OCI-layout tar; `name` names its images instead of the archive.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<ImageInfo>, ImageError> {
        let (store, archive, name) = (self.store.clone(), archive.to_owned(), name.map(str::to_owned));
        blocking(move || archive::import(&store, &archive, name.as_deref())).await
    }

    /// Removes images until `wanted` is reached, those first that were not used for the longest time. None that is in use,
    /// or was found or used within the policy's least age; none at all while others have the store open.
    pub async fn collect_garbage(
        &self,
        in_use: &HashSet<String>,
        wanted: Wanted,
        policy: &GarbagePolicy,
    ) -> Result<Collected, ImageError> {
        let store = self.store.clone();
        if blocking(move || store.is_shared()).await? {
            tracing::debug!("unused images stay: another process has them open");
            return Ok(Collected::default());
        }
        let now = Instant::now();
        let in_use: HashSet<Digest> = in_use.iter().filter_map(|id| id.parse().ok()).collect();
        let images = self.list().into_iter().filter_map(|i| Some((i.id.parse().ok()?, i.size_bytes)));
        let unused = {
            let mut ledger = self.ledger.lock();
            ledger.look(now, images, &in_use);
            ledger.in_order(&in_use)
        };
        let mut collected = Collected::default();
        for image in unused {
            if !wanted.takes(&image, collected.bytes, now, policy) {
                continue;
            }
            let (store, id) = (self.store.clone(), image.id);
            blocking(move || store.remove(&id)).await?;
            tracing::info!(%id, bytes = image.bytes, "removed an unused image");
            collected.images += 1;
            collected.bytes = collected.bytes.saturating_add(image.bytes);
        }
        let store = self.store.clone();
        blocking(move || store.tidy()).await?;
        Ok(collected)
    }

    /// Notes which images there are and which of them are used, so that the next collection knows their ages.
    pub fn note_use(&self, in_use: &HashSet<String>) {
        let in_use: HashSet<Digest> = in_use.iter().filter_map(|id| id.parse().ok()).collect();
        let images = self.list().into_iter().filter_map(|i| Some((i.id.parse().ok()?, i.size_bytes)));
        self.ledger.lock().look(Instant::now(), images, &in_use);
    }

    /// What the images' files take of the disk; `None` while that is being found out for somebody else.
    pub(crate) async fn taken(&self) -> Option<beneath::Usage> {
        self.taken.all(self.store.clone()).await
    }

    /// The image's configuration.
    pub(crate) fn config(&self, id: &str) -> Option<ImageConfig> {
        self.store.look(&id.parse().ok()?, |entry| entry.config.clone())
    }

    /// The layer directories for overlayfs, newest first.
    pub(crate) fn layers(&self, id: &str) -> Option<Vec<PathBuf>> {
        let layers = self.store.look(&id.parse().ok()?, |entry| entry.layers.clone())?;
        Some(layers.iter().rev().map(|layer| self.store.layer_dir(layer)).collect())
    }
}

/// The credentials for an image at any of the hosts that may be asked for it.
fn matching<'a>(
    name: &ImageName,
    hosts: &[mirrors::Host],
    all: &'a [RegistryCredential],
) -> Vec<&'a RegistryCredential> {
    let at = |host: &mirrors::Host| ImageName { registry: host.address.clone(), ..name.clone() };
    hosts.iter().flat_map(|host| credentials::matching(&at(host), all)).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| ImageError::Pull(with_causes(&error))),
        Err(error) => Err(ImageError::Pull(error.to_string())),
    }
}
