//! One launch: the image, the environment, the mounts, then the container.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, VolumeMount};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    env::{self, EnvSources, PodFacts},
    env_file, expansion,
    node_context::NodeContext,
    places::Places,
    pull::ensure_image,
    recorder::{container_reference, pod_reference},
    resources, security, set_up,
    view::{Role, Waiting, find_container, name_of, namespace_of, spec_of, uid_of},
};
use crate::{
    beneath::{Access, Dir, Links, off_workers},
    cri::{ContainerError, ContainerSpec, ImageInfo, Mount, Propagation},
    volumes::{Paths, Place, image as image_volume, subpath},
};

/// What a launch needs to know of its pod.
#[derive(Clone)]
pub(crate) struct LaunchInputs {
    pub(crate) pod: Arc<Pod>,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attempt: u32,
    pub(crate) facts: PodFacts,
    pub(crate) volumes: Paths,
    pub(crate) hostname: String,
    pub(crate) wake: Arc<Notify>,
    /// The pod shall end: do not wait for an image.
    pub(crate) stop: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) id: String,
    pub(crate) image_ref: String,
}

pub(crate) async fn launch(node: &NodeContext, l: &LaunchInputs) -> Result<Launched, Waiting> {
    let (_, c) = find_container(spec_of(&l.pod), &l.name)
        .ok_or_else(|| failed("CreateContainerError", "container not found in the pod"))?;
    let list = match l.role {
        Role::Init | Role::Sidecar => "initContainers",
        Role::Main => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    let about = container_reference(&l.pod, list, &l.name);
    let ending = || failed("ContainerCreating", "");
    let image = l
        .stop
        .run_until_cancelled(container_image(node, l, &c, &about))
        .await
        .unwrap_or_else(|| Err(ending()))?;
    let told = |why: Waiting| {
        let message = if why.message.is_empty() { &why.reason } else { &why.message };
        node.recorder.warning(about.clone(), "Failed", format!("Error: {message}"));
        why
    };
    let mounted = l.stop.run_until_cancelled(image_volumes(node, l, &c)).await;
    let images = mounted.ok_or_else(ending)?.map_err(told)?;
    let spec = l.stop.run_until_cancelled(container_spec(node, l, &c, &image, &images)).await;
    let spec = spec.ok_or_else(ending)?.map_err(|error| {
        node.recorder.warning(about.clone(), "Failed", format!("Error: {error}"));
        failed(error.reason(), error.to_string())
    })?;
    let refuse = |error: ContainerError| {
        let reason = match &error {
            ContainerError::Config(_) => "CreateContainerConfigError",
            ContainerError::Create(_) => "CreateContainerError",
            ContainerError::Start(_) => "RunContainerError",
        };
        node.recorder.warning(about.clone(), "Failed", format!("Error: {error}"));
        failed(reason, error.to_string())
    };
    let id = node.runtime.create_container(&spec).await.map_err(refuse)?;
    node.recorder.normal(about.clone(), "Created", "Container created");
    node.runtime.start_container(&id).await.map_err(refuse)?;
    node.recorder.normal(about.clone(), "Started", "Container started");
    Ok(Launched { id, image_ref: image.digests.first().cloned().unwrap_or(image.id) })
}

/// Why a container cannot be described to the runtime.
#[derive(Debug, thiserror::Error)]
enum SpecError {
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Image(image_volume::SubPathError),
}

// === impl SpecError ===

impl SpecError {
    /// Of the container that waits.
    fn reason(&self) -> &'static str {
        match self {
            SpecError::Image(image_volume::SubPathError::Absent { .. }) => "CreateContainerError",
            SpecError::Config(_) | SpecError::Image(_) => "CreateContainerConfigError",
        }
    }
}

impl From<String> for SpecError {
    fn from(why: String) -> Self {
        SpecError::Config(why)
    }
}

impl From<image_volume::SubPathError> for SpecError {
    fn from(error: image_volume::SubPathError) -> Self {
        SpecError::Image(error)
    }
}

fn failed(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into(), image: None }
}

async fn container_image(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    about: &ObjectReference,
) -> Result<ImageInfo, Waiting> {
    let image = c.image.as_deref().unwrap_or_default();
    ensure_image(node, l, image, c.image_pull_policy.as_deref(), about).await
}

/// Where the volumes that are images are, for this container: each container has its own, with its own pull.
async fn image_volumes(node: &NodeContext, l: &LaunchInputs, c: &Container) -> Result<Paths, Waiting> {
    let mut paths = Paths::new();
    let users = node.runtime.users_of(uid_of(&l.pod));
    for volume in spec_of(&l.pod).volumes.iter().flatten() {
        let used = c.volume_mounts.iter().flatten().any(|m| m.name == volume.name);
        let Some(source) = volume.image.as_ref().filter(|_| used) else { continue };
        let reference = source.reference.as_deref().unwrap_or_default();
        let about = pod_reference(&l.pod);
        let image = ensure_image(node, l, reference, source.pull_policy.as_deref(), &about).await?;
        let failed = |error: String| {
            failed("CreateContainerError", format!("{}: {reference:?}: {error}", image_volume::MOUNT_FAILED))
        };
        let places = node.places(&l.pod).map_err(|error| failed(error.to_string()))?;
        let mounted =
            image_volume::mount(&node.images, &image.id, &places, &c.name, &volume.name, users.clone());
        paths.insert(volume.name.clone(), Place { path: mounted.await.map_err(failed)?, readonly: true });
    }
    Ok(paths)
}

async fn container_spec(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    image: &ImageInfo,
    images: &Paths,
) -> Result<ContainerSpec, SpecError> {
    let pod = &l.pod;
    let env = environment(node, l, c).await?;
    let index: HashMap<String, String> = env.iter().cloned().collect();
    let mut room = expansion::MOST;
    let mut expand = |list: &Option<Vec<String>>| {
        let all = list.iter().flatten().map(|a| expansion::expand(a, &index, &mut room));
        all.collect::<Result<Vec<_>, _>>()
    };
    let (command, args) = (expand(&c.command)?, expand(&c.args)?);
    let resources = resources::container_resources(pod, c, node.capacity.memory);
    let security = security::security(spec_of(pod), c);
    let places = node.places(pod).map_err(|e| e.to_string())?;
    let log_path = places.log(&c.name, l.attempt).map_err(|e| e.to_string())?;
    let mounts = {
        let wanted = MountsWanted {
            places,
            inputs: l.clone(),
            container: c.clone(),
            env: index.clone(),
            images: images.clone(),
            readonly_rootfs: security.readonly_rootfs,
        };
        off_workers(move || Ok(wanted.make()))
    };
    Ok(ContainerSpec {
        pod_uid: uid_of(pod).to_owned(),
        pod_namespace: namespace_of(pod).to_owned(),
        pod_name: name_of(pod).to_owned(),
        name: c.name.clone(),
        attempt: l.attempt,
        init: l.role == Role::Init,
        target: target(node, pod, &l.name)?,
        image_id: image.id.clone(),
        image: c.image.clone().unwrap_or_default(),
        command,
        args,
        mounts: mounts.await.map_err(|e| e.to_string())??,
        env,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        tty: c.tty.unwrap_or(false),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        security,
        resources,
        log_root: node.config.log_dir.clone(),
        log_path,
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        hostname: l.hostname.clone(),
    })
}

/// The container that an ephemeral one aims at, with its id.
fn target(node: &NodeContext, pod: &Pod, name: &str) -> Result<Option<String>, String> {
    let ephemeral = spec_of(pod).ephemeral_containers.iter().flatten().find(|c| c.name == name);
    let target = ephemeral.and_then(|c| c.target_container_name.as_deref()).filter(|t| !t.is_empty());
    let Some(target) = target else { return Ok(None) };
    let containers = node.runtime.containers_of(uid_of(pod)).into_iter().filter(|c| c.name == target);
    match containers.max_by_key(|c| c.attempt) {
        Some(found) => Ok(Some(found.id)),
        None => Err(format!("unable to find target container {target}")),
    }
}

async fn environment(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
) -> Result<Vec<(String, String)>, String> {
    let (mut maps, mut secrets) = (HashMap::new(), HashMap::new());
    let from = || c.env.iter().flatten().filter_map(|e| e.value_from.as_ref());
    let whole = || c.env_from.iter().flatten();
    let names = from().filter_map(|f| f.config_map_key_ref.as_ref().map(|r| r.name.clone()));
    for name in names.chain(whole().filter_map(|f| f.config_map_ref.as_ref().map(|r| r.name.clone()))) {
        if let Some(map) = node.sources.config_map(namespace_of(&l.pod), &name, &l.wake).await? {
            maps.insert(name, map);
        }
    }
    let names = from().filter_map(|f| f.secret_key_ref.as_ref().map(|r| r.name.clone()));
    for name in names.chain(whole().filter_map(|f| f.secret_ref.as_ref().map(|r| r.name.clone()))) {
        if let Some(secret) = node.sources.secret(namespace_of(&l.pod), &name, &l.wake).await? {
            secrets.insert(name, secret);
        }
    }
    let files = env_files(l, c).await;
    let file = |volume: &str, path: &str| {
        files.get(&(volume.to_owned(), path.to_owned())).cloned().unwrap_or_else(|| Err(String::new()))
    };
    let sources = EnvSources {
        config_map: &|name| maps.get(name).cloned(),
        secret: &|name| secrets.get(name).cloned(),
        services: &node.services.state(),
        file: &file,
        facts: &l.facts,
    };
    env::environment(&l.pod, c, &sources)
}

/// The texts that `fileKeyRef`s of the container name, by volume and path.
async fn env_files(l: &LaunchInputs, c: &Container) -> HashMap<(String, String), Result<Arc<str>, String>> {
    let mut out = HashMap::new();
    let from = c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref());
    for r in from {
        let key = (r.volume_name.clone(), r.path.clone());
        if out.contains_key(&key) {
            continue;
        }
        let is_own =
            |v: &k8s_openapi::api::core::v1::Volume| v.name == r.volume_name && v.empty_dir.is_some();
        let own = spec_of(&l.pod).volumes.iter().flatten().any(is_own);
        let text = match l.volumes.get(&r.volume_name).filter(|_| own) {
            None => Err(format!("cannot find the volume {:?} referenced by FileKeyRef", r.volume_name)),
            Some(place) => {
                let (root, path) = (place.path.clone(), r.path.clone());
                let read = off_workers(move || env_file::read(&Dir::open(root)?, &path)).await;
                read.map_err(|error| {
                    tracing::warn!(%error, pod = name_of(&l.pod), path = r.path, "environment file not read");
                    env_file::UNREADABLE.to_owned()
                })
            }
        };
        out.insert(key, text);
    }
    out
}

/// What the mounts of one container are made from.
struct MountsWanted {
    places: Places,
    inputs: LaunchInputs,
    container: Container,
    /// For `subPathExpr`.
    env: HashMap<String, String>,
    images: Paths,
    readonly_rootfs: bool,
}

// === impl MountsWanted ===

impl MountsWanted {
    /// Makes what is mounted, and says where. Blocks.
    fn make(&self) -> Result<Vec<Mount>, SpecError> {
        let c = &self.container;
        let mut out = Vec::new();
        for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
            out.push(self.volume_mount(index, m)?);
        }
        let taken = |out: &[Mount], path: &str| out.iter().any(|m| m.container_path == *path);
        for (name, path) in set_up::FILES {
            if !taken(&out, path) {
                // As upstream: its runtimes' own files follow the root file system, its kubelet's hosts file does not.
                let readonly = self.readonly_rootfs && path != "/etc/hosts";
                out.push(file(self.places.dir().join(name), path, readonly));
            }
        }
        let message = self.message_file().map_err(|e| e.to_string())?;
        let path = c.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        out.push(file(message, path, false));
        Ok(out)
    }

    fn volume_mount(&self, index: usize, m: &VolumeMount) -> Result<Mount, SpecError> {
        let image = self.images.get(&m.name);
        let base = image.or_else(|| self.inputs.volumes.get(&m.name));
        let base = base.ok_or_else(|| format!("volume {:?} is not mounted", m.name))?;
        let sub = match (&m.sub_path_expr, &m.sub_path) {
            (Some(expr), _) if !expr.is_empty() => expansion::expand_strict(expr, &self.env)?,
            (_, Some(sub)) => sub.clone(),
            _ => String::new(),
        };
        let readonly = base.readonly || m.read_only.unwrap_or(false);
        let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let propagation = match m.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        };
        let host_path = match sub.as_str() {
            "" => base.path.clone(),
            sub if image.is_some() => image_volume::within(&base.path, sub)?,
            sub => {
                let (volume, root) = (&*m.name, &*base.path);
                let wanted = subpath::Wanted { volume, root, sub, container: &self.container.name, index };
                subpath::bind(&self.places, &wanted)?
            }
        };
        Ok(Mount {
            host_path,
            container_path: PathBuf::from("/").join(&m.mount_path),
            readonly,
            recursive_readonly: readonly && recursive,
            propagation,
            mapped: image.is_some(),
        })
    }

    /// An empty file that any user of the container may write to.
    fn message_file(&self) -> io::Result<PathBuf> {
        let (above, name) = Places::message(&self.container.name, self.inputs.attempt)?;
        let dir = self.places.open()?.make_dirs(&above, Links::Refused, 0o750)?;
        dir.write(&name, b"", Access::mode(0o666))?;
        Ok(self.places.dir().join(above).join(name))
    }
}

fn file(host_path: PathBuf, path: &str, readonly: bool) -> Mount {
    Mount {
        host_path,
        container_path: Path::new(path).to_owned(),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::None,
        mapped: false,
    }
}

#[cfg(test)]
mod tests;
