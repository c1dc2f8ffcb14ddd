//! The types of a hostPath volume: what must be there, and what is made when it is not.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

pub(crate) fn make(source: HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(source.path);
    check(&path, source.type_.as_deref().unwrap_or_default()).map_err(io::Error::other)?;
    Ok(path)
}

fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    let refuse = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    match (kind, found) {
        ("", None) => {
            // The runtime would make a missing bind source a directory.
            fs::create_dir_all(path).map_err(|e| e.to_string())
        }
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(|e| e.to_string())?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())
        }
        ("FileOrCreate", None) => fs::File::create(path).map(drop).map_err(|e| e.to_string()),
        ("Directory" | "DirectoryOrCreate", found) => match found {
            Some(t) if t.is_dir() => Ok(()),
            _ => refuse("directory"),
        },
        ("File" | "FileOrCreate", found) => match found {
            Some(t) if t.is_file() => Ok(()),
            _ => refuse("file"),
        },
        ("Socket", found) => match found {
            Some(t) if t.is_socket() => Ok(()),
            _ => refuse("socket file"),
        },
        ("CharDevice", found) => match found {
            Some(t) if t.is_char_device() => Ok(()),
            _ => refuse("character device"),
        },
        ("BlockDevice", found) => match found {
            Some(t) if t.is_block_device() => Ok(()),
            _ => refuse("block device"),
        },
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}
