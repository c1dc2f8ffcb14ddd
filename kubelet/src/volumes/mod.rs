//! Volumes: made on the host below the pod's directory, mounted into containers.

pub(crate) mod atomic;
mod host_path;
pub(crate) mod projection;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::pods::{resources, view::{name_of, namespace_of, spec_of}};
use projection::Inputs;

/// Where each volume of a pod is on the host.
pub(crate) type Paths = BTreeMap<String, PathBuf>;

/// `MountVolume.SetUp failed for volume "x" : ...`, the message of a FailedMount event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: String },
}

/// Makes every volume of the pod. May be repeated: what is there stays, what has changed is brought up to date.
pub(crate) async fn mount_all(pod_dir: &Path, pod: &Pod, inputs: &Inputs<'_>) -> Result<Paths, VolumeError> {
    let mut paths = Paths::new();
    for v in spec_of(pod).volumes.iter().flatten() {
        let made = mount_one(pod_dir, pod, v, inputs).await;
        let path = made.map_err(|why| VolumeError::SetUp { volume: v.name.clone(), why })?;
        paths.extend(path.map(|path| (v.name.clone(), path)));
    }
    Ok(paths)
}

/// The path, or `None` for volumes that the container runtime mounts (images).
async fn mount_one(pod_dir: &Path, pod: &Pod, v: &Volume, inputs: &Inputs<'_>) -> Result<Option<PathBuf>, String> {
    let volumes = pod_dir.join("volumes");
    let group = fs_group(pod);
    if let Some(payload) = projection::payload(pod, v, inputs).await? {
        let dir = volumes.join("projected").join(&v.name);
        let stamp = stamp();
        make_dir(&dir, 0o777).map_err(text)?;
        if let Some(group) = group {
            chown(&dir, None, Some(group)).map_err(text)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).map_err(text)?;
        }
        atomic::write(&dir, &payload, group, &stamp).map_err(text)?;
        return Ok(Some(dir));
    }
    if let Some(source) = &v.empty_dir {
        let dir = volumes.join("empty-dir").join(&v.name);
        return empty_dir(&dir, source, group).map(|()| Some(dir)).map_err(text);
    }
    if let Some(source) = &v.host_path {
        host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        return Ok(Some(PathBuf::from(&source.path)));
    }
    if let Some(source) = &v.persistent_volume_claim {
        return claimed(pod, &source.claim_name, inputs).await.map(Some);
    }
    if v.ephemeral.is_some() {
        return claimed(pod, &format!("{}-{}", name_of(pod), v.name), inputs).await.map(Some);
    }
    if v.image.is_some() {
        return Err("image volumes are not supported by this node".to_owned());
    }
    Err("volume type is not supported by this node".to_owned())
}

/// The directory of the host or local volume that a claim is bound to.
async fn claimed(pod: &Pod, claim: &str, inputs: &Inputs<'_>) -> Result<PathBuf, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(inputs.client.clone(), namespace_of(pod));
    let claim = claims.get(claim).await.map_err(text)?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = claim.spec.and_then(|s| s.volume_name).filter(|_| bound).ok_or("PVC is not bound")?;
    let volumes: Api<PersistentVolume> = Api::all(inputs.client.clone());
    let spec = volumes.get(&name).await.map_err(text)?.spec.unwrap_or_default();
    if let Some(source) = spec.host_path {
        host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        return Ok(source.path.into());
    }
    if let Some(source) = spec.local {
        let path = PathBuf::from(&source.path);
        if !path.exists() {
            return Err(format!("path {:?} does not exist", source.path));
        }
        if let Some(group) = fs_group(pod) {
            own_recursively(&path, group).map_err(text)?;
        }
        return Ok(path);
    }
    Err(format!("volume source of PersistentVolume {name} is not supported by this node"))
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    make_dir(dir, 0o777)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(resources::parse_bytes).filter(|b| *b > 0);
        let options = limit.map(|bytes| format!("size={bytes}"));
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options.as_deref())?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o1777 & 0o777))?;
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
    for kind in ["empty-dir", "subpaths"] {
        let dir = pod_dir.join("volumes").join(kind);
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            // Not mounted is the common case.
            let _ = umount2(&entry?.path(), MntFlags::MNT_DETACH);
        }
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
