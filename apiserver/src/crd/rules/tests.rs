//! Rules are judged in upstream's words.

use serde_json::{Value, json};

use super::{Rules, check, compile, extent, types};

/// What a rule at `spec` says of a change.
fn judged(rule: &Value, old: Option<Value>, new: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
    "properties": {
        "a": {"type": "integer"}, "n": {"type": "number"}, "end": {"type": "string", "format": "date-time"},
        "a-b": {"type": "integer"}, "any": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "must grow"}]}}}},
    }}}});
    let rules = Rules::new(&schema).expect("the schema has rules");
    let of = |spec: Value| json!({"apiVersion": "a.io/v1", "kind": "Foo", "metadata": {"name": "n"}, "spec": spec});
    let (new, old) = (of(new), old.map(of));
    rules.judge(&new, old.as_ref(), &[]).iter().map(ToString::to_string).collect()
}

#[test]
fn rules_are_held_to() {
    let said = |text: &str| vec![text.to_owned()];
    let small = || json!({"rule": "self.a < 3"});
    let failed = || said("spec: Invalid value: failed rule: self.a < 3");
    let table = [
        (small(), None, json!({"a": 1}), vec![]),
        (small(), None, json!({"a": 5}), failed()),
        // What has not changed is not judged again; what has is.
        (small(), Some(json!({"a": 5})), json!({"a": 5}), vec![]),
        (small(), Some(json!({"a": 5})), json!({"a": 6}), failed()),
        (
            small(),
            None,
            json!({}),
            said("spec: Invalid value: \"object\": no such key: a evaluating rule: self.a < 3"),
        ),
        (json!({"rule": "self.n > 0.5 && self.n / 2.0 == 1.0"}), None, json!({"n": 2}), vec![]),
        (json!({"rule": "self.a__dash__b == 1"}), None, json!({"a-b": 1}), vec![]),
        (
            json!({"rule": "self.end > timestamp('2020-01-01T00:00:00Z')"}),
            None,
            json!({"end": "2021-01-01T00:00:00Z"}),
            vec![],
        ),
        (json!({"rule": "self.any < 3"}), None, json!({"any": 2}), vec![]),
        (
            json!({"rule": "self.a == oldSelf.a", "message": "no", "reason": "FieldValueForbidden", "fieldPath": ".a"}),
            Some(json!({"a": 1})),
            json!({"a": 2}),
            said("spec.a: Forbidden: no"),
        ),
        (json!({"rule": "self.a == oldSelf.a"}), None, json!({"a": 2}), vec![]),
        (
            json!({"rule": "oldSelf.hasValue() || self.a == 1", "optionalOldSelf": true, "messageExpression": "'got ' + string(self.a)"}),
            None,
            json!({"a": 2}),
            said("spec: Invalid value: got 2"),
        ),
        // Items of a list are what they were by their keys.
        (
            json!({"rule": "true"}),
            Some(json!({"list": [{"k": "x", "v": 2}, {"k": "y", "v": 9}]})),
            json!({"list": [{"k": "y", "v": 9}, {"k": "x", "v": 1}, {"k": "z", "v": 0}]}),
            said("spec.list[1].v: Invalid value: 1: must grow"),
        ),
    ];
    for (rule, old, new, wanted) in table {
        assert_eq!(judged(&rule, old, new.clone()), wanted, "{rule} {new}");
    }
}

#[test]
fn a_costly_rule_ends_the_judgement() {
    let items: Vec<u32> = (0..2000).collect();
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a + b >= 0))"}, {"rule": "false"}]}}});
    let found = Rules::new(&schema).expect("the schema has rules").judge(&json!({"l": items}), None, &[]);
    let text = "l: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will \
                be run due to call cost exceeds limit for rule: self.all(a, self.all(b, a + b >= 0))";
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
}

#[test]
fn definitions_are_refused_for_rules_that_make_no_sense() {
    let of = |rule: Value| json!({"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [rule]});
    let table = [
        (of(json!({"rule": "self.a == 1"})), ""),
        (of(json!({"rule": "self.a + 1"})), "cel expression must evaluate to a bool"),
        (of(json!({"rule": "self.b == 1"})), "undefined field 'b'"),
        (
            of(json!({"rule": "self.a == 1", "messageExpression": "1"})),
            "messageExpression must evaluate to a string",
        ),
        (
            of(json!({"rule": "self.a == 1", "optionalOldSelf": true})),
            "may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 9,
                "items": {"type": "string", "maxLength": 9, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}}),
            "oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]",
        ),
    ];
    for (schema, wanted) in table {
        let found = check("s", &schema, false, &[]);
        assert_eq!(found.is_empty(), wanted.is_empty(), "{schema}: {found:?}");
        assert!(found.iter().all(|e| e.detail.contains(wanted)), "{schema}: {found:?}");
    }
}

/// What upstream was asked: rules of one schema with what each is estimated to cost, and schemas with what is said of them.
fn costs() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/costs.json")).unwrap()
}

#[test]
fn what_a_rule_may_cost_is_upstreams_estimate() {
    let costs = costs();
    let (schema, mut wrong) = (&costs["schema"], vec![]);
    let typed = types::of(schema, "item", false).unwrap();
    let declared = extent::of(schema, false).unwrap();
    let rules = costs["rules"].as_array().unwrap();
    for rule in rules {
        let compiled = compile::compile(&json!({"rule": rule[0]}), &typed.ty);
        let found = compiled.program.map(|program| program.most(&declared.extent));
        if found != Ok(rule[1].as_u64().unwrap()) {
            wrong.push(format!("{}: upstream {}, ours {found:?}", rule[0], rule[1]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rules.len(), wrong.join("\n"));
}

#[test]
fn schemas_whose_rules_cost_too_much_are_refused_in_upstreams_words() {
    let costs = costs();
    for case in costs["schemas"].as_array().unwrap() {
        let schema = json!({"type": "object", "properties": {"spec": case[0]}});
        let judge = |known| {
            let errors = check("spec.validation.openAPIV3Schema", &schema, known, &[]);
            errors.iter().map(|e| json!([e.field, e.body()])).collect::<Vec<_>>()
        };
        assert_eq!(json!(judge(false)), case[1], "{}", case[0]);
        let single = |said: &Value| said[1].as_str().unwrap().contains(" cost exceeds budget");
        assert!(!judge(true).iter().any(single), "what was there before goes on: {}", case[0]);
    }
}
