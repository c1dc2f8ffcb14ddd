//! The transcoder against hand-made messages, and against upstream's test vectors where they are at hand.

use coracle_api::Gvk;
use serde_json::{Value, json};

use super::{CLOSE, begin_list, decode, encode, encode_message, list_item};
use crate::schema::Schema;

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short in tests");
    [&[number << 3 | 2, length], bytes].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
}

#[test]
fn a_deployment_keeps_pointers_to_zero() {
    let spec = [vec![1 << 3, 0], vec![5 << 3, 0], field(3, &field(2, &field(2, &field(1, b"c"))))].concat();
    let body = envelope("apps/v1", "Deployment", &[field(1, &field(1, b"web")), field(2, &spec)].concat());
    let mut object = decode(&body, None).unwrap().object;
    Schema::builtin(&object.gvk()).unwrap().normalize(&mut object).unwrap();
    assert_eq!(object.0["metadata"], json!({"name": "web"}));
    assert_eq!(object.0["spec"]["replicas"], json!(0));
    assert_eq!(object.0["spec"].get("minReadySeconds"), None);
    assert_eq!(object.0["spec"]["template"]["spec"]["containers"], json!([{"name": "c", "resources": {}}]));
}

#[test]
fn hostile_messages_are_refused() {
    let pod = |raw: &[u8]| decode(&envelope("v1", "Pod", raw), None).map(|_| ());
    assert_eq!(pod(&[0x0a, 0x05, 1]), Err("unexpected EOF".to_owned()));
    assert_eq!(
        pod(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        Err("unexpected EOF".to_owned())
    );
    assert_eq!(pod(&[0xff; 11]), Err("proto: integer overflow".to_owned()));
    assert_eq!(pod(&[0x0b]), Err("proto: illegal wireType 3".to_owned()));
    assert_eq!(pod(&[0x08, 1]), Err("proto: wrong wireType".to_owned()));
    assert!(decode(b"{}", Some(&Gvk::new("", "v1", "Pod"))).is_err());
    assert!(decode(&envelope("v1", "Nothing", &[]), None).is_err());
}

/// `PROTOBUF_VECTORS` names a folder with `<name>.pb` beside `<name>.json`, as upstream's `k8s.io/api/testdata` has them.
#[test]
fn upstreams_vectors_decode_to_their_json() {
    let Ok(folder) = std::env::var("PROTOBUF_VECTORS") else {
        println!("skipped: PROTOBUF_VECTORS is not set");
        return;
    };
    let (mut right, mut wrong) = (0, vec![]);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pb") {
            continue;
        }
        let wanted: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let gvk = coracle_api::Object(wanted.clone()).gvk();
        let Some(schema) = Schema::builtin(&gvk) else { continue };
        let mut object = match decode(&std::fs::read(&path).unwrap(), None) {
            Ok(decoded) => decoded.object,
            Err(e) => {
                wrong.push(format!("{gvk}: {e}"));
                continue;
            }
        };
        let outcome = schema.normalize(&mut object);
        let again = super::encode(&object.0).map(|body| decode(&body, None));
        let Some(Ok(mut again)) = again else {
            wrong.push(format!("{gvk}: not encoded: {again:?}"));
            continue;
        };
        assert!(schema.normalize(&mut again.object).is_ok());
        if again.object != object {
            wrong.push(format!("{gvk}: round trip: {}", difference(&again.object.0, &object.0, "")));
        }
        if outcome.is_ok() && object.0 == wanted {
            right += 1;
        } else {
            wrong.push(format!("{gvk}: {outcome:?} {}", difference(&object.0, &wanted, "")));
        }
    }
    println!("{right} right");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn difference(a: &Value, b: &Value, path: &str) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let parts = keys.into_iter().filter(|k| x.get(*k) != y.get(*k)).map(|k| {
                difference(
                    x.get(k).unwrap_or(&json!("<none>")),
                    y.get(k).unwrap_or(&json!("<none>")),
                    &format!("{path}.{k}"),
                )
            });
            parts.collect::<Vec<_>>().join("; ")
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            let parts = x
                .iter()
                .zip(y)
                .enumerate()
                .filter(|(_, (p, q))| p != q)
                .map(|(i, (p, q))| difference(p, q, &format!("{path}[{i}]")));
            parts.collect::<Vec<_>>().join("; ")
        }
        _ => format!("{path}: {a} instead of {b}"),
    }
}

#[test]
fn a_list_of_encoded_items_is_the_list_encoded() {
    let item = |name: &str, fill: usize| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": "x".repeat(fill)}});
    let items = [item("a", 0), item("b", 100), item("c", 20_000)];
    let mut list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}});
    let messages: Vec<_> = items.iter().map(|i| encode_message(i).unwrap().into()).collect();
    let mut out = bytes::BytesMut::from(&*begin_list(&list, &messages).unwrap());
    messages.iter().for_each(|m| list_item(&mut out, m));
    out.extend_from_slice(CLOSE);
    list["items"] = items.into();
    assert_eq!(out, encode(&list).unwrap());
}
