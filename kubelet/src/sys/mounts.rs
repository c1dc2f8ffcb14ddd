//! Mounts.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};

/// The layers' directories, held, and the option that names them. All options of a mount must fit into a page: it holds
/// few paths, but hundreds of descriptors.
fn lower(layers: &[PathBuf]) -> io::Result<(Vec<OwnedFd>, String)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |layer: &PathBuf| rustix::fs::open(layer, flags, Mode::empty());
    let held: Vec<OwnedFd> = layers.iter().map(open).collect::<Result<_, _>>()?;
    let names: Vec<String> = held.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let option = format!("lowerdir={}", names.join(":"));
    Ok((held, option))
}

/// Mounts an overlay. Its writable layer is lost with the machine's next start anyway, so nothing is synced.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let (_held, lower) = lower(layers)?;
    let options = format!("volatile,{lower},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Mounts layers alone, newest first, so that nothing can be written. The list of mounts shows `source`.
pub fn overlay_readonly(source: &str, layers: &[PathBuf], target: &Path) -> io::Result<()> {
    let (_held, options) = lower(layers)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(source), target, Some("overlay"), flags, Some(options.as_str()))?;
    Ok(())
}

/// The sources of all overlays that are mounted.
pub fn overlay_sources() -> io::Result<Vec<String>> {
    Ok(sources_in(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

fn sources_in(mountinfo: &str) -> Vec<String> {
    let source = |line: &str| {
        let (_, tail) = line.split_once(" - ")?;
        let (kind, rest) = tail.split_once(' ')?;
        (kind == "overlay").then(|| rest.split(' ').next().unwrap_or_default().to_owned())
    };
    mountinfo.lines().filter_map(source).collect()
}

pub fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), target, Some("tmpfs"), flags, Some(options))?;
    Ok(())
}

/// Puts a memory file system at an empty directory that is on a disk, so that its files cost no journal and end with the
/// machine's run.
pub fn keep_in_memory(directory: &Path) -> io::Result<()> {
    let kind = nix::sys::statfs::statfs(directory)?.filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC || std::fs::read_dir(directory)?.next().is_some() {
        return Ok(());
    }
    tmpfs(directory, "mode=755")
}

pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Detaches; what is not mounted is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All mount points below a directory, the innermost first.
pub fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_tell_their_source() {
        let text = "22 1 0:21 / / rw - ext4 /dev/vda rw\n\
                    30 22 0:30 / /run/a rw,relatime shared:1 - overlay sha256:ab ro,lowerdir=/x\n\
                    31 22 0:31 / /run/b rw - overlay overlay rw,lowerdir=/x - y\nbroken\n";
        assert_eq!(sources_in(text), ["sha256:ab", "overlay"]);
    }
}
