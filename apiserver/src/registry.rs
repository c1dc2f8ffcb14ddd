//! The kinds that are served: group, version and resource to [`Resource`]. Discovery, OpenAPI and routing derive from it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use coracle_api::{Gvk, Gvr};
use parking_lot::Mutex;

use crate::aggregation::Remote;
use crate::resource::{Resource, Row};

/// All served kinds. Readers take a snapshot and never wait; changes (custom resources come and go) make a new one.
pub struct Registry {
    catalog: ArcSwap<Catalog>,
    builtins: Vec<Arc<Resource>>,
    changing: Mutex<Changing>,
}

/// What comes and goes; held while a catalog is made of it.
#[derive(Default)]
struct Changing {
    custom: Vec<Arc<Resource>>,
    remotes: Vec<Arc<Remote>>,
}

/// The places of custom resources among others, as upstream's.
pub const CUSTOM_GROUP_PRIORITY: i64 = 1000;
pub const CUSTOM_VERSION_PRIORITY: i64 = 100;

/// One state of the registry.
#[derive(Default)]
pub struct Catalog {
    by_gvr: HashMap<Gvr, Arc<Resource>>,
    by_gvk: HashMap<Gvk, Arc<Resource>>,
    /// Groups in the order discovery shows them; within a group, versions by preference.
    groups: Vec<Group>,
    remotes: Vec<Arc<Remote>>,
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
    /// The server that answers it; this one, and its resources, where there is none.
    pub remote: Option<Arc<Remote>>,
}

// === impl Registry ===

impl Registry {
    pub fn new(rows: impl Iterator<Item = &'static Row>) -> Self {
        let builtins = rows.map(|row| Arc::new(Resource::from(row))).collect::<Vec<_>>();
        let catalog = ArcSwap::from_pointee(Catalog::new(&builtins, &Changing::default()));
        Registry { catalog, builtins, changing: Mutex::default() }
    }

    /// Serves these custom resources, and no others, from now on. A built-in kind gives its place to none.
    pub fn replace_custom(&self, custom: impl Iterator<Item = Arc<Resource>>) {
        let builtins: HashSet<&Gvr> = self.builtins.iter().map(|r| &r.gvr).collect();
        let mut changing = self.changing.lock();
        changing.custom = custom.filter(|r| !builtins.contains(&r.gvr)).collect();
        self.catalog.store(Arc::new(Catalog::new(&self.builtins, &changing)));
    }

    /// Whether a group version has built-in kinds: no other server takes its place.
    pub fn is_built_in(&self, group: &str, version: &str) -> bool {
        self.builtins.iter().any(|b| b.gvr.group == group && b.gvr.version == version)
    }

    /// Leaves these group versions, none of them built in, to other servers from now on, and no others.
    pub fn replace_remotes(&self, remotes: impl Iterator<Item = Arc<Remote>>) {
        let mut changing = self.changing.lock();
        changing.remotes = remotes.collect();
        self.catalog.store(Arc::new(Catalog::new(&self.builtins, &changing)));
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
    fn new(builtins: &[Arc<Resource>], changing: &Changing) -> Self {
        let resources = || builtins.iter().chain(&changing.custom);
        let mut groups: Vec<(String, BTreeMap<usize, Version>)> = vec![];
        for r in resources() {
            let at = groups.iter().position(|(name, _)| *name == r.gvr.group).unwrap_or_else(|| {
                groups.push((r.gvr.group.clone(), BTreeMap::new()));
                groups.len() - 1
            });
            let versions = &mut groups[at].1;
            let next = versions.len();
            let slot = versions.iter().find(|(_, v)| v.name == r.gvr.version).map_or(next, |(i, _)| *i);
            versions.entry(slot).or_insert_with(|| Version::new(&r.gvr.version)).resources.push(r.clone());
        }
        let groups = groups.into_iter().map(|(name, versions)| Group::new(name, versions.into_values()));
        let mut groups: Vec<Group> = groups.collect();
        let first: HashSet<&str> = builtins.iter().map(|r| &*r.gvr.group).collect();
        add_remotes(&mut groups, first.len(), &changing.remotes);
        Catalog {
            groups,
            by_gvr: resources().map(|r| (r.gvr.clone(), r.clone())).collect(),
            by_gvk: resources().map(|r| (r.gvk.clone(), r.clone())).collect(),
            remotes: changing.remotes.clone(),
        }
    }

    /// The server that answers a group version, where it is not this one.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.remotes.iter().find(|r| r.group == group && r.version == version)
    }

    pub fn lookup(&self, gvr: &Gvr) -> Option<&Arc<Resource>> {
        self.by_gvr.get(gvr)
    }

    /// The resource of a kind.
    pub fn kind(&self, gvk: &Gvk) -> Option<&Arc<Resource>> {
        self.by_gvk.get(gvk)
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }

    /// All group versions that are served: `api/v1`, `apis/apps/v1`.
    pub fn paths(&self) -> HashSet<String> {
        let versions = self.groups.iter().flat_map(|g| g.versions.iter().map(move |v| (g, v)));
        versions.map(|(g, v)| crate::openapi::path(&g.name, &v.name)).collect()
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
        let mut group = Group { name, versions };
        group.sort();
        group
    }

    fn sort(&mut self) {
        let order = |v: &Version| (v.priority(), version_priority(&v.name));
        self.versions.sort_by(|a, b| order(b).cmp(&order(a)).then_with(|| a.name.cmp(&b.name)));
    }

    /// What its versions ask for; the group gets the highest.
    fn priority(&self) -> i64 {
        let of = |v: &Version| v.remote.as_ref().map_or(CUSTOM_GROUP_PRIORITY, |r| r.group_priority);
        self.versions.iter().map(of).max().unwrap_or_default()
    }
}

// === impl Version ===

impl Version {
    fn new(name: &str) -> Self {
        Version { name: name.to_owned(), resources: vec![], remote: None }
    }

    fn priority(&self) -> i64 {
        self.remote.as_ref().map_or(CUSTOM_VERSION_PRIORITY, |r| r.version_priority)
    }
}

/// Gives the group versions that other servers answer to those. The `first` groups keep their places.
fn add_remotes(groups: &mut Vec<Group>, first: usize, remotes: &[Arc<Remote>]) {
    if remotes.is_empty() {
        return;
    }
    for remote in remotes {
        let at = groups.iter().position(|g| g.name == remote.group).unwrap_or_else(|| {
            groups.push(Group { name: remote.group.clone(), versions: vec![] });
            groups.len() - 1
        });
        let versions = &mut groups[at].versions;
        versions.retain(|v| v.name != remote.version);
        versions.push(Version { remote: Some(remote.clone()), ..Version::new(&remote.version) });
        groups[at].sort();
    }
    groups[first..].sort_by(|a, b| (b.priority(), &a.name).cmp(&(a.priority(), &b.name)));
}

/// Upstream's order of versions: stable before beta before alpha, then the higher number; what is no such version is last.
pub fn version_priority(version: &str) -> (u8, u64, u64) {
    parsed(version).unwrap_or_default()
}

/// `v1`, `v1beta2`, `v1alpha3`, to the letter.
fn parsed(version: &str) -> Option<(u8, u64, u64)> {
    fn number(text: &str) -> Option<(u64, &str)> {
        let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        Some((digits.parse().ok()?, rest))
    }
    let (major, rest) = number(version.strip_prefix('v')?)?;
    let (stage, rest) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(beta), _) => (2, beta),
        (_, Some(alpha)) => (1, alpha),
        (None, None) => return rest.is_empty().then_some((3, major, 0)),
    };
    let (minor, rest) = number(rest)?;
    rest.is_empty().then_some((stage, major, minor))
}

#[cfg(test)]
mod tests;
