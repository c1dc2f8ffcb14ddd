//! What `kubectl get services` shows.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, labels, path, rule, wide};
use crate::resource::Column;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    path("Type", &["spec", "type"]),
    rule("Cluster-IP", |o, _| match o.items_at(&["spec", "clusterIPs"]).first() {
        Some(ip) => ip.clone(),
        None => json!("<none>"),
    }),
    rule("External-IP", |o, _| json!(external_ip(o))),
    rule("Port(s)", |o, _| json!(ports(o))),
    AGE,
    wide(rule("Selector", |o, _| labels(o.at(&["spec", "selector"])))),
];

fn external_ip(o: &Object) -> String {
    let own = strings(o.items_at(&["spec", "externalIPs"]));
    match o.str_at(&["spec", "type"]) {
        "ClusterIP" | "NodePort" if own.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let mut all: Vec<&str> = o
                .items_at(&["status", "loadBalancer", "ingress"])
                .iter()
                .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
                .collect();
            all.sort_unstable();
            all.dedup();
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => o.str_at(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(o: &Object) -> String {
    let text = |p: &Value| {
        let (port, protocol) = (&p["port"], p["protocol"].as_str().unwrap_or_default());
        match p["nodePort"].as_i64() {
            Some(node_port) if node_port > 0 => format!("{port}:{node_port}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    };
    let all: Vec<String> = o.items_at(&["spec", "ports"]).iter().map(text).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn strings(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(Value::as_str).collect()
}
