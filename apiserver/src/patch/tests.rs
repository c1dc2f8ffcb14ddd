//! Upstream's patch behaviour, case by case.

use coracle_api::Gvk;
use serde_json::json;

use super::*;

fn patched(kind: PatchKind, api_version: &str, name: &str, original: &Value, patch: &Value) -> Result<Value> {
    let schema = Schema::builtin(&Gvk::from_api_version(api_version, name)).expect("a built-in kind");
    change(kind, &Object(original.clone()), patch.to_string().as_bytes(), &schema).map(|(o, _, _)| o.0)
}

#[allow(clippy::needless_pass_by_value, reason = "tests pass literals")]
fn pod_patch(original: Value, patch: Value) -> Result<Value> {
    patched(PatchKind::Strategic, "v1", "Pod", &json!({"spec": original}), &json!({"spec": patch}))
        .map(|mut pod| pod["spec"].take())
}

#[test]
fn strategic_merge_follows_the_schema() {
    let a = || json!({"name": "a", "image": "1"});
    let b = || json!({"name": "b", "image": "1"});
    let containers = |list: Value| json!({"containers": list});
    let table = [
        (
            "merged by key",
            containers(json!([a(), b()])),
            containers(json!([{"name": "b", "image": "2"}])),
            containers(json!([a(), {"name": "b", "image": "2"}])),
        ),
        (
            "a new item comes first",
            containers(json!([a()])),
            containers(json!([{"name": "c"}])),
            containers(json!([{"name": "c"}, a()])),
        ),
        (
            "deleted by key",
            containers(json!([a(), b()])),
            containers(json!([{"name": "a", "$patch": "delete"}])),
            containers(json!([b()])),
        ),
        (
            "list replaced",
            containers(json!([a(), b()])),
            containers(json!([{"name": "c"}, {"$patch": "replace"}])),
            containers(json!([{"name": "c"}])),
        ),
        (
            "atomic lists are replaced",
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            "null deletes",
            json!({"nodeName": "n", "hostname": "h"}),
            json!({"nodeName": null}),
            json!({"hostname": "h"}),
        ),
        (
            "null for what is not there is dropped",
            json!({}),
            json!({"securityContext": {"runAsUser": null}}),
            json!({"securityContext": {}}),
        ),
        (
            "order directive",
            containers(json!([a(), b()])),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            containers(json!([b(), a()])),
        ),
        (
            "order directive with items",
            containers(json!([a(), b()])),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}),
            containers(json!([{"name": "c"}, a(), b()])),
        ),
        (
            "retained keys",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        ),
        (
            "map replaced",
            json!({"nodeSelector": {"a": "b"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "d"}}),
            json!({"nodeSelector": {"c": "d"}}),
        ),
    ];
    for (what, original, patch, wanted) in table {
        assert_eq!(pod_patch(original, patch), Ok(wanted), "{what}");
    }
}

#[test]
fn lists_of_scalars_merge_as_sets() {
    let finalizers = |patch: Value| {
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        patched(PatchKind::Strategic, "v1", "Pod", &original, &json!({"metadata": patch}))
            .map(|pod| pod["metadata"]["finalizers"].clone())
    };
    assert_eq!(finalizers(json!({"finalizers": ["c", "a"]})), Ok(json!(["c", "a", "b"])));
    assert_eq!(finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), Ok(json!(["b"])));
    let order = json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]});
    assert_eq!(finalizers(order), Ok(json!(["c", "b"])));
}

/// Quadratic work on lists of this length would take minutes.
#[test]
fn long_lists_merge_in_linear_work() {
    const MANY: usize = 20_000;
    let names = |from: usize| (from..from + MANY).map(|i| json!(format!("x/{i}"))).collect::<Value>();
    let original = json!({"metadata": {"finalizers": names(0)}});
    let patch = |patch: Value| {
        patched(PatchKind::Strategic, "v1", "Pod", &original, &json!({"metadata": patch})).unwrap()
    };
    let merged = patch(json!({"finalizers": names(MANY / 2)}));
    assert_eq!(merged["metadata"]["finalizers"].as_array().unwrap().len(), MANY * 3 / 2);
    let ordered = patch(json!({"$setElementOrder/finalizers": names(0)}));
    assert_eq!(ordered, original);
    let emptied = patch(json!({"$deleteFromPrimitiveList/finalizers": names(0)}));
    assert_eq!(emptied["metadata"]["finalizers"], json!([]));
    let containers = |extra: Value| {
        (0..MANY)
            .map(|i| {
                let mut c = extra.clone();
                c["name"] = format!("c{i}").into();
                c
            })
            .collect::<Value>()
    };
    let kept = pod_patch(
        json!({"containers": containers(json!({}))}),
        json!({"containers": containers(json!({"image": "i"}))}),
    )
    .unwrap();
    assert_eq!(kept["containers"][MANY - 1], json!({"name": format!("c{}", MANY - 1), "image": "i"}));
    let gone = pod_patch(kept, json!({"containers": containers(json!({"$patch": "delete"}))})).unwrap();
    assert_eq!(gone["containers"], json!([]));
}

#[test]
fn malformed_strategic_patches_fail_in_upstreams_words() {
    let table = [
        (
            json!({"containers": [{"image": "x"}]}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (json!({"$patch": "foo"}), 500, "unknown patch type: foo in map: map[$patch:foo]"),
        (json!({"$retainKeys": "x"}), 400, "invalid patch format of retainKeys"),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "c"}]}),
            500,
            "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
    ];
    for (patch, code, message) in table {
        let failure = pod_patch(json!({"containers": [{"name": "a"}]}), patch).unwrap_err().0;
        assert_eq!((failure.code, failure.message.as_str()), (code, message));
    }
}

#[test]
fn json_patches_replace_like_upstream_and_are_refused_like_upstream() {
    let original = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
    let run = |patch: Value| patched(PatchKind::Json, "v1", "ConfigMap", &original, &patch);
    let replaced = run(json!([{"op": "replace", "path": "/data/y", "value": "2"}])).unwrap();
    assert_eq!(replaced["data"], json!({"x": "1", "y": "2"}));
    for bad in [
        json!([{"op": "test", "path": "/metadata/name", "value": "b"}]),
        json!([{"op": "remove", "path": "/data/y"}]),
        json!([{"op": "add", "path": "/nope/x", "value": "1"}]),
        json!([{"op": "foo", "path": "/data/x"}]),
        // Copies of copies: growth and depth have a limit.
        (0..64).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/{i}")})).collect(),
    ] {
        let failure = run(bad).unwrap_err().0;
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (422, "the server rejected our request due to an error in our request")
        );
    }
    let not_a_list = run(json!({})).unwrap_err().0;
    assert_eq!(
        not_a_list.message,
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    for (patch, why) in [
        (json!([1]), "json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (
            json!([{"op": 5}]),
            "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
    ] {
        let failure = run(patch).unwrap_err().0;
        assert_eq!((failure.code, failure.message), (400, format!("error decoding patch: {why}")));
    }
    let too_many =
        run(vec![json!({"op": "test", "path": "/data/x", "value": "1"}); 10_001].into()).unwrap_err();
    assert_eq!(too_many.code(), 413);
}

#[test]
fn a_result_that_does_not_fit_is_invalid() {
    let schema = Schema::builtin(&Gvk::new("", "v1", "ConfigMap")).unwrap();
    let original = Object(json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    let failure = apply_normalized(PatchKind::Merge, &original, br#"{"data":1}"#, &schema).unwrap_err().0;
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (
            422,
            r#" "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\",\"data\":1,\"kind\":\"ConfigMap\"}": json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string"#
        )
    );
    for (patch, why) in [
        (r#"{"metadata":{"labels":"x"}}"#, "cannot restore map from string"),
        (r#"{"metadata":{"finalizers":{}}}"#, "cannot restore slice from map"),
        (r#"{"metadata":[]}"#, "cannot restore struct from: slice"),
        (r#"{"immutable":"yes"}"#, "unrecognized type: bool"),
        (r#"{"data":{"a":1}}"#, "cannot convert int64 to string"),
        (r#"{"data":{"a":1.5}}"#, "unrecognized type: string"),
    ] {
        let failure =
            apply_normalized(PatchKind::Strategic, &original, patch.as_bytes(), &schema).unwrap_err().0;
        assert!(failure.message.ends_with(&format!(": {why}")), "{patch}: {}", failure.message);
    }
    let odd = apply_normalized(PatchKind::Strategic, &original, br#"{"foo":{"bar":1}}"#, &schema).unwrap();
    assert_eq!(
        odd.strict_error().unwrap().0.message,
        r#" "" is invalid: patch: Invalid value: "map[foo:map[bar:1]]": strict decoding error: unknown field "foo""#
    );
}
