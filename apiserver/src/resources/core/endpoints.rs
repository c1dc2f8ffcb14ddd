//! Endpoints: the older list of a Service's addresses.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, rule};
use super::super::defaulting::{each, fill_zero};
use crate::resource::{NAMESPACED, Row, Strategy};

pub(super) const ROW: Row = Row {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short: &["ep"],
    columns: &[NAME, rule("Endpoints", |o, _| json!(addresses(o))), AGE],
    strategy: &Endpoints,
    create_on_update: true,
    ..NAMESPACED
};

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, new: &mut Object) {
        each(&mut new.0, "subsets", |s| each(s, "ports", |p| fill_zero(p, "protocol", "TCP")));
    }

    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }
}

/// The first three as `ip:port`, and how many more.
fn addresses(o: &Object) -> String {
    let mut all = vec![];
    let subsets = o.items_at(&["subsets"]);
    for subset in subsets {
        let list = |key: &str| subset[key].as_array().cloned().unwrap_or_default();
        let ports = list("ports");
        let ips = list("addresses");
        let ip = |a: &Value| a["ip"].as_str().unwrap_or_default().to_owned();
        if ports.is_empty() {
            all.extend(ips.iter().map(ip));
        }
        for port in &ports {
            all.extend(ips.iter().map(|a| join(&ip(a), &port["port"])));
        }
    }
    match subsets.is_empty() {
        true => "<none>".to_owned(),
        false => super::super::columns::first_of(&all, 3, ""),
    }
}

fn join(ip: &str, port: &Value) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
