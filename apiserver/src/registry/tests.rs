//! The order of versions and groups, and who gives way to whom.

use super::*;
use crate::resources;

#[test]
fn versions_are_in_upstreams_order() {
    let ordered = [
        "v10",
        "v2",
        "v1",
        "v11beta2",
        "v10beta3",
        "v3beta1",
        "v12alpha1",
        "v11alpha2",
        "foo1",
        "foo10",
        "v",
        "v1beta",
        "v1beta1x",
        "v1gamma1",
    ];
    let registry = Registry::new(resources::builtins());
    for shift in [0, 5, 11] {
        let given = (0..ordered.len()).map(|n| ordered[(n * 5 + shift) % ordered.len()]);
        registry.replace_custom(given.map(|version| custom("example.com", version, "widgets", "Widget")));
        let shown = groups(&registry).pop().unwrap();
        assert_eq!(shown, format!("example.com: {}", ordered.join(" ")));
    }
}

/// A custom resource, as the registry sees one.
fn custom(group: &str, version: &str, plural: &str, kind: &str) -> Arc<Resource> {
    let mut resource = Resource::from(resources::builtins().next().unwrap());
    resource.gvr = Gvr::new(group, version, plural);
    resource.gvk = Gvk::new(group, version, kind);
    Arc::new(resource)
}

fn groups(registry: &Registry) -> Vec<String> {
    let catalog = registry.snapshot();
    let shown = |g: &Group| {
        let versions: Vec<&str> = g.versions.iter().map(|v| &*v.name).collect();
        format!("{}: {}", g.name, versions.join(" "))
    };
    catalog.groups().iter().map(shown).collect()
}

#[test]
fn custom_resources_come_and_go_and_take_nobodys_place() {
    let registry = Registry::new(resources::builtins());
    let before = groups(&registry);
    let builtin = registry.snapshot().resources().count();
    let stateful = Gvr::new("apps", "v1", "statefulsets");
    let widgets = [
        custom("example.com", "v1beta1", "widgets", "Widget"),
        custom("example.com", "v1", "widgets", "Widget"),
        custom("example.com", "v2alpha1", "widgets", "Widget"),
        custom("example.com", "v1", "gadgets", "Gadget"),
        // A built-in kind's place is taken; a further one in its group is not.
        custom("apps", "v1", "statefulsets", "Impostor"),
        custom("apps", "v1", "ships", "Ship"),
    ];
    registry.replace_custom(widgets.iter().cloned());
    assert_eq!(registry.snapshot().resources().count(), builtin + 5);
    assert_eq!(registry.lookup(&stateful).unwrap().gvk.kind, "StatefulSet");
    assert_eq!(registry.kind(&Gvk::new("apps", "v1", "Impostor")).map(|_| ()), None);
    assert!(registry.is_built_in("apps", "v1") && !registry.is_built_in("example.com", "v1"));
    let shown = groups(&registry);
    assert_eq!(shown[..before.len()], before, "those that were there keep their places");
    assert_eq!(shown[before.len()..], ["example.com: v1 v1beta1 v2alpha1"]);
    let catalog = registry.snapshot();
    let plurals = |version: &str| -> Vec<String> {
        catalog
            .version("example.com", version)
            .unwrap()
            .resources
            .iter()
            .map(|r| r.gvr.resource.clone())
            .collect()
    };
    assert_eq!(plurals("v1"), ["gadgets", "widgets"]);
    assert_eq!(registry.preferred("example.com", "widgets").unwrap().gvr.version, "v1");
    assert_eq!(registry.preferred("example.com", "nonsense").map(|_| ()), None);
    assert!(catalog.paths().contains("apis/example.com/v2alpha1"));

    // Who has a snapshot keeps it; whoever asks anew sees what is there now.
    registry.replace_custom(widgets.iter().take(1).cloned());
    assert!(catalog.lookup(&widgets[3].gvr).is_some() && registry.lookup(&widgets[3].gvr).is_none());
    assert_eq!(registry.preferred("example.com", "widgets").unwrap().gvr.version, "v1beta1");
    registry.replace_custom(std::iter::empty());
    assert_eq!((groups(&registry), registry.snapshot().resources().count()), (before, builtin));
}

#[test]
fn every_kind_is_found_by_what_it_is_called() {
    let registry = Registry::new(resources::builtins());
    let mut seen = HashSet::new();
    for resource in registry.snapshot().resources() {
        assert!(seen.insert(resource.gvr.clone()), "{} twice", resource.gvr.resource);
        let (by_name, by_kind) =
            (registry.lookup(&resource.gvr).unwrap(), registry.kind(&resource.gvk).unwrap());
        assert!(Arc::ptr_eq(&by_name, resource));
        // Several endpoints may answer with one kind.
        assert_eq!(by_kind.gvk, resource.gvk);
        assert!(registry.preferred(&resource.gvr.group, &resource.gvr.resource).is_some());
    }
    for (group, version, plural) in [("", "v2", "nodes"), ("nonsense", "v1", "nodes"), ("", "v1", "Nodes")] {
        assert!(registry.lookup(&Gvr::new(group, version, plural)).is_none());
    }
}
