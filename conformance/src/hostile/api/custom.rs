//! Kinds that come and go, and what their owners write in schemas and expressions.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::bodies::send_all;
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::Scene;
use crate::wire::{Connection, JSON};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

const CUSTOM: Attack = Attack {
    name: "",
    findings: "",
    by: By::Operator,
    does: "",
    must: "",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "kinds that come and go", findings: "reliability 9", does: "300 definitions that are made, used, listed and deleted", must: "nothing of them is remembered, in /metrics neither", how: How::Peer(|s| Box::pin(come_and_go(s))), ..CUSTOM },
    Attack { name: "schemas that are much work", findings: "issue 11.4", does: "expressions, patterns, defaults and depths in definitions, and objects that they are applied to", must: "refused when written, or bounded when run", how: How::Peer(|s| Box::pin(schemas(s))), ..CUSTOM },
];

fn definition(plural: &str, schema: &Value) -> Value {
    let kind: String = plural.split_at(1).0.to_uppercase() + &plural[1..];
    json!({
        "metadata": {"name": format!("{plural}.goes.example")},
        "spec": {"group": "goes.example", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    })
}

/// Waits until a kind is served.
async fn served(scene: &Scene<'_>, admin: &mut Connection, plural: &str) -> Result<String> {
    let path = format!("/apis/goes.example/v1/namespaces/{}/{plural}", scene.namespace);
    for _ in 0..200 {
        if scene.send(admin, Method::GET, &path, JSON, Bytes::new()).await?.code == 200 {
            return Ok(path);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{plural} is not served after 10 s")
}

async fn metrics(scene: &Scene<'_>, admin: &mut Connection) -> Result<usize> {
    let page = scene.send(admin, Method::GET, "/metrics", "", Bytes::new()).await?;
    Ok(page.body.iter().filter(|b| **b == b'\n').count())
}

async fn come_and_go(scene: &Scene<'_>) -> Result<String> {
    let mut admin = scene.connect(By::Operator).await?;
    let before = metrics(scene, &mut admin).await?;
    let count = scene.amount(300, 10);
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    for n in 0..count {
        let plural = format!("gone{n}s");
        let definition = definition(&plural, &schema).to_string();
        let made = scene.send(&mut admin, Method::POST, DEFINITIONS, JSON, definition).await?;
        ensure!(made.code == 201, "making {plural}: {}", made.code);
        let path = served(scene, &mut admin, &plural).await?;
        let object =
            json!({"apiVersion": "goes.example/v1", "kind": format!("Gone{n}s"), "metadata": {"name": "x"}});
        scene.send(&mut admin, Method::POST, &path, JSON, object.to_string()).await?;
        let name = format!("{DEFINITIONS}/{plural}.goes.example");
        scene.send(&mut admin, Method::DELETE, &name, JSON, Bytes::new()).await?;
    }
    // Deleted definitions take their objects with them first.
    let mut left = usize::MAX;
    for _ in 0..120 {
        let list = scene.send(&mut admin, Method::GET, DEFINITIONS, JSON, Bytes::new()).await?;
        left = String::from_utf8_lossy(&list.body).matches(".goes.example\"").count();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(left == 0, "definitions are left after a minute");
    let after = metrics(scene, &mut admin).await?;
    ensure!(after < before + 500, "/metrics grew from {before} to {after} lines");
    Ok(format!("{count} came and went; /metrics from {before} to {after} lines"))
}

async fn schemas(scene: &Scene<'_>) -> Result<String> {
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let rule = |rule: &str| {
        json!({"type": "object", "properties": {"l": list, "s": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": rule}]})
    };
    let mut deep = json!({"type": "string"});
    for _ in 0..90 {
        deep = object(json!({"a": deep}));
    }
    let mut multiplied = json!({"type": "string", "default": "x".repeat(1000)});
    for _ in 0..8 {
        multiplied =
            json!({"type": "object", "default": {}, "properties": {"a": multiplied, "b": multiplied}});
    }
    let slow = "(x+x+)+y".to_owned();
    let schemas = [
        ("cubed", rule("self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))")),
        ("doubled", rule("(self.s+self.s+self.s+self.s+self.s+self.s+self.s+self.s).size() > 0")),
        ("matched", rule("self.s.matches('(a*)*(b*)*(a|b|c|d)*$')")),
        ("replaced", rule("self.s.replace('a', self.s).replace('a', self.s).size() > 0")),
        ("bracketed", rule(&format!("{}true{}", "(".repeat(2000), ")".repeat(2000)))),
        ("negated", rule(&format!("{}true", "!".repeat(5000)))),
        ("chained", rule(&vec!["true"; 10_000].join(" && "))),
        ("patterned", object(json!({"s": {"type": "string", "pattern": slow}}))),
        (
            "counted",
            object(
                json!({"s": {"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}}),
            ),
        ),
        (
            "unions",
            object(
                json!({"s": {"type": "string", "pattern": format!("({})", vec!["\\pL{500}"; 200].join("|"))}}),
            ),
        ),
        ("nested", deep),
        ("defaulted", multiplied),
        (
            "enumerated",
            object(
                json!({"s": {"type": "string", "enum": (0..50_000).map(|n| n.to_string()).collect::<Vec<_>>()}}),
            ),
        ),
    ];
    let mut admin = scene.connect(By::Operator).await?;
    let (mut made, mut refused, mut outcome) = (vec![], 0, Ok(String::new()));
    for (plural, schema) in schemas {
        let sent =
            scene.send(&mut admin, Method::POST, DEFINITIONS, JSON, definition(plural, &schema).to_string());
        let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
        let code = sent.with_context(|| format!("definition {plural} has no answer"))??.code;
        ensure!(code < 500, "definition {plural}: {code}");
        match code {
            201 => made.push(plural),
            _ => refused += 1,
        }
    }
    let numbers: Vec<i32> = (0..100_000).collect();
    for plural in &made {
        // A definition that is never established has told why in its conditions.
        let Ok(path) = served(scene, &mut admin, plural).await else { continue };
        let kind: String = plural.split_at(1).0.to_uppercase() + &plural[1..];
        let body = json!({"apiVersion": "goes.example/v1", "kind": kind, "metadata": {"generateName": "x-"},
            "l": numbers, "s": "x".repeat(400_000)});
        let body = Bytes::from(body.to_string());
        let bodies = vec![(Method::POST, path, JSON, body); scene.amount(4, 1)];
        if let Err(error) = send_all(scene, By::Operator, bodies, 4, |code| code < 500).await {
            outcome = Err(error.context(format!("objects of {plural}")));
        }
    }
    for plural in &made {
        let name = format!("{DEFINITIONS}/{plural}.goes.example");
        scene.send(&mut admin, Method::DELETE, &name, JSON, Bytes::new()).await?;
    }
    outcome.map(|_| format!("{refused} definitions refused, objects of {} sent", made.len()))
}
