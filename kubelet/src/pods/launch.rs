//! One launch: the image, the environment, the mounts, then the container.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    env::{self, EnvSources, PodFacts},
    node_context::NodeContext,
    recorder::container_reference,
    resources, security,
    view::{Role, Waiting, find_container, name_of, namespace_of, spec_of, uid_of},
};
use crate::{
    cri::{ContainerError, ContainerSpec, ImageError, ImageInfo, Mount, Propagation, RegistryCredential},
    volumes::{Paths, subpath},
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
        .run_until_cancelled(ensure_image(node, l, &c, &about))
        .await
        .unwrap_or_else(|| Err(ending()))?;
    let spec = l.stop.run_until_cancelled(container_spec(node, l, &c, &image)).await;
    let spec = spec.ok_or_else(ending)?.map_err(|message| {
        node.recorder.warning(about.clone(), "Failed", format!("Error: {message}"));
        failed("CreateContainerConfigError", message)
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
    Waiting { reason: reason.to_owned(), message: message.into() }
}

async fn ensure_image(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    about: &k8s_openapi::api::core::v1::ObjectReference,
) -> Result<ImageInfo, Waiting> {
    let image = c.image.clone().unwrap_or_default();
    let invalid = |e: ImageError| {
        failed("InvalidImageName", format!("Failed to apply default image tag {image:?}: {e}"))
    };
    let present = node.images.get(&image).map_err(invalid)?;
    let policy = c.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (policy, present) {
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            node.recorder.warning(about.clone(), "ErrImageNeverPull", message.clone());
            Err(failed("ErrImageNeverPull", message))
        }
        ("Never" | "IfNotPresent", Some(info)) => {
            node.recorder.normal(
                about.clone(),
                "Pulled",
                format!("Container image {image:?} already present on machine"),
            );
            Ok(info)
        }
        _ => pull(node, l, &image, about).await,
    }
}

async fn pull(
    node: &NodeContext,
    l: &LaunchInputs,
    image: &str,
    about: &k8s_openapi::api::core::v1::ObjectReference,
) -> Result<ImageInfo, Waiting> {
    node.recorder.normal(about.clone(), "Pulling", format!("Pulling image {image:?}"));
    let begun = std::time::Instant::now();
    let credentials = credentials(node, l).await;
    match node.images.pull(image, &credentials, None).await {
        Ok(info) => {
            let ms = begun.elapsed().as_millis();
            let took = if ms < 1000 { format!("{ms}ms") } else { format!("{}.{:03}s", ms / 1000, ms % 1000) };
            let message = format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
                info.size_bytes
            );
            node.recorder.normal(about.clone(), "Pulled", message);
            Ok(info)
        }
        Err(error) => {
            node.recorder.warning(
                about.clone(),
                "Failed",
                format!("Failed to pull image {image:?}: {error}"),
            );
            let reason = match error {
                ImageError::InvalidName(_) => "InvalidImageName",
                ImageError::Unavailable(_) => "RegistryUnavailable",
                ImageError::Pull(_) => "ErrImagePull",
            };
            node.recorder.warning(about.clone(), "Failed", format!("Error: {reason}"));
            Err(failed(reason, error.to_string()))
        }
    }
}

async fn credentials(node: &NodeContext, l: &LaunchInputs) -> Vec<RegistryCredential> {
    let mut out = Vec::new();
    for r in spec_of(&l.pod).image_pull_secrets.iter().flatten() {
        if let Ok(Some(secret)) = node.sources.secret(namespace_of(&l.pod), &r.name, &l.wake).await {
            out.extend(parse_credentials(&secret));
        }
    }
    out
}

fn parse_credentials(secret: &Secret) -> Vec<RegistryCredential> {
    use base64::Engine as _;
    let data = secret.data.as_ref();
    let parse = |key: &str| serde_json::from_slice::<serde_json::Value>(&data?.get(key)?.0).ok();
    let auths =
        parse(".dockerconfigjson").and_then(|v| v.get("auths").cloned()).or_else(|| parse(".dockercfg"));
    let entry = |(registry, v): (&String, &serde_json::Value)| {
        let text = |key: &str| v.get(key).and_then(|s| s.as_str()).map(str::to_owned);
        let decoded = text("auth")
            .and_then(|a| base64::engine::general_purpose::STANDARD.decode(a).ok())
            .and_then(|b| String::from_utf8(b).ok());
        let (username, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => (text("username")?, text("password")?),
        };
        Some(RegistryCredential { registry: registry.clone(), username, password })
    };
    auths.as_ref().and_then(|a| a.as_object()).into_iter().flatten().filter_map(entry).collect()
}

async fn container_spec(
    node: &NodeContext,
    l: &LaunchInputs,
    c: &Container,
    image: &ImageInfo,
) -> Result<ContainerSpec, String> {
    let pod = &l.pod;
    let env = environment(node, l, c).await?;
    let index: HashMap<String, String> = env.iter().cloned().collect();
    let expand = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|a| env::expand(a, &index)).collect::<Vec<_>>()
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
        mounts: mounts(node, l, c, &index)?,
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
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
        let base = l.volumes.get(&m.name).ok_or_else(|| format!("volume {:?} is not mounted", m.name))?;
        let sub = match (&m.sub_path_expr, &m.sub_path) {
            (Some(expr), _) if !expr.is_empty() => env::expand_strict(expr, env)?,
            (_, Some(sub)) => sub.clone(),
            _ => String::new(),
        };
        let readonly = m.read_only.unwrap_or(false);
        let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let propagation = match m.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        };
        let host_path = match sub.as_str() {
            "" => base.clone(),
            sub => subpath::bind(&node.pod_dir(&l.pod), base, sub, &c.name, index)?,
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
