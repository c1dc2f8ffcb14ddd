//! What is served, told to clients: `/api`, `/apis` and below, and the aggregated form. Derived from the registry, so
//! that a new row or a custom resource needs nothing here.

mod version;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::aggregation::Discovered;
use crate::registry::{Catalog, Group, Version};
use crate::resource::{Resource, Subresource, SubresourceHandler};

/// What a discovery request gets.
#[derive(Debug, PartialEq)]
pub struct Document {
    pub body: Value,
    pub content_type: &'static str,
}

/// The media type of the aggregated form, as clients ask for it and are answered.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
pub use version::version;

const JSON: &str = "application/json";

const READ_WRITE: &[&str] = &["get", "patch", "update"];

/// The document at a path (`/api`, `/apis`, `/apis/apps`, `/apis/apps/v1`, `/api/v1`); `None` where nothing is served.
/// `server` is the address clients reach this server at.
pub fn document(catalog: &Catalog, path: &str, accept: Option<&str>, server: &str) -> Option<Document> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let aggregated = accept.is_some_and(wants_aggregated);
    let plain = |body: Value| Some(Document { body, content_type: JSON });
    match segments[..] {
        ["api" | "apis"] if aggregated => {
            Some(Document { body: aggregate(catalog, segments[0] == "api"), content_type: AGGREGATED })
        }
        ["api"] => plain(json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]})),
        ["apis"] => {
            let groups: Vec<Value> = named_groups(catalog).map(group_entry).collect();
            plain(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => {
            let mut entry = group_entry(named_groups(catalog).find(|g| g.name == name)?);
            entry["kind"] = "APIGroup".into();
            entry["apiVersion"] = "v1".into();
            plain(entry)
        }
        ["api", version] => plain(resource_list(catalog.version("", version)?, version)),
        ["apis", group, version] if !group.is_empty() => {
            plain(resource_list(catalog.version(group, version)?, &format!("{group}/{version}")))
        }
        _ => None,
    }
}

/// The quoted hash of a document, for `ETag` and `If-None-Match`.
pub fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode_upper(Sha256::digest(body)))
}

fn named_groups(catalog: &Catalog) -> impl Iterator<Item = &Group> {
    catalog.groups().iter().filter(|g| !g.name.is_empty())
}

/// Whether the first thing the client would take is the aggregated form.
fn wants_aggregated(accept: &str) -> bool {
    let first = accept.split(',').next().unwrap_or_default().replace(' ', "");
    ["application/json", "g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
        .iter()
        .all(|part| first.split(';').any(|p| p == *part))
}

fn group_entry(group: &Group) -> Value {
    let version =
        |v: &Version| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

// === the plain form ===

fn resource_list(version: &Version, group_version: &str) -> Value {
    let resources: Vec<Value> = version.resources.iter().flat_map(entries).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

/// A resource and its subresources, in the order of their names.
fn entries(resource: &Arc<Resource>) -> Vec<Value> {
    let mut main = json!({"name": resource.gvr.resource, "singularName": resource.singular, "namespaced": resource.namespaced(),
                          "kind": resource.gvk.kind, "verbs": verbs(resource)});
    names(resource, &mut main);
    if resource.serves("list") {
        main["storageVersionHash"] = storage_hash(resource).into();
    }
    let mut all = vec![main];
    all.extend(endpoints(resource).into_iter().map(|e| {
        let mut entry = json!({"name": format!("{}/{}", resource.gvr.resource, e.name), "singularName": "",
                               "namespaced": resource.namespaced(), "kind": e.kind, "verbs": e.verbs});
        if (e.group, e.version) != (&*resource.gvk.group, &*resource.gvk.version) && !e.version.is_empty() {
            entry["group"] = e.group.into();
            entry["version"] = e.version.into();
        }
        entry
    }));
    all
}

/// What may be done with a resource; of one that is on its way out, what ends it.
fn verbs(resource: &Resource) -> Vec<&'static str> {
    let begins = |verb: &str| matches!(verb, "create" | "patch" | "update");
    resource.verbs.iter().copied().filter(|verb| !(resource.ending && begins(verb))).collect()
}

fn names(resource: &Resource, entry: &mut Value) {
    for (field, names) in [("shortNames", &resource.short), ("categories", &resource.categories)] {
        if !names.is_empty() {
            entry[field] = json!(names);
        }
    }
}

/// Upstream's hash of the kind that is stored: clients compare it to see whether storage has moved to another version.
fn storage_hash(resource: &Resource) -> String {
    STANDARD.encode(&Sha256::digest(&resource.stored_as)[..8])
}

/// A subresource as discovery shows it.
struct Endpoint<'a> {
    name: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: Vec<&'a str>,
}

/// All subresources, those that are facts of the row included.
fn endpoints(resource: &Resource) -> Vec<Endpoint<'_>> {
    let own = &resource.gvk;
    let mut all: Vec<Endpoint<'_>> = resource.subresources.iter().map(|s| endpoint(resource, s)).collect();
    if resource.status {
        all.push(Endpoint {
            name: "status",
            group: &own.group,
            version: &own.version,
            kind: &own.kind,
            verbs: READ_WRITE.to_vec(),
        });
    }
    if resource.scale.is_some() {
        all.push(Endpoint {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: READ_WRITE.to_vec(),
        });
    }
    // Those of custom resources stay in upstream's order.
    if resource.typed {
        all.sort_by_key(|e| e.name);
    }
    all
}

fn endpoint<'a>(resource: &'a Resource, subresource: &'a Subresource) -> Endpoint<'a> {
    let (group, version, kind) = match (&subresource.handler, subresource.kind) {
        // A part of the object has the object's own kind.
        (SubresourceHandler::Part, _) | (_, ("", "", "")) => {
            (&*resource.gvk.group, &*resource.gvk.version, &*resource.gvk.kind)
        }
        (_, kind) => kind,
    };
    let mut verbs = subresource.verbs.to_vec();
    verbs.sort_unstable();
    Endpoint { name: subresource.name, group, version, kind, verbs }
}

// === the aggregated form ===

fn aggregate(catalog: &Catalog, core: bool) -> Value {
    let items: Vec<Value> =
        catalog.groups().iter().filter(|g| g.name.is_empty() == core).map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| match &v.remote {
            Some(remote) => aggregated_remote(&v.name, &remote.discovered()),
            None => {
                let resources: Vec<Value> = v.resources.iter().map(|r| aggregated_resource(r)).collect();
                json!({"version": v.name, "resources": resources, "freshness": "Current"})
            }
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

/// What another server has said of a version it answers.
fn aggregated_remote(version: &str, said: &Discovered) -> Value {
    let freshness = if said.is_current { "Current" } else { "Stale" };
    let mut entry = json!({"version": version, "freshness": freshness});
    if said.resources.as_array().is_some_and(|r| !r.is_empty()) {
        entry["resources"] = said.resources.clone();
    }
    entry
}

fn aggregated_resource(resource: &Resource) -> Value {
    let scope = if resource.namespaced() { "Namespaced" } else { "Cluster" };
    // Of custom kinds all is said; group and version of others stay empty where they are those of the list itself.
    let (group, version) = match resource.typed {
        true => ("", ""),
        false => (&*resource.gvk.group, &*resource.gvk.version),
    };
    let mut entry = json!({"resource": resource.gvr.resource, "scope": scope, "singularResource": resource.singular,
        "responseKind": response_kind(group, version, &resource.gvk.kind), "verbs": verbs(resource)});
    names(resource, &mut entry);
    let subresources: Vec<Value> = endpoints(resource)
        .into_iter()
        .map(|e| {
            let own = (e.group, e.version) == (&*resource.gvk.group, &*resource.gvk.version);
            let kind = if own {
                response_kind(group, version, e.kind)
            } else {
                response_kind(e.group, e.version, e.kind)
            };
            json!({"subresource": e.name, "responseKind": kind, "verbs": e.verbs})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    let mut map = Map::new();
    for (name, value) in [("group", group), ("version", version), ("kind", kind)] {
        map.insert(name.to_owned(), value.into());
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn get(path: &str, accept: Option<&str>) -> Option<Value> {
        let registry = Registry::new(crate::resources::builtins());
        document(&registry.snapshot(), path, accept, "192.0.2.1:6443").map(|d| d.body)
    }

    fn named<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
        let items = list.as_array().unwrap();
        items.iter().find(|r| r[field] == name).unwrap_or_else(|| panic!("{name} is not there"))
    }

    #[test]
    fn the_plain_form_is_upstreams() {
        let core = get("/api/v1", None).unwrap();
        let pods = named(&core["resources"], "name", "pods");
        assert_eq!(
            (&pods["singularName"], &pods["namespaced"], &pods["storageVersionHash"]),
            (&json!("pod"), &json!(true), &json!("xPOwRZ+Yhw8="))
        );
        assert_eq!(pods["shortNames"], json!(["po"]));
        let eviction = named(&core["resources"], "name", "pods/eviction");
        assert_eq!(
            (&eviction["group"], &eviction["version"], &eviction["kind"]),
            (&json!("policy"), &json!("v1"), &json!("Eviction"))
        );
        let finalize = named(&core["resources"], "name", "namespaces/finalize");
        assert_eq!((&finalize["kind"], &finalize["verbs"]), (&json!("Namespace"), &json!(["update"])));
        let apps = get("/apis/apps/v1", None).unwrap();
        assert_eq!(
            named(&apps["resources"], "name", "controllerrevisions")["storageVersionHash"],
            "85nkx63pcBU="
        );
        assert_eq!(named(&apps["resources"], "name", "deployments/scale")["kind"], "Scale");
        assert_eq!(get("/apis/apps", None).unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(get("/apis/nonsense", None), None);
        assert_eq!(get("/api/v2", None), None);
    }

    #[test]
    fn the_aggregated_form_is_given_when_it_is_asked_for_first() {
        let asked =
            Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
        let list = get("/apis", asked).unwrap();
        assert_eq!(list["apiVersion"], "apidiscovery.k8s.io/v2");
        let apps =
            list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let deployments = named(&apps["versions"][0]["resources"], "resource", "deployments");
        assert_eq!(
            named(&deployments["subresources"], "subresource", "scale")["responseKind"]["group"],
            "autoscaling"
        );
        assert_eq!(get("/apis", Some("application/json")).unwrap()["kind"], "APIGroupList");
        // Only the second version of the format is served; clients that ask for another take the plain form.
        assert_eq!(get("/apis", Some("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")).unwrap()["kind"], "APIGroupList");
    }
}
