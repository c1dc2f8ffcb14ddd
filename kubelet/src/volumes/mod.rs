//! Volumes: made on the host below the pod's directory, mounted into containers.

pub mod atomic;
mod claim;
mod empty_dir;
mod host_path;
pub(crate) mod image;
mod ownership;
pub(crate) mod projection;
pub(crate) mod subpath;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::{
    beneath::{self, Access, Dir, Links, Name, off_workers},
    pods::{places::Places, view::spec_of},
    sys::mounts,
};
use projection::Inputs;

/// Where a volume is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Whatever a mount of it says.
    pub(crate) readonly: bool,
}

/// Where each volume of a pod is, by name.
pub(crate) type Paths = BTreeMap<String, Place>;

/// The message of a FailedMount event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: String },
    /// What the volume stands for cannot be found out.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process volumes=[{volume}]: {why}"
    )]
    Processing { volume: String, why: String },
}

/// Makes every volume of the pod. May be repeated: what is there stays.
pub(crate) async fn mount_all(places: &Places, pod: &Pod, inputs: &Inputs<'_>) -> Result<Paths, VolumeError> {
    let mut paths = Paths::new();
    for v in spec_of(pod).volumes.iter().flatten() {
        let path = mount_one(places, pod, v, inputs).await?;
        paths.extend(path.map(|path| (v.name.clone(), path)));
    }
    Ok(paths)
}

/// The path, or `None` for images, which each container that wants one mounts for itself.
async fn mount_one(
    places: &Places,
    pod: &Pod,
    v: &Volume,
    inputs: &Inputs<'_>,
) -> Result<Option<Place>, VolumeError> {
    let set_up = |why: String| VolumeError::SetUp { volume: v.name.clone(), why };
    if let Some(place) = project(places, pod, v, inputs).await.map_err(set_up)? {
        return Ok(Some(place));
    }
    let writable = |made: io::Result<PathBuf>| match made {
        Ok(path) => Ok(Some(Place { path, readonly: false })),
        Err(error) => Err(set_up(error.to_string())),
    };
    if let Some(source) = &v.empty_dir {
        let medium = empty_dir::medium(pod, source, inputs.facts.memory).map_err(set_up)?;
        let (places, name, group) = (places.clone(), v.name.clone(), ownership::group_of(pod));
        return writable(
            off_workers(move || empty_dir::make(&places, &Name::new(&name)?, medium, group)).await,
        );
    }
    if let Some(source) = v.host_path.clone() {
        return writable(off_workers(move || host_path::make(source)).await);
    }
    if let Some(mounted) = claim::mount(pod, v, inputs.client).await {
        let failed = |why| VolumeError::Processing { volume: v.name.clone(), why };
        return mounted.map(Some).map_err(failed);
    }
    if v.image.is_some() {
        return Ok(None);
    }
    Err(set_up("volume type is not supported by this node".to_owned()))
}

/// Brings the files of configMap, secret, downwardAPI and projected volumes up to date; the others never change.
pub(crate) async fn refresh(places: &Places, pod: &Pod, inputs: &Inputs<'_>) -> Result<(), VolumeError> {
    let mut result = Ok(());
    // One that cannot be had keeps its old files and does not hold up the rest.
    for v in spec_of(pod).volumes.iter().flatten() {
        let done = project(places, pod, v, inputs).await.map(drop);
        result = result.and(done.map_err(|why| VolumeError::SetUp { volume: v.name.clone(), why }));
    }
    result
}

/// The directory of a volume made of API objects' data, `None` when it is of another kind. Containers never write to it.
async fn project(
    places: &Places,
    pod: &Pod,
    v: &Volume,
    inputs: &Inputs<'_>,
) -> Result<Option<Place>, String> {
    let Some(payload) = projection::payload(pod, v, inputs).await? else { return Ok(None) };
    let (places, name, group) = (places.clone(), v.name.clone(), ownership::group_of(pod).map(|g| g.id));
    // As upstream: what may be secret never reaches the disk.
    let in_memory = v.config_map.is_none();
    let made = off_workers(move || {
        let above = Path::new("volumes/projected");
        let name = Name::new(&name)?;
        let all = places.open()?.make_dirs(above, Links::Refused, 0o755)?;
        let dir = projected_dir(&all, &name, in_memory)?;
        let mode = if group.is_some() { 0o2755 } else { 0o755 };
        dir.set_access(Access { mode, uid: Some(0), gid: Some(group.unwrap_or(0)) })?;
        atomic::write(&dir, &payload, group, &atomic::stamp(Timestamp::now()))?;
        Ok(places.dir().join(above).join(&name))
    });
    let path = made.await.map_err(|error| error.to_string())?;
    Ok(Some(Place { path, readonly: true }))
}

fn projected_dir(all: &Dir, name: &Name, in_memory: bool) -> io::Result<Dir> {
    let dir = all.make_dirs(name, Links::Refused, 0o755)?;
    if !in_memory || mounts::is_mount_point(all, name)? {
        return Ok(dir);
    }
    // An earlier version kept such files on the disk.
    dir.clear()?;
    mounts::private_memory(&dir.as_found()?.magic_path())?;
    all.dir(name, Links::Refused)
}

/// Unmounts and removes a pod's directory and everything below it; data of host paths is outside it.
pub(crate) fn clean_up(pod_dir: &Path) -> io::Result<()> {
    unmount_all(pod_dir)?;
    beneath::remove_tree(pod_dir)
}

/// As `clean_up`, but the directory itself stays, as a record that the pod has been here.
pub(crate) fn empty(pod_dir: &Path) -> io::Result<()> {
    unmount_all(pod_dir)?;
    match Dir::open(pod_dir) {
        Ok(dir) => dir.clear(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn unmount_all(pod_dir: &Path) -> io::Result<()> {
    for point in mounts::below(pod_dir)? {
        mounts::unmount(&point)?;
    }
    // What is still mounted is somebody's data: nothing is deleted then.
    match mounts::below(pod_dir)?.first() {
        Some(point) => {
            let why = format!("{} is still mounted", point.display());
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
