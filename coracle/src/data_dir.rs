//! The data directory: where everything of one cluster lies, and which format it is in.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Raised when an older program could not read what a newer one wrote.
const FORMAT: &str = "1";
const ADVERTISED: &str = "advertised";

/// Paths of one cluster on this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    pub data: PathBuf,
    /// What a reboot may forget: namespaces, shims' sockets.
    pub run: PathBuf,
}

// === impl Layout ===

impl Layout {
    /// The given directory, or the user's default one.
    pub fn of(data_dir: Option<&Path>) -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let data = match data_dir {
            Some(dir) => {
                std::path::absolute(dir).with_context(|| format!("data directory {}", dir.display()))?
            }
            None if root => PathBuf::from("/var/lib/coracle"),
            None => {
                let home = std::env::var_os("HOME").context("neither --data-dir nor HOME is set")?;
                Path::new(&home).join(".local/share/coracle")
            }
        };
        // One run directory per data directory, so that clusters on one machine do not meet.
        let run = match data.to_str() {
            _ if !root => data.join("run"),
            Some("/var/lib/coracle") => PathBuf::from("/run/coracle"),
            _ => PathBuf::from("/run").join(format!("coracle-{}", short_hash(&data))),
        };
        Ok(Layout { data, run })
    }

    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The cgroup above all pods of this cluster: clusters on one machine have one each.
    pub fn cgroup_root(&self) -> String {
        match self.run.file_name().and_then(|n| n.to_str()) {
            Some("coracle") | None => "/".to_owned(),
            Some(name) => format!("/{name}"),
        }
    }

    pub fn node(&self) -> PathBuf {
        self.data.join("node")
    }

    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Notes where others reach the API server of the cluster in this directory.
    pub fn advertise(&self, server: SocketAddr) -> Result<()> {
        let file = self.data.join(ADVERTISED);
        fs::write(&file, server.to_string()).with_context(|| format!("writing {}", file.display()))
    }

    /// Where others reach the API server, by its last start; `None` where that is not known.
    pub fn advertised(&self) -> Option<SocketAddr> {
        fs::read_to_string(self.data.join(ADVERTISED)).ok()?.trim().parse().ok()
    }

    /// Holds this directory for a program that has no store of its own, until the value is dropped.
    pub fn hold(&self) -> Result<fs::File> {
        let lock = self.data.join("owner.lock");
        let file = fs::File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => bail!("a program runs already on {}", self.data.display()),
            Err(fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("locking {}", lock.display())),
        }
    }

    /// Whether a running program holds the store of this directory.
    pub fn in_use(&self) -> Result<bool> {
        let lock = self.data.join("owner.lock");
        match fs::File::open(&lock) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Ok(false),
                Err(fs::TryLockError::WouldBlock) => Ok(true),
                Err(fs::TryLockError::Error(e)) => {
                    Err(e).with_context(|| format!("locking {}", lock.display()))
                }
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).with_context(|| format!("opening {}", lock.display())),
        }
    }

    /// Makes the directory, or checks that an existing one is ours and of a format this program reads.
    /// Answers whether there was a cluster already.
    pub fn open(&self) -> Result<bool> {
        let dir = self.data.display();
        let marker = self.data.join("format");
        match fs::read_to_string(&marker) {
            Ok(found) if found.trim() == FORMAT => return Ok(true),
            Ok(found) => bail!(
                "{dir} is in format {}, this program reads format {FORMAT}: use the program that made it, or another --data-dir",
                found.trim()
            ),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("reading {}", marker.display())),
        }
        let in_use = fs::read_dir(&self.data).is_ok_and(|mut entries| {
            // Images may be imported before the first start.
            entries.any(|e| e.is_ok_and(|e| e.file_name() != "images"))
        });
        if in_use {
            bail!("{dir} is not empty and not a Coracle data directory: give an empty one with --data-dir");
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.data)
            .with_context(|| format!("creating {dir}"))?;
        fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("closing {dir}"))?;
        fs::write(&marker, FORMAT).with_context(|| format!("writing {}", marker.display()))?;
        Ok(false)
    }
}

/// Eight hex digits that tell paths apart (FNV-1a).
fn short_hash(path: &Path) -> String {
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_format_or_owner_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { data: dir.path().join("c"), run: dir.path().join("r") };
        assert!(!layout.open().unwrap());
        assert!(layout.open().unwrap());
        fs::write(layout.data.join("format"), "0").unwrap();
        let message = format!("{:#}", layout.open().unwrap_err());
        assert!(message.contains("format 0") && !message.contains('\n'), "{message}");

        let foreign = Layout { data: dir.path().to_owned(), run: dir.path().join("r") };
        assert!(format!("{:#}", foreign.open().unwrap_err()).contains("not a Coracle data directory"));
    }
}
