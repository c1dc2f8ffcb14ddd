//! What a kind is: a [`Row`] of data for the built-in ones, and the run-time [`Resource`] that rows and CRDs both become.

use std::ops::Deref;
use std::sync::Arc;

use coracle_api::{Gvk, Gvr, Object};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::Server;
use crate::authn::User;
use crate::crd::VersionHook;
use crate::field::FieldError;
use crate::schema::Schema;
use crate::status::{Result, Status};
use crate::store::Holding;

mod conversion;
mod shape;

pub use conversion::{Conversion, Convert};
pub use shape::{FieldPath, IndexedField, Scale, Shown, TableColumn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// One column of `kubectl get`, with upstream's names, types and priorities.
#[derive(Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: &'static str,
    /// `name` for the first column, else mostly empty.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
    pub cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Clone, Copy)]
pub enum Cell {
    /// Field names from the object's root: `["metadata", "name"]`. Missing is an empty string.
    Path(&'static [&'static str]),
    /// Time since `metadata.creationTimestamp` in upstream's short form, `<unknown>` where missing.
    Age,
    /// Anything that needs a rule. The second argument is the time of the request.
    Compute(fn(&Object, jiff::Timestamp) -> Value),
}

/// A field that `fieldSelector` may name besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Copy, Debug)]
pub struct SelectableField {
    /// `spec.nodeName`
    pub label: &'static str,
    /// Where the value stands in the stored version.
    pub path: &'static [&'static str],
    /// What an absent field counts as (`""`, or e.g. `false` for `spec.unschedulable`).
    pub absent: &'static str,
    /// Where to look when there is nothing under `path`; mostly empty.
    pub or: &'static [&'static str],
}

/// Where `scale` finds its numbers in the object.
#[derive(Clone, Copy)]
pub struct ScalePaths {
    pub spec_replicas: &'static [&'static str],
    pub status_replicas: &'static [&'static str],
    /// The field holding the selector: a `LabelSelector` or a plain map.
    pub selector: &'static [&'static str],
}

/// An endpoint below an object, as `pods/binding`. `status` and `scale` are not listed here: they are facts of the row.
pub struct Subresource {
    pub name: &'static str,
    /// The kind its body has (for discovery and decoding): `("authentication.k8s.io", "v1", "TokenRequest")`.
    pub kind: (&'static str, &'static str, &'static str),
    /// `create`, `get`, `update`, `patch` ...
    pub verbs: &'static [&'static str],
    pub handler: SubresourceHandler,
}

pub enum SubresourceHandler {
    /// A body in, an object out (binding, eviction, token). The object's existence is the handler's to check.
    Call(&'static dyn Call),
    /// get / update / patch of the object with a change of its own (approval, finalize, resize): which part of the new
    /// object the endpoint may write is decided by `Strategy::isolate`.
    Part,
    /// The raw connection goes to the node that runs the pod (log, exec, attach, portforward) or is proxied.
    Connect(Connect),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
}

/// One call to a computed resource or subresource.
pub struct Invocation<'a> {
    pub user: &'a User,
    pub resource: &'a Resource,
    pub namespace: &'a str,
    pub name: &'a str,
    pub body: Object,
    pub dry_run: bool,
}

/// A computed answer: nothing is stored under the request's own name.
pub trait Call: Send + Sync {
    /// Whether a body in this older version of its group means the same.
    fn accepts(&self, _api_version: &str) -> bool {
        false
    }

    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>>;
}

/// How a kind's objects live.
pub enum Persistence {
    /// In the store, under `Row::storage`.
    Stored,
    /// Only `create` exists and its answer is computed (access reviews, bindings).
    Computed(&'static dyn Call),
}

/// One built-in kind in one served version. Write it as `Row { ..NAMESPACED }` or `Row { ..CLUSTER }`.
pub struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Empty: the lower-case kind.
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    pub persistence: Persistence,
    /// `group/plural` under which objects are stored; empty: this row's own. Lets two groups serve the same objects.
    pub storage: &'static str,
    /// Whether `/status` exists, and so whether the main endpoint ignores `status`.
    pub status: bool,
    /// The status every new object begins with, as JSON; empty: none.
    pub first_status: &'static str,
    /// Whether `metadata.generation` counts changes of the spec.
    pub generation: bool,
    pub scale: Option<ScalePaths>,
    pub fields: &'static [SelectableField],
    /// Empty: Name and Age.
    pub columns: &'static [Column],
    pub subresources: &'static [Subresource],
    pub strategy: &'static dyn Strategy,
    /// Whether a `PUT` to a name that does not exist creates the object.
    pub create_on_update: bool,
    /// Whether an update must name the `resourceVersion` it is made from.
    pub conditional_update: bool,
    /// Whether a client may write the status with `create` (nodes register themselves with theirs).
    pub status_on_create: bool,
    /// Whether a delete answers the deleted object, not a `Status`.
    pub returns_deleted: bool,
    /// Whether finalizers need neither a domain nor to be well-known.
    pub free_finalizers: bool,
    /// How often upstream's rules for an update of this kind, and of its status, look at the metadata besides those for
    /// every kind: once as at an update, twice where they look at it as at a new object, too. Each tells all again.
    pub metadata_looks: [u8; 2],
    /// The warning that every use of this version gets; mostly empty.
    pub deprecated: &'static str,
    /// What an endpoint does not write, and so does not own: its name and fields, where that is not the usual.
    pub resets: &'static [Reset],
    /// How long an object lives after its last write; `None` is for ever.
    pub ttl: Option<std::time::Duration>,
    /// `group/version/Kind` that upstream stores, where it is not this one: discovery's hash tells clients of it.
    pub stored_as: &'static str,
    /// What upstream says of a field that no selector knows; `{}` is the field.
    pub unknown_label: &'static str,
    /// Where this version differs from the stored one.
    pub conversion: Option<&'static Conversion>,
}

/// An endpoint (`""` is the main one) and the fields that it leaves as they are.
pub type Reset = (&'static str, &'static [&'static [&'static str]]);

/// A hook: compiled in, or made for a custom resource and dropped with it.
pub enum Hook<T: ?Sized + 'static> {
    Builtin(&'static T),
    Custom(Arc<T>),
}

/// Every verb of a stored kind.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

pub const NAMESPACED: Row = Row {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    persistence: Persistence::Stored,
    storage: "",
    status: false,
    first_status: "",
    generation: false,
    scale: None,
    fields: &[],
    columns: &[],
    subresources: &[],
    strategy: &Plain,
    create_on_update: false,
    metadata_looks: [1, 1],
    conditional_update: false,
    status_on_create: false,
    returns_deleted: false,
    free_finalizers: false,
    deprecated: "",
    resets: &[],
    ttl: None,
    stored_as: "",
    unknown_label: "field label not supported: {}",
    conversion: None,
};

pub const CLUSTER: Row = Row { scope: Scope::Cluster, ..NAMESPACED };

/// What a write is: who, where, when, and through which endpoint.
pub struct WriteContext<'a> {
    pub user: &'a User,
    pub resource: &'a Resource,
    /// `""`, `status`, `scale`, `approval` ...
    pub subresource: &'a str,
    pub now: jiff::Timestamp,
    pub dry_run: bool,
    /// Whether an object to be created came with labels; others may be its defaults.
    pub labelled: bool,
}

/// What a kind may add to the generic path. Every method has a neutral default; all are synchronous and pure but
/// `commit` and `deleted`, which see the server's allocators.
pub trait Strategy: Send + Sync {
    /// Fills absent fields as upstream's defaulting does (static defaults only; runs on every write and on apply).
    fn default(&self, _new: &mut Object) {}

    /// Kind-specific preparation after defaulting and admission: clears or computes server-owned fields.
    /// `old` is `None` on create. Generic metadata, first status, status separation and generation are already done.
    fn prepare(&self, _cx: &WriteContext<'_>, _new: &mut Object, _old: Option<&Object>) {}

    /// Whether [`Strategy::validate`] has rules for writes through this endpoint; most kinds' are about the main one alone.
    fn validates(&self, subresource: &str) -> bool {
        subresource.is_empty()
    }

    /// All that is wrong, in upstream's words and order. Types and metadata are already checked.
    fn validate(&self, _cx: &WriteContext<'_>, _new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        vec![]
    }

    /// Whether metadata is looked at only once [`Strategy::validate`] has found nothing wrong.
    fn validates_metadata(&self) -> bool {
        false
    }

    /// `Warning:` headers for the client.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        vec![]
    }

    /// Whether a name, or what a name will begin with, is allowed for an object; upstream's default is a DNS subdomain.
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        crate::field_names::dns1123_subdomain(name)
    }

    /// Which parts of `new` a named subresource of kind [`SubresourceHandler::Part`] may write: makes `new` equal to
    /// `old` everywhere else.
    fn isolate(&self, _subresource: &str, _new: &mut Object, _old: &Object) {}

    /// Allocates what must be unique in the cluster, just before the commit; given back unless the write happens.
    fn reserve(
        &self,
        _: &Server,
        _new: &mut Object,
        _old: Option<&Object>,
        _dry_run: bool,
    ) -> Result<Holding> {
        Ok(None)
    }

    /// What an object that is about to be removed gives up once it is gone.
    fn give_up(&self, _server: &Server, _last: &Object) -> Holding {
        None
    }

    /// The grace period a delete begins with: `None` deletes at once; `Some(seconds)` marks the object and leaves it to
    /// an agent (pods). `requested` is the client's `gracePeriodSeconds`.
    fn grace_period(&self, _old: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Marks an object whose deletion has begun and is not finished at once (a namespace's phase).
    fn terminate(&self, _object: &mut Object) {}

    /// Whether something besides finalizers keeps an object that is being deleted.
    fn held(&self, _object: &Object) -> bool {
        false
    }

    /// Where an object's number of replicas ought to stand, if it does not.
    ///
    /// # Errors
    /// Where something on the way there, or there, is of another type.
    fn missing_replicas(&self, _object: &Object) -> Result<Option<&str>, String> {
        Ok(None)
    }

    /// A warning where a delete says nothing of dependents; mostly empty.
    fn delete_warning(&self) -> &'static str {
        ""
    }

    /// `propagationPolicy` when the client names none: `background` for most kinds.
    fn default_orphan(&self) -> bool {
        false
    }
}

/// A kind without rules of its own.
pub struct Plain;
impl Strategy for Plain {}

/// A served kind at run time. Made from a [`Row`] or from a CRD, after which nobody can tell which.
pub struct Resource {
    pub gvr: Gvr,
    pub gvk: Gvk,
    pub singular: String,
    pub list_kind: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    pub verbs: Vec<&'static str>,
    /// Whether it is on its way out: what is there may change and go, nothing new may come.
    pub ending: bool,
    pub persistence: &'static Persistence,
    /// `group/plural`: the store's name for these objects.
    pub storage: Arc<str>,
    /// `group/version/Kind` that discovery's hash of the storage is of.
    pub stored_as: String,
    pub unknown_label: &'static str,
    pub status: bool,
    pub first_status: Option<Value>,
    pub generation: bool,
    pub scale: Option<Scale>,
    pub fields: Vec<IndexedField>,
    pub columns: Vec<TableColumn>,
    pub subresources: &'static [Subresource],
    pub strategy: Hook<dyn Strategy>,
    pub create_on_update: bool,
    pub metadata_looks: [u8; 2],
    pub conditional_update: bool,
    pub status_on_create: bool,
    pub returns_deleted: bool,
    pub free_finalizers: bool,
    pub deprecated: String,
    pub resets: &'static [Reset],
    pub ttl: Option<std::time::Duration>,
    pub conversion: Option<Hook<dyn Convert>>,
    pub schema: Arc<Schema>,
    /// Whether its objects have a typed form: protobuf and strategic merge patches need one.
    pub typed: bool,
    /// Who makes the versions of this kind where no function does.
    pub by_webhook: Option<Arc<VersionHook>>,
    /// Cancelled when this is served no more, or in another form: watches end then.
    pub retired: CancellationToken,
}

// === impl Hook ===

impl<T: ?Sized> Deref for Hook<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Hook::Builtin(hook) => hook,
            Hook::Custom(hook) => hook,
        }
    }
}

// === impl Resource ===

impl From<&'static Row> for Resource {
    fn from(row: &'static Row) -> Self {
        let gvk = Gvk::new(row.group, row.version, row.kind);
        let storage = match row.storage {
            "" => format!("{}/{}", row.group, row.plural),
            shared => shared.to_owned(),
        };
        Resource {
            gvr: Gvr::new(row.group, row.version, row.plural),
            singular: if row.singular.is_empty() { row.kind.to_lowercase() } else { row.singular.to_owned() },
            list_kind: format!("{}List", row.kind),
            short: row.short.iter().map(|&s| s.to_owned()).collect(),
            categories: row.categories.iter().map(|&s| s.to_owned()).collect(),
            scope: row.scope,
            verbs: row.verbs.to_vec(),
            ending: false,
            persistence: &row.persistence,
            storage: storage.into(),
            status: row.status,
            first_status: (!row.first_status.is_empty())
                .then(|| serde_json::from_str(row.first_status).expect("a row's first status is JSON")),
            generation: row.generation,
            stored_as: match row.stored_as {
                "" => format!("{}/{}/{}", row.group, row.version, row.kind),
                other => other.to_owned(),
            },
            unknown_label: row.unknown_label,
            scale: row.scale.map(Scale::from),
            fields: row.fields.iter().map(IndexedField::from).collect(),
            columns: shape::columns(row.columns),
            subresources: row.subresources,
            strategy: Hook::Builtin(row.strategy),
            create_on_update: row.create_on_update,
            metadata_looks: row.metadata_looks,
            conditional_update: row.conditional_update,
            status_on_create: row.status_on_create,
            returns_deleted: row.returns_deleted,
            free_finalizers: row.free_finalizers,
            deprecated: row.deprecated.to_owned(),
            resets: row.resets,
            ttl: row.ttl,
            conversion: row.conversion.map(|c| Hook::Builtin(c as &dyn Convert)),
            typed: true,
            by_webhook: None,
            retired: CancellationToken::new(),
            schema: Schema::builtin(&gvk).expect("every built-in kind is in the schema table"),
            gvk,
        }
    }
}

impl Resource {
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The kind that errors name: that of the group which owns the storage.
    pub fn stored_kind(&self) -> Gvk {
        let group = self.storage.split_once('/').map_or("", |(group, _)| group);
        Gvk::new(group, &*self.gvk.version, &*self.gvk.kind)
    }

    /// The fields that an endpoint leaves as they are: unless the row says more, the main one the status and `status` the
    /// spec.
    pub fn resets(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match self.resets.iter().find(|(name, _)| *name == subresource) {
            Some((_, fields)) => fields,
            None if subresource.is_empty() && self.status => &[&["status"]],
            None if subresource == "status" => &[&["spec"]],
            None => &[],
        }
    }

    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Refuses a new object of a kind that is on its way out.
    pub fn admit_new(&self, name: &str) -> Result<()> {
        const WHY: &str = "create not allowed while custom resource definition is terminating";
        if self.ending { Err(Status::forbidden(&self.gvr, name, WHY)) } else { Ok(()) }
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}
