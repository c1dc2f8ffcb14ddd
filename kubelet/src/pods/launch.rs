//! One launch: the image, the environment, the mounts, then the container.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    env::{self, EnvSources, PodFacts},
    expansion,
    node_context::NodeContext,
    pull::ensure_image,
    recorder::{container_reference, pod_reference},
    resources, security,
    view::{Role, Waiting, find_container, name_of, namespace_of, spec_of, uid_of},
};
use crate::{
    cri::{ContainerError, ContainerSpec, ImageInfo, Mount, Propagation},
    volumes::{Paths, image as image_volume, subpath},
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
    let spec = spec.ok_or_else(ending)?.map_err(|message| {
        node.recorder.warning(about.clone(), "Failed", format!("Error: {message}"));
        let runtime = message.starts_with(image_volume::MOUNT_FAILED);
        failed(if runtime { "CreateContainerError" } else { "CreateContainerConfigError" }, message)
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
    for volume in spec_of(&l.pod).volumes.iter().flatten() {
        let used = c.volume_mounts.iter().flatten().any(|m| m.name == volume.name);
        let Some(source) = volume.image.as_ref().filter(|_| used) else { continue };
        let reference = source.reference.as_deref().unwrap_or_default();
        let about = pod_reference(&l.pod);
        let image = ensure_image(node, l, reference, source.pull_policy.as_deref(), &about).await?;
        let target = node.pod_dir(&l.pod).join("volumes/image").join(&c.name).join(&volume.name);
        let mounted = image_volume::mount(&node.images, &image.id, &target).await;
        let path = mounted.map_err(|error| {
            failed("CreateContainerError", format!("{}: {reference:?}: {error}", image_volume::MOUNT_FAILED))
        })?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

async fn container_spec(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    image: &ImageInfo,
    images: &Paths,
) -> Result<ContainerSpec, String> {
    let pod = &l.pod;
    let env = environment(node, l, c).await?;
    let index: HashMap<String, String> = env.iter().cloned().collect();
    let expand = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|a| expansion::expand(a, &index)).collect::<Vec<_>>()
    };
    let resources = resources::container_resources(spec_of(pod), c, node.capacity.memory);
    let log_dir = node.pod_log_dir(pod).join(&c.name);
    fs::create_dir_all(&log_dir).map_err(|e| e.to_string())?;
    Ok(ContainerSpec {
        pod_uid: uid_of(pod).to_owned(),
        pod_namespace: namespace_of(pod).to_owned(),
        pod_name: name_of(pod).to_owned(),
        name: c.name.clone(),
        attempt: l.attempt,
        init: l.role == Role::Init,
        image_id: image.id.clone(),
        image: c.image.clone().unwrap_or_default(),
        command: expand(&c.command),
        args: expand(&c.args),
        mounts: mounts(node, l, c, &index, images)?,
        env,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        tty: c.tty.unwrap_or(false),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        security: security::security(spec_of(pod), c),
        resources,
        log_path: log_dir.join(format!("{}.log", l.attempt)),
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        hostname: l.hostname.clone(),
    })
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
    let file = |volume: &str, path: &str| fs::read_to_string(l.volumes.get(volume)?.join(path)).ok();
    let sources = EnvSources {
        config_map: &|name| maps.get(name).cloned(),
        secret: &|name| secrets.get(name).cloned(),
        services: &node.services.state(),
        file: &file,
        facts: &l.facts,
    };
    env::environment(&l.pod, c, &sources)
}

fn mounts(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    env: &HashMap<String, String>,
    images: &Paths,
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
        let image = images.get(&m.name);
        let base = image.or_else(|| l.volumes.get(&m.name));
        let base = base.ok_or_else(|| format!("volume {:?} is not mounted", m.name))?;
        let sub = match (&m.sub_path_expr, &m.sub_path) {
            (Some(expr), _) if !expr.is_empty() => expansion::expand_strict(expr, env)?,
            (_, Some(sub)) => sub.clone(),
            _ => String::new(),
        };
        let readonly = image.is_some() || m.read_only.unwrap_or(false);
        let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let propagation = match m.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        };
        let host_path = match sub.as_str() {
            "" => base.clone(),
            sub if image.is_some() => image_volume::within(base, sub)?,
            sub => subpath::bind(&node.pod_dir(&l.pod), (&m.name, base), sub, &c.name, index)?,
        };
        out.push(Mount {
            host_path,
            container_path: PathBuf::from("/").join(&m.mount_path),
            readonly,
            recursive_readonly: readonly && recursive,
            propagation,
        });
    }
    let file = |host_path: PathBuf, path: &str| Mount {
        host_path,
        container_path: path.into(),
        readonly: false,
        recursive_readonly: false,
        propagation: Propagation::None,
    };
    let taken = |out: &[Mount], path: &str| out.iter().any(|m| m.container_path == *path);
    let dir = node.pod_dir(&l.pod);
    for (name, path) in [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")] {
        if !taken(&out, path) {
            out.push(file(dir.join(name), path));
        }
    }
    let message = node.message_file(&l.pod, &c.name, l.attempt);
    fs::create_dir_all(message.parent().expect("a file below the pod's directory"))
        .map_err(|e| e.to_string())?;
    fs::write(&message, "").map_err(|e| e.to_string())?;
    fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .map_err(|e| e.to_string())?;
    out.push(file(message, c.termination_message_path.as_deref().unwrap_or("/dev/termination-log")));
    Ok(out)
}
