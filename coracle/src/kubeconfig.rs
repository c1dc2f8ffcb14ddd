//! `coracle kubeconfig`: the administrator's kubeconfig on standard output.

use std::io::Write;

use anyhow::{Context, Result};

use crate::cli::DataDir;
use crate::data_dir::Layout;

pub fn print(data: &DataDir) -> Result<()> {
    let file = Layout::of(data.data_dir.as_deref())?.kubeconfig();
    let text = std::fs::read(&file)
        .with_context(|| format!("{} cannot be read: has the cluster been up once?", file.display()))?;
    std::io::stdout().write_all(&text).context("writing to standard output")
}
