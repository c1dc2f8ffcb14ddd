//! Who owns which field of an object, and server-side apply: pure functions over objects and their kind's schema.
//!
//! Every write is tracked in `metadata.managedFields`: an update owns what it changes, an applied configuration what it
//! names. Upstream's rules, those of its structured merge and diff library, over whatever the schema tree describes.

mod compare;
mod configuration;
mod element;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod last_applied;
mod managers;
mod merge;
mod overlay;
mod owned;
mod place;
mod remove;
mod scale;
mod set;
mod track;
mod validate;

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use crate::schema::Schema;
pub use configuration::apply;
use managers::{Operation, Writer};
pub use overlay::overlay;
pub use scale::{from_scale, to_scale};
pub use track::track;

/// Where fields are owned in an object.
pub const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// A write as ownership sees it.
pub struct Writing<'a> {
    pub schema: &'a Schema,
    pub gvk: &'a Gvk,
    pub manager: &'a str,
    pub subresource: &'a str,
    /// The time of an entry that changes.
    pub now: &'a str,
    /// What the endpoint does not write, and so does not own.
    pub resets: &'a [&'a [&'a str]],
    /// Whether a version of the kind is served; entries of others are forgotten.
    pub served: &'a (dyn Fn(&str) -> bool + Sync),
}

// === impl Writing ===

impl Writing<'_> {
    fn writer<'b>(&'b self, operation: Operation, api_version: &'b str) -> Writer<'b> {
        let manager = if self.manager.is_empty() { "unknown" } else { self.manager };
        Writer { manager, operation, api_version, subresource: self.subresource }
    }

    fn forget_unserved(&self, managers: &mut managers::Managers, api_version: &str) {
        managers.0.retain(|e| e.api_version == api_version || (self.served)(&e.api_version));
    }

    /// The object as Go makes it before anything is in it.
    fn empty(&self) -> Object {
        let mut empty = Object(self.schema.root().types.zero(self.schema.root().id));
        empty.set_gvk(self.gvk);
        empty
    }
}

/// An empty list of `managedFields` means the same as a list of one empty entry, and is still there after normalizing.
pub fn keep_reset(object: &mut Value) {
    if let Some(list) = object.pointer_mut("/metadata/managedFields")
        && list.as_array().is_some_and(Vec::is_empty)
    {
        *list = json!([{}]);
    }
}

/// Gives entries that differ from the old ones in nothing but time their old time back, where nothing else has changed.
pub fn settle_times(new: &mut Object, old: &Object) {
    let (Some(Value::Array(now)), Some(Value::Array(before))) =
        (new.at(&MANAGED_FIELDS), old.at(&MANAGED_FIELDS))
    else {
        return;
    };
    let timeless = |a: &Value, b: &Value| {
        let fields = |v: &Value| v.as_object().map_or(0, |m| m.len() - usize::from(m.contains_key("time")));
        fields(a) == fields(b)
            && a.as_object().into_iter().flatten().all(|(k, v)| k == "time" || b.get(k) == Some(v))
    };
    let same = now.len() == before.len() && now.iter().zip(before).all(|(a, b)| timeless(a, b));
    if !same || now == before {
        return;
    }
    let before = Value::Array(before.clone());
    let now = std::mem::replace(new.entry(&MANAGED_FIELDS), before);
    if new != old {
        *new.entry(&MANAGED_FIELDS) = now;
    }
}

#[cfg(test)]
mod tests;
