//! Request bodies to objects.

use std::borrow::Cow;

use coracle_api::{Gvk, Object};
use serde_json::{Map, Value};

use super::go_syntax::JsonError;
use super::{json, protobuf, yaml};
use crate::schema::Noticed;
use crate::status::{Result, Status};

/// A request body as an object, before any schema has seen it.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// Duplicate fields. Unknown ones are noticed by `Schema::normalize`; [`merge_noticed`] joins the two.
    pub noticed: Noticed,
}

/// The media types of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What upstream lists when it takes none of the client's media types.
pub(super) const MEDIA_TYPES: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads a body of any media type the server takes. What a body does not say of its kind is taken from `default_gvk`.
pub fn decode(content_type: Option<&str>, body: &[u8], default_gvk: Option<&Gvk>) -> Result<Decoded> {
    let expected = default_gvk.map_or("Object", |gvk| &gvk.kind);
    let unrecognized = |why: String| {
        let summary = summarize(body);
        let message =
            format!("the object provided is unrecognized (must be of type {expected}): {why} ({summary})");
        Status::bad_request(message)
    };
    let (value, noticed) = match media(content_type)? {
        Media::Json => json::parse(body).map_err(|e| match (&e, default_gvk) {
            // A number that is none of Go's: the object is known by then.
            (JsonError::BadNumber(_), Some(gvk)) => crate::schema::unhandled(gvk, &e.to_string()),
            _ => unrecognized(parse_error(&e.to_string())),
        })?,
        Media::Yaml => yaml::parse(body).map_err(unrecognized)?,
        Media::Protobuf => return protobuf::decode(body, default_gvk).map_err(unrecognized),
    };
    let mut map = match value {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        other => return Err(unrecognized(parse_error(&not_an_object(&other)))),
    };
    name_kind(&mut map, default_gvk).map_err(unrecognized)?;
    Ok(Decoded { object: Object(Value::Object(map)), noticed })
}

/// Duplicate and unknown fields in upstream's order, which for JSON is that of the body.
pub fn merge_noticed(body: &[u8], duplicates: Noticed, unknown: Noticed) -> Noticed {
    if duplicates.is_empty() && unknown.0.len() < 2 {
        return unknown;
    }
    let mut all = duplicates.0;
    // Duplicates of a field that is unknown, or inside one, are no news.
    all.retain(|duplicate| !unknown.0.iter().any(|u| is_within(duplicate, u)));
    all.extend(unknown.0);
    super::order::order_as_in(body, &mut all);
    Noticed(all)
}

fn is_within(duplicate: &str, unknown: &str) -> bool {
    let path = |notice: &str| notice.split_once('"').map(|(_, p)| p.trim_end_matches('"').to_owned());
    match (path(duplicate), path(unknown)) {
        (Some(d), Some(u)) => {
            d.strip_prefix(&u).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        }
        _ => false,
    }
}

fn media(content_type: Option<&str>) -> Result<Media> {
    let name = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match name.to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {MEDIA_TYPES}"
        ))),
    }
}

/// Fills `apiVersion` and `kind` from the default where the body leaves them open.
fn name_kind(map: &mut Map<String, Value>, default_gvk: Option<&Gvk>) -> std::result::Result<(), String> {
    for (key, go) in [("kind", "kind"), ("apiVersion", "apiVersion")] {
        match map.get(key) {
            None | Some(Value::String(_)) => {}
            Some(Value::Null) => drop(map.remove(key)),
            Some(other) => {
                let found = json::describe(other);
                return Err(parse_error(&format!(
                    "json: cannot unmarshal {found} into Go struct field .{go} of type string"
                )));
            }
        }
    }
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion").matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {}", text("apiVersion")));
    }
    let Some(default) = default_gvk else { return Ok(()) };
    let (no_kind, no_version) = (text("kind").is_empty(), text("apiVersion").is_empty());
    if no_kind {
        map.insert("kind".into(), default.kind.clone().into());
    }
    if no_version {
        map.insert("apiVersion".into(), default.api_version().into());
    }
    Ok(())
}

fn parse_error(why: &str) -> String {
    format!("couldn't get version/kind; json parse error: {why}")
}

fn not_an_object(value: &Value) -> String {
    let found = json::describe(value);
    format!(
        "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

/// The beginning of a body that nobody understood.
fn summarize(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let shown: Cow<'_, str> = match body.first() {
        None => "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(head),
        Some(_) => hex::encode(head).into(),
    };
    if body.len() > SHOWN { format!("{shown} ...") } else { shown.into_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_map() -> Gvk {
        Gvk::new("", "v1", "ConfigMap")
    }

    fn refused(content_type: &str, body: &str) -> String {
        decode(Some(content_type), body.as_bytes(), Some(&config_map())).expect_err("malformed").0.message
    }

    #[test]
    fn malformed_bodies_are_refused_in_upstreams_words() {
        let prefix = "the object provided is unrecognized (must be of type ConfigMap): ";
        let head = "({\"kind\":\"ConfigMap\",\"apiVersio ...)";
        let table = [
            ("json", "{", "unexpected end of JSON input ({)".to_owned()),
            ("json", r#"{"kind":"ConfigMap","apiVersion":"v1",}"#, format!("invalid character '}}' looking for beginning of object key string {head}")),
            ("json", "hello", "invalid character 'h' looking for beginning of value (68656c6c6f)".to_owned()),
            ("json", "", "unexpected end of JSON input (<empty>)".to_owned()),
            ("json", r#"{"kind":1}"#, r#"json: cannot unmarshal number into Go struct field .kind of type string ({"kind":1})"#.to_owned()),
            ("json", r#"{"kind":"ConfigMap","apiVersion":"v1"} trailing"#, format!("invalid character 't' after top-level value {head}")),
            ("json", r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b" "c":1}}"#, format!("invalid character '\"' after object key:value pair {head}")),
            ("json", r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":tru}}"#, format!("invalid character '}}' in literal true (expecting 'e') {head}")),
            ("json", "[]", r#"json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)"#.to_owned()),
        ];
        for (media, body, why) in table {
            let wanted = format!("{prefix}couldn't get version/kind; json parse error: {why}");
            assert_eq!(refused(&format!("application/{media}"), body), wanted);
        }
        assert_eq!(
            refused("application/json", r#"{"kind":"ConfigMap","apiVersion":"a/b/c"}"#),
            format!("{prefix}unexpected GroupVersion string: a/b/c {head}")
        );
        assert_eq!(
            refused("application/vnd.kubernetes.protobuf", "{}"),
            format!(
                "{prefix}provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({{}})"
            )
        );
        let unknown = "the body of the request was in an unknown format - accepted media types include: application/json, \
                       application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(refused("application/xml", "{}"), unknown);
    }

    #[test]
    fn a_body_without_a_kind_gets_the_endpoints() {
        for (media, body) in [
            (None, "{}"),
            (None, "null"),
            (Some("application/yaml"), "metadata:\n"),
            (Some("application/json;charset=utf-8"), "{\"kind\":\"\"}"),
        ] {
            let decoded = decode(media, body.as_bytes(), Some(&config_map())).unwrap();
            assert_eq!(decoded.object.gvk(), config_map(), "{body}");
        }
    }

    #[test]
    fn duplicates_are_noticed_in_the_order_of_the_body() {
        let body = r#"{"zzz":1,"kind":"ConfigMap","metadata":{"name":"a","name":"b"},"data":{"a":"1","a":"2"},"foo":{"x":1,"x":2},"foo":2}"#;
        let decoded = decode(None, body.as_bytes(), Some(&config_map())).unwrap();
        assert_eq!(decoded.object.name(), "b");
        let unknown = Noticed(vec!["unknown field \"foo\"".into(), "unknown field \"zzz\"".into()]);
        let all = merge_noticed(body.as_bytes(), decoded.noticed, unknown);
        let wanted = [
            "unknown field \"zzz\"",
            "duplicate field \"metadata.name\"",
            "duplicate field \"data.a\"",
            "unknown field \"foo\"",
        ];
        assert_eq!(all.0, wanted);
    }

    #[test]
    fn yaml_scalars_follow_yaml_1_1() {
        let text = "a: yes\nb: 0777\nc: 1.0\nd: '1'\ne: 1_000\nf: ~\ng: 2001-01-01\nh: 1e3\ni: 0x1F\nj: 12:30\n1: n\n\
                    k: &x {p: 1}\nl: {<<: *x, q: 2}\nm: !!str 5\nn: -7\no: 1.5Gi\n";
        let (value, noticed) = yaml::parse(text.as_bytes()).unwrap();
        let wanted = json!({"a": true, "b": 511, "c": 1, "d": "1", "e": 1000, "f": null, "g": "2001-01-01", "h": 1000, "i": 31,
            "j": "12:30", "1": false, "k": {"p": 1}, "l": {"p": 1, "q": 2}, "m": "5", "false": -7, "o": "1.5Gi"});
        assert_eq!(value, wanted);
        assert!(noticed.is_empty());
    }

    #[test]
    fn yaml_duplicates_are_one_notice_with_lines() {
        let text = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: a\n  name: b\ndata: {a: \"1\", a: \"2\"}\nfoo: 1\nfoo: 2\n";
        let (_, noticed) = yaml::parse(text.as_bytes()).unwrap();
        let wanted = "yaml: unmarshal errors:\n  line 5: key \"name\" already set in map\n  line 6: key \"a\" already set in map\n  \
                      line 8: key \"foo\" already set in map";
        assert_eq!(noticed.0, [wanted]);
    }

    #[test]
    fn yaml_aliases_cannot_explode() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let excessive = "yaml: document contains excessive aliasing";
        assert_eq!(yaml::parse(text.as_bytes()).unwrap_err(), excessive);
        // Few values, many bytes.
        let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 100].join(","));
        assert_eq!(yaml::parse(large.as_bytes()).unwrap_err(), excessive);
        // An anchor around an anchor around an anchor.
        let items = vec!["0"; 100_000].join(",");
        let anchors: String = (0..100).map(|i| format!("[&a{i} ")).collect();
        let nested = format!("a: {anchors}[{items}]{}", "]".repeat(100));
        assert_eq!(yaml::parse(nested.as_bytes()).unwrap_err(), excessive);
    }

    #[test]
    fn yaml_aliases_cannot_nest_without_end() {
        let mut text = "a0: &a0 [x]\n".to_owned();
        for i in 1..200 {
            text.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
        }
        assert_eq!(yaml::parse(text.as_bytes()).unwrap_err(), "yaml: exceeded max depth");
        let merged = format!(
            "a: &a {}1{}\nb: {}{{<<: *a}}{}\n",
            "{x: ".repeat(100),
            "}".repeat(100),
            "[".repeat(60),
            "]".repeat(60)
        );
        assert_eq!(yaml::parse(merged.as_bytes()).unwrap_err(), "yaml: exceeded max depth");
    }
}
