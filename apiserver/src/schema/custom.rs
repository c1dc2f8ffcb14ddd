//! The schema of a custom kind. It is read from its definition when it is first needed, and most kinds of a cluster never
//! are: what a definition costs until then is its text, which the store has anyway.

use std::fmt::Debug;
use std::sync::OnceLock;

use coracle_api::Object;
use serde_json::Value;

use super::structural::{self, Nulls, Structural};
use super::types::{TypeId, Types};
use super::{Node, Noticed, normalize};
use crate::cel::beside_workers;
use crate::limits;

/// Where the `openAPIV3Schema` of one version is kept.
pub trait Written: Debug + Send + Sync {
    /// The schema as it is written; null where there is none.
    fn read(&self) -> Value;
}

/// What a custom resource definition says of one version.
#[derive(Debug)]
pub struct Custom {
    written: Box<dyn Written>,
    /// Tells it from the schemas that the kind had before.
    pub(super) edition: u64,
    tree: OnceLock<Tree>,
}

/// The schema in the two forms that it is used in.
#[derive(Debug)]
struct Tree {
    structural: Structural,
    types: Types,
    root: TypeId,
}

// === impl Custom ===

impl Custom {
    pub(super) fn new(written: Box<dyn Written>, edition: u64) -> Self {
        Custom { written, edition, tree: OnceLock::new() }
    }

    /// `openAPIV3Schema`, as it is written; null where there is none.
    pub fn written(&self) -> Value {
        self.written.read()
    }

    pub fn structural(&self) -> &Structural {
        &self.tree().structural
    }

    pub(super) fn root(&self) -> Node<'_> {
        let tree = self.tree();
        Node { types: &tree.types, id: tree.root }
    }

    fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| beside_workers(|| Tree::new(&self.written())))
    }

    /// Metadata becomes typed, unknown fields go, defaults are filled in.
    pub(super) fn round_trip(&self, object: &mut Object, nulls: Nulls) -> Result<Noticed, String> {
        let schema = self.structural();
        structural::numbers::settle(&mut object.0);
        if !structural::fill(&mut object.0, schema, nulls) {
            return Err(normalize::too_large().message());
        }
        let mut unknown = structural::coerce(&mut object.0, schema)?;
        unknown.extend(structural::prune(&mut object.0, schema));
        unknown.truncate(limits::NOTICES);
        Ok(Noticed::unknown(&unknown))
    }

    /// What an object that was stored under an earlier schema lacks or has too much of by this one.
    pub fn catch_up(&self, object: &mut Object) {
        self.prune(object);
        structural::fill(&mut object.0, self.structural(), Nulls::Go);
    }

    /// Takes away what the kind does not have.
    pub fn prune(&self, object: &mut Object) {
        structural::prune(&mut object.0, self.structural());
    }
}

// === impl Tree ===

impl Tree {
    fn new(written: &Value) -> Self {
        let mut structural = Structural::parse(written);
        if written.is_null() {
            structural.kind = "object".into();
            structural.preserve_unknown = true;
        }
        let (types, root) = structural::types(&structural);
        Tree { structural, types, root }
    }
}

/// A schema that is kept as its text.
impl Written for Box<str> {
    fn read(&self) -> Value {
        serde_json::from_str(self).unwrap_or_default()
    }
}
