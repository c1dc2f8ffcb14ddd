//! Volumes: made on the host below the pod's directory, mounted into containers.

pub(crate) mod atomic;
mod host_path;
pub(crate) mod image;
pub(crate) mod projection;
pub(crate) mod subpath;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use kube::Api;
use nix::mount::{MsFlags, mount};

use crate::{
    pods::{
        resources,
        view::{name_of, namespace_of, spec_of},
    },
    sys::mounts,
};
use projection::Inputs;

/// Where each volume of a pod is on the host.
pub(crate) type Paths = BTreeMap<String, PathBuf>;

/// `MountVolume.SetUp failed for volume "x" : ...`, the message of a FailedMount event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: String },
}

/// Makes every volume of the pod. May be repeated: what is there stays.
pub(crate) async fn mount_all(pod_dir: &Path, pod: &Pod, inputs: &Inputs<'_>) -> Result<Paths, VolumeError> {
    let mut paths = Paths::new();
    for v in spec_of(pod).volumes.iter().flatten() {
        let made = mount_one(pod_dir, pod, v, inputs).await;
        let path = made.map_err(|why| VolumeError::SetUp { volume: v.name.clone(), why })?;
        paths.extend(path.map(|path| (v.name.clone(), path)));
    }
    Ok(paths)
}

/// The path, or `None` for images, which each container that wants one mounts for itself.
async fn mount_one(
    pod_dir: &Path,
    pod: &Pod,
    v: &Volume,
    inputs: &Inputs<'_>,
) -> Result<Option<PathBuf>, String> {
    let group = fs_group(pod);
    if let Some(dir) = project(pod_dir, pod, v, inputs).await? {
        return Ok(Some(dir));
    }
    if let Some(source) = v.empty_dir.clone() {
        let dir = pod_dir.join("volumes/empty-dir").join(&v.name);
        let memory = memory_limit(pod, &source, inputs.facts.memory);
        return blocking(move || empty_dir(&dir, &source, memory, group).map(|()| Some(dir))).await;
    }
    if let Some(source) = v.host_path.clone() {
        return blocking(move || host_path::make(source).map(Some)).await;
    }
    if let Some(source) = &v.persistent_volume_claim {
        return claimed(pod, &source.claim_name, inputs).await.map(Some);
    }
    if v.ephemeral.is_some() {
        return claimed(pod, &format!("{}-{}", name_of(pod), v.name), inputs).await.map(Some);
    }
    if v.image.is_some() {
        return Ok(None);
    }
    Err("volume type is not supported by this node".to_owned())
}

/// Brings the files of configMap, secret, downwardAPI and projected volumes up to date; the others never change.
pub(crate) async fn refresh(pod_dir: &Path, pod: &Pod, inputs: &Inputs<'_>) -> Result<(), VolumeError> {
    let mut result = Ok(());
    // One that cannot be had keeps its old files and does not hold up the rest.
    for v in spec_of(pod).volumes.iter().flatten() {
        let done = project(pod_dir, pod, v, inputs).await.map(drop);
        result = result.and(done.map_err(|why| VolumeError::SetUp { volume: v.name.clone(), why }));
    }
    result
}

/// The directory of a volume made of API objects' data, `None` when it is of another kind.
async fn project(
    pod_dir: &Path,
    pod: &Pod,
    v: &Volume,
    inputs: &Inputs<'_>,
) -> Result<Option<PathBuf>, String> {
    let Some(payload) = projection::payload(pod, v, inputs).await? else { return Ok(None) };
    let (dir, group) = (pod_dir.join("volumes/projected").join(&v.name), fs_group(pod));
    blocking(move || {
        make_dir(&dir, 0o777)?;
        if let Some(group) = group {
            chown(&dir, None, Some(group))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777))?;
        }
        atomic::write(&dir, &payload, group, &stamp())?;
        Ok(Some(dir))
    })
    .await
}

/// File work is kept off the threads that serve everybody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(text),
        Err(error) => Err(error.to_string()),
    }
}

/// The directory of the host or local volume that a claim is bound to.
async fn claimed(pod: &Pod, claim: &str, inputs: &Inputs<'_>) -> Result<PathBuf, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(inputs.client.clone(), namespace_of(pod));
    let claim = claims.get(claim).await.map_err(text)?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = claim.spec.and_then(|s| s.volume_name).filter(|_| bound).ok_or("PVC is not bound")?;
    let volumes: Api<PersistentVolume> = Api::all(inputs.client.clone());
    let spec = volumes.get(&name).await.map_err(text)?.spec.unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!(
            "PersistentVolume {name} is a block device, which is not supported by this node"
        ));
    }
    if let Some(source) = spec.host_path {
        return blocking(move || host_path::make(source)).await;
    }
    if let Some(source) = spec.local {
        let path = PathBuf::from(&source.path);
        if !path.exists() {
            return Err(format!("path {:?} does not exist", source.path));
        }
        let group = fs_group(pod);
        return blocking(move || group.map_or(Ok(()), |group| own_recursively(&path, group)).map(|()| path))
            .await;
    }
    Err(format!("volume source of PersistentVolume {name} is not supported by this node"))
}

/// Bytes of a memory-backed directory: its own limit, the pod's, the node's, whichever is least.
fn memory_limit(pod: &Pod, source: &EmptyDirVolumeSource, node: i64) -> i64 {
    let own = source.size_limit.as_ref().and_then(resources::parse_bytes);
    let all = [own, resources::pod_resources(spec_of(pod)).memory_limit, Some(node)];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(0)
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, memory: i64, group: Option<u32>) -> io::Result<()> {
    let in_memory = match source.medium.as_deref() {
        None | Some("") => false,
        Some("Memory") => true,
        Some(other) => {
            return Err(io::Error::other(format!("storage medium {other:?} is not supported by this node")));
        }
    };
    // The data of a memory volume is gone after a reboot, its directory is not.
    if dir.exists() && (!in_memory || mounts::below(dir)?.iter().any(|point| point == dir)) {
        return Ok(());
    }
    make_dir(dir, 0o777)?;
    if in_memory {
        let options = format!("size={memory},mode=0777");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    }
    if let Some(group) = group {
        chown(dir, None, Some(group))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    spec_of(pod).security_context.as_ref()?.fs_group.and_then(|g| u32::try_from(g).ok())
}

fn own_recursively(path: &Path, group: u32) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    if meta.file_type().is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group));
    }
    chown(path, None, Some(group))?;
    let bits = if meta.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777 | bits))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            own_recursively(&entry?.path(), group)?;
        }
    }
    Ok(())
}

/// Unmounts and removes everything below the pod's directory; data of host paths is outside it.
pub(crate) fn clean_up(pod_dir: &Path) -> io::Result<()> {
    for point in mounts::below(pod_dir)? {
        mounts::unmount(&point)?;
    }
    // What is still mounted is somebody's data: nothing is deleted then.
    if let Some(point) = mounts::below(pod_dir)?.first() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is still mounted", point.display()),
        ));
    }
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
