//! A registry of images on loopback: filled by one of the scripts that make images, ended with its value.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::netns::Machine;

/// Where images are served, inside a network namespace of the cluster's own.
pub const ADDRESS: &str = "127.0.0.1:5000";

#[derive(Debug)]
pub struct Registry(Child);

// === impl Registry ===

impl Registry {
    /// Runs `<script> serve` (a path in this crate's folder) and waits until all images are there.
    pub fn serve(script: &str) -> Result<Self> {
        Self::run(Command::new(Self::path(script)), script)
    }

    /// The same on another machine, for the node there.
    pub fn serve_on(machine: &Machine, script: &str) -> Result<Self> {
        Self::run(machine.command(&Self::path(script)), script)
    }

    fn path(script: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(script)
    }

    fn run(mut command: Command, script: &str) -> Result<Self> {
        let mut child = command
            .args(["serve", ADDRESS])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the registry of images ({script} serve)"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let registry = Registry(child);
        ensure!(line.contains("ready"), "{script} serve said {line:?}");
        Ok(registry)
    }

    /// Writes the mirrors file that sends a node here for images of `host`; gives the flags for `coracle up`.
    pub fn flags(host: &str, file: &Path) -> Result<[String; 4]> {
        std::fs::write(file, format!("mirrors:\n  {host}: [\"http://{ADDRESS}\"]\n"))?;
        Ok([
            "--registries".to_owned(),
            file.to_string_lossy().into_owned(),
            "--insecure-loopback-registry".to_owned(),
            ADDRESS.to_owned(),
        ])
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The script ends its server when it is told to; already gone is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
