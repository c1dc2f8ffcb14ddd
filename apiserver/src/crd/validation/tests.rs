//! Definitions are judged in upstream's words.

use serde_json::{Value, json};

use super::*;

fn crd() -> Value {
    json!({"metadata": {"name": "foos.a.io"}, "spec": {"group": "a.io", "scope": "Namespaced",
        "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
        "conversion": {"strategy": "None"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object"}}}}}]},
        "status": {"storedVersions": ["v1"], "acceptedNames": {"plural": "", "kind": ""}}})
}

fn errors(pointer: &str, value: Value) -> Vec<String> {
    let mut crd = crd();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    crd.pointer_mut(parent).unwrap()[key] = value;
    validate(&Object(crd), None, false).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";
    const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let at = "spec.validation.openAPIV3Schema";
    let table = [
        ("/spec/scope".to_owned(), json!("Namespaced"), vec![]),
        ("/spec/scope".to_owned(), json!("World"), vec![
            r#"spec.scope: Unsupported value: "World": supported values: "Cluster", "Namespaced""#.to_owned()]),
        ("/spec/group".to_owned(), json!("io"), vec![
            r#"spec.group: Invalid value: "io": should be a domain with at least one dot"#.to_owned()]),
        (format!("{SCHEMA}/type"), json!(""), vec![
            format!("{at}.type: Required value: must not be empty at the root")]),
        (format!("{SPEC}/type"), json!(null), vec![
            format!("{at}.properties[spec].type: Required value: must not be empty for specified object fields")]),
        (format!("{SPEC}/uniqueItems"), json!(true), vec![
            format!("{at}.properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic")]),
        (format!("{SPEC}/properties"), json!({"a": {"type": "integer", "default": "x"}}), vec![
            format!(r#"{at}.properties[spec].properties[a].default: Invalid value: "string":  in body must be of type integer: "string""#)]),
        (format!("{SPEC}/properties"), json!({"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}), vec![
            format!("{at}.properties[spec].properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map")]),
        (format!("{SCHEMA}/oneOf"), json!([{"required": ["a"], "properties": {"a": {"minimum": 1}}}]), vec![
            format!("{at}.properties[a]: Required value: because it is defined in {at}.oneOf[0].properties[a]")]),
        ("/spec/versions/0/additionalPrinterColumns".to_owned(), json!([{"name": "A", "type": "text", "jsonPath": "a"}]), vec![
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#.to_owned(),
            r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "a": must be a simple json path starting with ."#.to_owned()]),
        ("/status/storedVersions".to_owned(), json!(["v1", "v0"]), vec![
            r#"status.storedVersions[1]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions"#.to_owned()]),
    ];
    for (pointer, value, wanted) in table {
        assert_eq!(errors(&pointer, value.clone()), wanted, "{pointer} = {value}");
    }
}
