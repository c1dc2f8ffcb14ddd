//! More authority than granted, request by request: rows only.

use crate::hostile::book::{Ask, Attack, By, How};

/// What has no place in a namespace, or is not there at all for who asks.
const GONE: &[u16] = &[404];
const NO: &[u16] = &[403];
const NEVER: &[u16] = &[301, 400, 403, 404];
const BAD: &[u16] = &[400];
const UNKNOWN: &[u16] = &[401];
const SHAPES: &[u16] = &[201, 400, 422];

const OWNER: Ask = Ask { by: By::Owner, codes: GONE, ..Ask::GET };
const TENANT: Ask = Ask::GET;
const NODE: Ask = Ask { by: By::Node, ..Ask::GET };
const NODE_POST: Ask = Ask { by: By::Node, ..Ask::POST };
const NODE_PATCH: Ask = Ask { by: By::Node, ..Ask::PATCH };

const ASKS: Attack = Attack {
    name: "",
    findings: "",
    by: By::Tenant,
    does: "",
    must: "each request is refused, as RBAC says",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "cluster-wide resources below a namespace", findings: "security B1; CVE-2019-11247", quick: true, by: By::Owner, does: "reads, changes and deletes nodes, volumes, webhooks, other namespaces and cluster-wide custom resources through the path of its own namespace", must: "404 for each, before anything is looked at", how: How::Asks(&[
        Ask { path: "/api/v1/namespaces/{ns}/nodes", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/nodes/n1", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/nodes/n1/proxy/pods", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/nodes?watch=true", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/persistentvolumes", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/namespaces/shop", ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/namespaces", ..OWNER },
        Ask { path: "/apis/admissionregistration.k8s.io/v1/namespaces/{ns}/mutatingwebhookconfigurations", ..OWNER },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/clusterroles/cluster-admin", ..OWNER },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/clusterrolebindings", ..OWNER },
        Ask { path: "/apis/apiextensions.k8s.io/v1/namespaces/{ns}/customresourcedefinitions", ..OWNER },
        Ask { path: "/apis/certificates.k8s.io/v1/namespaces/{ns}/certificatesigningrequests", ..OWNER },
        Ask { path: "/apis/storage.k8s.io/v1/namespaces/{ns}/storageclasses", ..OWNER },
        Ask { path: "/apis/hostile.example/v1/namespaces/{ns}/worlds", ..OWNER },
        Ask { path: "/apis/hostile.example/v1/namespaces/{ns}/worlds/one", ..OWNER },
        Ask { method: "DELETE", path: "/apis/hostile.example/v1/namespaces/{ns}/worlds/one", ..OWNER },
        Ask { method: "DELETE", path: "/api/v1/namespaces/{ns}/namespaces/shop", ..OWNER },
        Ask { method: "DELETE", path: "/api/v1/namespaces/{ns}/nodes", ..OWNER },
        Ask { method: "DELETE", path: "/api/v1/namespaces/{ns}/nodes/n1", ..OWNER },
        Ask { by: By::Owner, path: "/api/v1/namespaces/{ns}/nodes/n1", body: "{\"spec\":{\"unschedulable\":true}}", codes: GONE, ..Ask::PATCH },
        Ask { by: By::Owner, path: "/api/v1/namespaces/{ns}/namespaces/shop", body: "{\"metadata\":{\"labels\":{\"a\":\"b\"}}}", codes: GONE, ..Ask::PATCH },
        Ask { by: By::Owner, path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/clusterrolebindings", body: "{\"metadata\":{\"name\":\"x\"},\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"cluster-admin\"}}", codes: GONE, ..Ask::POST },
    ]) },
    Attack { name: "other namespaces and the cluster", findings: "security B1", quick: true, by: By::Owner, does: "asks for what is beyond its namespace by the proper paths", how: How::Asks(&[
        Ask { path: "/api/v1/namespaces/shop/secrets/treasure", codes: NO, ..OWNER },
        Ask { path: "/api/v1/namespaces/shop/secrets?watch=true", codes: NO, ..OWNER },
        Ask { path: "/api/v1/secrets", codes: NO, ..OWNER },
        Ask { path: "/api/v1/secrets?fieldSelector=metadata.namespace%3D{ns}", codes: NO, ..OWNER },
        Ask { path: "/api/v1/watch/secrets", codes: NO, ..OWNER },
        Ask { path: "/api/v1/watch/namespaces/shop/secrets/treasure", codes: NO, ..OWNER },
        Ask { path: "/api/v1/namespaces/shop", codes: NO, ..OWNER },
        Ask { path: "/api/v1/namespaces", codes: NO, ..OWNER },
        Ask { path: "/api/v1/nodes", codes: NO, ..OWNER },
        Ask { path: "/api/v1/nodes/n1/proxy/pods", codes: NO, ..OWNER },
        Ask { path: "/metrics", codes: NO, ..OWNER },
        Ask { path: "/debug/pprof/heap", codes: &[403, 404], ..OWNER },
        Ask { path: "/logs/", codes: &[403, 404], ..OWNER },
        Ask { path: "/apis/hostile.example/v1/worlds", codes: NO, ..OWNER },
        Ask { by: By::Viewer, path: "/api/v1/namespaces/{ns}/secrets", ..TENANT },
        Ask { by: By::Viewer, path: "/api/v1/namespaces/{ns}/configmaps", body: "{\"metadata\":{\"name\":\"x\"}}", ..Ask::POST },
        Ask { by: By::Viewer, path: "/api/v1/namespaces/{ns}/configmaps", ..Ask::DELETE },
        Ask { by: By::Viewer, path: "/api/v1/namespaces/{ns}/serviceaccounts/owner/token", body: "{}", ..Ask::POST },
        Ask { by: By::Peer, path: "/api/v1/namespaces/{ns}/configmaps", codes: &[401, 403], ..TENANT },
    ]), ..ASKS },
    Attack { name: "paths that mean another", findings: "CVE-2022-3162; path tricks", by: By::Owner, does: "dots, empty parts, encoded slashes and bytes that are no text in paths", must: "never the other namespace's objects", how: How::Asks(&[
        Ask { path: "/api/v1/namespaces/{ns}/../shop/secrets/treasure", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/%2e%2e/shop/secrets/treasure", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}%2f..%2fshop/secrets/treasure", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/secrets/..%2f..%2fshop%2fsecrets%2ftreasure", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/secrets/%2e%2e%2f%2e%2e%2fshop%2fsecrets%2ftreasure", codes: NEVER, ..OWNER },
        Ask { path: "//api/v1/namespaces/shop/secrets/treasure", codes: NEVER, ..OWNER },
        Ask { path: "/api//v1/namespaces/shop/secrets/treasure", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces//secrets", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/./secrets", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/%00/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}%00/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/%ff/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/apis/hostile.example/v1/namespaces/{ns}/things/..%2f..%2fworlds%2fone", codes: NEVER, ..OWNER },
        Ask { path: "/apis/hostile.example/v1/namespaces/..%2fworlds", codes: NEVER, ..OWNER },
        Ask { path: "/API/V1/namespaces/shop/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/healthz/../api/v1/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/version/%2e%2e/api/v1/secrets", codes: NEVER, ..OWNER },
        Ask { path: "/api/v1/namespaces/{ns}/secrets?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9zaG9wL3RyZWFzdXJlIn0", codes: &[200, 400, 410], ..OWNER },
    ]), ..ASKS },
    Attack { name: "impersonation", findings: "security B8", quick: true, by: By::Operator, does: "headers that cannot be honoured, and ones that are not granted", must: "400 or 403; never the caller itself", how: How::Asks(&[
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-user", "jan\u{e9}")], codes: &[400, 403], ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-uid", "1")], codes: BAD, ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-group", "system:masters")], codes: BAD, ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-extra-scopes", "all")], codes: BAD, ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-user", "nobody")], codes: NO, ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-user", "nobody"), ("impersonate-uid", "1"), ("impersonate-extra-a", "b")], codes: NO, ..Ask::GET },
        Ask { by: By::Operator, path: "/api/v1/secrets", headers: &[("impersonate-user", ""), ("impersonate-group", "system:masters")], codes: BAD, ..Ask::GET },
        Ask { by: By::Owner, path: "/api/v1/secrets", headers: &[("impersonate-user", "kubernetes-admin")], codes: NO, ..Ask::GET },
        Ask { by: By::Owner, path: "/api/v1/secrets", headers: &[("impersonate-user", "x"), ("impersonate-group", "system:masters")], codes: NO, ..Ask::GET },
        Ask { by: By::Node, path: "/api/v1/secrets", headers: &[("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")], codes: NO, ..Ask::GET },
        Ask { by: By::Peer, path: "/api/v1/secrets", headers: &[("impersonate-user", "kubernetes-admin")], codes: &[401, 403], ..Ask::GET },
    ]) },
    Attack { name: "a front proxy that is none", findings: "X-Remote headers", by: By::Peer, does: "says in headers who it is", must: "401 or 403", how: How::Asks(&[
        Ask { by: By::Peer, path: "/api/v1/secrets", headers: &[("x-remote-user", "kubernetes-admin"), ("x-remote-group", "system:masters")], codes: &[401, 403], ..Ask::GET },
        Ask { by: By::Viewer, path: "/api/v1/secrets", headers: &[("x-remote-user", "kubernetes-admin"), ("x-remote-group", "system:masters")], codes: NO, ..Ask::GET },
        Ask { by: By::Node, path: "/api/v1/secrets", headers: &[("x-remote-user", "kubernetes-admin"), ("x-remote-group", "system:masters")], codes: NO, ..Ask::GET },
        Ask { by: By::Peer, path: "/api/v1/secrets", headers: &[("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06bWFzdGVycyJ9.")], codes: UNKNOWN, ..Ask::GET },
        Ask { by: By::Peer, path: "/api/v1/secrets", headers: &[("authorization", "Basic YWRtaW46YWRtaW4=")], codes: &[401, 403], ..Ask::GET },
        Ask { by: By::Peer, path: "/api/v1/secrets", headers: &[("authorization", "Bearer "), ("authorization", "Bearer x")], codes: &[401, 403], ..Ask::GET },
    ]), ..ASKS },
    Attack { name: "a node beyond its pods", findings: "security B7, M4; NodeRestriction", quick: true, by: By::Node, does: "reads Secrets and pods that are not its own, changes other nodes, takes tokens, approves requests", how: How::Asks(&[
        Ask { path: "/api/v1/namespaces/shop/secrets/treasure", ..NODE },
        Ask { path: "/api/v1/namespaces/shop/secrets", ..NODE },
        Ask { path: "/api/v1/secrets", ..NODE },
        Ask { path: "/api/v1/namespaces/shop/configmaps/page", ..NODE },
        Ask { path: "/api/v1/pods", ..NODE },
        Ask { path: "/api/v1/pods?fieldSelector=&fieldSelector=spec.nodeName%3Devil", ..NODE },
        Ask { path: "/api/v1/pods?fieldSelector=spec.nodeName%21%3Devil&fieldSelector=spec.nodeName%3Devil", ..NODE },
        Ask { path: "/api/v1/pods?fieldSelector=spec.nodeName%21%3Devil", ..NODE },
        Ask { path: "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", ..NODE },
        Ask { path: "/api/v1/namespaces/shop/serviceaccounts/customer/token", body: "{}", ..NODE_POST },
        Ask { path: "/api/v1/nodes/n1", body: "{\"metadata\":{\"labels\":{\"a\":\"b\"}}}", ..NODE_PATCH },
        Ask { path: "/api/v1/nodes/n1/status", body: "{\"status\":{\"phase\":\"Running\"}}", ..NODE_PATCH },
        Ask { by: By::Node, path: "/api/v1/nodes/n1", ..Ask::DELETE },
        Ask { by: By::Node, path: "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", body: "{\"metadata\":{\"name\":\"n1\"}}", ..Ask::PUT },
        Ask { path: "/api/v1/namespaces/kube-system/pods", body: "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"nodeName\":\"evil\",\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}", ..NODE_POST },
        Ask { path: "/api/v1/namespaces/{ns}/pods", body: "{\"metadata\":{\"name\":\"x-n1\",\"annotations\":{\"kubernetes.io/config.mirror\":\"a\"}},\"spec\":{\"nodeName\":\"n1\",\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}", ..NODE_POST },
        Ask { path: "/api/v1/namespaces/{ns}/pods", body: "{\"metadata\":{\"name\":\"x-evil\",\"annotations\":{\"kubernetes.io/config.mirror\":\"a\"}},\"spec\":{\"nodeName\":\"evil\",\"serviceAccountName\":\"owner\",\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}", codes: &[400, 403], ..NODE_POST },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body: "{\"metadata\":{\"name\":\"x\"},\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"cluster-admin\"}}", ..NODE_POST },
    ]), ..ASKS },
    Attack { name: "roles beyond one's own", findings: "escalation by binding", does: "binds and makes roles that give more than it has", how: How::Asks(&[
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings", body: "{\"metadata\":{\"name\":\"x\"},\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"cluster-admin\"},\"subjects\":[]}", ..Ask::POST },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles", body: "{\"metadata\":{\"name\":\"x\"},\"rules\":[{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]}]}", ..Ask::POST },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings/owner", body: "{\"subjects\":[{\"kind\":\"ServiceAccount\",\"name\":\"tenant\",\"namespace\":\"{ns}\"}]}", ..Ask::PATCH },
        Ask { path: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body: "{\"metadata\":{\"name\":\"x\"},\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"cluster-admin\"}}", ..Ask::POST },
        Ask { by: By::Owner, path: "/apis/rbac.authorization.k8s.io/v1/clusterroles/things", body: "{\"rules\":[]}", ..Ask::PATCH },
        Ask { by: By::Owner, path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/worlds.hostile.example", ..Ask::DELETE },
        Ask { by: By::Owner, path: "/apis/certificates.k8s.io/v1/certificatesigningrequests", body: "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"request\":\"\",\"signerName\":\"kubernetes.io/kube-apiserver-client\",\"usages\":[\"client auth\"]}}", ..Ask::POST },
        Ask { path: "/api/v1/namespaces/{ns}", body: "{\"metadata\":{\"labels\":{\"pod-security.kubernetes.io/enforce\":\"privileged\"}}}", ..Ask::PATCH },
    ]), ..ASKS },
    Attack { name: "scalers that are none", findings: "CVE-2024-0793", does: "HorizontalPodAutoscalers of every version whose annotations and metrics are null, empty, or of no known kind", must: "refused, or taken; whoever reads them goes on", how: How::Asks(&[
        Ask { path: "/apis/autoscaling/v1/namespaces/{ns}/horizontalpodautoscalers?dryRun=All", body: "{\"metadata\":{\"name\":\"x\",\"annotations\":{\"autoscaling.alpha.kubernetes.io/metrics\":\"[{\\\"type\\\":\\\"Resource\\\"}]\",\"autoscaling.alpha.kubernetes.io/behavior\":\"null\"}},\"spec\":{\"maxReplicas\":1,\"scaleTargetRef\":{\"kind\":\"x\",\"name\":\"x\"}}}", codes: SHAPES, ..Ask::POST },
        Ask { path: "/apis/autoscaling/v1/namespaces/{ns}/horizontalpodautoscalers?dryRun=All", body: "{\"metadata\":{\"name\":\"x\",\"annotations\":{\"autoscaling.alpha.kubernetes.io/metrics\":\"{\",\"autoscaling.alpha.kubernetes.io/conditions\":\"[null]\"}},\"spec\":{\"maxReplicas\":1,\"scaleTargetRef\":{\"kind\":\"x\",\"name\":\"x\"}}}", codes: SHAPES, ..Ask::POST },
        Ask { path: "/apis/autoscaling/v2/namespaces/{ns}/horizontalpodautoscalers?dryRun=All", body: "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"maxReplicas\":1,\"scaleTargetRef\":{\"kind\":\"x\",\"name\":\"x\"},\"metrics\":[null,{},{\"type\":\"Resource\"},{\"type\":\"Object\",\"object\":{}}],\"behavior\":{\"scaleUp\":{\"policies\":[null]}}}}", codes: SHAPES, ..Ask::POST },
    ]), ..ASKS },
    Attack { name: "Service addresses of others", findings: "CVE-2020-8554", does: "sets a load balancer's address in a Service's status", how: How::Asks(&[
        Ask { path: "/api/v1/namespaces/{ns}/services/x/status", body: "{\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"192.0.2.1\"}]}}}", ..Ask::PATCH },
        Ask { path: "/api/v1/namespaces/{ns}/endpoints", body: "{\"metadata\":{\"name\":\"x\"},\"subsets\":[{\"addresses\":[{\"ip\":\"127.0.0.1\"}],\"ports\":[{\"port\":6443}]}]}", codes: &[403, 422], ..Ask::POST },
    ]), ..ASKS },
];
