//! Hostile definitions, objects of them, paths into them, and answers of conversion webhooks.

use coracle_api::{Gvk, Object};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{JsonPath, conversion, serving, validate};
use crate::authn::User;
use crate::codec::{self, IncludeObject, depth};
use crate::fuzz::{first_line, parts};
use crate::limits;
use crate::resource::WriteContext;
use crate::schema::Schema;

/// A version of a definition (`{"schema": {"openAPIV3Schema": ...}, ...}`), an object of it, and one that was there before.
pub(crate) fn definition(bytes: &[u8]) {
    let [version, new, old] = parts(bytes);
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object);
    let Some(mut version) = read(version) else { return };
    version["name"] = "v1".into();
    version["served"] = true.into();
    version["storage"] = true.into();
    let names = json!({"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"});
    let mut crd = Object(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"}, "status": {"acceptedNames": names, "storedVersions": ["v1"]},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}}));
    if depth::exceeds(&crd.0, limits::STORED_DEPTH) {
        return;
    }
    let Some(of_definitions) = Schema::builtin(&crd.gvk()) else { return };
    if of_definitions.normalize(&mut crd).is_err() || !validate(&crd, None, false).is_empty() {
        return;
    }
    super::unknown_formats(&crd);
    for resource in serving::resources_of(&crd) {
        let taken = |bytes: &[u8]| {
            let mut object = Object(read(bytes)?);
            object.set_gvk(&resource.gvk);
            let shallow = !depth::exceeds(&object.0, limits::STORED_DEPTH);
            (shallow && resource.schema.normalize(&mut object).is_ok()).then_some(object)
        };
        let Some(new) = taken(new) else { continue };
        let mut again = new.clone();
        assert!(resource.schema.normalize(&mut again).is_ok_and(|unknown| unknown.is_empty()), "{}", new.0);
        assert_eq!(again, new);
        let now = Timestamp::UNIX_EPOCH;
        let user = User::component("somebody", &[]);
        let old = taken(old);
        for subresource in ["", "status"] {
            let cx = WriteContext {
                user: &user,
                resource: &resource,
                subresource,
                now,
                dry_run: false,
                labelled: true,
            };
            let errors = resource.strategy.validate(&cx, &new, old.as_ref());
            errors.iter().for_each(|e| drop(e.to_string()));
        }
        resource.strategy.warnings(&new, old.as_ref());
        let _ = resource.strategy.missing_replicas(&new);
        codec::table(&resource.columns, [&new], IncludeObject::Object, &Value::Null, true, now);
    }
}

/// A path, and the JSON that it leads into.
pub(crate) fn json_path(bytes: &[u8]) {
    let [path, json] = parts(bytes);
    let Some(path) = JsonPath::parse(&String::from_utf8_lossy(path)) else { return };
    let json: Value = serde_json::from_slice(json).unwrap_or_default();
    path.first(&json);
}

/// A line `version uid`, and a `ConversionReview`.
pub(crate) fn review(bytes: &[u8]) {
    let (line, body) = first_line(bytes);
    let (version, uid) = line.split_once(' ').unwrap_or((&line, ""));
    let original = Object(json!({"apiVersion": "example.com/v1", "kind": "Thing",
        "metadata": {"name": "a", "namespace": "b", "uid": "u", "labels": {"l": "1"}}, "spec": {}}));
    for mut object in conversion::answered(version, uid, body).into_iter().flatten().map(Object) {
        if conversion::accept("hook", &original, &mut object, "example.com/v2").is_ok() {
            assert_eq!(object.gvk(), Gvk::new("example.com", "v2", "Thing"));
            assert_eq!((object.name(), object.namespace(), object.uid()), ("a", "b", "u"));
        }
    }
}
