//! Mounts.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};

use super::idmap;
use crate::beneath::{Dir, Name};

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

/// Layers whose files' owners are shown as a user namespace has them: each has a place below `scratch` for as long as
/// this is held. An overlay of them may be held for longer.
pub struct MappedLayers {
    at: Vec<PathBuf>,
}

impl MappedLayers {
    pub fn new(layers: &[PathBuf], user_namespace: &Path, scratch: &Path) -> io::Result<MappedLayers> {
        let namespace = std::fs::File::open(user_namespace)?;
        let mut mapped = MappedLayers { at: Vec::new() };
        for (number, layer) in layers.iter().enumerate() {
            let at = scratch.join(number.to_string());
            std::fs::create_dir_all(&at)?;
            let tree = idmap::detached(layer)?;
            idmap::map_owners(&tree, namespace.as_fd())?;
            idmap::attach(&tree, &at)?;
            mapped.at.push(at);
        }
        Ok(mapped)
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.at
    }
}

impl Drop for MappedLayers {
    fn drop(&mut self) {
        for at in &self.at {
            if let Err(error) = unmount(at) {
                tracing::warn!(%error, "a layer stays mounted at {}", at.display());
            }
        }
    }
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

/// A directory in memory for everybody, as upstream's: `size` in bytes.
pub fn memory(target: &Path, size: Option<i64>) -> io::Result<()> {
    let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    unswapped(target, MsFlags::empty(), &format!("mode=1777{size}"))
}

/// A directory in memory that root alone writes to.
pub fn private_memory(target: &Path) -> io::Result<()> {
    unswapped(target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")
}

/// Its pages are not to be swapped out, where the kernel can promise that (6.4).
fn unswapped(target: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    let with = |options: &str| mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options));
    match with(&format!("{options},noswap")) {
        Err(nix::errno::Errno::EINVAL) => Ok(with(options)?),
        other => Ok(other?),
    }
}

/// A directory of huge pages of `page` bytes.
pub fn huge_pages(target: &Path, page: i64) -> io::Result<()> {
    let options = format!("pagesize={page}");
    mount(Some("nodev"), target, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Whether something is mounted at an entry of the directory.
pub fn is_mount_point(dir: &Dir, name: &Name) -> io::Result<bool> {
    let found = rustix::fs::statx(dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Detaches; what is not mounted is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All mount points below a directory, the innermost first.
pub fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    found.reverse();
    Ok(found)
}

/// The kernel writes spaces and the like as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
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

    #[test]
    fn mount_points_are_unescaped() {
        for (text, path) in
            [("/a", "/a"), ("/a\\040b\\134c", "/a b\\c"), ("/a\\04", "/a\\04"), ("/\\303\\244", "/ä")]
        {
            assert_eq!(unescaped(text), Path::new(path), "{text}");
        }
    }
}
