//! The types of a hostPath volume: what must be there, and what is made when it is not.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::beneath::{Access, Dir, FileType, Links};
use k8s_openapi::api::core::v1::HostPathVolumeSource;

pub(crate) fn make(source: HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(source.path);
    let root = Dir::open("/")?;
    check(&root, &path, source.type_.as_deref().unwrap_or_default()).map_err(io::Error::other)?;
    Ok(path)
}

fn check(root: &Dir, path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    // Links are followed, for the whole machine is what the volume's author asks for; but nothing is opened.
    let found = match root.find(path, Links::AsRoot).and_then(|found| found.kind()) {
        Ok(kind) => Some(kind),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(format!("hostPath type check failed: {shown}: {error}")),
    };
    let refuse = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    let wants = |wanted: FileType, what: &str| if found == Some(wanted) { Ok(()) } else { refuse(what) };
    let text = |error: io::Error| error.to_string();
    match (kind, found) {
        ("", Some(_)) => Ok(()),
        // The runtime would make a missing bind source a directory.
        ("" | "DirectoryOrCreate", None) => {
            root.make_dirs(path, Links::AsRoot, 0o755).map(drop).map_err(text)
        }
        ("FileOrCreate", None) => make_file(root, path).map_err(text),
        ("Directory" | "DirectoryOrCreate", _) => wants(FileType::Directory, "directory"),
        ("File" | "FileOrCreate", _) => wants(FileType::RegularFile, "file"),
        ("Socket", _) => wants(FileType::Socket, "socket file"),
        ("CharDevice", _) => wants(FileType::CharacterDevice, "character device"),
        ("BlockDevice", _) => wants(FileType::BlockDevice, "block device"),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

/// A link that leads nowhere is not followed: the file would be made wherever its author wants.
fn make_file(root: &Dir, path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let parent = root.dir(path.parent().unwrap_or(Path::new("/")), Links::AsRoot)?;
    parent.create_new(name, Access::mode(0o644)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_must_be_there_is_looked_at_and_what_may_be_made_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink(at("dir"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = Dir::open("/").unwrap();
        for (kind, name, fine) in [
            ("", "dir", true),
            ("", "fifo", true),
            ("", "new/deep", true),
            ("Directory", "link", true),
            ("Directory", "file", false),
            ("Directory", "missing", false),
            ("DirectoryOrCreate", "dir/new", true),
            ("DirectoryOrCreate", "file", false),
            ("File", "file", true),
            ("File", "fifo", false),
            ("FileOrCreate", "dir/file", true),
            ("FileOrCreate", "dir", false),
            ("FileOrCreate", "dangling", false),
            ("Socket", "file", false),
            ("CharDevice", "file", false),
            ("BlockDevice", "file", false),
            ("Nonsense", "file", false),
        ] {
            let got = check(&root, &at(name), kind);
            assert_eq!(got.is_ok(), fine, "{kind} {name}: {got:?}");
        }
        assert!(at("new/deep").is_dir() && at("dir/file").is_file() && !at("nowhere").exists());
    }
}
