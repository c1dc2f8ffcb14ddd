//! What is looked up and made in a container's root file system before it runs: an image decides what is there.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::beneath::{Access, Dir, FileType, Links};
use crate::cri::Mount;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// What the runtime mounts itself, so that nothing below it is looked for in the image.
const MOUNTED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Makes the working directory when the image has none. What is made here is `owner`'s, a user's and a group's id.
pub(super) fn make_working_dir(rootfs: &Dir, path: &str, owner: u32) -> io::Result<()> {
    // The process is told what is wrong with what is there, when it goes into it.
    if rootfs.find(path, Links::AsRoot).is_ok() {
        return Ok(());
    }
    rootfs.make_dirs_for(path, Links::AsRoot, owned(0o755, owner)).map(drop)
}

fn owned(mode: u32, owner: u32) -> Access {
    Access { mode, uid: Some(owner), gid: Some(owner) }
}

/// Makes the places that something is mounted at where links of the image lead to them, but nowhere yet: libcontainer
/// refuses those.
pub(super) fn make_mount_points(rootfs: &Dir, mounts: &[Mount], owner: u32) -> io::Result<()> {
    let targets: BTreeSet<&Path> = mounts.iter().map(|mount| &*mount.container_path).collect();
    let within = |path: &Path| {
        let mut above = path.ancestors().skip(1);
        above.any(|above| targets.contains(above) || MOUNTED.iter().any(|own| above == Path::new(own)))
    };
    let root = Dir::open("/")?;
    for mount in mounts.iter().filter(|mount| !within(&mount.container_path)) {
        match rootfs.find(&mount.container_path, Links::AsRoot) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // What else is wrong is told when it is mounted.
            _ => continue,
        }
        if root.find(&mount.host_path, Links::AsRoot)?.is_dir()? {
            rootfs.make_dirs_for(&mount.container_path, Links::AsRoot, owned(0o755, owner))?;
        } else {
            make_file(rootfs, &mount.container_path, owner)?;
        }
    }
    Ok(())
}

/// An empty file at `path`, or where the links there lead to.
fn make_file(rootfs: &Dir, path: &Path, owner: u32) -> io::Result<()> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?.to_owned();
        let above = path.parent().map(Path::to_owned).unwrap_or_default();
        let parent = rootfs.make_dirs_for(&above, Links::AsRoot, owned(0o755, owner))?;
        if parent.kind_of(&name)? != Some(FileType::Symlink) {
            return parent.create_new(&name, owned(0o644, owner)).map(drop);
        }
        let target: PathBuf = parent.read_link(&name)?;
        // `join` starts anew for an absolute one; `..` is taken as the kernel takes it, for `above` is resolved then.
        path = above.join(target);
    }
    Err(io::Error::other("too many links"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cri::Propagation;

    fn own() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn image(links: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        for (link, target) in links {
            fs::create_dir_all(dir.path().join(link).parent().unwrap()).unwrap();
            symlink(target, dir.path().join(link)).unwrap();
        }
        dir
    }

    #[test]
    fn working_directories_are_made_in_the_image() {
        for (path, made) in [
            ("/made/here", Some("made/here")),
            ("/var/run/x", Some("run/x")),
            ("/up/up/x", Some("x")),
            ("../../x", Some("x")),
            ("/etc", Some("etc")),
            ("/loop/x", None),
        ] {
            let dir = image(&[("var/run", "/run"), ("up", "../.."), ("loop", "loop")]);
            let got = make_working_dir(&Dir::open(dir.path()).unwrap(), path, own());
            assert_eq!(got.is_ok(), made.is_some(), "{path}: {got:?}");
            assert!(made.is_none_or(|made| dir.path().join(made).is_dir()), "{path}");
        }
    }

    #[test]
    fn mount_points_are_made_where_links_lead() {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("file"), "").unwrap();
        let mount = |host: &str, path: &str| Mount {
            host_path: source.path().join(host),
            container_path: path.into(),
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::None,
            mapped: false,
        };
        let dir = image(&[
            ("var/run", "/run"),
            ("etc/resolv.conf", "../run/resolve/stub.conf"),
            ("etc/hosts", "/run/hosts"),
            ("out", "../../../../out"),
        ]);
        let mounts = [
            mount("", "/var/run/secrets"),
            mount("file", "/etc/resolv.conf"),
            mount("file", "/etc/hosts"),
            mount("", "/out/x"),
            mount("", "/data"),
            mount("", "/data/nested"),
            mount("file", "/dev/termination-log"),
        ];
        make_mount_points(&Dir::open(dir.path()).unwrap(), &mounts, own()).unwrap();
        let at = |path: &str| dir.path().join(path);
        assert!(at("run/secrets").is_dir() && at("out/x").exists() == at("out").exists());
        assert!(at("run/resolve/stub.conf").is_file() && at("run/hosts").is_file());
        assert!(at("data").is_dir() && !at("data/nested").exists() && !at("dev").exists());
        assert!(!dir.path().parent().unwrap().join("out").exists());
        // Done again, nothing changes.
        make_mount_points(&Dir::open(dir.path()).unwrap(), &mounts, own()).unwrap();
    }
}
