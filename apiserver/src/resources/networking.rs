//! `networking.k8s.io`: ingresses, network policies, service address ranges.

use crate::resource::{CLUSTER, NAMESPACED, Row};

const KIND: Row = Row { group: "networking.k8s.io", ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: "networking.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row { kind: "IngressClass", plural: "ingressclasses", generation: true, ..CLUSTER_KIND },
    Row { kind: "Ingress", plural: "ingresses", short: &["ing"], status: true, generation: true, ..KIND },
    Row { kind: "IPAddress", plural: "ipaddresses", short: &["ip"], ..CLUSTER_KIND },
    Row { kind: "NetworkPolicy", plural: "networkpolicies", short: &["netpol"], generation: true, ..KIND },
    Row { kind: "ServiceCIDR", plural: "servicecidrs", status: true, ..CLUSTER_KIND },
];
