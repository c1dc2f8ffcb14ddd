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
    default::fill(&mut object, &schema());
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
