//! A custom schema prunes, defaults and judges as upstream does.

use serde_json::{Value, json};

use super::{Structural, default, lists, prune, validate};

fn schema() -> Structural {
    Structural::parse(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
            "replicas": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10, "default": 1},
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "properties": {
                    "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "nullable": {"type": "string", "nullable": true},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}}}}))
}

fn errors(spec: &Value, old: Option<&Value>) -> Vec<String> {
    let old = old.map(|spec| json!({"spec": spec}));
    let found = validate::validate(&json!({"spec": spec}), old.as_ref(), &schema(), "");
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn values_are_judged_in_upstreams_words() {
    let table = [
        (json!({}), vec!["spec.name: Required value"]),
        (json!({"name": "ab"}), vec![]),
        (
            json!({"name": 1}),
            vec![
                r#"spec.name: Invalid value: "integer": spec.name in body must be of type string: "integer""#,
            ],
        ),
        (
            json!({"name": "a"}),
            vec![r#"spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long"#],
        ),
        (json!({"name": "abcdef"}), vec!["spec.name: Too long: may not be more than 5 bytes"]),
        (
            json!({"name": "AB"}),
            vec![r#"spec.name: Invalid value: "AB": spec.name in body should match '^[a-z]+$'"#],
        ),
        (
            json!({"name": "ab", "replicas": 0}),
            vec![
                "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
            ],
        ),
        (json!({"name": "ab", "replicas": 2.0}), vec![]),
        (
            json!({"name": "ab", "replicas": "2"}),
            vec![
                r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
            ],
        ),
        (
            json!({"name": "ab", "colour": "green"}),
            vec![r#"spec.colour: Unsupported value: "green": supported values: "red", "blue""#],
        ),
        (json!({"name": "ab", "port": "http"}), vec![]),
        (
            json!({"name": "ab", "port": true}),
            vec![
                r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
            ],
        ),
        (
            json!({"name": "ab", "when": "now"}),
            vec![r#"spec.when: Invalid value: "now": spec.when in body must be of type date-time: "now""#],
        ),
        (
            json!({"name": "ab", "tags": ["a", "b", "c", "d"]}),
            vec!["spec.tags: Too many: 4: must have at most 3 items"],
        ),
        (
            json!({"name": "ab", "map": {"k": "v"}}),
            vec![
                r#"spec.map.k: Invalid value: "string": spec.map.k in body must be of type integer: "string""#,
            ],
        ),
        (json!({"name": "ab", "nullable": null}), vec![]),
        (
            json!({"name": null}),
            vec![r#"spec.name: Invalid value: "null": spec.name in body must be of type string: "null""#],
        ),
        (
            json!({"name": "ab", "one": {}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.one.a: Required value",
            ],
        ),
        (
            json!({"name": "ab", "one": {"a": "", "b": ""}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
    ];
    for (spec, wanted) in table {
        assert_eq!(errors(&spec, None), wanted, "{spec}");
    }
}

#[test]
fn what_has_not_changed_is_not_judged_again() {
    let old = json!({"name": "AB", "ports": [{"port": "x", "protocol": "UDP"}]});
    assert!(errors(&old, Some(&old)).is_empty());
    assert!(errors(&json!({"name": "AB", "replicas": 2, "ports": old["ports"]}), Some(&old)).is_empty());
    assert_eq!(errors(&json!({"name": "CD"}), Some(&old)).len(), 1);
}

#[test]
fn unknown_fields_go_unless_they_are_kept() {
    let mut object = json!({"apiVersion": "v1", "kind": "A", "metadata": {"x": 1}, "other": 1,
        "spec": {"name": "ab", "b": {"c": 1}, "free": {"x": {"y": 1}}, "map": {"k": 1}, "ports": [{"port": 1, "q": 2}]}});
    let unknown = prune::prune(&mut object, &schema());
    assert_eq!(unknown, ["other", "spec.b", "spec.ports[0].q"]);
    assert_eq!(
        object["spec"],
        json!({"name": "ab", "free": {"x": {"y": 1}}, "map": {"k": 1}, "ports": [{"port": 1}]})
    );
}

#[test]
fn defaults_fill_what_is_absent_or_a_null_that_may_not_be() {
    let mut object =
        json!({"spec": {"name": null, "replicas": null, "nullable": null, "ports": [{"port": 1}]}});
    assert!(default::fill(&mut object, &schema(), default::Nulls::Go));
    assert_eq!(
        object["spec"],
        json!({"replicas": 1, "nullable": null, "ports": [{"port": 1, "protocol": "TCP"}]})
    );
}

#[test]
fn sets_and_maps_hold_nothing_twice() {
    let object = json!({"spec": {"tags": ["a", "b", "a", "a"], "ports": [{"port": 1}, {"port": 1, "protocol": "UDP"}]}});
    let found: Vec<String> = lists::duplicates(&object, &schema()).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [r#"spec.ports[1]: Duplicate value: {"port":1}"#, r#"spec.tags[2]: Duplicate value: "a""#]
    );
}

#[test]
fn unknown_fields_are_kept_at_any_depth_of_lists() {
    let keep = || json!({"type": "object"});
    let table = [
        (
            "items",
            json!({"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": keep()}),
            json!([{"a": 1}, {}]),
        ),
        (
            "lists of lists",
            json!({"type": "array", "x-kubernetes-preserve-unknown-fields": true,
            "items": {"type": "array", "items": keep()}}),
            json!([[{"a": {"b": 1}}]]),
        ),
        (
            "map values",
            json!({"type": "object", "additionalProperties": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}}),
            json!({"k": {"a": 1}}),
        ),
        (
            "inside embedded",
            json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}}}),
            json!({"apiVersion": "v1", "kind": "A", "spec": {"a": 1}, "b": 2}),
        ),
        (
            "nullable",
            json!({"type": "array", "nullable": true, "x-kubernetes-preserve-unknown-fields": true, "items": keep()}),
            json!([{"a": null}]),
        ),
    ];
    for (what, schema, value) in table {
        let schema = Structural::parse(&json!({"type": "object", "properties": {"x": schema}}));
        let mut object = json!({"x": value});
        assert!(prune::prune(&mut object, &schema).is_empty(), "{what}");
        assert_eq!(object, json!({"x": value}), "{what}");
    }
    // A field with a schema of its own is held to it.
    let schema = Structural::parse(&json!({"type": "object", "properties": {"x": {"type": "array",
        "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "object", "properties": {"known": keep()}}}}}));
    let mut object = json!({"x": [{"known": {"a": 1}, "other": {"a": 1}}]});
    assert_eq!(prune::prune(&mut object, &schema), ["x[0].known.a"]);
    assert_eq!(object, json!({"x": [{"known": {}, "other": {"a": 1}}]}));
}

#[test]
fn formats_are_upstreams() {
    let table = [
        ("date-time", "2024-10-11T12:48:44Z", true),
        ("date-time", "2024-10-11t12:48:44.123+02:00", true),
        ("date-time", "2024-10-11 12:48:44+00:00", false),
        ("date-time", "2024-10-11T12:48Z", false),
        ("date-time", "2024-10-11T12:48:60Z", false),
        ("date-time", "2024-10-11T12:48:44+0200", false),
        ("date-time", "2024-02-30T12:48:44Z", false),
        ("byte", "", false),
        ("byte", "aGk=", true),
        ("byte", "aGl=", true),
        ("byte", "aGk", false),
    ];
    for (format, text, fits) in table {
        assert_eq!(super::formats::fits(format, text), fits, "{format} {text:?}");
    }
}

/// Errors are told up to a bound, and a path is spelled out only for an error that is told: else one long key above many
/// wrong values would be written out once for each of them.
#[test]
fn what_is_wrong_is_told_in_bounds() {
    let schema = Structural::parse(&json!({"type": "object", "additionalProperties": {"type": "array",
        "x-kubernetes-list-type": "set", "items": {"anyOf": [{"type": "string"}, {"type": "boolean"}]}}}));
    let object = json!({"k".repeat(1 << 20): vec![1; 200_000]});
    let errors = validate::validate(&object, None, &schema, "");
    let told: usize = errors.iter().map(|e| e.to_string().len()).sum();
    assert!(!errors.is_empty() && told < 8 << 20, "{} errors, {told} bytes", errors.len());
    assert_eq!(lists::duplicates(&object, &schema).len(), 1);
}

#[test]
fn defaults_cannot_make_an_object_grow_without_end() {
    let schema = Structural::parse(&json!({"type": "array", "items": {"type": "object", "properties": {
        "x": {"type": "string", "default": "x".repeat(1 << 16)}}}}));
    let mut items = json!(vec![json!({}); 100_000]);
    assert!(!default::fill(&mut items, &schema, default::Nulls::Go));
}
