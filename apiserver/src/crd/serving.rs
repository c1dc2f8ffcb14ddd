//! From a definition to the resources it serves: one for each version.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Gvk, Gvr, Object, conditions};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::strategy::CustomObjects;
use super::{JsonPath, VersionHook};
use crate::registry::version_priority;
use crate::resource::{
    Cell, Column, Convert, FieldPath, Hook, IndexedField, Persistence, Resource, Scale, Scope, Shown,
    TableColumn,
};
use crate::schema::{Schema, Written, structural};

/// Upstream's order in discovery.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

static STORED: Persistence = Persistence::Stored;

/// The group and plural under which a definition's objects are stored.
pub(super) fn storage(crd: &Object) -> Arc<str> {
    format!("{}/{}", crd.str_at(&["spec", "group"]), crd.str_at(&["spec", "names", "plural"])).into()
}

/// What of a definition decides how its resources look, as a digest.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint(crd: &Object) -> Fingerprint {
    let mut digest = Sha256::new();
    for path in [&["spec"][..], &["status", "acceptedNames"]] {
        digest.update(crd.at(path).map(Value::to_string).unwrap_or_default());
    }
    digest.update([u8::from(crd.is_being_deleted())]);
    digest.finalize().into()
}

/// The resources of all served versions of a definition, which is kept at `source` and has this fingerprint. Each ends when
/// `life` does.
pub(super) fn resources(
    crd: &Object,
    fingerprint: &Fingerprint,
    source: &Arc<Source>,
    life: &CancellationToken,
) -> Vec<Arc<Resource>> {
    let versions = crd.items_at(&["spec", "versions"]);
    let stored = versions.iter().find(|v| v["storage"] == true).map_or("", |v| text(v, "name"));
    // Where all has been the same ever since, objects are served as they are stored.
    let converts = versions.len() > 1 || crd.generation() > 1;
    let edition = u64::from_le_bytes(fingerprint[..8].try_into().expect("eight bytes of a digest"));
    let schemas: HashMap<String, Arc<Schema>> = versions
        .iter()
        .map(|v| {
            let gvk = Gvk::new(crd.str_at(&["spec", "group"]), text(v, "name"), "");
            let written = Version { source: source.clone(), name: text(v, "name").into() };
            (gvk.api_version(), Schema::custom(Box::new(written), edition | 1))
        })
        .collect();
    let by_webhook = VersionHook::new(crd, schemas.clone(), edition).map(Arc::new);
    let made = Made { crd, stored, converts, schemas, by_webhook, life };
    versions.iter().filter(|v| v["served"] == true).map(|v| Arc::new(made.resource(v))).collect()
}

/// A definition as it is stored: the store's own bytes, so that schemas which nobody asks for take no room of their own.
#[derive(Debug)]
pub(super) struct Source(RwLock<Bytes>);

/// One version of a definition.
#[derive(Debug)]
struct Version {
    source: Arc<Source>,
    name: Box<str>,
}

/// What of a stored definition tells the versions' schemas.
#[derive(Deserialize)]
struct Schemas<'a> {
    #[serde(borrow)]
    spec: SchemasOfSpec<'a>,
}

#[derive(Deserialize)]
struct SchemasOfSpec<'a> {
    #[serde(borrow)]
    versions: Vec<SchemaOfVersion<'a>>,
}

#[derive(Deserialize)]
struct SchemaOfVersion<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    schema: Option<SchemaInVersion<'a>>,
}

#[derive(Deserialize)]
struct SchemaInVersion<'a> {
    #[serde(borrow, rename = "openAPIV3Schema")]
    written: Option<&'a RawValue>,
}

/// The resources of a definition that is not stored.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn resources_of(crd: &Object) -> Vec<Arc<Resource>> {
    let source = Source::new(crd.0.to_string().into());
    resources(crd, &fingerprint(crd), &source, &CancellationToken::new())
}

struct Made<'a> {
    crd: &'a Object,
    stored: &'a str,
    converts: bool,
    /// By `apiVersion`.
    schemas: HashMap<String, Arc<Schema>>,
    by_webhook: Option<Arc<VersionHook>>,
    life: &'a CancellationToken,
}

// === impl Source ===

impl Source {
    pub(super) fn new(stored: Bytes) -> Arc<Self> {
        Arc::new(Source(RwLock::new(stored)))
    }

    /// A later revision, whose schemas are the same: the bytes of the earlier one need not be kept.
    pub(super) fn follow(&self, stored: Bytes) {
        *self.0.write() = stored;
    }
}

// === impl Version ===

impl Written for Version {
    fn read(&self) -> Value {
        let stored = self.source.0.read().clone();
        let definition: Option<Schemas<'_>> = serde_json::from_slice(&stored).ok();
        let mut versions = definition.into_iter().flat_map(|d| d.spec.versions);
        let own = versions.find(|v| *v.name == *self.name);
        let written = own.and_then(|v| v.schema?.written);
        written.and_then(|text| serde_json::from_str(text.get()).ok()).unwrap_or_default()
    }
}

// === impl Made ===

impl Made<'_> {
    fn resource(&self, version: &Value) -> Resource {
        let (crd, name) = (self.crd, text(version, "name"));
        let group = crd.str_at(&["spec", "group"]);
        let names = |key: &str| crd.str_at(&["status", "acceptedNames", key]).to_owned();
        let many = |key: &str| -> Vec<String> {
            let list = crd.items_at(&["status", "acceptedNames", key]);
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let gvk = Gvk::new(group, name, names("kind"));
        let schema = self.schemas[&gvk.api_version()].clone();
        let scale =
            version["subresources"]["scale"].as_object().map(|_| scale(&version["subresources"]["scale"]));
        let status = version["subresources"]["status"].is_object();
        let defaults = structural::has_defaults(&version["schema"]["openAPIV3Schema"]);
        let relabels = (self.converts || defaults) && self.by_webhook.is_none();
        let conversion = relabels.then(|| {
            let to = Relabel {
                served: gvk.api_version(),
                stored: Gvk::new(group, self.stored, "").api_version(),
                schema: schema.clone(),
                storage_schema: self.schemas.get(&Gvk::new(group, self.stored, "").api_version()).cloned(),
            };
            Hook::Custom(Arc::new(to) as Arc<dyn Convert>)
        });
        let strategy = CustomObjects::new(schema.clone(), scale.clone(), version);
        let terminating = crd.is_being_deleted();
        Resource {
            gvr: Gvr::new(group, name, names("plural")),
            singular: names("singular"),
            list_kind: names("listKind"),
            short: many("shortNames"),
            categories: many("categories"),
            scope: if crd.str_at(&["spec", "scope"]) == "Namespaced" {
                Scope::Namespaced
            } else {
                Scope::Cluster
            },
            verbs: VERBS.to_vec(),
            ending: terminating,
            persistence: &STORED,
            storage: storage(crd),
            stored_as: format!("{group}/{}/{}", self.stored, gvk.kind),
            unknown_label: crate::resource::NAMESPACED.unknown_label,
            status,
            first_status: None,
            generation: true,
            scale,
            fields: selectable(version),
            columns: columns(version),
            subresources: &[],
            strategy: Hook::Custom(Arc::new(strategy)),
            create_on_update: false,
            metadata_looks: [1, 1],
            conditional_update: true,
            status_on_create: !status,
            returns_deleted: false,
            free_finalizers: true,
            deprecated: deprecation(version, &gvk, crd.items_at(&["spec", "versions"])),
            resets: &[("status", &[&["metadata"], &["spec"]])],
            ttl: None,
            conversion,
            schema,
            typed: false,
            by_webhook: self.by_webhook.clone(),
            retired: self.life.clone(),
            gvk,
        }
    }
}

/// Objects of one version as another: only what they call themselves differs. What was stored under an earlier schema is
/// brought up to the present one.
struct Relabel {
    served: String,
    stored: String,
    schema: Arc<Schema>,
    /// Of the version that is stored.
    storage_schema: Option<Arc<Schema>>,
}

// === impl Relabel ===

impl Convert for Relabel {
    fn read(&self, object: &mut Object) {
        object.set(&["apiVersion"], self.served.as_str());
        if let Some(definition) = self.schema.definition() {
            definition.catch_up(object);
        }
    }

    /// What only another version knows is not stored.
    fn write(&self, object: &mut Object) {
        object.set(&["apiVersion"], self.stored.as_str());
        if self.served == self.stored {
            return;
        }
        if let Some(definition) = self.storage_schema.as_ref().and_then(|s| s.definition()) {
            definition.prune(object);
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn scale(scale: &Value) -> Scale {
    let path = |key: &str| FieldPath::from(text(scale, key));
    Scale {
        spec_replicas: path("specReplicasPath"),
        status_replicas: path("statusReplicasPath"),
        selector: path("labelSelectorPath"),
    }
}

fn selectable(version: &Value) -> Vec<IndexedField> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    let field = |f: &Value| IndexedField {
        label: text(f, "jsonPath").trim_start_matches('.').into(),
        path: text(f, "jsonPath").into(),
        absent: "".into(),
        or: FieldPath::default(),
    };
    fields.map(field).collect()
}

/// The name, and what the definition adds to it: without a word of its own, the age.
fn columns(version: &Value) -> Vec<TableColumn> {
    let name = Column {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
        cell: Cell::Path(&["metadata", "name"]),
    };
    let mut columns = vec![TableColumn { description: NAME_DESCRIPTION.into(), ..TableColumn::from(&name) }];
    let own = version["additionalPrinterColumns"].as_array().map(Vec::as_slice).unwrap_or_default();
    if own.is_empty() {
        columns.push(TableColumn {
            name: "Age".into(),
            kind: "date".into(),
            format: "".into(),
            description: CREATION_DESCRIPTION.into(),
            priority: 0,
            cell: Shown::Row(Cell::Age),
        });
    }
    columns.extend(own.iter().filter_map(|c| {
        let path = text(c, "jsonPath");
        let described = format!("Custom resource definition column (in JSONPath format): {path}");
        let cell = match (path, text(c, "type")) {
            (".metadata.creationTimestamp", "date") => Shown::Row(Cell::Age),
            _ => Shown::Path(JsonPath::parse(path)?),
        };
        Some(TableColumn {
            name: text(c, "name").to_owned().into(),
            kind: text(c, "type").to_owned().into(),
            format: text(c, "format").to_owned().into(),
            description: match text(c, "description") {
                "" => described.into(),
                own => own.to_owned().into(),
            },
            priority: c["priority"].as_i64().unwrap_or(0),
            cell,
        })
    }));
    columns
}

const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATION_DESCRIPTION: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// What is said to those who use a deprecated version.
fn deprecation(version: &Value, gvk: &Gvk, all: &[Value]) -> String {
    match (version["deprecated"] == true, text(version, "deprecationWarning")) {
        (false, _) => return String::new(),
        (true, "") => {}
        (true, own) => return own.to_owned(),
    }
    let Gvk { group, version: own, kind } = gvk;
    let warning = format!("{group}/{own} {kind} is deprecated");
    // The best of the versions that are to be preferred to it.
    let better = all
        .iter()
        .filter(|v| v["served"] == true && v["deprecated"] != true)
        .map(|v| text(v, "name"))
        .filter(|name| version_priority(name) > version_priority(own))
        .max_by_key(|name| version_priority(name));
    better.map_or(warning.clone(), |better| format!("{warning}; use {group}/{better} {kind}"))
}

/// Whether a definition's names are its own, so that it may be served.
pub(super) fn is_served(crd: &Object) -> bool {
    let all = crd.items_at(&["status", "conditions"]);
    conditions::is_true(all, "NamesAccepted") || conditions::is_true(all, "Established")
}
