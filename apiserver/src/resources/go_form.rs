//! Values as upstream's messages print them: its own types have no JSON names, and every one of their fields is shown.

use serde_json::Value;

use crate::schema::{LeafKind, Node, Type};

/// Names of fields that do not begin as their JSON names do.
const INITIALS: [(&str, &str); 11] = [
    ("api", "API"),
    ("cidrs", "CIDRs"),
    ("cidr", "CIDR"),
    ("ips", "IPs"),
    ("ip", "IP"),
    ("uid", "UID"),
    ("tls", "TLS"),
    ("http", "HTTP"),
    ("cel", "CEL"),
    ("csi", "CSI"),
    ("nfs", "NFS"),
];

/// A value as Go's `encoding/json` writes upstream's type for it; one that is not there as its zero, or `null` where it is
/// optional.
pub(super) fn go_form(node: Option<Node<'static>>, value: &Value, optional: bool) -> String {
    let mut out = String::new();
    match value {
        Value::Null => write_absent(node, optional, &mut out),
        value => write(node, value, &mut out),
    }
    out
}

fn write(node: Option<Node<'static>>, value: &Value, out: &mut String) {
    let Some(node) = node else { return out.push_str(&value.to_string()) };
    match (node.ty(), value) {
        (_, Value::Null) => out.push_str("null"),
        (Type::Struct(s), Value::Object(map)) => {
            // Types of apimachinery are the same everywhere, and have JSON names.
            let shared = s.name.starts_with("io.k8s.apimachinery.");
            let mut fields: Vec<_> = s.fields.iter().collect();
            fields.sort_by_key(|f| s.rank(&f.name));
            let shown = fields.into_iter().filter_map(|field| {
                let given = map.get(&*field.name).filter(|v| !v.is_null());
                let mut out = String::new();
                match given {
                    None if shared || &*field.name == "metadata" => return None,
                    Some(value) => write(node.child(&field.name), value, &mut out),
                    None => write_absent(node.child(&field.name), field.pointer, &mut out),
                }
                if &*field.name == "metadata" && !shared {
                    // Upstream embeds it.
                    let inner = out.strip_prefix('{').and_then(|o| o.strip_suffix('}')).unwrap_or_default();
                    return (!inner.is_empty()).then(|| inner.to_owned());
                }
                let name = if shared { field.name.to_string() } else { go_name(&s.name, &field.name) };
                Some(format!("\"{name}\":{out}"))
            });
            out.push_str(&format!("{{{}}}", shown.collect::<Vec<_>>().join(",")));
        }
        (Type::List(_), Value::Array(items)) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(node.item(), item, out);
            }
            out.push(']');
        }
        (Type::Map(_), Value::Object(map)) => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&format!("{}:", Value::from(&**key)));
                write(node.child(key), value, out);
            }
            out.push('}');
        }
        (_, other) => out.push_str(&other.to_string()),
    }
}

fn write_absent(node: Option<Node<'static>>, pointer: bool, out: &mut String) {
    let Some(node) = node.filter(|_| !pointer) else { return out.push_str("null") };
    match node.ty() {
        Type::Struct(_) => write(Some(node), &Value::Object(serde_json::Map::new()), out),
        Type::List(_) | Type::Map(_) => out.push_str("null"),
        Type::Leaf(leaf) => out.push_str(match leaf.kind {
            LeafKind::String => "\"\"",
            LeafKind::Bool => "false",
            LeafKind::Int32 | LeafKind::Int64 | LeafKind::Double | LeafKind::IntOrString => "0",
            LeafKind::Quantity => "\"0\"",
            _ => "null",
        }),
    }
}

fn go_name(of: &str, json: &str) -> String {
    if of.ends_with(".DeviceAttribute") {
        let (one, many) = (json.trim_end_matches('s'), if json.ends_with('s') { "s" } else { "" });
        return format!("{}Value{many}", go_name("", one));
    }
    let begins = |word: &&(&str, &str)| {
        let rest = json.strip_prefix(word.0);
        rest.is_some_and(|r| r.is_empty() || r.starts_with(|c: char| c.is_ascii_uppercase()))
    };
    if let Some((json_word, go_word)) = INITIALS.iter().find(begins) {
        return format!("{go_word}{}", &json[json_word.len()..]);
    }
    let mut chars = json.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
