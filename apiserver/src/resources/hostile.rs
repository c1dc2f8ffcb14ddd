//! Hostile objects of built-in kinds: every rule may look at what every other would have refused.

use std::sync::LazyLock;

use coracle_api::resources::{self, Demand};
use coracle_api::{Gvk, Object, quota};
use jiff::Timestamp;
use serde_json::Value;

use super::builtins;
use crate::authn::User;
use crate::codec::{self, IncludeObject, Row, depth};
use crate::fuzz::{first_line, parts};
use crate::limits;
use crate::registry::Registry;
use crate::resource::{Resource, WriteContext};
use crate::verbs::metadata;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::new(builtins()));

/// A line `apiVersion Kind`, an object, and after a NUL the one that was there before.
pub(crate) fn object(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let (api_version, kind) = line.split_once(' ').unwrap_or(("v1", &line));
    let Some(resource) = REGISTRY.kind(&Gvk::from_api_version(api_version, kind)) else { return };
    let [new, old] = parts(rest);
    let Some(new) = taken(&resource, new) else { return };
    shown(&resource, &new);
    let old = taken(&resource, old);
    let user = User::component("somebody", &[]);
    let parts = resource.subresources.iter().map(|s| s.name).chain(["", "status"]);
    for subresource in parts {
        let now = Timestamp::UNIX_EPOCH;
        let cx = WriteContext {
            user: &user,
            resource: &resource,
            subresource,
            now,
            dry_run: false,
            labelled: true,
        };
        let mut new = new.clone();
        if let Some(old) = &old {
            resource.strategy.isolate(subresource, &mut new, old);
            metadata::carry_over(&mut new, old);
        }
        resource.strategy.prepare(&cx, &mut new, old.as_ref());
        let mut errors = metadata::validate(&new, &resource);
        if let Some(old) = &old {
            errors.extend(metadata::validate_update(&new, old, &cx));
        }
        if resource.strategy.validates(subresource) {
            errors.extend(resource.strategy.validate(&cx, &new, old.as_ref()));
        }
        errors.iter().for_each(|e| drop(e.to_string()));
        resource.strategy.validate_name(new.name(), &new);
        resource.strategy.warnings(&new, old.as_ref());
    }
    counted(&new);
}

/// An object as a write has it after defaulting.
fn taken(resource: &Resource, bytes: &[u8]) -> Option<Object> {
    let read: Value = serde_json::from_slice(bytes).ok()?;
    let mut object = Object(read.is_object().then_some(read)?);
    object.set_gvk(&resource.gvk);
    if depth::exceeds(&object.0, limits::STORED_DEPTH) || resource.schema.normalize(&mut object).is_err() {
        return None;
    }
    resource.strategy.default(&mut object);
    let mut again = object.clone();
    resource.strategy.default(&mut again);
    assert_eq!(again, object, "defaults are given once");
    if let Some(conversion) = &resource.conversion {
        let mut stored = object.clone();
        conversion.write(&mut stored);
        conversion.read(&mut stored);
    }
    Some(object)
}

/// Rows and bare metadata say what the object says.
fn shown(resource: &std::sync::Arc<Resource>, object: &Object) {
    let now = Timestamp::UNIX_EPOCH;
    let text = object.0.to_string();
    for include in [IncludeObject::None, IncludeObject::Metadata, IncludeObject::Object] {
        let computed = codec::row(&resource.columns, object, include, now);
        if let Some(kept) = Row::of(resource, text.as_bytes(), now) {
            let mut out = bytes::BytesMut::new();
            kept.write(text.as_bytes(), include, now, &mut out);
            assert_eq!(serde_json::from_slice::<Value>(&out).ok(), Some(computed));
        }
    }
    codec::partial_metadata(object);
}

/// What quota, limits and Pod Security make of it.
fn counted(object: &Object) {
    for spec in [&object.0["spec"], &object.0["spec"]["template"]["spec"]] {
        let demand = Demand::of_json(spec);
        drop((demand.requests(), demand.limits(), demand.qos_class(), demand.sum_of_containers()));
    }
    for plural in ["pods", "services", "persistentvolumeclaims"] {
        let counted = quota::Counted { group: "", plural };
        let hard = resources::list(&object.0["spec"]["hard"]);
        counted.usage(object, Timestamp::UNIX_EPOCH);
        counted.matches(object, &hard, object);
        counted.unspecified(&hard, object);
    }
    crate::admission::hostile::pod(object);
}
