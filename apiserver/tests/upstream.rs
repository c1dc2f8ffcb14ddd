//! What upstream publishes with its modules: test vectors and OpenAPI documents. Both are found in Go's module cache, where
//! `conformance/upstream/build` or `go mod download` puts them; where they are not, these tests say so and are ignored.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use coracle_api::Object;
use coracle_apiserver::codec;
use coracle_apiserver::schema::Schema;
use serde_json::{Value, json};

#[allow(dead_code, reason = "other tests ask for more")]
#[path = "server/cluster.rs"]
mod cluster;

/// A test's name, the module and its part that it needs, and what it does with that.
type Test = (&'static str, &'static str, &'static str, fn(&Path));

const TESTS: &[Test] = &[
    ("upstreams_vectors_decode_to_their_json", "k8s.io/api", "testdata/HEAD", vectors),
    ("definitions_are_those_of_upstream", "k8s.io/kubernetes", "api/openapi-spec/v3", definitions),
];

/// A harness of its own: the ordinary one cannot ignore a test for what is not there.
fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, module, part, test) in TESTS.iter().filter(|(name, ..)| wanted(name)) {
        let outcome = match folder(module, part) {
            Err(why) => {
                ignored += 1;
                format!("ignored, {why}")
            }
            Ok(folder) => match catch_unwind(|| test(&folder)) {
                Ok(()) => {
                    passed += 1;
                    "ok".to_owned()
                }
                Err(_) => {
                    failed += 1;
                    "FAILED".to_owned()
                }
            },
        };
        println!("test {name} ... {outcome}");
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A folder of a module in Go's cache, in the version that this repository builds upstream's programs of.
fn folder(module: &str, part: &str) -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("GOMODCACHE")
        .or_else(|| set("GOPATH").map(|p| p.join("pkg/mod")))
        .or_else(|| set("HOME").map(|p| p.join("go/pkg/mod")))
        .ok_or("needs Go's module cache")?;
    let go_mod = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/upstream/go.mod");
    let go_mod = std::fs::read_to_string(go_mod).unwrap();
    let version = go_mod.lines().find_map(|l| l.trim().strip_prefix(module)?.strip_prefix(' '));
    let version = version.and_then(|v| v.split(' ').next()).expect("the module's version");
    let folder = cache.join(format!("{module}@{version}")).join(part);
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(format!("needs {module}@{version} in Go's module cache")),
    }
}

/// `<name>.pb` beside `<name>.json`.
fn vectors(folder: &Path) {
    let protobuf = Some("application/vnd.kubernetes.protobuf");
    let decode = |bytes: &[u8]| codec::decode(protobuf, bytes, None).map(|d| d.object);
    let (mut right, mut wrong) = (0, vec![]);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pb") {
            continue;
        }
        let wanted: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let gvk = Object(wanted.clone()).gvk();
        let Some(schema) = Schema::builtin(&gvk) else { continue };
        let mut object = match decode(&std::fs::read(&path).unwrap()) {
            Ok(object) => object,
            Err(e) => {
                wrong.push(format!("{gvk}: {e}"));
                continue;
            }
        };
        let outcome = schema.normalize(&mut object);
        let again = codec::encode_protobuf(&object.0).map(|body| decode(&body));
        let Some(Ok(mut again)) = again else {
            wrong.push(format!("{gvk}: not encoded: {again:?}"));
            continue;
        };
        assert!(schema.normalize(&mut again).is_ok());
        if again != object {
            wrong.push(format!("{gvk}: round trip: {}", difference(&again.0, &object.0, "")));
        }
        if outcome.is_ok() && object.0 == wanted {
            right += 1;
        } else {
            wrong.push(format!("{gvk}: {outcome:?} {}", difference(&object.0, &wanted, "")));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(right > 70, "only {right} kinds were found");
}

fn difference(a: &Value, b: &Value, path: &str) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let none = json!("<none>");
            let parts = keys.into_iter().filter(|k| x.get(*k) != y.get(*k)).map(|k| {
                difference(x.get(k).unwrap_or(&none), y.get(k).unwrap_or(&none), &format!("{path}.{k}"))
            });
            parts.collect::<Vec<_>>().join("; ")
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            let pairs = x.iter().zip(y).enumerate().filter(|(_, (p, q))| p != q);
            let parts = pairs.map(|(i, (p, q))| difference(p, q, &format!("{path}[{i}]")));
            parts.collect::<Vec<_>>().join("; ")
        }
        _ => format!("{path}: {a} instead of {b}"),
    }
}

/// What differs with the kinds that there are, and what is of a kind that is not served.
const OTHERWISE: &[&str] =
    &["DeleteOptions", "WatchEvent", "ComponentCondition", "ComponentStatus", "ComponentStatusList"];

/// Documents as `apis__apps__v1_openapi.json`. Texts are not compared, nor are the values of enumerations, which upstream's
/// servers tell and its published documents do not.
fn definitions(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut compared, mut wrong) = (0, vec![]);
    runtime.block_on(async {
        let c = cluster::Cluster::start().await;
        let index = c.get("/openapi/v3").await;
        for (path, served) in index["paths"].as_object().unwrap() {
            let Ok(text) = std::fs::read(folder.join(format!("{}_openapi.json", path.replace('/', "__"))))
            else {
                continue;
            };
            let upstream: Value = serde_json::from_slice(&text).unwrap();
            let ours = c.get(served["serverRelativeURL"].as_str().unwrap()).await;
            let ours = bare(&ours["components"]["schemas"]);
            for (name, theirs) in bare(&upstream["components"]["schemas"]).as_object().unwrap() {
                compared += 1;
                match ours.get(name) {
                    _ if OTHERWISE.iter().any(|o| name.ends_with(o)) => {}
                    None => wrong.push(format!("{path}: no {name}")),
                    Some(ours) if ours == theirs => {}
                    Some(ours) => wrong.push(format!("{path}: {name}: {}", difference(ours, theirs, ""))),
                }
            }
        }
        c.running.stop().await;
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 500, "only {compared} definitions were found");
}

fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(k, v)| !(*k == "description" && v.is_string() || *k == "enum" && v.is_array()))
            .map(|(k, v)| (k.clone(), bare(v)))
            .collect(),
        Value::Array(items) => items.iter().map(bare).collect(),
        other => other.clone(),
    }
}
