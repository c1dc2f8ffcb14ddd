//! emptyDir: a directory on the node's disk, in memory, or in huge pages.

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::ownership::Group;
use crate::{
    beneath::{Access, Links, Name},
    pods::{places::Places, resources, view::spec_of},
    sys::mounts,
};

/// Where the files are. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// Without a size it is the kernel's default.
    Memory {
        size: Option<i64>,
    },
    HugePages {
        page: i64,
    },
}

/// What a pod asks for with a volume; the error is that of its FailedMount event. Pure.
pub(super) fn medium(pod: &Pod, source: &EmptyDirVolumeSource, node_memory: i64) -> Result<Medium, String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory { size: memory_size(pod, source, node_memory) }),
        "HugePages" => huge_page(pod, None).map(|page| Medium::HugePages { page }),
        other => match other.strip_prefix("HugePages-").map(bytes) {
            Some(Some(size)) => huge_page(pod, Some(size)).map(|page| Medium::HugePages { page }),
            _ => Err(format!("unknown storage medium {other:?}")),
        },
    }
}

/// Its own limit, the pod's, the node's, whichever is least.
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, node_memory: i64) -> Option<i64> {
    let own = source.size_limit.as_ref().and_then(resources::parse_bytes);
    let all = [own, resources::pod_resources(pod).memory_limit, Some(node_memory)];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

fn bytes(quantity: &str) -> Option<i64> {
    resources::parse_bytes(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(quantity.to_owned()))
}

/// The size of page that the pod's containers ask for: the one that is wanted, or the only one.
fn huge_page(pod: &Pod, wanted: Option<i64>) -> Result<i64, String> {
    let shown = || match wanted {
        Some(size) => format!("HugePages-{size}"),
        None => "HugePages".to_owned(),
    };
    let spec = spec_of(pod);
    let own = spec.resources.iter().filter_map(|r| r.requests.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let lists = own.chain(containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()));
    let sizes = lists.flat_map(|list| list.keys()).filter_map(|name| bytes(name.strip_prefix("hugepages-")?));
    let asked: std::collections::BTreeSet<i64> =
        sizes.filter(|size| wanted.is_none_or(|wanted| wanted == *size)).collect();
    match (asked.first(), asked.len()) {
        (Some(size), 1) => Ok(*size),
        (Some(_), _) => {
            Err("medium: HugePages can't be used if container requests multiple huge page sizes".to_owned())
        }
        (None, _) => Err(format!(
            "medium {}: hugePages storage requested, but there is no resource request for huge pages",
            shown()
        )),
    }
}

/// Makes the directory, and gives its path. What is there stays as it is.
pub(super) fn make(
    places: &Places,
    name: &Name,
    medium: Medium,
    group: Option<Group>,
) -> io::Result<PathBuf> {
    let above = Path::new("volumes/empty-dir");
    let all = places.open()?.make_dirs(above, Links::Refused, 0o755)?;
    let path = places.dir().join(above).join(name);
    let there = all.entry(name)?.is_some();
    // The data of a memory volume is gone after a reboot, its directory is not.
    if there && (medium == Medium::Disk || mounts::is_mount_point(&all, name)?) {
        return Ok(path);
    }
    if !there {
        all.make_new(name, Access::mode(0o777))?;
    }
    let target = all.find(name, Links::Refused)?;
    match medium {
        Medium::Disk => {}
        Medium::Memory { size } => mounts::memory(&target.magic_path(), size)?,
        Medium::HugePages { page } => mounts::huge_pages(&target.magic_path(), page)?,
    }
    if let Some(group) = group {
        let dir = all.dir(name, Links::Refused)?;
        let mode = dir.stat()?.st_mode & 0o7777 | 0o2770;
        dir.set_access(Access { mode, uid: None, gid: Some(group.id) })?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": value
        }))
        .unwrap()
    }

    #[test]
    fn the_medium_is_what_the_pod_asks_for() {
        let requests = |names: &[&str]| -> Pod {
            let list: serde_json::Map<_, _> =
                names.iter().map(|name| ((*name).to_owned(), "4Mi".into())).collect();
            pod(serde_json::json!({"containers": [{"name": "c", "resources": {"requests": list}}]}))
        };
        let limited = |limit: &str| {
            pod(
                serde_json::json!({"containers": [{"name": "c", "resources": {"limits": {"memory": limit}}}]}),
            )
        };
        let memory = |size| Ok(Medium::Memory { size });
        let huge = |page| Ok(Medium::HugePages { page });
        const NODE: i64 = 1 << 30;
        for (pod, medium_name, limit, expected) in [
            (requests(&[]), "", Some("1Mi"), Ok(Medium::Disk)),
            (requests(&[]), "Memory", None, memory(Some(NODE))),
            (requests(&[]), "Memory", Some("1Mi"), memory(Some(1 << 20))),
            (requests(&[]), "Memory", Some("0"), memory(Some(NODE))),
            (requests(&[]), "Memory", Some("4Gi"), memory(Some(NODE))),
            (limited("2Mi"), "Memory", Some("4Mi"), memory(Some(2 << 20))),
            (limited("2Mi"), "Memory", Some("1Mi"), memory(Some(1 << 20))),
            (requests(&["hugepages-2Mi"]), "HugePages", None, huge(2 << 20)),
            (requests(&["hugepages-2Mi", "hugepages-1Gi"]), "HugePages-1Gi", None, huge(1 << 30)),
            (
                requests(&["hugepages-2Mi", "hugepages-1Gi"]),
                "HugePages",
                None,
                Err("medium: HugePages can't be used if container requests multiple huge page sizes"),
            ),
            (
                requests(&[]),
                "HugePages",
                None,
                Err(
                    "medium HugePages: hugePages storage requested, but there is no resource request for huge pages",
                ),
            ),
            (requests(&[]), "HugePages-x", None, Err("unknown storage medium \"HugePages-x\"")),
            (requests(&[]), "Tape", None, Err("unknown storage medium \"Tape\"")),
        ] {
            let source = EmptyDirVolumeSource {
                medium: Some(medium_name.to_owned()),
                size_limit: limit
                    .map(|l| k8s_openapi::apimachinery::pkg::api::resource::Quantity(l.to_owned())),
            };
            assert_eq!(
                medium(&pod, &source, NODE),
                expected.map_err(str::to_owned),
                "{medium_name} {limit:?}"
            );
        }
    }

    #[test]
    #[cfg_attr(not(root), ignore = "needs root")]
    fn modes_and_sizes_are_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let places =
            Places::of(dir.path(), &dir.path().join("logs"), &pod(serde_json::json!({"containers": []})))
                .unwrap();
        let group = Some(Group { id: 7, only_on_mismatch: false });
        for (name, medium, group, mode, gid) in [
            ("disk", Medium::Disk, None, 0o777, 0),
            ("disk-group", Medium::Disk, group, 0o2777, 7),
            ("memory", Medium::Memory { size: Some(1 << 20) }, None, 0o1777, 0),
            ("memory-group", Medium::Memory { size: None }, group, 0o3777, 7),
        ] {
            let name = Name::new(name).unwrap();
            let path = make(&places, &name, medium, group).unwrap();
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!((found.mode() & 0o7777, found.gid()), (mode, gid), "{name}");
            std::fs::write(path.join("kept"), "").unwrap();
            make(&places, &name, medium, group).unwrap();
            assert!(path.join("kept").exists(), "{name}: made once");
        }
        let full = std::fs::write(places.dir().join("volumes/empty-dir/memory/big"), vec![0; 2 << 20]);
        super::super::clean_up(&places.dir()).unwrap();
        assert!(full.is_err(), "the limit is the file system's size");
        assert_eq!(std::fs::read_dir(dir.path().join("pods")).unwrap().count(), 0);
    }
}
