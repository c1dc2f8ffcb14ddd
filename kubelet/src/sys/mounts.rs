//! Mounts.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts an overlay. Its writable layer is lost with the machine's next start anyway, so nothing is synced.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!(
        "volatile,lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Mounts layers alone, newest first, so that nothing can be written.
pub fn overlay_readonly(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    mount(Some("overlay"), target, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))?;
    Ok(())
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
