//! What a client is told besides its answer, and which bodies an endpoint takes.

use serde_json::json;

use super::*;

fn warned(warnings: &[&str]) -> Vec<String> {
    let mut response = Response::new(Body::empty());
    for warning in warnings {
        add_warnings(&mut response, &[(*warning).to_owned()]);
    }
    let headers = response.headers().get_all(header::WARNING);
    headers.iter().map(|w| String::from_utf8(w.as_bytes().to_vec()).unwrap()).collect()
}

#[test]
fn warnings_are_quoted_said_once_and_cut_where_they_are_too_long() {
    for (given, told) in [
        (&[][..], vec![]),
        (&["a"], vec![r#"299 - "a""#]),
        (&["a", "b", "a"], vec![r#"299 - "a""#, r#"299 - "b""#]),
        (&[r#"say "x" \ y"#], vec![r#"299 - "say \"x\" \\ y""#]),
        // What would end the header is left out.
        (&["a\r\nset-cookie: b\u{7f}"], vec![r#"299 - "aset-cookie: b""#]),
        (&["é"], vec!["299 - \"é\""]),
    ] {
        assert_eq!(warned(given), told, "{given:?}");
    }
    let long = "x".repeat(limits::WARNING_CHARS / 2 + 1);
    let others = ["y", "z"].map(|c| long.replace('x', c));
    let told = warned(&[&long, &others[0], &others[1]]);
    let most = told.iter().map(|t| t.len() - r#"299 - """#.len()).max().unwrap();
    assert_eq!(most, limits::LONG_WARNING_CHARS, "each is cut");
    let much: Vec<String> = (0..10_000).map(|n| format!("{n:04}-{}", "x".repeat(100))).collect();
    let much: Vec<&str> = much.iter().map(String::as_str).collect();
    let chars: usize = warned(&much[..500]).iter().map(String::len).sum();
    assert!(chars < limits::WARNING_CHARS * 2, "{chars}");
}

#[test]
fn a_warning_that_comes_first_stands_first() {
    let mut response = Response::new(Body::empty());
    add_warnings(&mut response, &["b".to_owned()]);
    prepend_warning(&mut response, "a");
    add_warnings(&mut response, &["c".to_owned()]);
    let told: Vec<_> =
        response.headers().get_all(header::WARNING).iter().map(|w| w.to_str().unwrap()).collect();
    assert_eq!(told, [r#"299 - "a""#, r#"299 - "b""#, r#"299 - "c""#]);
}

#[test]
fn a_body_is_of_the_endpoints_kind_and_version() {
    let expected = Gvk::new("apps", "v1", "StatefulSet");
    for (api_version, kind, why) in [
        ("apps/v1", "StatefulSet", ""),
        (
            "apps/v1beta1",
            "StatefulSet",
            "StatefulSet in version \"apps/v1beta1\" cannot be handled as a StatefulSet: no kind \
            \"StatefulSet\" is registered for version \"apps/v1beta1\" in scheme \"pkg/runtime/scheme.go:111\"",
        ),
        (
            "apps/v1",
            "ReplicaSet",
            "the kind in the data (ReplicaSet) does not match the expected kind (StatefulSet)",
        ),
        (
            "v1",
            "ServiceAccount",
            "the API version in the data (v1) does not match the expected API version (apps/v1)",
        ),
    ] {
        let object = Object(json!({"apiVersion": api_version, "kind": kind}));
        let checked = check_gvk(&object, &expected).map_or_else(|e| e.to_string(), |()| String::new());
        assert_eq!(checked, why, "{api_version} {kind}");
    }
    // Of a kind that nobody knows, only what is said is compared.
    let custom = Gvk::new("example.com", "v1", "Widget");
    for (api_version, kind, fits) in [
        ("example.com/v1", "Widget", true),
        ("example.com/v2", "Widget", false),
        ("example.com/v1", "Gadget", false),
    ] {
        let object = Object(json!({"apiVersion": api_version, "kind": kind}));
        assert_eq!(check_gvk(&object, &custom).is_ok(), fits, "{api_version} {kind}");
    }
}
