//! Services: their defaults, and the addresses and ports they hold.

use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::super::defaulting::{each, fill, fill_zero, object};
use super::{field, proxy};
use crate::Server;
use crate::field::FieldError;
use crate::ip_allocator::{AllocationError, Claims, Ledger, Reservation};
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};
use crate::status::{Result, Status};
use crate::store::Holding;

pub(super) const ROW: Row = Row {
    kind: "Service",
    plural: "services",
    short: &["svc"],
    categories: &["all"],
    status: true,
    fields: &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])],
    columns: super::service_columns::COLUMNS,
    subresources: &[proxy("ServiceProxyOptions")],
    first_status: r#"{"loadBalancer": {}}"#,
    strategy: &Services,
    create_on_update: true,
    returns_deleted: true,
    ..NAMESPACED
};

/// How long a client sticks to a pod unless the Service says otherwise.
const CLIENT_IP_SECONDS: i32 = 10_800;

struct Services;

impl Strategy for Services {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill_zero(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "ClientIP" {
            let client = object(object(spec, "sessionAffinityConfig"), "clientIP");
            fill(client, "timeoutSeconds", CLIENT_IP_SECONDS);
        } else if spec["sessionAffinity"] == "None"
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove("sessionAffinityConfig");
        }
        fill_zero(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            fill_zero(port, "protocol", "TCP");
            let number = port["port"].clone();
            fill_zero(port, "targetPort", number);
        });
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        let external_ips = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
        let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        if external || (kind == "ClusterIP" && external_ips) {
            fill_zero(spec, "externalTrafficPolicy", "Cluster");
        }
        if external || kind == "ClusterIP" {
            fill(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
            if let Some(status) = new.0.get_mut("status").and_then(|s| s.get_mut("loadBalancer")) {
                each(status, "ingress", |i| {
                    if !i["ip"].is_null() {
                        fill(i, "ipMode", "VIP");
                    }
                });
            }
        }
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if !cx.subresource.is_empty() {
            return;
        }
        if let Some(old) = old {
            inherit(new, old);
        }
        let ip = new.str_at(&["spec", "clusterIP"]).to_owned();
        if !ip.is_empty() && new.items_at(&["spec", "clusterIPs"]).is_empty() {
            new.set(&["spec", "clusterIPs"], json!([ip]));
        }
        if has_address(new) {
            families(new);
        }
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "status")
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        match cx.subresource {
            "" => super::service_validation::service(new, old),
            "status" => super::service_validation::status(new, old),
            _ => vec![],
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        super::service_validation::warnings(new)
    }

    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        crate::field_names::dns1123_label(name)
    }

    fn reserve(
        &self,
        server: &Server,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Holding> {
        let before = old.map(claims).unwrap_or_default();
        let asked = Asked { before: &before, create: old.is_none(), dry_run };
        let reserved = server.services.with(
            || stored(server),
            |ledger| {
                allocate(ledger, new, &asked).map_err(|(error, taken)| {
                    ledger.release(&taken);
                    error
                })
            },
        );
        let taken =
            reserved.map_err(|e| Status::invalid(&Gvk::new("", "v1", "Service"), new.name(), &[e]))?;
        let given_up = before.without(&claims(new));
        Ok(Some(Arc::new(Reservation::new(&server.services, taken, given_up))))
    }

    fn give_up(&self, server: &Server, last: &Object) -> Holding {
        // What is stored is taken from now on, whoever asks first.
        server.services.with(|| stored(server), |_| ());
        Some(Arc::new(Reservation::new(&server.services, Claims::default(), claims(last))))
    }
}

/// Whether the type has a cluster IP (or `None`).
pub(super) fn has_address(o: &Object) -> bool {
    o.str_at(&["spec", "type"]) != "ExternalName"
}

pub(super) fn is_headless(o: &Object) -> bool {
    o.str_at(&["spec", "clusterIP"]) == "None"
}

fn needs_node_ports(o: &Object) -> bool {
    match o.str_at(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => o.bool_at(&["spec", "allocateLoadBalancerNodePorts"]).unwrap_or(true),
        _ => false,
    }
}

fn may_have_node_ports(o: &Object) -> bool {
    matches!(o.str_at(&["spec", "type"]), "NodePort" | "LoadBalancer")
}

pub(super) fn needs_health_check_port(o: &Object) -> bool {
    o.str_at(&["spec", "type"]) == "LoadBalancer" && o.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// What a PUT that names no addresses and ports keeps, and what a change of type gives up.
fn inherit(new: &mut Object, old: &Object) {
    if has_address(new) && has_address(old) {
        let names_none = new.str_at(&["spec", "clusterIP"]).is_empty();
        let listed = new.items_at(&["spec", "clusterIPs"]);
        if names_none && (listed.is_empty() || listed == old.items_at(&["spec", "clusterIPs"])) {
            for key in ["clusterIP", "clusterIPs"] {
                copy(new, old, key);
            }
        } else if names_none {
            copy(new, old, "clusterIP");
        } else if new.str_at(&["spec", "clusterIP"]) != old.str_at(&["spec", "clusterIP"])
            && new.items_at(&["spec", "clusterIPs"]) == old.items_at(&["spec", "clusterIPs"])
        {
            let ip = json!([new.str_at(&["spec", "clusterIP"])]);
            new.set(&["spec", "clusterIPs"], ip);
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if new.at(&["spec", key]).is_none() {
                copy(new, old, key);
            }
        }
    } else if has_address(old) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new.at(&["spec", key]) == old.at(&["spec", key]) {
                new.remove(&["spec", key]);
            }
        }
    }
    if needs_node_ports(new) && may_have_node_ports(old) {
        keep_node_ports(new, old);
    } else if may_have_node_ports(old) && !may_have_node_ports(new) {
        let before = node_ports(old);
        each(object(&mut new.0, "spec"), "ports", |port| {
            if port["nodePort"].as_i64().is_some_and(|p| before.contains(&p))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        });
    }
    if needs_health_check_port(new) && needs_health_check_port(old) {
        if new.at(&["spec", "healthCheckNodePort"]).is_none() {
            copy(new, old, "healthCheckNodePort");
        }
    } else if needs_health_check_port(old) {
        new.remove(&["spec", "healthCheckNodePort"]);
    }
    if old.str_at(&["spec", "type"]) == "LoadBalancer" && new.str_at(&["spec", "type"]) != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if new.at(&["spec", key]) == old.at(&["spec", key]) {
                new.remove(&["spec", key]);
            }
        }
    }
    let policy =
        new.str_at(&["spec", "externalTrafficPolicy"]) == old.str_at(&["spec", "externalTrafficPolicy"]);
    if is_external(old) && !is_external(new) && policy {
        new.remove(&["spec", "externalTrafficPolicy"]);
    }
    if new.str_at(&["spec", "type"]) != "LoadBalancer" {
        new.set(&["status", "loadBalancer"], json!({}));
    }
}

/// Whether traffic from outside the cluster may come in.
pub(super) fn is_external(o: &Object) -> bool {
    let addressed = !o.items_at(&["spec", "externalIPs"]).is_empty();
    may_have_node_ports(o) || (o.str_at(&["spec", "type"]) == "ClusterIP" && addressed)
}

fn copy(new: &mut Object, old: &Object, key: &str) {
    if let Some(value) = old.at(&["spec", key]) {
        new.set(&["spec", key], value.clone());
    }
}

fn node_ports(o: &Object) -> Vec<i64> {
    o.items_at(&["spec", "ports"]).iter().filter_map(|p| p["nodePort"].as_i64()).filter(|&p| p != 0).collect()
}

/// Ports that were there before (same protocol and number) keep their node port.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let before = old.items_at(&["spec", "ports"]);
    let mut used = node_ports(new);
    each(object(&mut new.0, "spec"), "ports", |port| {
        let same = |p: &&Value| p["protocol"] == port["protocol"] && p["port"] == port["port"];
        let kept = before.iter().find(same).and_then(|p| p["nodePort"].as_i64()).unwrap_or(0);
        if kept != 0 && port["nodePort"].as_i64().unwrap_or(0) == 0 && !used.contains(&kept) {
            port["nodePort"] = json!(kept);
            used.push(kept);
        }
    });
}

/// The cluster has one family. Only a headless Service without selector may name both, as its endpoints are its own affair.
fn families(new: &mut Object) {
    let free = is_headless(new)
        && new.at(&["spec", "selector"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    let both = free && new.at(&["spec", "ipFamilyPolicy"]).is_none_or(|p| p != "SingleStack");
    if free
        && new.at(&["spec", "ipFamilyPolicy"]).is_none()
        && new.items_at(&["spec", "ipFamilies"]).is_empty()
    {
        new.set(&["spec", "ipFamilyPolicy"], "RequireDualStack");
    }
    new.set_default(&["spec", "ipFamilyPolicy"], "SingleStack");
    // What an address says of its family is judged later.
    let other = |ip: &Value| ip.as_str().is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    let given = new.items_at(&["spec", "clusterIPs"]).iter().any(other);
    if new.items_at(&["spec", "ipFamilies"]).is_empty() && !given {
        new.set(&["spec", "ipFamilies"], if both { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) });
    }
}

/// What a Service holds.
fn claims(o: &Object) -> Claims {
    let ips = o.items_at(&["spec", "clusterIPs"]).iter();
    let health = o.i64_at(&["spec", "healthCheckNodePort"]);
    Claims {
        ips: ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
        ports: node_ports(o).into_iter().chain(health).filter_map(|p| u16::try_from(p).ok()).collect(),
    }
}

/// What all stored Services hold.
fn stored(server: &Server) -> Claims {
    let mut all = Claims::default();
    for service in server.store.list("/services", "").items {
        let own = claims(&service.object());
        all.ips.extend(own.ips);
        all.ports.extend(own.ports);
    }
    all
}

/// The write that numbers are wanted for.
struct Asked<'a> {
    /// What the Service holds already.
    before: &'a Claims,
    create: bool,
    dry_run: bool,
}

/// Takes what the Service asks for by number, then finds what it leaves open. Answers what it took, on failure so far.
fn allocate(
    ledger: &mut Ledger<'_>,
    new: &mut Object,
    asked: &Asked<'_>,
) -> Result<Claims, (FieldError, Claims)> {
    let mut taken = Claims::default();
    let done =
        addresses(ledger, new, asked.before, &mut taken).and_then(|()| ports(ledger, new, asked, &mut taken));
    match done {
        Ok(()) => Ok(taken),
        Err(error) => Err((error, taken)),
    }
}

fn addresses(
    ledger: &mut Ledger<'_>,
    new: &mut Object,
    before: &Claims,
    taken: &mut Claims,
) -> Result<(), FieldError> {
    if !has_address(new) || is_headless(new) {
        return Ok(());
    }
    let asked = new.at(&["spec", "clusterIPs"]).cloned().unwrap_or_else(|| json!([]));
    let fail = |text: String| FieldError::invalid("spec.clusterIPs", &asked, text);
    let ips = new.items_at(&["spec", "clusterIPs"]).iter();
    let numbers: Vec<Ipv4Addr> = ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    for &ip in &numbers {
        if !before.ips.contains(&ip) {
            ledger.take_ip(ip).map_err(|e| fail(format!("failed to allocate IP {ip}: {e}")))?;
            taken.ips.insert(ip);
        }
    }
    if numbers.is_empty() {
        let ip = ledger.any_ip().map_err(|e| fail(format!("failed to allocate a serviceIP: {e}")))?;
        taken.ips.insert(ip);
        new.set(&["spec", "clusterIP"], ip.to_string());
        new.set(&["spec", "clusterIPs"], json!([ip.to_string()]));
    }
    Ok(())
}

fn ports(
    ledger: &mut Ledger<'_>,
    new: &mut Object,
    asked: &Asked<'_>,
    taken: &mut Claims,
) -> Result<(), FieldError> {
    let open = needs_node_ports(new);
    let may = may_have_node_ports(new);
    let health = needs_health_check_port(new);
    let spec = object(&mut new.0, "spec");
    let empty = &mut vec![];
    let all = spec.get_mut("ports").and_then(Value::as_array_mut).unwrap_or(empty);
    // By number first: an open port must not land on a number asked for further down.
    for (i, port) in all.iter().enumerate().filter(|_| may) {
        let number = port["nodePort"].as_i64().unwrap_or(0);
        if number != 0 && !asked.is_known(number, taken) {
            let at = format!("spec.ports[{i}].nodePort");
            asked
                .take(ledger, number, taken)
                .map_err(|e| FieldError::invalid(at, &json!(number), e.to_string()))?;
        }
    }
    for i in (0..all.len()).filter(|_| open) {
        if all[i]["nodePort"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        // One port of several protocols of a new Service is one port of the node.
        let same = |p: &&Value| p["port"] == all[i]["port"] && p["nodePort"].as_i64().unwrap_or(0) != 0;
        let shared = all.iter().find(same).filter(|_| asked.create).map(|p| p["nodePort"].clone());
        let number = match shared {
            Some(number) => number,
            None => {
                let number = ledger.any_port().map_err(|e| {
                    let text = format!("failed to allocate a nodePort: {e}");
                    FieldError::invalid(format!("spec.ports[{i}].nodePort"), &json!(0), text)
                })?;
                taken.ports.insert(number);
                json!(number)
            }
        };
        all[i]["nodePort"] = number;
    }
    if health {
        let wanted = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        if wanted == 0 {
            let number = ledger.any_port().map_err(|e| {
                let text = format!("failed to allocate a HealthCheck NodePort {wanted}: {e}");
                FieldError::invalid("spec.healthCheckNodePort", &json!(wanted), text)
            })?;
            taken.ports.insert(number);
            spec["healthCheckNodePort"] = json!(number);
        } else if !u16::try_from(wanted).is_ok_and(|n| asked.before.ports.contains(&n)) {
            asked.take(ledger, wanted, taken).map_err(|e| {
                let text = format!("failed to allocate requested HealthCheck NodePort {wanted}: {e}");
                FieldError::invalid("spec.healthCheckNodePort", &json!(wanted), text)
            })?;
        }
    }
    Ok(())
}

// === impl Asked ===

impl Asked<'_> {
    fn is_known(&self, number: i64, taken: &Claims) -> bool {
        u16::try_from(number).is_ok_and(|n| self.before.ports.contains(&n) || taken.ports.contains(&n))
    }

    /// Takes a port by number. Without a write, upstream asks only whether another holds it.
    fn take(&self, ledger: &mut Ledger<'_>, number: i64, taken: &mut Claims) -> Result<(), AllocationError> {
        match ledger.take_port(number) {
            Ok(number) => drop(taken.ports.insert(number)),
            Err(AllocationError::PortOutOfRange(..)) if self.dry_run => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
