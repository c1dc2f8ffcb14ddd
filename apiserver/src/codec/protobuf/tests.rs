//! The transcoder against hand-made messages; `tests/upstream.rs` holds it against upstream's test vectors.

use coracle_api::Gvk;
use serde_json::json;

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
