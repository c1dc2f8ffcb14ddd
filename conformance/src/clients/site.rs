//! Where clients are checked: a Coracle with a node and the images of `hack/images`, or a cluster that was named.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::cluster::{self, Cluster};
use crate::suite::home;

/// The image whose shell the checks use.
pub(super) const IMAGE: &str = "busybox:1.35";

pub enum Site {
    Ours { cluster: Box<Cluster>, scratch: TempDir },
    Named(PathBuf),
}

// === impl Site ===

impl Site {
    pub(super) fn open(kubeconfig: Option<&Path>, program: Option<&Path>) -> Result<Self> {
        if let Some(file) = kubeconfig {
            return Ok(Site::Named(file.to_owned()));
        }
        let scratch = tempfile::Builder::new().prefix("coracle-clients-").tempdir()?;
        let mut cluster = Cluster::new(&cluster::program(program)?, &scratch.path().join("data"), &[]);
        import(&cluster, &home().join("../hack/images"), &["build"])?;
        cluster.up()?;
        Ok(Site::Ours { cluster: Box::new(cluster), scratch })
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        match self {
            Site::Ours { cluster, .. } => cluster.kubeconfig(),
            Site::Named(file) => file.clone(),
        }
    }

    /// Ends the server and starts it again; false when it is not ours.
    pub(super) fn restart(&mut self) -> Result<bool> {
        let Site::Ours { cluster, .. } = self else { return Ok(false) };
        cluster.signal(Signal::SIGTERM)?;
        cluster.up()?;
        Ok(true)
    }

    pub(super) fn close(self) -> Result<()> {
        match self {
            Site::Ours { mut cluster, scratch } => {
                cluster.purge()?;
                Ok(scratch.close()?)
            }
            Site::Named(_) => Ok(()),
        }
    }
}

/// Imports the archives whose paths a script prints into the images of a cluster.
pub fn import(cluster: &Cluster, script: &Path, args: &[&str]) -> Result<()> {
    let archives =
        Command::new(script).args(args).output().with_context(|| format!("running {}", script.display()))?;
    ensure!(archives.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&archives.stderr));
    let files = String::from_utf8_lossy(&archives.stdout).into_owned();
    let import = cluster.coracle(&["image", "import"]).args(files.lines()).output()?;
    ensure!(import.status.success(), "image import: {}", String::from_utf8_lossy(&import.stderr));
    Ok(())
}
