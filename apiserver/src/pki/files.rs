//! Files with keys in them: written whole or not at all, for their owner alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::{Identity, PkiError};

pub(super) fn read_identity(dir: &Path, file: &str) -> Result<Option<Identity>, PkiError> {
    let read = |ending: &str| {
        let path = dir.join(format!("{file}.{ending}"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error(&path, e)),
        }
    };
    Ok(read("crt")?.zip(read("key")?).map(|(certificate, key)| Identity { certificate, key }))
}

/// Two files, and so not at once: that a certificate and a key belong together is seen when they are read.
pub(super) fn write_identity(dir: &Path, file: &str, identity: &Identity) -> Result<(), PkiError> {
    write_private(&dir.join(format!("{file}.key")), &identity.key)?;
    write_private(&dir.join(format!("{file}.crt")), &identity.certificate)
}

/// Writes a file only its owner may read (mode 0600), whole or not at all: whoever reads finds the old text or the new one.
///
/// A file that is replaced keeps its owner where the directory is that owner's, too, and nobody else's to write in. What
/// a link points to is replaced, not the link.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    replace(path, text).map_err(|e| file_error(path, e))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(e) => return Err(e),
    };
    let temporary = beside(&path)?;
    // What a killed writer left. Made anew and never opened: somebody may have put a link there.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let write = || {
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        if let Some((uid, gid)) = owner(&path, &file)? {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    // The new name is to outlive a loss of power; that it may not is no reason to call it unwritten.
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let _ = fs::File::open(dir).and_then(|dir| dir.sync_all());
    }
    Ok(())
}

/// `.NAME.new` in the same directory.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok(path.with_file_name(temporary))
}

/// Whose the new file is to be, where that is not who writes it.
fn owner(path: &Path, new: &fs::File) -> io::Result<Option<(u32, u32)>> {
    const OTHERS_WRITE: u32 = 0o022;
    let (Ok(old), Some(Ok(dir))) = (fs::symlink_metadata(path), path.parent().map(fs::metadata)) else {
        return Ok(None);
    };
    let kept = old.is_file() && old.uid() == dir.uid() && dir.mode() & OTHERS_WRITE == 0;
    Ok((kept && new.metadata()?.uid() != old.uid()).then(|| (old.uid(), old.gid())))
}

pub(super) fn file_error(path: &Path, source: io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_with_keys_is_its_owners_alone_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", 0o600));
        // The link stays, and what it points to is new.
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        write_private(&link, "newer").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
    }

    #[test]
    fn a_writer_that_was_killed_leaves_the_old_text_and_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("kubeconfig"), dir.path().join("victim"));
        write_private(&path, "old").unwrap();
        fs::write(&victim, "untouched").unwrap();
        // Killed between write and rename; and somebody who knows the name has put a link there.
        for half in ["half a fi", ""] {
            let temporary = beside(&path).unwrap();
            match half {
                "" => symlink(&victim, &temporary).unwrap(),
                half => fs::write(&temporary, half).unwrap(),
            }
            let before = fs::read_to_string(&path).unwrap();
            assert!(before == "old" || before == "new", "{before}");
            write_private(&path, "new").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert!(!temporary.is_symlink() && !temporary.exists());
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        // A write that fails leaves the old text and nothing beside it.
        fs::create_dir(beside(&path).unwrap()).unwrap();
        write_private(&path, "lost").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    /// Needs the rights to give files away.
    #[test]
    fn a_users_file_stays_the_users_and_a_trap_is_not_fed() {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(1234), Some(1234)).unwrap();
        fs::write(&path, "").unwrap();
        give(&path);
        // In a directory of somebody else the file may be anybody's bait.
        write_private(&path, "ours").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
        give(&path);
        give(dir.path());
        write_private(&path, "theirs").unwrap();
        assert_eq!((fs::metadata(&path).unwrap().uid(), mode(&path)), (1234, 0o600));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        write_private(&path, "ours").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
    }
}
