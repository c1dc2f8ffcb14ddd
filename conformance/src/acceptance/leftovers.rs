//! After `coracle down --purge` the machine is as before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use coracle::data_dir::Layout;

use super::World;
use crate::kubectl::output_of;

/// What a cluster could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces(Vec<(&'static str, BTreeSet<String>)>);

// === impl Traces ===

impl Traces {
    /// Of the cluster with this layout; others may run on this machine.
    pub fn take(layout: &Layout) -> Result<Self> {
        let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let links = output_of("ip", &["-o", "link"])?;
        let links = links.lines().filter_map(|l| l.split(':').nth(1)).map(|n| n.trim().to_owned()).collect();
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mounts = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|m| [&layout.run, &layout.data].iter().any(|dir| Path::new(m).starts_with(dir)))
            .map(str::to_owned)
            .collect();
        Ok(Traces(vec![
            ("nft table", lines(output_of("nft", &["list", "tables"])?)),
            ("route", lines(output_of("ip", &["route"])?)),
            ("link", links),
            ("mount", mounts),
            ("cgroup", cgroups(&layout.cgroup_root())),
            ("process", processes()),
            (
                "entry in /run",
                layout.run.exists().then(|| layout.run.display().to_string()).into_iter().collect(),
            ),
        ]))
    }

    /// What is there now and was not there before, in words.
    pub(crate) fn beyond(&self, before: &Traces) -> Vec<String> {
        let kinds = self.0.iter().zip(&before.0);
        kinds
            .flat_map(|((what, now), (_, then))| now.difference(then).map(move |n| format!("{what} {n}")))
            .collect()
    }
}

fn entries(dir: &str) -> BTreeSet<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The cluster's group, in every hierarchy.
fn cgroups(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut roots = vec!["/sys/fs/cgroup".to_owned()];
    roots.extend(entries("/sys/fs/cgroup").into_iter().map(|e| format!("/sys/fs/cgroup/{e}")));
    for root in roots {
        let group = format!("{root}{name}");
        if Path::new(&group).exists() {
            found.insert(group);
        }
    }
    found
}

/// Processes of the program itself in this network namespace: the server, shims. Another cluster's are not ours to judge.
fn processes() -> BTreeSet<String> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = network("self");
    let pids = entries("/proc");
    let commands = pids.iter().filter(|p| p.bytes().all(|b| b.is_ascii_digit())).filter_map(|pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        let program = command.split(' ').next()?.rsplit('/').next()?.to_owned();
        let is_program = program.starts_with("coracle") || command.contains("/proc/self/exe shim");
        (is_program && network(pid) == ours).then(|| format!("{pid} {command}"))
    });
    commands.collect()
}

pub(super) fn purged(world: &mut World) -> Result<()> {
    world.cluster.purge()?;
    ensure!(!world.cluster.data_dir.exists(), "{} is still there", world.cluster.data_dir.display());
    let after = Traces::take(&world.layout)?;
    let left = after.beyond(&world.before);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
