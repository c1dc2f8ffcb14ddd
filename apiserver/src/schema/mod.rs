//! One schema tree type for every kind, built-in or custom: it drives decoding rules, pruning, strict validation, static
//! defaults, strategic-merge keys, list types, OpenAPI and the protobuf transcoder.

mod custom;
mod leaf;
mod normalize;
pub(crate) mod structural;
mod table;
mod types;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use coracle_api::{Gvk, Object};

use crate::status::Status;
pub use custom::{Custom, Written};
pub(crate) use leaf::print_instant;
use normalize::{Mismatch, Normalizer};
pub(crate) use normalize::{Path, describe};
use structural::Nulls;
pub use types::{Field, Leaf, LeafKind, List, ListKind, MapOf, Merge, Struct, Type, Types};
pub(crate) use types::{Numbered, TypeId};

static BUILTIN: LazyLock<Arc<Types>> = LazyLock::new(|| Arc::new(table::builtin()));

type KindsByName = HashMap<String, Vec<(String, Arc<Schema>)>>;

/// By kind, then by `group/version` (`*` for what every group serves).
static BUILTIN_KINDS: LazyLock<KindsByName> = LazyLock::new(|| {
    let mut kinds = KindsByName::new();
    for ((group_version, kind), root) in &BUILTIN.kinds {
        let schema = Arc::new(Schema(Form::Builtin(*root)));
        kinds.entry(kind.clone()).or_default().push((group_version.clone(), schema));
    }
    kinds
});

/// The schema of one kind.
#[derive(Debug)]
pub struct Schema(Form);

#[derive(Debug)]
enum Form {
    /// A root in the tree that all built-in kinds share.
    Builtin(TypeId),
    Custom(Custom),
}

/// One place in a schema, for walking an object beside it.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub(crate) types: &'a Types,
    pub(crate) id: TypeId,
}

/// What decoding noticed and `fieldValidation` decides about, in upstream's words: `unknown field "spec.foo"`,
/// `duplicate field "spec.bar"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed(pub Vec<String>);

// === impl Noticed ===

impl Noticed {
    fn unknown(paths: &[String]) -> Self {
        Noticed(paths.iter().map(|path| format!("unknown field {path:?}")).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The failure that `fieldValidation=Strict` makes of them; `None` where nothing was noticed.
    pub fn strict_error(&self, gvk: &Gvk) -> Option<Status> {
        if self.0.is_empty() {
            return None;
        }
        Some(unhandled(gvk, &format!("strict decoding error: {}", self.0.join(", "))))
    }
}

// === impl Schema ===

impl Schema {
    /// The schema of a built-in kind of v1.36.
    pub fn builtin(gvk: &Gvk) -> Option<Arc<Schema>> {
        let of_kind = BUILTIN_KINDS.get(&gvk.kind)?;
        let served = |(group_version, _): &&(String, Arc<Schema>)| match group_version.split_once('/') {
            _ if group_version == "*" => true,
            Some((group, version)) => group == gvk.group && version == gvk.version,
            None => gvk.group.is_empty() && *group_version == gvk.version,
        };
        of_kind.iter().find(served).map(|(_, schema)| Arc::clone(schema))
    }

    /// The root of a built-in kind, for as long as the program runs.
    pub(crate) fn builtin_root(gvk: &Gvk) -> Option<Node<'static>> {
        match Schema::builtin(gvk)?.0 {
            Form::Builtin(id) => Some(Node { types: &BUILTIN, id }),
            Form::Custom(_) => None,
        }
    }

    /// The schema of a custom kind from its `openAPIV3Schema`; without one, every field is kept. `edition` tells it from
    /// the schemas that the kind had before, and is not 0.
    pub fn custom(written: Box<dyn Written>, edition: u64) -> Arc<Schema> {
        Arc::new(Schema(Form::Custom(Custom::new(written, edition))))
    }

    /// The same of a schema that is at hand.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of(written: &serde_json::Value, edition: u64) -> Arc<Schema> {
        Schema::custom(Box::new(written.to_string().into_boxed_str()), edition)
    }

    /// What a custom kind's definition says; `None` for built-in kinds.
    pub fn definition(&self) -> Option<&Custom> {
        match &self.0 {
            Form::Builtin(_) => None,
            Form::Custom(custom) => Some(custom),
        }
    }

    /// Tells schemas of the same name apart; 0 for built-in kinds.
    pub(crate) fn edition(&self) -> u64 {
        self.definition().map_or(0, |custom| custom.edition)
    }

    /// The types of all built-in kinds.
    pub fn builtin_types() -> &'static Types {
        &BUILTIN
    }

    pub fn root(&self) -> Node<'_> {
        match &self.0 {
            Form::Builtin(id) => Node { types: &BUILTIN, id: *id },
            Form::Custom(custom) => custom.root(),
        }
    }

    /// Brings an object into the form upstream's typed round trip gives it: unknown fields go (and are noticed), nulls and
    /// empty `omitempty` fields go, required empty structs appear, quantities and times are canonical.
    /// A value of the wrong type is a 400 in upstream's words (`json: cannot unmarshal string into Go struct field ...`).
    pub fn normalize(&self, object: &mut Object) -> Result<Noticed, Status> {
        self.round_trip(object).map_err(|why| unhandled(&object.gvk(), &why))
    }

    /// [`Schema::normalize`] with nothing but Go's own words in the error.
    pub fn round_trip(&self, object: &mut Object) -> Result<Noticed, String> {
        self.take(object, Mismatch::message, Nulls::Go)
    }

    /// The same of what strategic and apply patches have made, in the words of upstream's converter for those.
    pub fn restore(&self, object: &mut Object) -> Result<Noticed, String> {
        self.take(object, Mismatch::restored, Nulls::Stay)
    }

    fn take(
        &self,
        object: &mut Object,
        words: fn(&Mismatch) -> String,
        nulls: Nulls,
    ) -> Result<Noticed, String> {
        let root = match &self.0 {
            Form::Custom(custom) => return custom.round_trip(object, nulls),
            Form::Builtin(root) => *root,
        };
        let mut normalizer = Normalizer::new(&BUILTIN);
        match normalizer.value(root, &mut object.0, Path::Root) {
            Ok(()) => Ok(Noticed::unknown(&normalizer.noticed.list)),
            Err(mismatch) => Err(words(&mismatch)),
        }
    }
}

/// The 400 for a body that its kind's Go type does not take.
pub(crate) fn unhandled(gvk: &Gvk, why: &str) -> Status {
    let (kind, version) = (&gvk.kind, &gvk.version);
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

// === impl Node ===

impl<'a> Node<'a> {
    pub fn ty(self) -> &'a Type {
        self.types.get(self.id)
    }

    pub fn as_struct(self) -> Option<&'a Struct> {
        match self.ty() {
            Type::Struct(s) => Some(s),
            Type::List(_) | Type::Map(_) | Type::Leaf(_) => None,
        }
    }

    /// A field of a struct.
    pub fn field(self, name: &str) -> Option<&'a Field> {
        self.as_struct()?.field(name)
    }

    /// What a field holds, or what the values of a map are.
    pub fn child(self, name: &str) -> Option<Node<'a>> {
        match self.ty() {
            Type::Struct(s) => Some(self.at(s.field(name)?.ty)),
            Type::Map(m) => Some(self.at(m.values)),
            Type::List(_) | Type::Leaf(_) => None,
        }
    }

    /// What the fields of a struct hold that it does not name and keeps (custom kinds only).
    pub fn extra(self) -> Option<Node<'a>> {
        Some(self.at(self.as_struct()?.extra?))
    }

    /// What a list's items are.
    pub fn item(self) -> Option<Node<'a>> {
        match self.ty() {
            Type::List(l) => Some(self.at(l.items)),
            Type::Struct(_) | Type::Map(_) | Type::Leaf(_) => None,
        }
    }

    /// The kinds that a struct is; those of every group once for each group version.
    pub fn kinds(self) -> Vec<Gvk> {
        let mut kinds = vec![];
        for ((group_version, kind), _) in self.types.kinds.iter().filter(|(_, id)| **id == self.id) {
            match group_version.as_str() {
                "*" if matches!(kind.as_str(), "DeleteOptions" | "WatchEvent") => {
                    let all: std::collections::BTreeSet<_> =
                        self.types.kinds.keys().map(|(gv, _)| gv).collect();
                    let served = all.into_iter().filter(|gv| *gv != "*");
                    kinds.extend(served.map(|gv| Gvk::from_api_version(gv, kind)));
                }
                "*" => kinds.push(Gvk::new("", "v1", &**kind)),
                _ => kinds.push(Gvk::from_api_version(group_version, kind)),
            }
        }
        kinds.sort();
        kinds
    }

    /// The type of schemas in custom resource definitions.
    pub(crate) fn schema_props(self) -> Node<'a> {
        self.at(self.types.schema_props)
    }

    pub(crate) fn at(self, id: TypeId) -> Node<'a> {
        Node { types: self.types, id }
    }
}

#[cfg(test)]
mod tests;
