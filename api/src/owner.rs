//! Who owns an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::Object;

/// The reference to the owner that manages the object: the first that says so, as upstream's `GetControllerOf`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

/// The same of JSON.
pub fn controller_in(object: &Object) -> Option<&Value> {
    object.owner_references().iter().find(|r| r["controller"] == true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_controller_manages() {
        let owner = |name: &str, controller: Value| json!({"apiVersion": "v1", "kind": "K", "name": name, "uid": name, "controller": controller});
        for (owners, want) in [
            (json!(null), None),
            (json!([]), None),
            (json!([owner("a", json!(false)), owner("b", json!(null))]), None),
            (json!([owner("a", json!(false)), owner("b", json!(true)), owner("c", json!(true))]), Some("b")),
        ] {
            let object = json!({"metadata": {"ownerReferences": owners}});
            let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
            assert_eq!(controller_of(&meta).map(|r| &*r.uid), want, "{owners}");
            let object = Object(object);
            assert_eq!(controller_in(&object).and_then(|r| r["uid"].as_str()), want, "{owners}");
        }
    }
}
