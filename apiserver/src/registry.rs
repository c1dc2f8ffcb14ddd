//! The kinds that are served: group, version and resource to [`Resource`]. Discovery, OpenAPI and routing derive from it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use coracle_api::{Gvk, Gvr};

use crate::resource::{Resource, Row};

/// All served kinds. Readers take a snapshot and never wait; changes (custom resources come and go) make a new one.
pub struct Registry {
    catalog: ArcSwap<Catalog>,
    builtins: Vec<Arc<Resource>>,
}

/// One state of the registry.
#[derive(Default)]
pub struct Catalog {
    by_gvr: HashMap<Gvr, Arc<Resource>>,
    by_gvk: HashMap<Gvk, Arc<Resource>>,
    /// Groups in the order discovery shows them; within a group, versions by preference.
    groups: Vec<Group>,
}

/// One API group with its versions, the preferred one first.
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

/// One version of a group with its resources, sorted by plural.
pub struct Version {
    pub name: String,
    pub resources: Vec<Arc<Resource>>,
}

// === impl Registry ===

impl Registry {
    pub fn new(rows: impl Iterator<Item = &'static Row>) -> Self {
        let builtins = rows.map(|row| Arc::new(Resource::from(row))).collect::<Vec<_>>();
        Registry { catalog: ArcSwap::from_pointee(Catalog::new(&builtins)), builtins }
    }

    /// Serves these custom resources, and no others, from now on. A built-in kind gives its place to none.
    pub fn replace_custom(&self, custom: impl Iterator<Item = Arc<Resource>>) {
        let mut all = self.builtins.clone();
        let builtins: HashSet<&Gvr> = self.builtins.iter().map(|r| &r.gvr).collect();
        all.extend(custom.filter(|r| !builtins.contains(&r.gvr)));
        self.catalog.store(Arc::new(Catalog::new(&all)));
    }

    pub fn snapshot(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    pub fn lookup(&self, gvr: &Gvr) -> Option<Arc<Resource>> {
        self.catalog.load().lookup(gvr).cloned()
    }

    /// The resource of a kind.
    pub fn kind(&self, gvk: &Gvk) -> Option<Arc<Resource>> {
        self.catalog.load().by_gvk.get(gvk).cloned()
    }

    /// The resource of a group and plural in the group's preferred version that has it.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let catalog = self.snapshot();
        let group = catalog.groups.iter().find(|g| g.name == group)?;
        group.versions.iter().flat_map(|v| &v.resources).find(|r| r.gvr.resource == plural).cloned()
    }
}

// === impl Catalog ===

impl Catalog {
    fn new(resources: &[Arc<Resource>]) -> Self {
        let mut groups: Vec<(String, BTreeMap<usize, Version>)> = vec![];
        for r in resources {
            let at = groups.iter().position(|(name, _)| *name == r.gvr.group).unwrap_or_else(|| {
                groups.push((r.gvr.group.clone(), BTreeMap::new()));
                groups.len() - 1
            });
            let versions = &mut groups[at].1;
            let next = versions.len();
            let slot = versions.iter().find(|(_, v)| v.name == r.gvr.version).map_or(next, |(i, _)| *i);
            versions
                .entry(slot)
                .or_insert_with(|| Version { name: r.gvr.version.clone(), resources: vec![] })
                .resources
                .push(r.clone());
        }
        let groups = groups.into_iter().map(|(name, versions)| Group::new(name, versions.into_values()));
        Catalog {
            groups: groups.collect(),
            by_gvr: resources.iter().map(|r| (r.gvr.clone(), r.clone())).collect(),
            by_gvk: resources.iter().map(|r| (r.gvk.clone(), r.clone())).collect(),
        }
    }

    pub fn lookup(&self, gvr: &Gvr) -> Option<&Arc<Resource>> {
        self.by_gvr.get(gvr)
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }

    /// Whether a group version (`api/v1`, `apis/apps/v1`) is served.
    pub fn serves_path(&self, path: &str) -> bool {
        self.groups.iter().any(|g| g.versions.iter().any(|v| crate::openapi::path(&g.name, &v.name) == path))
    }

    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        self.groups.iter().find(|g| g.name == group)?.versions.iter().find(|v| v.name == version)
    }
}

// === impl Group ===

impl Group {
    fn new(name: String, versions: impl Iterator<Item = Version>) -> Self {
        let mut versions: Vec<Version> = versions.collect();
        for v in &mut versions {
            v.resources.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
        }
        versions.sort_by_key(|v| std::cmp::Reverse(version_priority(&v.name)));
        Group { name, versions }
    }
}

/// Upstream's order of versions: stable before beta before alpha, then the higher number.
pub fn version_priority(version: &str) -> (u8, u32, u32) {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let major = digits(rest);
    let (stage, minor) = match &rest[major.len()..] {
        "" => (3, 0),
        beta if beta.starts_with("beta") => (2, beta[4..].parse().unwrap_or(0)),
        alpha if alpha.starts_with("alpha") => (1, alpha[5..].parse().unwrap_or(0)),
        _ => (0, 0),
    };
    (stage, major.parse().unwrap_or(0), minor)
}
