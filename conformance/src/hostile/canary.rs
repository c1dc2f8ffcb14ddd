//! Things outside of all pods that nothing may read, write or signal.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A directory and a process of root's, and texts that must stay where they are.
pub(super) struct Canary {
    pub(super) dir: PathBuf,
    /// Written in a file of the directory, and in a Secret of the tenant's.
    pub(super) text: String,
    /// Further texts that no attacker may see: parts of the cluster's private keys.
    secrets: Vec<String>,
    process: Child,
    before: Vec<Entry>,
}

/// All that a writer could have changed.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    content: Option<Vec<u8>>,
}

// === impl Canary ===

impl Canary {
    /// Makes it below `scratch`; the keys are those in `pki`.
    pub(super) fn place(scratch: &Path, pki: &Path) -> Result<Self> {
        let dir = scratch.join("canary");
        let text = format!("canary-{}-{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        DirBuilder::new().mode(0o755).create(&dir)?;
        DirBuilder::new().mode(0o755).create(dir.join("kept"))?;
        for file in ["secret", "kept/one", "kept/two"] {
            let path = dir.join(file);
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(&path)?;
            writeln!(file, "{text}").with_context(|| format!("writing {}", path.display()))?;
        }
        // The way to it is open, so that only what guards the host's files is in between.
        fs::set_permissions(scratch, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        // Ended by the kernel with this program, whatever ends that.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("starting setpriv")?;
        let before = entries(&dir)?;
        Ok(Canary { dir, text, secrets: keys(pki)?, process, before })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether something that must not be seen is in a text.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.contains(&self.text) || self.secrets.iter().any(|s| text.contains(s))
    }

    /// Everything is as it was made.
    pub(super) fn check(&mut self) -> Result<()> {
        ensure!(self.process.try_wait()?.is_none(), "a process outside of all pods was ended");
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        ensure!(state != Some('T'), "a process outside of all pods was stopped");
        let now = entries(&self.dir)?;
        ensure!(now == self.before, "files outside of all pods changed: {:?} became {now:?}", self.before);
        Ok(())
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn entries(dir: &Path) -> Result<Vec<Entry>> {
    let mut found = vec![];
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
        let content = if meta.is_file() { Some(fs::read(&path)?) } else { None };
        found.push(Entry {
            path,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            content,
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A line of each private key below a directory.
fn keys(pki: &Path) -> Result<Vec<String>> {
    let mut found = vec![];
    for entry in fs::read_dir(pki).with_context(|| format!("reading {}", pki.display()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let key = text.split("PRIVATE KEY-----").nth(1).and_then(|key| key.lines().find(|l| l.len() >= 40));
        found.extend(key.map(str::to_owned));
    }
    ensure!(!found.is_empty(), "no private keys below {}", pki.display());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_sees_what_was_written_and_what_was_told() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let pki = scratch.path().join("pki");
        fs::create_dir(&pki)?;
        let line = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwN";
        fs::write(
            pki.join("ca.key"),
            format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n"),
        )?;
        let mut canary = Canary::place(scratch.path(), &pki)?;
        canary.check()?;
        assert!(canary.is_in(&format!("log: {}", canary.text)) && canary.is_in(line) && !canary.is_in("log"));
        fs::write(canary.dir.join("kept/one"), "other")?;
        assert!(canary.check().is_err());
        Ok(())
    }
}
