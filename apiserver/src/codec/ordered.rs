//! JSON with its keys in the order of upstream's Go types: suites, and people with `diff`, compare text. Where there is no
//! type (custom resources, maps) keys are sorted, as Go's encoder sorts them.

use std::io;

use coracle_api::Gvk;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::ser::Formatter;
use serde_json::{Map, Value};

use super::html_safe;
use crate::schema::{LeafKind, Node, Schema, Type};

/// A value beside its type.
#[derive(Clone, Copy)]
pub(crate) struct Ordered<'a> {
    value: &'a Value,
    node: Option<Node<'static>>,
}

// === impl Ordered ===

impl<'a> Ordered<'a> {
    /// An object, by the kind it says it is.
    pub(crate) fn of(value: &'a Value) -> Self {
        Ordered { value, node: node_of(value) }
    }

    /// The fields of an object; one of this name is among them even where the object has it not, with a null.
    pub(crate) fn fields(self, with: Option<&'static str>) -> Vec<(&'a str, Ordered<'a>)> {
        let Value::Object(map) = self.value else { return vec![] };
        entries(map, self.node, with)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        write(&mut out, &self);
        out
    }
}

/// Appends JSON as Go's encoder writes it.
pub(crate) fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let mut serializer = serde_json::Serializer::with_formatter(out, HtmlSafe);
    value.serialize(&mut serializer).expect("JSON values can be written to memory");
}

/// Go escapes what could end a script inside a page.
struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        out.write_all(html_safe(text).as_bytes())
    }
}

/// The type of an object that names a built-in kind.
fn node_of(value: &Value) -> Option<Node<'static>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    Schema::builtin_root(&Gvk::from_api_version(text("apiVersion")?, text("kind")?))
}

static NULL: Value = Value::Null;

fn entries<'a>(
    map: &'a Map<String, Value>,
    node: Option<Node<'static>>,
    with: Option<&'static str>,
) -> Vec<(&'a str, Ordered<'a>)> {
    let absent = with.filter(|name| !map.contains_key(*name)).map(|name| (name, &NULL));
    let all = map.iter().map(|(key, value)| (key.as_str(), value)).chain(absent);
    let child = |key: &str| node.and_then(|n| n.child(key));
    let mut entries: Vec<(&str, Ordered<'_>)> =
        all.map(|(key, value)| (key, Ordered { value, node: child(key) })).collect();
    match node.and_then(Node::as_struct) {
        Some(s) => entries.sort_by_cached_key(|(key, _)| s.rank(key)),
        None if absent.is_some() => entries.sort_by_key(|(key, _)| *key),
        None => {}
    }
    entries
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What is below a leaf has a type of its own, or none.
        let node = match self.node.map(|n| (n, n.ty())) {
            Some((_, Type::Leaf(leaf))) if leaf.kind == LeafKind::Raw => node_of(self.value),
            Some((node, Type::Leaf(leaf))) if leaf.kind.holds_schema() => match self.value {
                Value::Array(items) => {
                    let mut seq = serializer.serialize_seq(Some(items.len()))?;
                    let node = Some(node.schema_props());
                    items.iter().try_for_each(|value| seq.serialize_element(&Ordered { value, node }))?;
                    return seq.end();
                }
                _ => Some(node.schema_props()),
            },
            Some((_, Type::Leaf(_))) => None,
            Some((node, _)) => Some(node),
            None => None,
        };
        match self.value {
            Value::Object(map) if node.is_some() => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                for (key, value) in entries(map, node, None) {
                    out.serialize_entry(key, &value)?;
                }
                out.end()
            }
            Value::Array(items) if node.is_some() => {
                let node = node.and_then(Node::item);
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|value| seq.serialize_element(&Ordered { value, node }))?;
                seq.end()
            }
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(value: &Value) -> String {
        String::from_utf8(Ordered::of(value).bytes()).unwrap()
    }

    #[test]
    fn keys_come_as_in_upstreams_types() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"},
            "metadata": {"uid": "u", "labels": {"z": "1", "a": "2"}, "name": "p", "namespace": "n", "resourceVersion": "1"},
            "spec": {"containers": [{"resources": {}, "image": "i", "name": "c"}], "volumes": []}});
        assert_eq!(
            text(&pod),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"n","uid":"u","resourceVersion":"1","labels":{"a":"2","z":"1"}},"spec":{"volumes":[],"containers":[{"name":"c","image":"i","resources":{}}]},"status":{"phase":"Running"}}"#
        );
        let status = json!({"apiVersion": "v1", "kind": "Status", "code": 404, "details": {"kind": "pods", "name": "x"},
            "message": "m", "metadata": {}, "reason": "NotFound", "status": "Failure"});
        assert_eq!(
            text(&status),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
        );
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"versions": [{"schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "b": {"type": "array", "items": {"type": "string", "description": "d"}}, "a": {}}, "description": "x"}}, "name": "v1"}]}});
        assert_eq!(
            text(&crd),
            r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"description":"x","type":"object","properties":{"a":{},"b":{"type":"array","items":{"description":"d","type":"string"}}}}}}]}}"#
        );
    }

    #[test]
    fn what_has_no_type_is_sorted() {
        let custom =
            json!({"kind": "Thing", "apiVersion": "example.com/v1", "metadata": {"name": "t"}, "a": 1});
        assert_eq!(text(&custom), custom.to_string());
        assert_eq!(text(&json!({"<a>": "&\u{2028}\"é"})), r#"{"\u003ca\u003e":"\u0026\u2028\"é"}"#);
    }
}
